"""Ctrl-C and SIGTERM: what they raise, and when."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever handles Ctrl-C handles this."""


def exit_status(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that Ctrl-C or SIGTERM ended, as a shell counts: 128 and the signal."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """In this block SIGTERM raises :class:`Terminated`, once; then the handler of before is back.

    Further ones are ignored until the end of the block, so that they do not stop the saving that the first
    one brought about; Ctrl-C does. A forked child dies of SIGTERM as ever. Outside the main thread, and
    where SIGTERM is ignored, nothing is changed.
    """
    previous = signal.getsignal(signal.SIGTERM)
    if not _in_main_thread() or previous in (None, signal.SIG_IGN):
        yield
        return
    own = os.getpid()
    came: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not came:
            came.append(number)
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def hold_interrupts(*, patient: bool = False) -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and SIGTERM does where it has a handler.

    Outside the main thread, where no signals arrive, nothing is changed.

    Args:
        patient: False to say that it waits, and for a second Ctrl-C not to wait; True to let all wait.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: handler for number in signals if callable(handler := signal.getsignal(number))}
    if not _in_main_thread() or not handlers:
        yield
        return
    came: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        came.append(number)
        if not patient:
            print("finishing this update first; interrupt again to stop at once", file=sys.stderr)

    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
