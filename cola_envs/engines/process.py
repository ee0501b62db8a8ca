"""The parent's side of a worker process: start it, exchange messages without blocking, end it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from cola_envs.engines.worker import HEADER, Message, frame

_CHUNK = 1 << 16


class WorkerProcess:
    """A started worker process; its first message reports whether its engine started.

    Reads and writes do not block, so that a worker that stops reading cannot block its parent.

    Args:
        settings: the first message, see :mod:`cola_envs.engines.worker`.
    """

    def __init__(self, settings: dict[str, object]) -> None:
        self.process = subprocess.Popen(
            # -P keeps the script's folder off sys.path, where its modules could hide others.
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # An engine that iterates over a set of strings must do so in the same order in a replay.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C goes only to the parent, and a worker's children end with it
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        self.input, self.output = self._in.fileno(), self._out.fileno()
        os.set_blocking(self.input, False)
        os.set_blocking(self.output, False)
        self._unsent = bytearray()
        self._unread = bytearray()
        self.started = False
        self.post({"path": [str(entry) for entry in sys.path], **settings})

    @property
    def unsent(self) -> bool:
        """Whether posted messages have not been written completely."""
        return bool(self._unsent)

    def post(self, message: object) -> None:
        """Queue one message; :meth:`flush` writes it."""
        self._unsent += frame(message)

    def flush(self) -> None:
        """Write as much as the pipe takes."""
        try:
            while self._unsent:
                # Not through the buffered stream, which would keep a part of what the pipe does not take.
                written = os.write(self.input, self._unsent[:_CHUNK])
                del self._unsent[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # the worker has ended; reading will find the end of its output

    def messages(self) -> tuple[list[Message], bool]:
        """The messages received completely, and whether the stream has ended."""
        ended = False
        try:
            while not ended:
                chunk = os.read(self.output, _CHUNK)
                self._unread += chunk
                ended = not chunk
        except BlockingIOError:
            pass
        messages = []
        while len(self._unread) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self._unread)[0]
            if len(self._unread) < end:
                break
            messages.append(pickle.loads(self._unread[HEADER.size : end]))
            del self._unread[:end]
        return messages, ended

    def kill(self) -> int:
        """Kill the worker and the processes that it started; return its exit code, negative for a signal."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its children, if it had ended by itself
        self.abandon()
        return code

    def ask_to_end(self) -> None:
        """Close the worker's input; an idle worker then closes its engine and ends."""
        self.flush()
        self._close(self._in)

    def wait(self, seconds: float) -> None:
        """Wait up to ``seconds`` for the worker to end, then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, seconds))
        self.kill()

    def abandon(self) -> None:
        """Close only the pipes, as in a forked child, where the worker belongs to the parent."""
        self._close(self._in)
        self._close(self._out)
        if self.process.returncode is None:
            self.process.returncode = 0  # so that Popen does not wait for it

    @staticmethod
    def _close(stream: IO[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            stream.close()
