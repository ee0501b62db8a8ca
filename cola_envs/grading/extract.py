"""Extract the final answer of a response, and refuse answers that are too long or too deeply nested."""

from __future__ import annotations

import re

#: Longest answer that is read, in characters; the longest answer in MATH has 171.
MAX_LENGTH = 400
#: Deepest nesting of brackets that is read.
MAX_NESTING = 12

_OPENERS = ("\\boxed", "\\fbox")
_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last complete ``\boxed{...}`` (or ``\fbox{...}``), or None.

    Braces are counted as TeX counts them (``\{`` and ``\}`` are characters); "last" is the complete
    box that begins last, so a box that is never closed does not hide one before it. Linear in the
    length of ``text``.
    """
    start = max(text.rfind(opener) for opener in _OPENERS)
    if start < 0:
        return None
    # The box that begins last is nearly always complete: then the text before it is not read.
    content = _last_complete(text, start)
    return content if content is not None else _last_complete(text, 0)


def _last_complete(text: str, start: int) -> str | None:
    open_at: list[tuple[bool, int]] = []
    best: tuple[int, int] | None = None
    for match in _BOX_OR_BRACE.finditer(text, start):
        sign = match.group()
        if sign == "}":
            if open_at:
                is_box, begin = open_at.pop()
                if is_box and (best is None or begin > best[0]):
                    best = (begin, match.start())
        elif sign[-1] == "{" and sign != "\\{":
            open_at.append((sign[0] == "\\", match.end()))
    return text[best[0] : best[1]] if best else None


def unreadable(answer: str) -> bool:
    """Whether an answer is too long, too deeply nested or holds control characters; it is then not parsed."""
    if len(answer) > MAX_LENGTH or _CONTROL.search(answer):
        return True
    depth = 0
    for character in answer:
        if character in "{([":
            depth += 1
            if depth > MAX_NESTING:
                return True
        elif character in "})]" and depth:
            depth -= 1
    return False
