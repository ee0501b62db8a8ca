"""Handle Ctrl-C and SIGTERM: raise KeyboardInterrupt for both, and delay them within a block."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; handlers of Ctrl-C handle it too."""


def exit_status(stopped: KeyboardInterrupt) -> int:
    """The exit status of a command that Ctrl-C or SIGTERM ended: 128 + signal, as in shells."""
    return 128 + (signal.SIGTERM if isinstance(stopped, Terminated) else signal.SIGINT)


@contextmanager
def sigterm_as_interrupt() -> Iterator[list[int]]:
    """Raise :class:`Terminated` for the first SIGTERM in the block; afterwards restore the old handler.

    The block is given a list, which holds SIGTERM once it was received.

    Further SIGTERMs in the block are ignored, so that they do not interrupt saving; Ctrl-C does. SIGTERM
    ends a forked child as usual. Outside the main thread, and where SIGTERM is ignored, nothing changes.
    """
    previous = signal.getsignal(signal.SIGTERM)
    received: list[int] = []
    if not _in_main_thread() or previous in (None, signal.SIG_IGN):
        yield received
        return
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not received:
            received.append(number)
            raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def hold_interrupts(*, patient: bool = False) -> Iterator[None]:
    """Delay Ctrl-C, and SIGTERM where it has a handler, to the end of the block, also where the block raises.

    An interrupt that is raised then has the block's error as its ``__context__``. Outside the main thread,
    where no signals arrive, nothing changes.

    Args:
        patient: True to delay every signal; False to print a notice and to raise at once for a second Ctrl-C.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: handler for number in signals if callable(handler := signal.getsignal(number))}
    if not _in_main_thread() or not handlers:
        yield
        return
    received: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT and not patient:
            raise KeyboardInterrupt
        received.append(number)
        if not patient:
            print("finishing this update first; interrupt again to stop at once", file=sys.stderr)

    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for signalled in sorted(set(received), reverse=True):  # SIGTERM first: the first may raise
            signal.raise_signal(signalled)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
