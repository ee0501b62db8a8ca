"""``cola pretrain``: the training stages."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.common.files import LOCK, one_writer
from cola_envs.jsonl import JsonObject

if TYPE_CHECKING:
    from cola_agents.train.metrics import CodebookMetrics
    from cola_agents.train.runs import Run

#: Stages of the bundled recipe, and what they take besides ``--out``.
_RECIPE = {
    "base": ("seed", "steps", "tensorboard"),
    "bundled": ("seed", "steps", "tensorboard"),
    "card": ("seed",),
}
_CONFIG = (
    "rows",
    "micro_rows",
    "length",
    "lr",
    "warmup",
    "precision",
    "save_every",
    "keep",
    "log_every",
    "gradient_checkpointing",
    "tensorboard",
)
_GROW = ("num_codes", "num_inverse_layers", "num_merge_layers", "num_policy_layers", "readout")
_CODES = ("tau", "entropy", "marginal")
_JUDGED = ("trunk", "gamma", "held_out_problems")
_TUNED = ("under", "no_reclone", "lora_rank", "lora_alpha", "keep_adapters")
#: What other stages than these read.
_FOREIGN = {"world": (*_TUNED, "held_out"), "policy": (*_TUNED, *_GROW, *_CODES), "fta": (*_GROW, *_CODES)}
_Q = ("model", "tokenizer", "device", "dtype", "data", "steps", "rows", "lr", "seed", *_JUDGED)

_DESCRIPTION = """\
world   inverse dynamics, codebook and world model around a causal LM (or of a latent-action model)
policy  the policy, cloned from the inverse dynamics
fta     the base under codes, and the policy again
q       a Q-function over the actions, from the files of `cola generate` that --data names
base, bundled, card
        the bundled models: their base, all of them, and their card

