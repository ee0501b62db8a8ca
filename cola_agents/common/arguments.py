"""Environment arguments given as ``env_kwargs``, and errors for options given in the wrong place."""

from __future__ import annotations

import difflib
import inspect
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym

from cola_envs.build import build_episodes, load
from cola_envs.jsonl import JsonObject

#: Names of options in other libraries -> our names.
ELSEWHERE = {
    "learning_rate": "lr",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "batch_size": "minibatch",
    "ent_coef": "entropy_coef",
    "clip_range": "clip",
    "clip_eps": "clip",
    "beta": "kl_coef",
    "num_generations": "group_size",
    "n_envs": "num_envs",
    "max_grad": "max_grad_norm",
}


def environment_arguments(
    given: Mapping[str, Any] | None, direct: Mapping[str, Any], taker: str
) -> dict[str, Any]:
    """Merge ``env_kwargs=`` with environment arguments given as direct keywords, which are deprecated.

    Args:
        given: the value of ``env_kwargs=``.
        direct: the direct keywords.
        taker: the name of the called function or class.

    Raises:
        TypeError: for an argument that is given both ways.
    """
    given = dict(given or {})
    if direct:
        twice = sorted(set(given) & set(direct))
        if twice:
            raise TypeError(f"{taker} got {twice[0]!r} twice: leave the keyword out, env_kwargs has it")
        arguments = ", ".join(f"{name!r}: {reprlib.repr(value)}" for name, value in direct.items())
        warnings.warn(
            f"{taker} takes arguments of the environment as env_kwargs={{{arguments}}}; as direct keywords "
            "they will be removed in version 0.2",
            DeprecationWarning,
            stacklevel=3,
        )
    return {**given, **direct}


def unknown_option(name: str, value: object, options: Sequence[str], taker: str, env_id: object) -> str:
    """The error message for an option that an algorithm does not have.

    Args:
        options: the options that it has.
        taker: the name of the algorithm.
        env_id: the id of its environment.
    """
    start = f"unknown option {name!r}: {taker} takes {', '.join(options)}"
    if name in environment_names(env_id):
        return (
            f"unknown option {name!r}: it is an argument of the environment, so give it as "
            f"env_kwargs={{{name!r}: {value!r}}} (on the command line --env {name}={value})"
        )
    close = [ELSEWHERE[name]] if name in ELSEWHERE else difflib.get_close_matches(name, options, n=1)
    return f"{start}. Did you mean {close[0]!r}?" if close else start


def check_no_option(env_kwargs: JsonObject, options: Sequence[str], taker: str, env_id: str) -> None:
    """Raise TypeError for an option of the algorithm among the arguments of the environment."""
    known = environment_names(env_id)
    for name, value in env_kwargs.items():
        if name in options and name not in known:
            raise TypeError(
                f"env_kwargs has {name!r}, which is an option of {taker}: give it as {name}={value!r} (on "
                f"the command line --set {name}={value})"
            )


def environment_names(env_id: object) -> set[str]:
    """The arguments of an environment and of its task; empty for an unknown id."""
    spec = gym.registry.get(env_id) if isinstance(env_id, str) else None
    builder = None if spec is None else spec.kwargs.get("builder")
    if builder is None:
        return set()
    own = {*inspect.signature(build_episodes).parameters, *inspect.signature(load(builder)).parameters}
    return own - {"num_rows", "task_kwargs", "builder", "actions", "default_max_tokens"}
