"""``cola tasks``: list the environments and their arguments."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from cola_agents.commands import Commands
from cola_agents.commands.tasks import TASK_HELP, named_task

#: Builders of a task around another task, and that task, whose specification is shown too.
WRAPPED = {
    "cola_envs.tasks.thinking:thinking_arithmetic": "cola_envs.tasks.arithmetic:ArithmeticTask",
    "cola_envs.tasks.countdown:thinking_countdown": "cola_envs.tasks.countdown:CountdownTask",
}


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
        registered = spec_of(env_id).kwargs
        builder = kwargs.get("task") or registered.get("builder")
        if builder is None:
            raise ValueError(f"{arguments.task} is not one of the CoLA environments")
        task = load_own(builder)
        wrapped = WRAPPED.get(str(builder))
        print(f"{arguments.task}: {_description(task, load(wrapped) if wrapped else None)}")
        if "task" in kwargs:
            print(f"\nPlayed as {env_id}. `cola_envs.register_task` gives it an id and arguments of its own.")
            print(_of_every_environment(registered))
            return 0
        own = [
            "  " + str(parameter).replace(repr(parameter.annotation), str(parameter.annotation), 1)
            for name, parameter in inspect.signature(task).parameters.items()
            if name != "num_rows" and parameter.kind is not parameter.VAR_KEYWORD
        ]
        print(
            "\nArguments (--env KEY=VALUE):" if own else "\nIt has no arguments of its own.", *own, sep="\n"
        )
        print(_of_every_environment(registered))
        return 0
    for env_id, spec in sorted(gym.registry.items()):
        builder = spec.kwargs.get("builder")
        if builder is not None and "-Token-" not in env_id:
            first = _docstring(load(builder)).splitlines()[0]
            splits = ", ".join(splits_of(builder)) or "none"
            print(f"{env_id:22} {first} (splits: {splits})")
    print("\nEach has a twin over tokens, e.g. CoLA-Arithmetic-Token-v0. Your own task: --task module:Class.")
    return 0


def _of_every_environment(registered: Mapping[str, Any]) -> str:
    """What an id decides of the arguments that are not the task's own, and where these are explained.

    Args:
        registered: the keywords of the id's registration.
    """
    from cola_envs.build import build_episodes

    parameters = inspect.signature(build_episodes).parameters
    budget, failing = (
        registered.get(name, parameters[name].default) for name in ("default_max_tokens", "on_task_error")
    )
    return (
        f"\nToken budget of an episode: {budget}, unless max_tokens is given. If the task fails: "
        f"on_task_error={failing!r}.\nArguments of every environment: docs/environments.md, or "
        "help(cola_envs.CoLAEnv) in Python."
    )


def described_class(builder: Callable[..., Any]) -> Any:
    """What holds the specification: a task class, also where a function of this package makes one."""
    if inspect.isclass(builder):
        return builder
    made = inspect.get_annotations(builder, eval_str=True).get("return")
    return made if inspect.isclass(made) and made.__module__.startswith("cola_envs.tasks") else builder


def _description(builder: Callable[..., Any], wrapped: Any) -> str:
    """The specification of a task, and that of the task which it wraps, if there is one."""
    described = described_class(builder)
    if described is builder:
        return _docstring(builder)
    first, *arguments = re.split(r"\n\n(?=Args:\n)", _docstring(builder))
    specification = re.split(r"\n\n(?=Args:\n)", _docstring(described))[0]
    parts = [first, specification, *arguments]
    if wrapped is not None:
        parts.append(f"The wrapped task, {wrapped.__name__}: {_docstring(wrapped)}")
    return "\n\n".join(parts)


def _docstring(described: Any) -> str:
    """A docstring without the roles of Sphinx."""
    text = inspect.getdoc(described) or "a task without a docstring"
    return re.sub(r":\w+:`(?:~(?:\w+\.)*)?([^`]+)`", r"``\1``", text)
