"""``cola --completion SHELL``: a script for the shell to complete commands, options and task ids."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola_agents.commands.tasks import ALGORITHMS

SHELLS = ("bash", "zsh", "tcsh")


class Completion(argparse.Action):
    """An option that prints the completion script of its parser and exits.

    The script is static: a completion starts no Python.
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
            elif action.dest == "algo":  # which also takes module:Class, so its parser has no choices
                action.choices = ALGORITHMS
            elif action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
        print(shtab.complete(parser, shell))
        parser.exit()


def _all_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _all_actions(subparser)


def _task_ids() -> list[str]:
    import gymnasium as gym

    import cola_envs  # noqa: F401 (registers the ids)

    return sorted(key for key, spec in gym.registry.items() if "builder" in spec.kwargs)
