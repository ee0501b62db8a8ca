"""``cola inspect``: measure how a model uses its codes."""

from __future__ import annotations

import argparse
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.settings import check_out


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("inspect", help="measure how a model uses its codes: table, JSON and plot")
    parser.add_argument("model", nargs="?", help="folder or hub id; by default the bundled model")
    parser.add_argument("--out", type=Path, default=Path("cola-inspect"), help="folder for JSON and plot")
    parser.add_argument(
        "--text",
        type=Path,
        help="one document per line: text, or .jsonl[.gz] with a field 'text'; by default generated",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="SPEC",
        help="text described as for `cola pretrain --data`, instead",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        help="maximal number of tokens to score (20,000, or fewer of a large model: two minutes of one core)",
    )
    parser.add_argument(
        "--states",
        type=int,
        help="number of states in which all codes are compared (all, or fewer of a large model)",
    )
    parser.add_argument(
        "--answers",
        action="store_true",
        help="score answers alone: what is behind prompts, and of recorded episodes the agent's own tokens",
    )
    parser.add_argument("--device", help="e.g. cuda")
    parser.add_argument("--dtype", default="float32", help="type to load the weights in")
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.inspection import run_inspection
    from cola_agents.train.specs import parse_data

    check_out(arguments.out, "folder")
    run_inspection(
        arguments.out,
        model=arguments.model,
        text=arguments.text,
        data=parse_data(arguments.data or ()),
        tokens=arguments.tokens,
        states=arguments.states,
        answers=arguments.answers,
        device=arguments.device,
        dtype=arguments.dtype,
    )
    return 0
