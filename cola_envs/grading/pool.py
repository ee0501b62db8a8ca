"""A pool of worker processes that run sympy under a deadline.

A thread cannot be stopped, and an alarm works only in the main thread, so each worker is a process on a pipe,
replaced when an item exceeds its deadline. The deadline counts the worker's processor time and is enforced by
the kernel: by the clock, a grade would depend on the load of the machine.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Literal

from cola_envs.grading.verdicts import Claim, Every, Truth, claims, settle
from cola_envs.grading.worker import Message, as_json, receive, send

Outcome = tuple[bool, Literal["ok", "timeout", "error"]]

#: Address space of a worker, in bytes.
MEMORY = 2 << 30
#: Items after which a worker is replaced, since sympy's caches grow.
RECYCLE_AFTER = 2000
#: Seconds for a worker to import its libraries; it rarely takes more than five, even under load.
START_LIMIT = 120.0
#: So many workers in a row that end while they start are an error.
MOST_STARTS = 3
#: The limit of an item by the clock, in deadlines; one where processor time is not counted.
WALL_LIMIT = 60.0 if hasattr(signal, "setitimer") else 1.0

#: The exit code of a worker that has exceeded its processor time.
_OUT_OF_TIME = -signal.SIGPROF if hasattr(signal, "SIGPROF") else None


class _Worker:
    """One process; started by the constructor, ready after its first message."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            # -P keeps the script's folder off the path, where its neighbours would hide other modules.
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin, self.process.stdout
        self.served = 0
        self.ready = False
        send(self.input, {"path": [str(entry) for entry in sys.path], "memory": MEMORY})

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.input, self.output):
            with contextlib.suppress(BrokenPipeError):  # unwritten messages have no reader any more
                stream.close()


