"""Text tasks as Gymnasium environments in which a language model is the transition function.

Importing this package registers, each with a ``-Token-v0`` twin that takes token ids as actions: mathematics
(``CoLA-Arithmetic-v0``, ``CoLA-Math500-v0``, ``CoLA-GSM8K-v0``), thinking prompts (``CoLA-Thinking-v0``,
``CoLA-Countdown-v0``), text games (``CoLA-TextRooms-v0``, ``CoLA-ALFWorld-v0``, ``CoLA-Household-v0``,
``CoLA-ScienceWorld-v0``), preferences (``CoLA-Preference-v0``) and your own task (``CoLA-Text-v0``).

It imports numpy and gymnasium only: torch is loaded when an environment is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from gymnasium.envs.registration import parse_env_id, register, registry

from cola_envs import wrappers
from cola_envs.answers import OnTaskError
from cola_envs.backbone import Backbone, Decoded, Session, Tokenizer
from cola_envs.checks import check_choice, check_count
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.state import State
from cola_envs.task import EachRow, Task, TaskBatch, Turn
from cola_envs.vector import CoLAVectorEnv

__all__ = [
    "Backbone",
    "CoLAEnv",
    "CoLAVectorEnv",
    "Decoded",
    "EachRow",
    "Episodes",
    "Session",
    "State",
    "Task",
    "TaskBatch",
    "Tokenizer",
    "Turn",
    "register_task",
    "wrappers",
]


def register_task(
    name: str,
    builder: str | Callable[..., object],
    max_tokens: int,
    *,
    nondeterministic: bool = False,
    on_task_error: OnTaskError = "raise",
    **task_kwargs: Any,
) -> None:
    """Register a task as ``CoLA-{name}-v0`` (latent actions) and ``CoLA-{name}-Token-v0`` (token ids).

    Args:
        name: the task's name in the ids.
        builder: the task's class or factory, or its name ``"module:name"``, which is imported when an
            environment is made; see :func:`cola_envs.build.build_episodes`.
        max_tokens: default token budget of an episode, at least 1.
        nondeterministic: whether the same seed and actions may give different episodes (Gymnasium's flag).
        on_task_error: default of ``on_task_error``, ``"raise"`` or ``"truncate"``.
        task_kwargs: defaults of the task's own arguments.

    Raises:
        TypeError: for a builder that is neither a name nor callable, or ``max_tokens`` that is no integer.
        ValueError: for a builder whose name is not ``"module:name"``, ``max_tokens`` below 1, another
            ``on_task_error``, or a name that another task has. The same task may be registered again: what is
            said last holds.
        gymnasium.error.Error: for a name that no id can have. Nothing is registered after an error.
    """
    if isinstance(builder, str):
        module, _, attribute = builder.partition(":")
        if not module or not attribute.isidentifier():
            raise ValueError(f"builder must be 'module:name' of a task's class or factory, got {builder!r}")
    elif not callable(builder):
        raise TypeError(f"builder must be 'module:name' or callable, got {builder!r:.80}")
    max_tokens = check_count("max_tokens", max_tokens)
    check_choice("on_task_error", on_task_error, get_args(OnTaskError))
    ids = {"latent": f"CoLA-{name}-v0", "token": f"CoLA-{name}-Token-v0"}
    for env_id in ids.values():
        parse_env_id(env_id)
        if env_id in registry and registry[env_id].kwargs.get("builder") != builder:
            raise ValueError(
                f"{env_id} is registered already, for the task {registry[env_id].kwargs.get('builder')!r}: "
                "give yours another name"
            )
    for actions, env_id in ids.items():
        registry.pop(env_id, None)
        register(
            id=env_id,
            entry_point="cola_envs.env:CoLAEnv",
            vector_entry_point="cola_envs.vector:CoLAVectorEnv",
            nondeterministic=nondeterministic,
            kwargs={
                "builder": builder,
                "actions": actions,
                "default_max_tokens": max_tokens,
                "on_task_error": on_task_error,
                **task_kwargs,
            },
        )


# An error in a task of this package must not end a training run; one in a user's task or scorer is raised.
_CUT: OnTaskError = "truncate"
register_task("Arithmetic", "cola_envs.tasks.arithmetic:ArithmeticTask", 48, on_task_error=_CUT)
register_task("Thinking", "cola_envs.tasks.thinking:thinking_arithmetic", 48, on_task_error=_CUT)
register_task("Math500", "cola_envs.tasks.math500:Math500", 512, on_task_error=_CUT)
register_task("GSM8K", "cola_envs.tasks.gsm8k:GSM8K", 512, on_task_error=_CUT)
register_task("Countdown", "cola_envs.tasks.countdown:thinking_countdown", 64, on_task_error=_CUT)
register_task("TextRooms", "cola_envs.tasks.textrooms:TextRooms", 64, on_task_error=_CUT)
register_task("ALFWorld", "cola_envs.tasks.alfworld:ALFWorld", 512, on_task_error=_CUT)
register_task("Household", "cola_envs.tasks.household:Household", 512, on_task_error=_CUT)
register_task(
    "ScienceWorld",
    "cola_envs.tasks.scienceworld:ScienceWorld",
    1024,
    nondeterministic=True,
    on_task_error=_CUT,
)
register_task("Preference", "cola_envs.tasks.preference:Preference", 64)
register_task("Text", "cola_envs.build:own_task", 64)
