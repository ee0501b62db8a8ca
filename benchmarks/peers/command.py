"""``python -m benchmarks peers``."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import RESULTS, Commands
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "peers", help="rollouts and updates beside TRL's GRPOTrainer and per-token rows"
    )
    parser.add_argument(
        "--prompts", type=positive, nargs="+", default=[4, 16], help="of a GRPO iteration, each a measurement"
    )
    parser.add_argument("--group-size", type=positive, default=8)
    parser.add_argument("--tokens", type=positive, default=48, help="of every answer")
    parser.add_argument("--repeats", type=positive, default=7, help="turns of rollouts and iterations")
    parser.add_argument("--ppo-episodes", type=positive, default=32)
    parser.add_argument("--ppo-passes", type=positive, default=2)
    parser.add_argument("--ppo-minibatches", type=positive, default=4, help="gradient steps of a pass")
    parser.add_argument("--ppo-repeats", type=positive, default=5)
    parser.add_argument(
        "--work-rows", type=int, nargs=2, default=[32, 128], help="rows at which Python's work is counted"
    )
    parser.add_argument("--without-trl", action="store_true", help="run the rest where TRL is not installed")
    parser.add_argument("--out", type=Path, default=RESULTS / "peers.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from benchmarks.peers.report import measure_peers, peers_table

    results = measure_peers(
        prompts=tuple(arguments.prompts),
        group_size=arguments.group_size,
        tokens=arguments.tokens,
        repeats=arguments.repeats,
        ppo_episodes=arguments.ppo_episodes,
        ppo_passes=arguments.ppo_passes,
        ppo_minibatches=arguments.ppo_minibatches,
        ppo_repeats=arguments.ppo_repeats,
        work_rows=tuple(arguments.work_rows),
        with_trl=not arguments.without_trl,
    )
    write_json(arguments.out, results, indent=1)
    print(peers_table(results))