Without --data it is trained on the generated corpus. Running world, policy or fta again goes on with what was
stopped; q, base and bundled begin anew, in an empty folder, and card wants one that bundled wrote.
"""
_DATA = """SOURCE[,key=value]...: a text or JSON-lines file, .parquet, or a folder of them; hub:owner/name;
generated; or a .json file with a list of such descriptions. Several are mixed by weight=. Keys: weight,
name, epochs, unit (line, paragraph, file), text, prompt, response (fields), template (plain, dialogue),
subset, split, seed"""


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "pretrain",
        help="train a model's stages, on the generated corpus or your own",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=("world", "policy", "fta", "q", *_RECIPE))
    parser.add_argument(
        "--out", type=Path, required=True, help="folder to write; world, policy and fta go on in it"
    )
    parser.add_argument("--seed", type=int, help="the preset's without: 0 for tiny, 42 for paper")
    parser.add_argument(
        "--tensorboard",
        action="store_true",
        default=None,
        help="insist on TensorBoard (it is used where it is installed)",
    )
    started = parser.add_argument_group("world, policy, fta: from what, on what")
    started.add_argument(
        "--model", "--source", dest="model", help="folder or hub id of the model to start from"
    )
    started.add_argument("--tokenizer", help="folder or hub id; the model's own without")
    started.add_argument("--dtype", help="type to load the weights in (float32)")
    started.add_argument("--device", help="e.g. cuda; of several processes accelerate's business")
    started.add_argument("--data", action="append", metavar="SPEC", help=_DATA)
    started.add_argument(
        "--held-out", action="append", metavar="SPEC", help="what a finished policy is measured on"
    )
    started.add_argument(
        "--long",
        choices=("chunk", "cut", "error"),
        help="documents longer than a row are split, cut, refused",
    )
    trained = parser.add_argument_group("how they are trained")
    trained.add_argument("--preset", choices=("tiny", "paper"), help="what is not given otherwise (tiny)")
    length = trained.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimiser steps")
    length.add_argument("--tokens", type=float, help="tokens in place of steps, e.g. 1e9")
    length.add_argument("--epochs", type=int, help="passes through finite data, counted beforehand")
    trained.add_argument("--rows", type=int, help="rows of a step's batch, of all processes together")
    trained.add_argument("--micro-rows", type=int, help="rows of one forward pass")
    trained.add_argument("--length", type=int, help="tokens of a row")
    trained.add_argument("--lr", type=float, help="peak learning rate")
    trained.add_argument("--warmup", type=int, help="steps of warm-up")
    trained.add_argument("--precision", choices=("float32", "bf16"), help="of the computation")
    trained.add_argument("--gradient-checkpointing", action="store_true", default=None)
    trained.add_argument("--save-every", type=int, help="steps between checkpoints")
    trained.add_argument("--keep", type=int, help="checkpoints that are kept")
    trained.add_argument("--log-every", type=int, help="steps between log records")
    grown = parser.add_argument_group("world: the new modules, and how codes are assigned")
    grown.add_argument("--codes", dest="num_codes", type=int, help="size of the codebook")
    for part in ("inverse", "merge", "policy"):
        grown.add_argument(f"--{part}-layers", dest=f"num_{part}_layers", type=int)
    grown.add_argument("--readout", choices=("difference", "state", "normed_difference"))
    grown.add_argument("--tau", type=float, help="Gumbel temperature")
    grown.add_argument("--entropy", type=float, help="weight of the per-position regulariser")
    grown.add_argument("--marginal", type=float, help="weight of the batch-marginal regulariser")
    tuned = parser.add_argument_group("fta")
    tuned.add_argument(
        "--under", choices=("inverse", "policy"), help="whose codes: FTA-I (inverse, the default) or FTA-P"
    )
    tuned.add_argument(
        "--no-reclone", action="store_true", default=None, help="FTA-I without cloning the policy again"
    )
    tuned.add_argument("--lora-rank", type=int, help="train low-rank adapters in place of the weights")
    tuned.add_argument("--lora-alpha", type=float, help="their scale times the rank (twice the rank)")
    tuned.add_argument(
        "--keep-adapters", action="store_true", default=None, help="write them beside an unchanged base"
    )
    judged = parser.add_argument_group("q")
    judged.add_argument(
        "--trunk",
        choices=("policy", "model"),
        help="what the head sits on: a copy of either",
    )
    judged.add_argument("--gamma", type=float, help="discount per action (0.99)")
    judged.add_argument(
        "--held-out-problems",
        type=int,
        help="recorded problems to judge by instead: the weights that do best there are kept",
    )
    parser.set_defaults(run=_pretrain)


def _pretrain(arguments: argparse.Namespace) -> int:
    if arguments.stage in _RECIPE:
        return _recipe(arguments)
    if arguments.stage == "q":
        return _q(arguments)
    for name in _JUDGED:
        if getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is of the stage q; the stage {arguments.stage} takes none"
            )
    _refuse(arguments, _FOREIGN[arguments.stage])
    from cola_agents.train.training import train

    first = int(os.environ.get("RANK", "0")) == 0
    run = _run(arguments)
    metrics = train(run, print if first else lambda text: None)
    if metrics and first:
        print(json.dumps(metrics.as_dict(), indent=2))
        _warn(metrics)
    return 0


def _run(arguments: argparse.Namespace) -> Run:
    """The run that a command line describes."""
    from cola_agents.train.adapters import LoRA
    from cola_agents.train.runs import Run, flag_of
    from cola_agents.train.specs import parse_data

    given = {name: value for name, value in vars(arguments).items() if value is not None}
    if "model" not in given:
        before = "base" if arguments.stage == "world" else "world"
        raise ValueError(
            f"the stage {arguments.stage} needs --model (or --source): a hub id, or a folder such as `cola "
            f"pretrain {before}` writes"
        )
    for name in ("lora_alpha", "keep_adapters"):
        if name in given and "lora_rank" not in given:
            raise ValueError(f"{flag_of(name)} needs --lora-rank")
    told: JsonObject = {
        name: given[name]
        for name in ("tokenizer", "dtype", "device", "long", "preset", "steps", "epochs", "seed")
        if name in given
    }
    if "tokens" in given:
        if not math.isfinite(given["tokens"]):
            raise ValueError(f"--tokens is a finite number, e.g. 1e9, got {given['tokens']}")
        told["tokens"] = int(given["tokens"])
    if "under" in given:
        told["tune"] = given["under"]
    if "lora_rank" in given:
        told["lora"] = LoRA(given["lora_rank"], given.get("lora_alpha"))
    return Run(
        stage=arguments.stage,
        model=arguments.model,
        out=arguments.out,
        data=tuple(parse_data(arguments.data or ())),
        held_out=tuple(parse_data(arguments.held_out or ())),
        config={name: given[name] for name in _CONFIG if name in given},
        grow={name: given[name] for name in _GROW if name in given},
        codes={name: given[name] for name in _CODES if name in given},
        reclone="no_reclone" not in given,
        keep_adapters="keep_adapters" in given,
        **told,
    )


def _only(arguments: argparse.Namespace, *allowed: str) -> None:
    """Refuse options that the stage does not read."""
    known = ("stage", "out", "run", *allowed)
    _refuse(arguments, [name for name in vars(arguments) if name not in known])


def _refuse(arguments: argparse.Namespace, names: Sequence[str]) -> None:
    """Refuse the named options where they were given, by their flags."""
    from cola_agents.train.runs import flag_of

    wrong = [flag_of(name) for name in names if getattr(arguments, name) is not None]
    if wrong:
        raise ValueError(f"the stage {arguments.stage} takes no {', '.join(wrong)}")


def _check_empty(out: Path) -> None:
    """Refuse a folder with something in it: these stages do not go on with what was stopped."""
    if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: nothing was written")


def _q(arguments: argparse.Namespace) -> int:
    _only(arguments, *_Q)
    if not arguments.data:
        raise ValueError("the stage q needs --data: a file that `cola generate` wrote")
    with one_writer(arguments.out, "file"):
        return _train_q(arguments)


def _train_q(arguments: argparse.Namespace) -> int:
    from cola_agents.decoding.loading import make_backbone
    from cola_agents.rl.generate import read
    from cola_agents.search.q import QConfig, QFunction, split_problems, train_q

    _check_empty(arguments.out)
    recorded = read(*arguments.data)
    backbone = make_backbone(
        arguments.model,
        level=recorded.about["actions"],
        tokenizer=arguments.tokenizer,
        device=arguments.device,
        dtype=arguments.dtype or "float32",
    )
    named = {"steps": "steps", "rows": "batch_size", "lr": "lr", "seed": "seed"}
    given = {field: value for name, field in named.items() if (value := getattr(arguments, name)) is not None}
    discount = {} if arguments.gamma is None else {"gamma": arguments.gamma}
    q = QFunction.over(backbone, trunk=arguments.trunk, **discount)
    rollout, held_out = recorded.rollout(backbone), None
    if arguments.held_out_problems is not None:
        rollout, held_out = split_problems(rollout, arguments.held_out_problems)
    records = train_q(q, rollout, QConfig(**given), held_out=held_out)
    q.save(arguments.out)
    judged = [record for record in records if "held_out" in record]
    kept = max(judged, key=lambda record: record["held_out"]) if judged else records[-1]
    told: JsonObject = {"episodes": len(recorded.episodes), **kept}
    if judged:
        told["held_out_looks"] = {record["step"]: round(record["held_out"], 4) for record in judged}
    print(json.dumps(told, indent=2))
    print(f"Wrote {arguments.out}.")
    return 0


def _recipe(arguments: argparse.Namespace) -> int:
    _only(arguments, *_RECIPE[arguments.stage])
    with one_writer(arguments.out):
        return _train_recipe(arguments)


def _train_recipe(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.bundled_card import write_card
    from cola_agents.train.bundled import recipe as stages

    recipe = stages.Recipe(seed=arguments.seed or 0)
    if arguments.stage == "card":
        write_card(arguments.out, recipe)
        print(f"Wrote {arguments.out / 'README.md'}.")
        return 0
    _check_empty(arguments.out)
    changed = {
        name: value
        for name, value in (("steps", arguments.steps), ("tensorboard", arguments.tensorboard))
        if value is not None
    }
    names = ("base", "world", "policy") if arguments.stage == "bundled" else ("base",)
    recipe = dataclasses.replace(
        recipe, **{name: dataclasses.replace(getattr(recipe, name), **changed) for name in names}
    )
    if arguments.stage == "base":
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
