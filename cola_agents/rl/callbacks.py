"""Callbacks of ``agent.learn`` and its progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from tqdm import tqdm

#: None, one of Stable-Baselines3's callbacks, a list of callbacks, or a function of (locals, globals).
Callback = None | BaseCallback | list[Any] | Callable[[dict[str, Any], dict[str, Any]], Any]


class Stopped(Exception):
    """A callback asked for the end of learning."""


class Progress:
    """A progress bar: actions taken, reward and KL of the last update, tokens per second, remaining time.

    Args:
        start, target: the number of actions at the beginning and at the end.
        shown: False for no bar.
    """

    def __init__(self, start: int, target: int, shown: bool) -> None:
        self._start, self._total = start, target - start
        self._bar = tqdm(
            total=self._total, unit="tok", unit_scale=True, disable=not shown, dynamic_ncols=True
        )

    def at(self, taken: int) -> None:
        """Move the bar to ``taken`` actions."""
        done = min(taken - self._start, self._total)
        if self._bar.disable or done == self._bar.n:
            return
        if done > self._bar.n:
            self._bar.update(done - self._bar.n)
        else:  # an interrupted rollout is played again
            self._bar.n = done
            self._bar.refresh()

    def show(self, taken: int, record: dict[str, float]) -> None:
        """Move the bar after an update and show figures of its record."""
        self.at(taken)
        shown = {name: f"{record[name]:.3f}" for name in ("reward", "kl") if name in record}
        self._bar.set_postfix(shown)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()


class Watch:
    """Calls a callback as Stable-Baselines3 does, once for each step of all rows.

    Args:
        callback: see :data:`Callback`. A function stops learning by returning False; any other value, also
            None, continues.
        agent: the callback's ``model``.
        variables: the callback's ``locals`` at the start.
    """

    def __init__(self, callback: Callback, agent: object, variables: dict[str, Any]) -> None:
        self.callback = _as_callback(callback)
        self._variables = variables
        self.callback.init_callback(agent)  # type: ignore[arg-type]  # it has what SB3's callbacks use
        self.callback.on_training_start(variables, {})

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """A block that ends early, without an error, if the callback asks for it."""
        with suppress(Stopped):
            yield

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """A block in which episodes are played."""
        self.callback.on_rollout_start()
        yield
        self.callback.on_rollout_end()

    def step(self, **variables: Any) -> None:
        """Call the callback after one step of the rows.

        Raises:
            Stopped: if the callback asks for it.
        """
        self._variables.update(variables)
        self.callback.update_locals(variables)
        if not self.callback.on_step():
            raise Stopped


def _as_callback(callback: Callback) -> BaseCallback:
    if isinstance(callback, BaseCallback):
        return callback
    if isinstance(callback, list):
        return CallbackList([_as_callback(one) for one in callback])
    if callback is None:
        return CallbackList([])
    if not callable(callback):
        raise TypeError(
            "callback= takes a Stable-Baselines3 callback, a list of them or a function of (locals, "
            f"globals), got {callback!r}"
        )
    return ConvertCallback(lambda variables, others: callback(variables, others) is not False)
