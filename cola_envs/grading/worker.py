r"""The process that asks math-verify: run as a script, it reads and writes length-prefixed JSON.

It is a script and not a module of the package on purpose: it needs neither the package nor Gymnasium,
so that it starts in the time that sympy takes, and it is started by its path, so that the program's own
``__main__`` is never imported again. First message in: ``{"path": sys.path of the parent, "memory": bytes}``;
first message out: ``{"ready": true}``. Then, for each ``{"gold", "answer", "deadline"}``, one
``{"verdict": bool}`` or ``{"error": text}``.

Known defects of math-verify 0.9.0 are worked around here: golds are always boxed (a bare ``p - q`` is not
read), units are not cut (``4t`` would be 4), ``5i`` is spaced so that it is seen to be complex, and numbers
that it holds equal to six places are compared again to forty.
"""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

_HEADER = struct.Struct("!I")
#: How long a worker outlives an item's deadline if its parent is no longer there to end it, in seconds.
_GRACE = 5.0


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message."""
    payload = json.dumps(message).encode()
    stream.write(_HEADER.pack(len(payload)) + payload)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    return json.loads(stream.read(_HEADER.unpack(header)[0]))


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the deadline alone bounds the worker
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _load() -> Callable[[str, str], bool]:
    import logging

    logging.disable(logging.CRITICAL)
    import sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    normalization = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    config = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalization)]
    golds: dict[str, list[Any]] = {}

    def read(text: str) -> list[Any]:
        text = re.sub(r"(\d)i(?![a-zA-Z])", r"\1 i", text)
        return parse(
            f"\\boxed{{{text}}}", extraction_config=config, fallback_mode="no_fallback", parsing_timeout=None
        )

    def close(a: Any, b: Any) -> bool:
        if not (isinstance(a, sympy.Expr) and isinstance(b, sympy.Expr) and a.is_number and b.is_number):
            return True
        x, y = sympy.N(a, 50), sympy.N(b, 50)
        return bool(abs(x - y) <= 1e-40 * max(abs(x), abs(y)))

    def grade(gold: str, answer: str) -> bool:
        if gold not in golds:
            if len(golds) >= 4096:
                golds.clear()
            golds[gold] = read(gold)
        target, given = golds[gold], read(answer)
        if not target or not given:
            return False
        if not verify(target, given, allow_set_relation_comp=True, timeout_seconds=None):
            return False
        return close(target[0], given[0])

    grade("\\sin x + 1", "1 + \\sin x")  # loads what sympy loads lazily, before any deadline runs
    return grade


def main() -> None:
    """Serve until the input ends."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Whatever a library prints must not fall between the messages.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    settings = receive(incoming)
    if settings is None:
        return
    sys.path[:] = settings["path"]
    _limit_memory(settings["memory"])
    grade = _load()
    send(outgoing, {"ready": True})
    while (item := receive(incoming)) is not None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, item["deadline"] + _GRACE)
        try:
            reply: dict[str, Any] = {"verdict": grade(item["gold"], item["answer"])}
        except (Exception, RecursionError, MemoryError) as error:
            reply = {"error": type(error).__name__}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        send(outgoing, reply)


if __name__ == "__main__":
    main()
