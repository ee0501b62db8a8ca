"""Stable-Baselines3's own networks on the threads that fit them, while it learns over an ``SB3VecEnv``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from cola_agents.common.threads import fitting_threads

#: What of an algorithm computes: ``evaluate_policy`` calls the second.
METHODS = ("learn", "predict")


def fit_algorithms(env_class: type) -> None:
    """Have the algorithms that are loaded compute with one thread where env and policy are small.

    SB3 computes its networks between two steps, and tells an environment neither where learning begins nor
    where it ends: ``learn`` itself is the only block from which the caller's number of threads can be given
    back. So it is wrapped, in SB3's classes and in those made after them. Over other environments nothing
    changes.

    Args:
        env_class: whose ``backbone`` is asked for.
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
