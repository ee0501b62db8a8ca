r"""The worker process that proves equalities with sympy: a script that reads and writes length-prefixed JSON.

It runs as a script, by its path, so that it imports neither the package nor Gymnasium (it starts as fast as
sympy) nor the program's ``__main__`` again. First message in: ``{"path": sys.path of the parent, "memory":
bytes}``; first message out: ``{"ready": true}``. Then, for each ``{"left", "right", "deadline"}``, one
``{"proven": bool}`` or ``{"error": text}``. Both sides are expression trees (:mod:`cola_envs.grading.nodes`),
so that sympy parses no text.

All letters are positive, as in the normal form; :mod:`cola_envs.grading.proof` has substituted other signs.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sympy

    Function = Callable[..., sympy.Expr]

Message = dict[str, Any]
_HEADER = struct.Struct("!I")


def as_json(tree: object) -> object:
    """Return an expression tree as JSON values; fractions are hexadecimal text, which has no length limit."""
    if isinstance(tree, Fraction):
        return f"{tree.numerator:x}/{tree.denominator:x}"
    return [as_json(part) for part in tree] if isinstance(tree, tuple) else tree


def send(stream: IO[bytes], message: Message) -> None:
    """Write one message."""
    payload = json.dumps(message).encode()
    stream.write(_HEADER.pack(len(payload)) + payload)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """Read one message; None at the end of the stream."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    message: Message = json.loads(stream.read(_HEADER.unpack(header)[0]))
    return message


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the deadline alone bounds the worker
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process after so many seconds of processor time; 0 removes the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _load() -> Callable[[Sequence[Any], Sequence[Any]], bool]:
    import sympy

    def of_whole_numbers(function: Function) -> Function:
        # For letters sympy computes the divisor of polynomials, which of m and n is 1.
        def checked(*arguments: sympy.Expr) -> sympy.Expr:
            if not all(argument.is_Integer for argument in arguments):
                raise ValueError("a divisor of something other than whole numbers")
            return function(arguments)

        return checked

    functions: dict[str, Function] = {
        "sin": sympy.sin, "cos": sympy.cos, "tan": sympy.tan, "cot": sympy.cot, "sec": sympy.sec,
        "csc": sympy.csc,
        "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
        "arccot": lambda x: sympy.pi / 2 - sympy.atan(x), "sinh": sympy.sinh, "cosh": sympy.cosh,
        "tanh": sympy.tanh,
        "ln": sympy.log, "log": sympy.log, "exp": sympy.exp, "abs": sympy.Abs, "floor": sympy.floor,
        "ceil": sympy.ceiling, "factorial": sympy.factorial, "doublefactorial": sympy.factorial2,
        "binom": sympy.binomial, "gcd": of_whole_numbers(sympy.gcd),
        "lcm": of_whole_numbers(sympy.lcm), "max": sympy.Max, "min": sympy.Min,
    }  # fmt: skip
    constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
    repeated = {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}

    def build(tree: Sequence[Any], bound: dict[str, sympy.Symbol]) -> sympy.Expr:
        kind = tree[0]
        if kind == "n":
            above, below = tree[1].split("/")
            return sympy.Rational(int(above, 16), int(below, 16))
        if kind == "v":
            return bound.get(tree[1]) or sympy.Symbol(tree[1], positive=True)
        if kind == "c":
            return constants[tree[1]]
        if kind == "f" and tree[1] in repeated:
            kind = {"real": True} if tree[1] == "int" else {"integer": True}
            letter = sympy.Symbol(f"bound {tree[2][1]}", **kind)
            low, high = build(tree[3], bound), build(tree[4], bound)
            return repeated[tree[1]](build(tree[5], {**bound, tree[2][1]: letter}), (letter, low, high))
        if kind == "f":
            angle = tree[2][0] == "deg" and tree[1] in ("sin", "cos", "tan", "cot", "sec", "csc")
            arguments = [build(argument, bound) for argument in tree[2:]]
            return functions[tree[1]](
                arguments[0] * sympy.pi / 180 if angle else arguments[0], *arguments[1:]
            )
        parts = [build(part, bound) for part in tree[1:]]
        if kind in ("neg", "deg"):
            return -parts[0] if kind == "neg" else parts[0]
        if kind == "^":
            return power(*parts)
        return {"+": sympy.Add, "*": sympy.Mul, "/": lambda a, b: a / b}[kind](*parts)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        # The real root of a negative number, as in the parent.
        if base.is_negative and exponent.is_Rational and exponent.q % 2 and exponent.q > 1:
            return (-1) ** exponent.p * (-base) ** exponent
        return base**exponent

    def proves(left: Sequence[Any], right: Sequence[Any]) -> bool:
        difference = build(left, {}) - build(right, {})
        try:
            for simpler in (sympy.sympify, sympy.Basic.doit, sympy.expand, sympy.simplify):
                difference = simpler(difference)
                if difference == 0:
                    return True
            return difference.equals(0) is True  # which proves by a minimal polynomial where it says True
        except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
            return False  # how sympy says that a sum diverges, or that it has no method

    one, two = ["n", "1/1"], ["n", "2/1"]
    proves(
        ["f", "sin", ["v", "x"]], ["+", one, two]
    )  # loads what sympy loads lazily, before any deadline runs
    return proves


def main() -> None:
    """Serve until the input ends."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # A library's output must not mix with the messages.
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    settings = receive(incoming)
    if settings is None:
        return
    sys.path[:] = settings["path"]
    _limit_memory(settings["memory"])
    proves = _load()
    send(outgoing, {"ready": True})
    while (item := receive(incoming)) is not None:
        _limit_time(item["deadline"])
        try:
            reply: Message = {"proven": proves(item["left"], item["right"])}
        except (Exception, RecursionError, MemoryError) as error:
            reply = {"error": type(error).__name__}
        _limit_time(0)
        send(outgoing, reply)


if __name__ == "__main__":
    main()
