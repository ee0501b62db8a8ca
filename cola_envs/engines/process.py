"""One worker process as its parent sees it: messages without ever blocking on the pipe."""

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
    """A worker that has been started; its first message says whether its engine has.

    Reads and writes never block, so that a worker that reads no more cannot stop its parent.

    Args:
        settings: the first message, see :mod:`cola_envs.engines.worker`.
    """

    def __init__(self, settings: dict[str, object]) -> None:
        self.process = subprocess.Popen(
            # -P: the script's folder is not put on the path, where its neighbours would hide other modules.
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Where an engine iterates over a set of strings, a worker that replays must do it alike.
            env={**os.environ, "PYTHONHASHSEED": "0"},
            start_new_session=True,  # Ctrl-C is the parent's; and the worker's own children end with it
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
        """Whether something posted has yet to be written."""
        return bool(self._unsent)

    def post(self, message: object) -> None:
        """Queue one message; :meth:`flush` writes it."""
        self._unsent += frame(message)

    def flush(self) -> None:
        """Write as much as the pipe takes."""
        try:
            while self._unsent:
                # write(2) through os: the buffered stream would keep a part of what did not fit.
                written = os.write(self.input, self._unsent[:_CHUNK])
                del self._unsent[:written]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()  # it has ended: reading finds the end of its stream

    def messages(self) -> tuple[list[Message], bool]:
        """The messages that have come in whole, and whether the stream has ended."""
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
        """End the worker and whatever it started, at once; its exit code, below 0 for a signal."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its children, where it ended by itself
        self.abandon()
        return code

    def ask_to_end(self) -> None:
        """Close its input: an idle worker closes its engine and ends."""
        self.flush()
        self._close(self._in)

    def wait(self, seconds: float) -> None:
        """Give it time to end, then kill it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, seconds))
        self.kill()

    def abandon(self) -> None:
        """Close the pipes only: in a forked child the worker is the parent's."""
        self._close(self._in)
        self._close(self._out)
        if self.process.returncode is None:
            self.process.returncode = 0  # nothing for this process to wait for

    @staticmethod
    def _close(stream: IO[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError):
            stream.close()
