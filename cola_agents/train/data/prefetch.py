"""Packing in the background."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

from cola_agents.train.data.packing import Batch
from cola_envs.jsonl import JsonObject

#: The position in a stream, where it is needed, and the stream's figures.
_Snapshot = tuple[JsonObject | None, dict[str, float]]
#: A batch (None at the end and after an error) with the snapshot after it, or an error.
_Item = tuple[Batch | None, _Snapshot, Exception | None]


class Prefetched:
    """The next batches of a stream, in its order, read ahead by a thread while a step is computed.

    An error of the stream is raised where its batch would have been. To be closed after use.

    Args:
        batches: the stream. No more than ``count`` batches are read of it.
        count: number of batches.
        resumable: whether :meth:`state_dict` is needed.
        ahead: batches that are read ahead at most.
    """

    def __init__(
        self, batches: Iterator[Batch], count: int, *, resumable: bool = False, ahead: int = 2
    ) -> None:
        self._batches: Any = batches
        self._count, self._resumable = count, resumable
        self._taken = self._snapshot()
        self._ready: queue.Queue[_Item] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="packing", daemon=True)
        self._thread.start()

    def _snapshot(self) -> _Snapshot:
        state = self._batches.state_dict() if self._resumable else None
        return state, self._batches.figures() if hasattr(self._batches, "figures") else {}

    def _work(self) -> None:
        for _ in range(self._count):
            item: _Item
            try:
                item = (next(self._batches, None), self._snapshot(), None)
            except Exception as error:
                item = (None, self._taken, error)
            while not self._closed.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if item[0] is None or self._closed.is_set():
                return

    def __iter__(self) -> Prefetched:
        return self

    def __next__(self) -> Batch:
        if not self._count:
            raise StopIteration
        batch, snapshot, error = self._ready.get()
        if batch is None:
            self._count = 0
            if error is not None:
                raise error
            raise StopIteration
        self._count -= 1
        self._taken = snapshot
        return batch

    def figures(self) -> dict[str, float]:
        """The stream's figures after the last batch that was taken."""
        return self._taken[1]

    def state_dict(self) -> JsonObject:
        """The stream's position after the last batch that was taken."""
        state = self._taken[0]
        assert state is not None, "the batches were prefetched without their positions"
        return state

    def close(self) -> None:
        """Stop reading ahead, and wait until the thread has ended."""
        self._closed.set()
        self._thread.join()
