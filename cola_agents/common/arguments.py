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
#: Arguments of an agent beside its options; in ``env_kwargs`` they are in the wrong place.
AGENT_ARGUMENTS = (
    "env_id",
    "num_envs",
    "seed",
    "model",
    "tokenizer",
    "device",
    "dtype",
    "env_kwargs",
    "verbose",
    "tensorboard_log",
)
#: Those of them that environments of ``gym.make`` take too, and an agent takes once for all of its own.
_LOADING = ("model", "tokenizer", "device", "dtype")
#: Parameters of ``gym.make_vec`` itself: how it makes an environment, which agents decide.
_MAKING = set(inspect.signature(gym.make_vec).parameters) - {"kwargs"}


def name_of_task(task: object) -> str | None:
    """``module:Class`` of a task of one's own that is an object; None for none, and for a name."""
    if task is None or isinstance(task, str):
        return None
    named = task if hasattr(task, "__qualname__") else type(task)
    return f"{named.__module__}:{named.__qualname__}"


def environment_arguments(
    env_kwargs: Mapping[str, Any] | None, keywords: Mapping[str, Any], caller: str
) -> dict[str, Any]:
    """Merge ``env_kwargs=`` with environment arguments given as direct keywords, which are deprecated.

    Args:
        env_kwargs: the value of ``env_kwargs=``.
        keywords: the direct keywords.
        caller: the name of the function or class that the user called.

    Raises:
        TypeError: for an ``env_kwargs`` that is no dict, or an argument that is given both ways.
    """
    merged = as_arguments(env_kwargs)
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


def as_arguments(env_kwargs: object) -> dict[str, Any]:
    """``env_kwargs`` as a new dict, empty for None; TypeError for anything but a dict with names as keys."""
    given = {} if env_kwargs is None else env_kwargs
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError(
            f"env_kwargs must be a dict of the environment's arguments, got {reprlib.repr(env_kwargs)}"
        )
    return dict(given)


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
    known = [*options, *AGENT_ARGUMENTS]
    if name in ALIASES:
        close = [ALIASES[name]] if ALIASES[name] in known else []
    else:
        close = difflib.get_close_matches(name, known, n=1)
    return f"{message}. Did you mean {close[0]!r}?" if close else message


def check_env_kwargs(env_kwargs: JsonObject, options: Sequence[str], algorithm: str, env_id: str) -> None:
    """Raise TypeError for an argument or option of an agent among the arguments of its environment.

    Args:
        options: the names of the algorithm's options.
        algorithm: its name.
        env_id: the id of the environment.
    """
    of_environment = environment_names(env_id) - set(_LOADING)
    for name in sorted(env_kwargs.keys() - of_environment):
        value = env_kwargs[name]
        if name in AGENT_ARGUMENTS:
            flag = f"--{name.replace('_', '-')} {value}"
            raise TypeError(
                f"env_kwargs has {name!r}, which is an argument of {algorithm} itself: give it as "
                f"{algorithm}(..., {name}={value!r})"
                + (f" (on the command line {flag})" if name in (*_LOADING, "num_envs", "seed") else "")
            )
        if name in options:
            raise TypeError(
                f"env_kwargs has {name!r}, which is an option of {algorithm}: give it as {name}={value!r} "
                f"(on the command line --set {name}={value})"
            )
        check_not_making(name)


def check_not_making(name: str) -> None:
    """Raise TypeError for a parameter of ``gym.make_vec`` itself."""
    if name in _MAKING:
        raise TypeError(
            f"env_kwargs has {name!r}, which is no argument of an environment but of gym.make_vec, and whole "
            "episodes are played here, in rows that step together: leave it out"
        )


def environment_names(env_id: object) -> set[str]:
    """The names of the arguments of an environment and of its task; empty for an unknown id."""
    spec = gym.registry.get(env_id.rpartition(":")[2]) if isinstance(env_id, str) else None
    builder = None if spec is None else spec.kwargs.get("builder")
    if builder is None:
        return set()
    names = {*inspect.signature(build_episodes).parameters, *inspect.signature(load(builder)).parameters}
    return names - {"num_rows", "task_kwargs", "builder", "actions", "default_max_tokens"}
