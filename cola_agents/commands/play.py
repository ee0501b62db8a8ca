"""``cola play``: an episode by hand."""

from __future__ import annotations

import argparse

from cola_agents.commands import Commands
from cola_agents.commands.settings import add_set, settings


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "play", help="play a task yourself: type text, or pick codes and see what each would say"
    )
    parser.add_argument("task", help="environment id, e.g. CoLA-Household-v0")
    parser.add_argument("--codes", action="store_true", help="pick codes, one a token")
    parser.add_argument("--model", help="folder or hub id; the bundled model without it")
    parser.add_argument("--split", help="one of the task's; the one to train on where not given")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    add_set(parser)
    parser.set_defaults(run=_play)


def _play(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.play import play

    kwargs = settings(arguments.set)
    kwargs |= {key: value for key in ("model", "split") if (value := getattr(arguments, key)) is not None}
    returns = play(arguments.task, codes=arguments.codes, seed=arguments.seed, **kwargs)
    if returns:
        print(f"{len(returns)} episodes, mean reward {sum(returns) / len(returns):g}.")
    return 0
