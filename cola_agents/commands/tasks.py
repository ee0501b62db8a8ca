"""Options of several commands: the task, its environment's arguments, a saved agent and its class."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola_agents.commands.model_options import add_given, add_prompt_settings, pop_loading
from cola_agents.commands.settings import settings

if TYPE_CHECKING:
    from cola_agents.evaluation.run import AgentFolder
    from cola_agents.rl.agent import Agent
    from cola_envs.jsonl import JsonObject

ALGORITHMS = ("grpo", "ppo", "remax", "rloo")
#: The environment id of a task that is given as ``module:Class``.
OWN_TASK_ID = "CoLA-Text-v0"
OWN_ALGO_HELP = "module:Class of a subclass of cola_agents.rl.agent.Agent"
ALGO_HELP = f"or {OWN_ALGO_HELP}"
TASK_HELP = (
    "environment id (`cola tasks` lists them), module:ID of one that your module registers, or module:Class "
    "of your own task"
)


class _OldSet(argparse.Action):
    """The deprecated ``--set`` of commands that now take environment arguments as ``--env``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        warnings.warn(
            f"--set {values} is --env {values} now; --set will be removed in version 0.2",
            DeprecationWarning,
            stacklevel=2,
        )
        print(f"cola: --set {values} is --env {values} now", file=sys.stderr)
        namespace.env = [*namespace.env, values]


def add_env(parser: argparse.ArgumentParser, *, old: bool = True) -> None:
    """Add ``--env KEY=VALUE``, which may be repeated: arguments of the environment.

    Args:
        old: also take ``--set``, the deprecated name of the same option.
    """
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the environment, as JSON or text; may be repeated: "
        "--env 'levels=[4,5]' --env max_tokens=256",
    )
    if old:
        parser.add_argument("--set", action=_OldSet, help=argparse.SUPPRESS)


def named_task(task: str, env: Sequence[str]) -> tuple[str, JsonObject]:
    """The environment id and the environment's arguments that ``--task`` and ``--env`` name.

    Args:
        task: an id, ``module:ID`` or ``module:Class``; the module may be in the working directory.
        env: the values of ``--env``.

    Raises:
        ValueError: for a bad ``--env``, or one that names a second task.
    """
    kwargs = settings(env, "--env")
    _, sign, name = task.partition(":")
    if sign:
        _look_in_working_directory()
    if not sign or name.startswith("CoLA-"):
        return task, kwargs
    if "task" in kwargs:
        raise ValueError(f"--task {task} and --env task=... name two tasks: give one of them")
    return OWN_TASK_ID, {"task": task, **kwargs}


def own_task(task: str | None, whose: str) -> JsonObject:
    """The environment's arguments that ``--task`` gives back to a saved environment; none without it.

    Args:
        whose: environment it is, ``"a run"``, for the error.

    Raises:
        ValueError: for a task that is no class of one's own.
    """
    own = {} if task is None else named_task(task, ())[1]
    if task is not None and "task" not in own:
        raise ValueError(
            f"--task {task}: {whose} keeps its environment; --task names the class of a task of your own, "
            "module:Class, where its files cannot hold it"
        )
    return own


def _look_in_working_directory() -> None:
    """Put the working directory on ``sys.path``, as ``python -m`` does."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)


def algorithm_name(text: str) -> str:
    """The ``type`` of ``--algo``: a bundled algorithm's name, in lower case, or ``module:Class``."""
    name = text if ":" in text else text.lower()
    if ":" not in name and name not in ALGORITHMS:
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} ({', '.join(ALGORITHMS)}, {ALGO_HELP})")
    return name


