"""``cola tasks``: list the environments and their arguments."""

from __future__ import annotations

import argparse
import inspect

from cola_agents.commands import Commands
from cola_agents.commands.tasks import TASK_HELP, named_task


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("tasks", help="list the tasks, or describe one and its arguments")
    parser.add_argument("task", nargs="?", help=f"one to describe: {TASK_HELP}")
    parser.set_defaults(run=_tasks)


def _tasks(arguments: argparse.Namespace) -> int:
    import gymnasium as gym

    import cola_envs  # noqa: F401 (registers the ids)
    from cola_envs.build import load, load_own, spec_of, splits_of

    if arguments.task is not None:
        env_id, kwargs = named_task(arguments.task, ())
        builder = kwargs.get("task") or spec_of(env_id).kwargs.get("builder")
        if builder is None:
            raise ValueError(f"{arguments.task} is not one of the CoLA environments")
        task = load_own(builder)
        print(f"{arguments.task}: {inspect.getdoc(task) or 'a task without a docstring'}")
        if "task" in kwargs:
            print(f"\nPlayed as {env_id}. `cola_envs.register_task` gives it an id and arguments of its own.")
            return 0
        own = [
            "  " + str(parameter).replace("'", "", 2)
            for name, parameter in inspect.signature(task).parameters.items()
            if name != "num_rows" and parameter.kind is not parameter.VAR_KEYWORD
        ]
        print(
            "\nArguments (--env KEY=VALUE):" if own else "\nIt has no arguments of its own.", *own, sep="\n"
        )
        return 0
    for env_id, spec in sorted(gym.registry.items()):
        builder = spec.kwargs.get("builder")
        if builder is not None and "-Token-" not in env_id:
            first = (inspect.getdoc(load(builder)) or "a task without a docstring").splitlines()[0]
            splits = ", ".join(splits_of(builder)) or "none"
            print(f"{env_id:22} {first} (splits: {splits})")
    print("\nEach has a twin over tokens, e.g. CoLA-Arithmetic-Token-v0. Your own task: --task module:Class.")
    return 0
