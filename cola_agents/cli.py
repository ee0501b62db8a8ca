"""The ``cola`` command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gymnasium as gym

if TYPE_CHECKING:
    from cola_agents.train.metrics import CodebookMetrics


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError, ImportError, gym.error.Error) as error:
        print(f"cola: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cola", description="Reinforcement learning of language models over latent actions."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="latent against token RL on the bundled models, in minutes")
    demo.add_argument(
        "--out", type=Path, default=Path("cola-demo"), help="folder for table, plot and results"
    )
    demo.add_argument("--updates", type=int, default=50, help="GRPO updates of 128 rollouts per arm")
    demo.add_argument("--seeds", type=int, default=1, help="how many seeds to run, from 0 on")
    demo.add_argument("--episodes", type=int, default=256, help="test episodes per measured share")
    demo.set_defaults(run=_demo)

    pretrain = commands.add_parser("pretrain", help="train a model's stages on the generated corpus")
    pretrain.add_argument("stage", choices=("base", "world", "policy", "bundled", "card"))
    pretrain.add_argument("--out", type=Path, required=True, help="folder to write")
    pretrain.add_argument(
        "--source", type=Path, help="folder of the stage before (world: base; policy: world)"
    )
    pretrain.add_argument("--seed", type=int, default=0)
    pretrain.add_argument("--steps", type=int, help="optimiser steps in place of the recipe's")
    pretrain.add_argument(
        "--tensorboard", action="store_true", help="insist on TensorBoard (it is used where it is installed)"
    )
    pretrain.set_defaults(run=_pretrain)

    inspect = commands.add_parser("inspect", help="what a model's codes are used for: table, JSON and plot")
    inspect.add_argument("model", nargs="?", help="folder or hub id; the bundled model without it")
    inspect.add_argument("--out", type=Path, default=Path("cola-inspect"), help="folder for JSON and plot")
    inspect.add_argument(
        "--text", type=Path, help="a document a line: text, or .jsonl with a field 'text'; else generated"
    )
    inspect.add_argument("--tokens", type=int, default=20_000, help="tokens to score at most")
    inspect.add_argument("--device", help="e.g. cuda")
    inspect.add_argument("--dtype", default="float32", help="type to load the weights in")
    inspect.set_defaults(run=_inspect)

    evaluate = commands.add_parser("eval", help="play a task with a model's own policy and report")
    evaluate.add_argument("--task", required=True, help="environment id, e.g. CoLA-Arithmetic-v0")
    evaluate.add_argument("--model", help="folder or hub id; the bundled model without it")
    evaluate.add_argument("--agent", type=Path, help="folder of a saved agent, in place of --model")
    evaluate.add_argument("--problems", help="local JSONL of problems, for the Math500 ids")
    evaluate.add_argument("--tokenizer", help="folder or hub id, where the model's own is not beside it")
    evaluate.add_argument("--episodes", type=int, help="256, or a whole test set once, where not given")
    evaluate.add_argument("--split", default="test", choices=("train", "test"))
    evaluate.add_argument("--greedy", action="store_true", help="the likeliest action in place of a draw")
    evaluate.add_argument("--seed", type=int, default=10_000)
    evaluate.set_defaults(run=_evaluate)

    convert = commands.add_parser(
        "convert", help="write an official CoLA checkpoint in this project's format"
    )
    convert.add_argument("official", help="folder or hub id")
    convert.add_argument("ours", type=Path, help="folder to write; must be empty or absent")
    convert.add_argument("--dtype", help="e.g. bfloat16; that of the files without it")
    convert.set_defaults(run=_convert)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from cola_agents.demo import run_demo

    if min(arguments.updates, arguments.seeds, arguments.episodes) < 1:
        raise ValueError("--updates, --seeds and --episodes must be at least 1")
    run_demo(
        arguments.out,
        updates=arguments.updates,
        seeds=range(arguments.seeds),
        episodes=arguments.episodes,
    )
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    from cola_agents.train import recipe as stages
    from cola_agents.train.card import write_card

    recipe = stages.Recipe(seed=arguments.seed)
    if arguments.stage == "card":
        write_card(arguments.out, recipe)
        print(f"Wrote {arguments.out / 'README.md'}.")
        return 0
    if arguments.tensorboard:
        insisting = {
            name: dataclasses.replace(getattr(recipe, name), tensorboard=True)
            for name in ("base", "world", "policy")
        }
        recipe = dataclasses.replace(recipe, **insisting)
    if arguments.steps is not None:
        names = ("base", "world", "policy") if arguments.stage == "bundled" else (arguments.stage,)
        recipe = dataclasses.replace(
            recipe,
            **{name: dataclasses.replace(getattr(recipe, name), steps=arguments.steps) for name in names},
        )
    if arguments.stage in ("world", "policy"):
        if arguments.source is None or not (arguments.source / "config.json").is_file():
            raise FileNotFoundError(
                f"--source {arguments.source} holds no model: give the folder that "
                f"`cola pretrain {'base' if arguments.stage == 'world' else 'world'}` wrote"
            )
        if arguments.stage == "world":
            stages.train_world(recipe, arguments.source, arguments.out)
        else:
            metrics = stages.train_policy(recipe, arguments.source, arguments.out)
            print(json.dumps(metrics.as_dict(), indent=2))
            _warn(metrics)
    elif arguments.stage == "base":
        stages.train_base(recipe, arguments.out)
    else:
        metrics = stages.train_bundled(recipe, arguments.out)
        write_card(arguments.out, recipe)
        _warn(metrics)
    print(f"Wrote {arguments.out}.")
    return 0


def _warn(metrics: CodebookMetrics) -> None:
    from cola_agents.train.health import health_warnings

    for warning in health_warnings(metrics):
        print(f"warning: {warning}", file=sys.stderr)


def _inspect(arguments: argparse.Namespace) -> int:
    from cola_agents.inspection import run_inspection

    run_inspection(
        arguments.out,
        model=arguments.model,
        text=arguments.text,
        tokens=arguments.tokens,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation import evaluate

    kwargs = {} if arguments.problems is None else {"problems": arguments.problems}
    report = evaluate(
        arguments.task,
        model=arguments.model,
        agent=arguments.agent,
        tokenizer=arguments.tokenizer,
        episodes=arguments.episodes,
        split=arguments.split,
        greedy=arguments.greedy,
        seed=arguments.seed,
        **kwargs,
    )
    print(json.dumps(report, indent=2))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from cola_agents.checkpoint import convert

    convert(arguments.official, arguments.ours, dtype=arguments.dtype)
    print(f"Wrote {arguments.ours}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
