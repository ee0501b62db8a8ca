"""``python -m benchmarks``: run a benchmark and keep what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.compare import campaign

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="benchmark")

    speed = commands.add_parser(
        "speed", help="decoding beside transformers' own, and environment steps beside a bare loop"
    )
    speed.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128])
    speed.add_argument("--steps", type=int, default=400)
    speed.add_argument("--repeats", type=int, default=5)
    speed.add_argument("--long-steps", type=int, default=20_000)
    speed.add_argument("--decode-tokens", type=int, default=64)
    speed.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    speed.set_defaults(run=_speed)

    tune = commands.add_parser("tune", help="the grid over learning rate and KL behind `cola demo`")
    tune.add_argument("--updates", type=int, default=50)
    tune.add_argument("--episodes", type=int, default=256)
    tune.add_argument("--lr", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    tune.add_argument("--kl", type=float, nargs="+", default=[0.01, 0.1, 0.3])
    tune.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    tune.add_argument("--out", type=Path, default=RESULTS / "format_reward_tuning.json")
    tune.set_defaults(run=_tune)

    shapes = commands.add_parser(
        "shapes", help="decoding and PPO updates at 8B shapes on a GPU; at a small shape on a CPU"
    )
    shapes.add_argument("--shape", choices=("8b", "small"), help="default: 8b where there is a GPU")
    shapes.add_argument("--device", help="default: cuda where there is one")
    shapes.add_argument("--repeats", type=int, default=3)
    shapes.add_argument("--out", type=Path, default=RESULTS / "shapes.json")
    shapes.set_defaults(run=_shapes)

    engines = commands.add_parser("engines", help="the Household engine: commands, memory, stock beside ours")
    engines.add_argument("--rows", type=int, default=32)
    engines.add_argument("--workers", type=int, default=2)
    engines.add_argument("--level", type=int, default=2)
    engines.add_argument("--commands", type=int, default=50, help="commands that each row sends")
    engines.add_argument("--tokens", type=int, default=64, help="tokens that each row decodes")
    engines.add_argument("--resets", type=int, default=1000)
    engines.add_argument("--stock-commands", type=int, default=30)
    engines.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    engines.set_defaults(run=_engines)

    for module in (models, campaign):
        module.add(commands)

    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.run(arguments)
    print(f"Wrote {arguments.out}.")
    return 0


def _speed(arguments: argparse.Namespace) -> None:
    from benchmarks.decoding import decoding_table
    from benchmarks.speed import measure_speed

    results = measure_speed(
        rows=tuple(arguments.rows),
        steps=arguments.steps,
        repeats=arguments.repeats,
        long_steps=arguments.long_steps,
        decode_tokens=arguments.decode_tokens,
    )
    text = json.dumps(results, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)
    print(decoding_table(results["decoding"]))


def _shapes(arguments: argparse.Namespace) -> None:
    from benchmarks.shapes import SHAPES, measure_shapes, shapes_table

    # What an earlier run published stays until this one is through.
    partial = arguments.out.with_suffix(".partial.json")
    results = measure_shapes(
        SHAPES.get(arguments.shape),
        device=arguments.device,
        repeats=arguments.repeats,
        save=lambda found: partial.write_text(json.dumps(found, indent=1) + "\n"),
    )
    partial.replace(arguments.out)
    print(shapes_table(results))


def _engines(arguments: argparse.Namespace) -> None:
    from benchmarks.engines import measure_engines

    names = ("rows", "workers", "level", "commands", "tokens", "resets", "stock_commands")
    results = measure_engines(**{name: getattr(arguments, name) for name in names})
    text = json.dumps(results, indent=1)
    arguments.out.write_text(text + "\n")
    print(text)


def _tune(arguments: argparse.Namespace) -> None:
    from benchmarks.tune import tune, tuning_table

    results = tune(
        updates=arguments.updates,
        episodes=arguments.episodes,
        learning_rates=tuple(arguments.lr),
        kl_weights=tuple(arguments.kl),
        seeds=tuple(arguments.seeds),
    )
    for run in results["runs"]:
        del run["history"]
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(tuning_table(results))


if __name__ == "__main__":
    sys.exit(main())
