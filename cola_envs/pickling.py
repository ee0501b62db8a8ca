"""An environment pickles as what makes it again: its class, its arguments and its spec, never its weights."""

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
    """An environment that says how it is made."""

    spec: EnvSpec | None


def recipe(env: Shell, settings: Settings, **own: object) -> tuple[object, ...]:
    """What ``env.__reduce__`` returns.

    Args:
        env: an environment with a ``spec`` (or None).
        settings: what its class was called with for :func:`cola_envs.build.build_episodes`.
        own: its class's other arguments.

    Raises:
        pickle.PicklingError: an argument that cannot be pickled, naming it.
    """
    spec = env.spec
    told: tuple[str, ...] = ()
    if spec is not None:  # in it the model of the settings is loaded
        told = tuple(name for name in spec.kwargs if name in settings)
        rest = {name: value for name, value in spec.kwargs.items() if name not in settings}
        spec = dataclasses.replace(spec, kwargs=rest)
    packed = {name: _packed(name, value) for name, value in {**own, **settings}.items()}
    return _made_again, (type(env), packed, spec, told)


def _packed(name: str, value: Any) -> bytes:
    # As Gymnasium's vector environments send their factories: classes of a notebook and lambdas arrive too.
    try:
        return pickle.dumps(CloudpickleWrapper(value))
    except Exception as error:
        raise pickle.PicklingError(
            f"{name}={shown(value)} cannot be pickled ({type(error).__name__}: {error}): pass a class or a "
            "function that opens files, locks and connections when it is called, not before"
        ) from error


def _made_again(
    cls: Callable[..., Shell], packed: dict[str, bytes], spec: EnvSpec | None, told: tuple[str, ...]
) -> Shell:
    arguments = {name: pickle.loads(value).fn for name, value in packed.items()}
    env = cls(**arguments)
    if spec is not None:
        env.spec = dataclasses.replace(
            spec, kwargs={**{name: arguments[name] for name in told}, **spec.kwargs}
        )
    return env
