"""Escape text of prompts, games and models for display in a terminal, a log or a table.

Such text can hold escape sequences that clear the screen, rename the window or overwrite lines, and marks
that reverse the reading direction. Recorded text is not escaped.
"""

from __future__ import annotations

import unicodedata

#: Controls, lone surrogates, invisible formatting marks, line and paragraph separators.
_CONTROL = ("Cc", "Cs", "Cf", "Zl", "Zp")
#: Joiners, which occur in words of several scripts and in many emoji.
_JOINERS = "\u200c\u200d"


def shown(text: str, keep: str = "\n\t") -> str:
    """A block of text with all control characters escaped (``\\x1b``), except for those in ``keep``."""
    return "".join(
        char
        if char in keep or char in _JOINERS or unicodedata.category(char) not in _CONTROL
        else escaped(char)
        for char in text
    )


def shown_line(text: str) -> str:
    """Text on one line: line breaks and tabs are escaped too."""
    return shown(text, keep="")


def escaped(char: str) -> str:
    """A character as a Python escape: ``\\x1b``, ``\\u202e``, ``\\ud800``."""
    return char.encode("unicode_escape").decode()
