"""Pickle an environment as its class, its arguments and its spec, without the model's weights."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, Protocol

from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import CloudpickleWrapper

from cola_envs.build import Settings
from cola_envs.contract import shown


class Shell(Protocol):
    """An environment with Gymnasium's spec."""

    spec: EnvSpec | None


def recipe(env: Shell, settings: Settings, **arguments: object) -> tuple[object, ...]:
    """The value that ``env.__reduce__`` returns.

    Args:
        env: an environment with a ``spec`` (or None).
        settings: the arguments of its class for :func:`cola_envs.build.build_episodes`.
        arguments: the class's other arguments.

    Raises:
        pickle.PicklingError: for an argument that cannot be pickled, with its name.
    """
    spec = env.spec
    shared: tuple[str, ...] = ()
    if spec is not None:  # its arguments hold the loaded model; settings hold it as it was passed
        shared = tuple(name for name in spec.kwargs if name in settings)
        rest = {name: value for name, value in spec.kwargs.items() if name not in settings}
        spec = dataclasses.replace(spec, kwargs=rest)
    packed = {name: _packed(name, value) for name, value in {**arguments, **settings}.items()}
    return _made_again, (type(env), packed, spec, shared)


def _packed(name: str, value: Any) -> bytes:
    # Gymnasium's wrapper for sending factories to processes also pickles lambdas and classes of a notebook.
    try:
        return pickle.dumps(CloudpickleWrapper(value))
    except Exception as error:
        raise pickle.PicklingError(
            f"{name}={shown(value)} cannot be pickled ({type(error).__name__}: {error}): pass a class or "
            "function that opens files, locks and connections only when it is called"
        ) from error


def _made_again(
    cls: Callable[..., Shell], packed: dict[str, bytes], spec: EnvSpec | None, shared: tuple[str, ...]
) -> Shell:
    arguments = {name: pickle.loads(value).fn for name, value in packed.items()}
    env = cls(**arguments)
    if spec is not None:
        env.spec = dataclasses.replace(
            spec, kwargs={**{name: arguments[name] for name in shared}, **spec.kwargs}
        )
    return env
