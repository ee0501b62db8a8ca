r"""The worker process that proves equalities with sympy: a script that reads and writes length-prefixed JSON.

It runs as a script, by its path, so that it imports neither the package nor Gymnasium (it starts as fast as
sympy) nor the program's ``__main__`` again. First message in: ``{"path": sys.path of the parent, "memory":
bytes}``; first message out: ``{"ready": true}``. Then, for each ``{"claims", "formula", "deadline"}``, one
``{"proven": places of the claims that are proven}``, with ``"error"`` too if a claim ended in one. A claim is
``[left, right]``, two expression trees (:mod:`cola_envs.grading.nodes`), so that sympy parses no text. The
formula is the place of a claim, true or false, or ``["every" | "some", *formulas]``; claims that no longer
matter to it are not tried.

All letters are positive, as in the normal form; :mod:`cola_envs.grading.proof` has substituted other signs.
"""

from __future__ import annotations

import contextlib
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
_OF_AN_ANGLE = ("sin", "cos", "tan", "cot", "sec", "csc")
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


def _limit_time(seconds: float) -> None:
    """Let the kernel end this process after so many seconds of processor time; 0 removes the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


class _Prover:
    """Proves equalities; imports sympy when it is made."""

    def __init__(self) -> None:
        import sympy

        def of_whole_numbers(function: Function) -> Function:
            # For letters sympy computes the divisor of polynomials, which of m and n is 1.
            def checked(*arguments: sympy.Expr) -> sympy.Expr:
                if not all(argument.is_Integer for argument in arguments):
                    raise ValueError("a divisor of something other than whole numbers")
                return function(arguments)

            return checked

        self.sympy = sympy
        self.functions: dict[str, Function] = {
            **{name: getattr(sympy, name) for name in (*_OF_AN_ANGLE, "sinh", "cosh", "tanh", "log", "exp")},
            "arcsin": sympy.asin, "arccos": sympy.acos, "arctan": sympy.atan,
            "arccot": lambda x: sympy.pi / 2 - sympy.atan(x), "ln": sympy.log, "abs": sympy.Abs,
            "floor": sympy.floor, "ceil": sympy.ceiling, "factorial": sympy.factorial,
            "doublefactorial": sympy.factorial2, "binom": sympy.binomial,
            "gcd": of_whole_numbers(sympy.gcd), "lcm": of_whole_numbers(sympy.lcm),
            "max": sympy.Max, "min": sympy.Min,
        }  # fmt: skip
        self.constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
        self.repeated = {"sum": sympy.Sum, "prod": sympy.Product, "int": sympy.Integral}
        # Load what sympy loads lazily before any deadline runs.
        self.proves(["f", "sin", ["v", "x"]], ["+", ["n", "1/1"], ["n", "2/1"]])

    def build(self, tree: Sequence[Any], bound: dict[str, sympy.Symbol]) -> sympy.Expr:
        """Return sympy's expression for a tree; ``bound`` holds the letters of sums and integrals."""
        sympy = self.sympy
        kind = tree[0]
        if kind == "n":
            above, below = tree[1].split("/")
            return sympy.Rational(int(above, 16), int(below, 16))
        if kind == "v":
            return bound.get(tree[1]) or sympy.Symbol(tree[1], positive=True)
        if kind == "c":
            return self.constants[tree[1]]
        if kind == "f" and tree[1] in self.repeated:
            of_letter = {"real": True} if tree[1] == "int" else {"integer": True}
            letter = sympy.Symbol(f"bound {tree[2][1]}", **of_letter)
            low, high = self.build(tree[3], bound), self.build(tree[4], bound)
            body = self.build(tree[5], {**bound, tree[2][1]: letter})
            return self.repeated[tree[1]](body, (letter, low, high))
        parts = [self.build(part, bound) for part in tree[2 if kind == "f" else 1 :]]
        if kind == "f":
            if tree[1] in _OF_AN_ANGLE and tree[2][0] == "deg":
                parts[0] = parts[0] * sympy.pi / 180
            return self.functions[tree[1]](*parts)
        if kind in ("neg", "deg"):
            return -parts[0] if kind == "neg" else parts[0]
        base, exponent = parts
        if kind != "^":
            return {"+": sympy.Add, "*": sympy.Mul, "/": lambda a, b: a / b}[kind](*parts)
        # The real root of a negative number, as in the parent.
        if base.is_negative and exponent.is_Rational and exponent.q % 2 and exponent.q > 1:
            return (-1) ** exponent.p * (-base) ** exponent
        return base**exponent

    def proves(self, left: Sequence[Any], right: Sequence[Any]) -> bool:
        """Whether sympy proves that two trees are equal."""
        sympy = self.sympy
        difference = self.build(left, {}) - self.build(right, {})
        try:
            for simpler in (sympy.sympify, sympy.Basic.doit, sympy.expand, sympy.simplify):
                difference = simpler(difference)
                if difference == 0:
                    return True
            return difference.equals(0) is True  # which proves by a minimal polynomial where it says True
        except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
            return False  # how sympy says that a sum diverges, or that it has no method

    def check(self, item: Message) -> Message:
        """Try the claims of a message, as far as its formula needs them, and return the reply."""
        proven: dict[int, bool] = {}
        reply: Message = {}

        def holds(formula: Any) -> bool:
            if isinstance(formula, bool):
                return formula
            if isinstance(formula, list):
                return (all if formula[0] == "every" else any)(map(holds, formula[1:]))
            if formula not in proven:
                try:
                    proven[formula] = self.proves(*item["claims"][formula])
                except (Exception, RecursionError, MemoryError) as error:
                    proven[formula] = False
                    reply["error"] = type(error).__name__
            return proven[formula]

        holds(item["formula"])
        return {**reply, "proven": [place for place, is_proven in proven.items() if is_proven]}


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
    with contextlib.suppress(ImportError):  # not a POSIX system: the deadline alone bounds the worker
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (settings["memory"], settings["memory"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prover = _Prover()
    send(outgoing, {"ready": True})
    while (item := receive(incoming)) is not None:
        _limit_time(item["deadline"])
        reply = prover.check(item)
        _limit_time(0)
        send(outgoing, reply)


if __name__ == "__main__":
    main()