def algorithm_class(name: str) -> type[Agent]:
    """The class of a bundled algorithm or of ``module:Class``.

    Raises:
        ImportError: where the module or the class does not exist.
        TypeError: for something other than a subclass of Agent.
    """
    from cola_agents.rl.agent import Agent
    from cola_agents.rl.registry import AGENTS

    if ":" not in name:
        return {key.lower(): cls for key, cls in AGENTS.items()}[name]
    _look_in_working_directory()
    module, _, attribute = name.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (AttributeError, ModuleNotFoundError) as error:
        raise ImportError(
            f"--algo {name}: {error}; modules are imported from the working directory or installed packages"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise TypeError(f"--algo {name} names {cls!r}: it must be a subclass of cola_agents.rl.agent.Agent")
    return cls


def add_agent(parser: argparse.ArgumentParser, help: str, of: str = "the agent's class") -> None:
    """Add ``--agent``, the folder of a saved agent, and ``--algo``, its class if that is the user's own."""
    parser.add_argument("--agent", type=Path, help=help)
    parser.add_argument(
        "--algo",
        "--algorithm",
        type=algorithm_name,
        help=f"{of}, if it is your own: {OWN_ALGO_HELP}",
    )


def task_of_agent(task: str | None, agent: object) -> str:
    """The value of ``--task``, or else the environment id of the saved agent in a folder.

    Raises:
        ValueError: where neither is given.
    """
    if task is not None:
        return task
    if agent is None:
        raise ValueError("give --task, or --agent, whose task is the default")
    from cola_agents.rl.saving import read_description, saved_path

    env_id: str = read_description(saved_path(str(agent)))["env_id"]
    return named_task(env_id, ())[0]


def saved_agent(folder: Path, env_kwargs: JsonObject, algo: str | None = None, **loading: Any) -> AgentFolder:
    """A saved agent, which is loaded by whoever plays it, when the other arguments were checked.

    Args:
        env_kwargs: of the command; those in them that the folder could not hold (a ``task``) are passed to
            the agent.
        algo: the value of ``--algo``.
        loading: ``device``, ``dtype``, ``model`` where they replace the agent's own.

    Raises:
        ValueError: where the command gives some of what the folder could not hold, but not all.
    """
    from cola_agents.evaluation.run import AgentFolder
    from cola_agents.rl.restoring import not_saved
    from cola_agents.rl.saving import read_description, saved_path

    saved = read_description(saved_path(folder))
    named_task(saved["env_id"], ())  # whose module may be in the working directory
    changed: JsonObject = dict(loading)
    left_out = not_saved(saved)
    given = {name: env_kwargs[name] for name in left_out if name in env_kwargs}
    missing = [name for name in left_out if name not in given]
    if given and missing:
        raise ValueError(
            f"{folder} was trained with {', '.join(missing)} too, which could not be saved: give it as --env "
            f"{missing[0]}=..., or load the agent in Python, load_agent(folder, env_kwargs=...)"
        )
    if given:
        changed["env_kwargs"] = {**saved["env_kwargs"], **given}
    return AgentFolder(folder, algorithm_class(algo) if algo else None, changed)


def load_playing(folder: Path, env_kwargs: JsonObject, algo: str | None = None, **loading: Any) -> Agent:
    """Load :func:`saved_agent`, with the same arguments."""
    return saved_agent(folder, env_kwargs, algo, **loading).load()


def played_by(arguments: argparse.Namespace) -> tuple[str, JsonObject, AgentFolder | None]:
    """The task of a command, its environment's arguments, and the saved agent that plays in place of a model.

    The command has the options of :func:`add_agent`, :func:`add_env` and ``add_model_options``, and
    ``--task``, ``--model`` and ``--split``.

    A model beside an agent says where the agent's is now.

    Raises:
        ValueError: as the functions that read these options do.
    """
    task, kwargs = named_task(task_of_agent(arguments.task, arguments.agent), arguments.env)
    add_given(arguments, kwargs, "model", "split")
    add_prompt_settings(arguments, kwargs)
    loading = pop_loading(arguments, kwargs)
    if arguments.agent is None:
        return task, kwargs | loading, None
    if "model" in kwargs:
        loading["model"] = kwargs.pop("model")
    return task, kwargs, saved_agent(arguments.agent, kwargs, arguments.algo, **loading)
