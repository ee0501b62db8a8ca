"""The worker process of an engine: a script that reads and writes length-prefixed pickles.

It runs as a script, by its path, so that the program's ``__main__`` is never imported again and the engine
may change ``sys.argv`` and the standard streams. First message in: a dict with
``path`` (sys.path of the parent), ``engine`` (``"module:callable"``), ``kwargs`` and ``deadline``
(seconds); first message out: ``("ready",)`` or ``("failed", why)``. Then each message in is a list of
jobs, each ``(row, calls)``, where a call is the name of a method of the engine and its arguments after the
row. The last call of every job is answered, and every call before it is acknowledged by ``("alive",)``:

* ``("done", value, wall, cpu)``: its result, with the job's seconds of both clocks;
* ``("refused", why)``: the game cannot be played; the worker continues with the next job;
* ``("raised", why)``: the engine failed; the remaining jobs are dropped.

Both ends belong to this package, and the parent trusts the engine that it named, so pickles are safe.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import struct
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_envs.engines.protocol import Engine

#: A message's kind, or a call's name, and its arguments.
Message = tuple[Any, ...]
HEADER = struct.Struct("!Q")
#: Seconds after a call's deadline at which a worker without a parent ends itself.
_GRACE = 10.0
#: Seconds between two checks that the parent is alive.
_WATCH = 1.0


def frame(message: object) -> bytes:
    """One message as it goes through a pipe."""
    payload = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(payload)) + payload


def _receive(stream: IO[bytes]) -> Any:
    """Read one message; None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return pickle.loads(stream.read(HEADER.unpack(header)[0]))


def _send(stream: IO[bytes], message: object) -> None:
    stream.write(frame(message))
    stream.flush()


def _end_group() -> None:
    """End this process and what it started, a Java machine for one: they share a process group."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _watch(parent: int) -> None:
    # The pipe's end says it too, but only between jobs, and a fork of the parent may hold the pipe open.
    while os.getppid() == parent:
        time.sleep(_WATCH)
    _end_group()


def _alarm(seconds: float) -> None:
    # The default action of SIGALRM ends the process even where native code holds the interpreter.
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _say(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _make(settings: dict[str, Any]) -> Engine[Any]:
    sys.path[:] = settings["path"]
    module, _, name = settings["engine"].partition(":")
    engine: Engine[Any] = getattr(importlib.import_module(module), name)(**settings["kwargs"])
    return engine


def _work(engine: Engine[Any], job: tuple[int, list[Message]], deadline: float, outgoing: IO[bytes]) -> bool:
    """Do one job and answer it; whether the engine is still to be trusted."""
    from cola_envs.engines.protocol import GameError

    row, calls = job
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for number, (name, *arguments) in enumerate(calls, 1):
            _alarm(deadline + _GRACE)
            value = getattr(engine, name)(row, *arguments)
            if number < len(calls):
                _send(outgoing, ("alive",))
        message = frame(("done", value, time.perf_counter() - wall, time.process_time() - cpu))
    except GameError as error:
        message = frame(("refused", str(error)))
    except BaseException as error:  # an engine that calls sys.exit must not pass for one that crashed
        _send(outgoing, ("raised", _say(error)))
        return False
    finally:
        _alarm(0)
    outgoing.write(message)
    outgoing.flush()
    return True


def main() -> None:
    """Serve until the input ends."""
    parent = int(sys.argv[1])  # asked for here, it might be the parent that inherits orphans
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever an engine prints, in Python or in native code, must not fall between the messages.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    settings = _receive(incoming)
    if settings is None:
        return
    try:
        engine = _make(settings)
    except BaseException as error:
        _send(outgoing, ("failed", _say(error)))
        return
    _send(outgoing, ("ready",))
    try:
        while (jobs := _receive(incoming)) is not None:
            for job in jobs:
                if not _work(engine, job, settings["deadline"], outgoing):
                    break
    except BrokenPipeError:
        pass  # the parent is gone, and nobody reads the answer
    finally:
        _alarm(_GRACE)
        engine.close()


if __name__ == "__main__":
    try:
        main()
    finally:
        _end_group()
