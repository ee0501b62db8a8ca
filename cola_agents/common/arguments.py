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
ALIASES = {
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
    env_kwargs: Mapping[str, Any] | None, keywords: Mapping[str, Any], caller: str
) -> dict[str, Any]:
    """Merge ``env_kwargs=`` with environment arguments given as direct keywords, which are deprecated.

    Args:
        env_kwargs: the value of ``env_kwargs=``.
        keywords: the direct keywords.
        caller: the name of the function or class that the user called.

    Raises:
        TypeError: for an argument that is given both ways.
    """
    merged = dict(env_kwargs or {})
    if keywords:
        duplicates = sorted(set(merged) & set(keywords))
        if duplicates:
            raise TypeError(f"{caller} got {duplicates[0]!r} twice: leave the keyword out, env_kwargs has it")
        arguments = ", ".join(f"{name!r}: {reprlib.repr(value)}" for name, value in keywords.items())
        warnings.warn(
            f"{caller} takes arguments of the environment as env_kwargs={{{arguments}}}; as direct keywords "
            "they will be removed in version 0.2",
            DeprecationWarning,
            stacklevel=3,
        )
    return {**merged, **keywords}


def unknown_option(name: str, value: object, options: Sequence[str], algorithm: str, env_id: object) -> str:
    """The error message for an option that an algorithm does not have.

    Args:
        options: the names of the algorithm's options.
        algorithm: its name.
        env_id: the id of its environment.
    """
    if name in environment_names(env_id):
        return (
            f"unknown option {name!r}: it is an argument of the environment, so give it as "
            f"env_kwargs={{{name!r}: {value!r}}} (on the command line --env {name}={value})"
        )
    message = f"unknown option {name!r}: {algorithm} takes {', '.join(options)}"
    close = [ALIASES[name]] if name in ALIASES else difflib.get_close_matches(name, options, n=1)
    return f"{message}. Did you mean {close[0]!r}?" if close else message


def check_no_option(env_kwargs: JsonObject, options: Sequence[str], algorithm: str, env_id: str) -> None:
    """Raise TypeError for an option of the algorithm among the arguments of the environment."""
    arguments = environment_names(env_id)
    for name, value in env_kwargs.items():
        if name in options and name not in arguments:
            raise TypeError(
                f"env_kwargs has {name!r}, which is an option of {algorithm}: give it as {name}={value!r} "
                f"(on the command line --set {name}={value})"
            )


def environment_names(env_id: object) -> set[str]:
    """The names of the arguments of an environment and of its task; empty for an unknown id."""
    spec = gym.registry.get(env_id.rpartition(":")[2]) if isinstance(env_id, str) else None
    builder = None if spec is None else spec.kwargs.get("builder")
    if builder is None:
        return set()
    names = {*inspect.signature(build_episodes).parameters, *inspect.signature(load(builder)).parameters}
    return names - {"num_rows", "task_kwargs", "builder", "actions", "default_max_tokens"}
