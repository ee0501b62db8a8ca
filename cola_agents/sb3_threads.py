"""The number of torch's threads while Stable-Baselines3 learns over an ``SB3VecEnv``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from cola_agents.common.threads import fitting_threads

#: The methods of an algorithm that compute; ``evaluate_policy`` calls the second.
METHODS = ("learn", "predict")


def fit_algorithms(env_class: type) -> None:
    """Make the loaded SB3 algorithms compute with one thread if environment and policy are small.

    SB3 does not tell an environment when learning begins and ends, so the methods themselves are wrapped, in
    SB3's classes and their loaded subclasses; afterwards the caller's number of threads is set again. Over
    other environments nothing changes.

    Args:
        env_class: the environments that this applies to; they have a ``backbone``.
    """
    for algorithm in (BaseAlgorithm, *_below(BaseAlgorithm)):
        for name in METHODS:
            method = vars(algorithm).get(name)
            if method is not None and not hasattr(method, "fits_threads"):
                setattr(algorithm, name, _fitted(method, env_class))


def _below(kind: type) -> Iterator[type]:
    one: type
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _fitted(method: Callable[..., Any], env_class: type) -> Callable[..., Any]:
    @functools.wraps(method)
    def fitted(self: Any, *args: Any, **kwargs: Any) -> Any:
        env = getattr(self, "env", None)
        inner = None if env is None else env.unwrapped
        if not isinstance(inner, env_class):
            return method(self, *args, **kwargs)
        with fitting_threads(inner.backbone, self.policy):  # type: ignore[attr-defined]
            return method(self, *args, **kwargs)

    fitted.fits_threads = True  # type: ignore[attr-defined]
    return fitted
