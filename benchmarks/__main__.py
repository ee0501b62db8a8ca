"""``python -m benchmarks``: run a benchmark and keep what came out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="benchmark")

    speed = commands.add_parser(
        "speed", help="environment steps beside a bare loop of the same forward passes"
    )
    speed.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 128])
    speed.add_argument("--steps", type=int, default=400)
    speed.add_argument("--repeats", type=int, default=5)
    speed.add_argument("--long-steps", type=int, default=20_000)
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

    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.run(arguments)
    print(f"Wrote {arguments.out}.")
    return 0


def _speed(arguments: argparse.Namespace) -> None:
    from benchmarks.speed import measure_speed

    results = measure_speed(
        rows=tuple(arguments.rows),
        steps=arguments.steps,
        repeats=arguments.repeats,
        long_steps=arguments.long_steps,
    )
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
