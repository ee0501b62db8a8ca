"""``cola --completion SHELL``: the script by which a shell completes commands, options and task ids."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola_agents.commands.tasks import ALGORITHMS

SHELLS = ("bash", "zsh", "tcsh")


class Completion(argparse.Action):
    """Prints the completion script of the parser that it is an option of, and exits.

    The script is static: it is written once, so that a completion starts no Python.
    """

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        super().__init__(
            option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, choices=SHELLS, **kwargs
        )

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.exit(2, "cola: --completion needs shtab: pip install 'cola-rl[completion]'\n")
        shell = args[1]
        for action in _all_actions(parser):
            if action.dest == "task" and action.choices is None:
                action.choices = _task_ids()
            elif action.dest == "algo" and action.choices is None:
                action.choices = ALGORITHMS
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        print(shtab.complete(parser, shell))
        parser.exit()


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                yield from _all_actions(own)


def _task_ids() -> list[str]:
    import gymnasium as gym

    import cola_envs  # noqa: F401 (registers the ids)

    return sorted(key for key, spec in gym.registry.items() if "builder" in spec.kwargs)