class Pool:
    """A few workers, started on first use and shared by all threads.

    Args:
        size: number of workers; by default one for every two cores, at least one and at most four.
    """

    def __init__(self, size: int | None = None) -> None:
        self.size = size or max(1, min(4, (os.cpu_count() or 1) // 2))
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(self.size):
            self._free.put(None)
        self.workers: set[_Worker] = set()
        self._lock = threading.Lock()
        self._failed_starts = 0

    def run(self, items: Sequence[Truth], deadline: float) -> list[Outcome]:
        """Try to prove each item, a claim or a formula over claims, within ``deadline`` seconds.

        The seconds are of a worker's processor time; all claims of an item share them.

        Raises:
            RuntimeError: if no worker starts.
        """
        outcomes: list[Outcome] = [(False, "error")] * len(items)
        todo = list(range(len(items)))[::-1]
        slots: list[_Worker | None] = [self._free.get()]
        try:
            while len(slots) < min(self.size, len(items)):
                try:
                    slots.append(self._free.get_nowait())
                except queue.Empty:
                    break
            self._drive(slots, items, todo, outcomes, deadline)
        except BaseException:
            # After an interrupt these workers are still busy with dropped items.
            for index, worker in enumerate(slots):
                if worker is not None:
                    self._discard(worker)
                    slots[index] = None
            raise
        finally:
            for worker in slots:
                self._free.put(worker)
        return outcomes

    def _drive(
        self,
        slots: list[_Worker | None],
        items: Sequence[Truth],
        todo: list[int],
        outcomes: list[Outcome],
        deadline: float,
    ) -> None:
        """Give the items still to do to the slots' workers until each has its outcome."""
        busy: dict[int, tuple[_Worker, int | None, float]] = {}  # the item is None while a worker starts
        while todo or any(item is not None for _, item, _ in busy.values()):
            for slot in range(len(slots)):
                if slot not in busy and todo:
                    busy[slot] = self._give(slots, slot, items, todo, deadline)
            wait = max(0.0, min(end for *_, end in busy.values()) - time.monotonic())
            ready = connection.wait([worker.output.fileno() for worker, *_ in busy.values()], wait)
            now = time.monotonic()
            for slot, (worker, item, end) in list(busy.items()):
                if worker.output.fileno() in ready:
                    del busy[slot]
                    if not self._take(worker, items, item, outcomes):
                        slots[slot] = None
                elif now >= end:
                    del busy[slot]
                    self._discard(worker)
                    slots[slot] = None
                    if item is None:
                        raise RuntimeError(f"a grading worker did not start within {START_LIMIT:.0f} s")
                    outcomes[item] = (False, "timeout")

    def _give(
        self,
        slots: list[_Worker | None],
        slot: int,
        items: Sequence[Truth],
        todo: list[int],
        deadline: float,
    ) -> tuple[_Worker, int | None, float]:
        """Give the next item to a slot's worker, perhaps a new one; return worker, item and time limit."""
        worker = slots[slot]
        if worker is not None and (worker.served >= RECYCLE_AFTER or worker.process.poll() is not None):
            self._discard(worker)
            worker = None
        if worker is None:
            worker = slots[slot] = _Worker()
            with self._lock:
                self.workers.add(worker)
        if not worker.ready:
            return worker, None, time.monotonic() + START_LIMIT
        index = todo.pop()
        worker.served += 1
        # If it has just died, the next read finds the end of its stream.
        with contextlib.suppress(BrokenPipeError):
            send(worker.input, {**_message(items[index]), "deadline": deadline})
        return worker, index, time.monotonic() + WALL_LIMIT * deadline

    def _take(
        self, worker: _Worker, items: Sequence[Truth], item: int | None, outcomes: list[Outcome]
    ) -> bool:
        """Read a worker's reply to an item, or to its start; return whether the worker can go on."""
        reply = receive(worker.output)
        code = worker.process.wait() if reply is None else None
        if item is not None:
            outcomes[item] = _outcome(items[item], reply, code)
        if reply is not None and "error" not in reply:
            if item is None:
                worker.ready = True
                self._failed_starts = 0
            return True
        # Ended, out of memory or too deep in recursion: it is replaced.
        self._discard(worker)
        if item is not None:
            return False
        self._failed_starts += 1
        if self._failed_starts >= MOST_STARTS:
            self._failed_starts = 0
            raise RuntimeError(
                f"{MOST_STARTS} grading workers in a row ended while starting, the last with code {code}; is "
                "sympy installed, and is there memory for it? try: python -c 'import sympy'"
            )
        return False

    def _discard(self, worker: _Worker) -> None:
        with self._lock:
            self.workers.discard(worker)
        worker.kill()

    def close(self) -> None:
        """End all workers; the next call starts new ones."""
        with self._lock:
            workers, self.workers = list(self.workers), set()
        for worker in workers:
            worker.kill()


def _message(truth: Truth) -> Message:
    """Return a formula for a worker: its claims, and how it is made of their places among them."""
    parts = _distinct_claims(truth)

    def formula(part: Truth) -> object:
        if isinstance(part, bool):
            return part
        if isinstance(part, Claim):
            return parts.index(part)
        return ["every" if isinstance(part, Every) else "some", *map(formula, part.parts)]

    pairs = [[as_json(part.left), as_json(part.right)] for part in parts]
    return {"claims": pairs, "formula": formula(truth)}


def _outcome(truth: Truth, reply: Message | None, code: int | None) -> Outcome:
    """Return the outcome of a formula: of a worker's reply, or of its exit code where it has ended."""
    if reply is None:
        return False, "timeout" if code == _OUT_OF_TIME else "error"
    parts = _distinct_claims(truth)
    is_proven = settle(truth, [parts[place] for place in reply["proven"]])
    return is_proven, "error" if "error" in reply and not is_proven else "ok"


def _distinct_claims(truth: Truth) -> list[Claim]:
    return list(dict.fromkeys(claims(truth)))


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """Return this process's pool, which starts workers on first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool()
            atexit.register(_shared.close)
        return _shared


def _forget_after_fork() -> None:
    # A child's copy of the pipes would mix its items with its parent's.
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
