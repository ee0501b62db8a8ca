"""The worker process of an engine: a script that reads and writes length-prefixed pickles.

It runs as a script, by its path, so that the program's ``__main__`` is not imported again and the engine may
change ``sys.argv`` and the standard streams. The first message to it is a dict with ``path`` (the parent's
sys.path), ``engine`` (``"module:callable"``), ``kwargs`` and ``deadline`` (seconds); its first message is
``("ready",)`` or ``("failed", reason)``. After that it receives lists of jobs ``(row, calls)``; a call is the
name of an engine's method and its arguments after the row. It acknowledges every call but a job's last with
``("alive",)``, and answers the last with one of:

* ``("done", value, wall, cpu)``: the result, with the job's elapsed and processor seconds;
* ``("refused", reason)``: the game cannot be played; the worker continues with the next job;
* ``("raised", reason)``: the engine failed; the remaining jobs are dropped.

Pickles are safe here: both sides belong to this package, and the parent chose the engine.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_envs.engines.protocol import Engine

#: The kind of a message, or the name of a call, with its arguments.
Message = tuple[Any, ...]
HEADER = struct.Struct("!Q")
_GRACE = 10.0  # seconds after a call's deadline at which the worker ends itself
_WATCH = 1.0  # seconds between two checks that the parent is alive


def frame(message: object) -> bytes:
    """Encode a message for the pipe."""
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
    """Kill this process and those that it started (such as a Java machine), which share its process group."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _watch(parent: int) -> None:
    # The end of the pipe is only seen between jobs, and a fork of the parent may keep the pipe open.
    while os.getppid() == parent:
        time.sleep(_WATCH)
    _end_group()


def _alarm(seconds: float) -> None:
    # The default action of SIGALRM ends the process even where native code holds the interpreter.
    signal.setitimer(signal.ITIMER_REAL, seconds)


def is_query(name: str) -> bool:
    """Whether an engine's method of this name may be called as a query."""
    return not name.startswith("_") and name not in ("reset", "step", "close")


def _method(engine: Engine[Any], name: str, row: int, arguments: list[Any]) -> Callable[..., Any]:
    """The engine's method ``name``; GameError for a query that it does not have, or not so called."""
    from cola_envs.engines.protocol import GameError

    if not is_query(name):
        found: Callable[..., Any] = getattr(engine, name)
        return found
    kind = type(engine).__name__
    # Methods of the class: a property would be executed.
    queries = [n for n in dir(type(engine)) if is_query(n) and callable(getattr(type(engine), n))]
    if name not in queries:
        raise GameError(f"{kind} has no query {name!r}; it has {', '.join(queries) or 'none'}")
    found = getattr(engine, name)
    try:
        inspect.signature(found).bind(row, *arguments)
    except TypeError as error:
        raise GameError(
            f"the query {name!r} of {kind} does not take {tuple(arguments)!r}: {error}"
        ) from error
    return found


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _work(engine: Engine[Any], job: tuple[int, list[Message]], deadline: float, outgoing: IO[bytes]) -> bool:
    """Do one job and answer it; return False if the engine raised and must not be used again."""
    from cola_envs.engines.protocol import GameError

    row, calls = job
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        for number, (name, *arguments) in enumerate(calls, 1):
            _alarm(deadline + _GRACE)
            value = _method(engine, name, row, arguments)(row, *arguments)
            if number < len(calls):
                _send(outgoing, ("alive",))
        message = frame(("done", value, time.perf_counter() - wall, time.process_time() - cpu))
    except GameError as error:
        message = frame(("refused", str(error)))
    except BaseException as error:  # including SystemExit, which would look like a crash
        _send(outgoing, ("raised", _described(error)))
        return False
    finally:
        _alarm(0)
    outgoing.write(message)
    outgoing.flush()
    return True


def main() -> None:
    """Answer messages until the input ends."""
    parent = int(sys.argv[1])  # os.getppid() may already be the process that adopts orphans
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What an engine prints, in Python or in native code, must not get between the messages.
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    settings = _receive(incoming)
    if settings is None:
        return
    try:
        sys.path[:] = settings["path"]
        module, _, name = settings["engine"].partition(":")
        engine: Engine[Any] = getattr(importlib.import_module(module), name)(**settings["kwargs"])
    except BaseException as error:
        _send(outgoing, ("failed", _described(error)))
        return
    _send(outgoing, ("ready",))
    try:
        while (jobs := _receive(incoming)) is not None:
            for job in jobs:
                if not _work(engine, job, settings["deadline"], outgoing):
                    break
    except BrokenPipeError:
        pass  # the parent has ended
    finally:
        _alarm(_GRACE)
        engine.close()


if __name__ == "__main__":
    try:
        main()
    finally:
        _end_group()
