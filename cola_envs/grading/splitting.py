"""Split token sequences at signs outside all brackets, and find matching brackets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cola_envs.grading.lexer import ParseError, Token

OPEN, CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")


def split(tokens: Sequence[Token], at: Callable[[Token], object]) -> tuple[list[Sequence[Token]], list[str]]:
    """Split at the tokens for which ``at`` is true; return the parts, and the values of those tokens.

    Raises:
        ParseError: where brackets do not match.
    """
    parts: list[Sequence[Token]] = []
    separators: list[str] = []
    depth = begin = bars = 0
    for index, token in enumerate(tokens):
        kind, value = token
        if kind == "op":
            if value in OPEN:
                depth += 1
            elif value in CLOSE:
                depth -= 1
            elif value == "|" and depth == 0:
                bars ^= 1
        elif kind == "cmd":
            depth += 1 if value.startswith("begin ") else -1 if value.startswith("end ") else 0
        if depth < 0:
            raise ParseError("a bracket that closes nothing")
        if depth == 0 and not bars and at(token):
            parts.append(tokens[begin:index])
            separators.append(value)
            begin = index + 1
    if depth:
        raise ParseError("an open bracket")
    parts.append(tokens[begin:])
    return parts, separators


def matching(tokens: Sequence[Token], start: int) -> int:
    """Return the index of the bracket that closes the one at ``start``."""
    for index in outside(tokens[start:]):
        return start + index
    raise ParseError("an open bracket")


def outside(tokens: Sequence[Token]) -> Iterator[int]:
    """Yield the indices of the tokens outside all brackets, and of the brackets that close there."""
    depth = 0
    for index, (kind, value) in enumerate(tokens):
        if kind == "op":
            depth += (value in OPEN) - (value in CLOSE)
        if depth == 0:
            yield index


def straightened(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Rewrite intervals like ``]a, b[`` as ``(a, b)``: an end is open where its bracket faces outwards."""
    if ("op", "[") not in tokens and ("op", "]") not in tokens:
        return tuple(tokens)
    out: list[Token] = []
    stack: list[str] = []
    for index, token in enumerate(tokens):
        if token == ("op", "]") and (not stack or stack[-1] in ("{", "\\{") or _begins(tokens, index)):
            stack.append("interval")
            token = ("op", "(")
        elif token == ("op", "[") and stack and stack[-1] in ("interval", "[") and not _begins(tokens, index):
            stack.pop()
            token = ("op", ")")
        elif token[0] == "op" and token[1] in OPEN:
            stack.append(token[1])
        elif token[0] == "op" and token[1] in CLOSE and stack:
            stack.pop()
        out.append(token)
    return tuple(out)


def _begins(tokens: Sequence[Token], index: int) -> bool:
    """Whether a value begins at a token, rather than ends there."""
    if index == 0:
        return True
    kind, value = tokens[index - 1]
    return (
        kind in ("rel", "sep")
        or (kind == "cmd" and value in ("cup", "cap", "setminus", "sqrt"))
        or (kind == "op" and value in (*OPEN, "+", "-", "*", "/", "^", "_", ":"))
    )
