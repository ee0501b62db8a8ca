"""Text of prompts, games and models as a terminal, a log or a table may show it.

Such text can hold escape sequences that clear the screen, rename the window or overwrite what stands there,
and marks that turn the reading direction around. What is recorded stays as it is; what is shown passes here.
"""

from __future__ import annotations

import unicodedata

#: Controls, lone surrogates, invisible formatting marks, line and paragraph separators.
_UNSEEN = ("Cc", "Cs", "Cf", "Zl", "Zp")
#: Joiners, which words of several scripts and many emoji are written with.
_JOINERS = "\u200c\u200d"


def shown(text: str, keep: str = "\n\t") -> str:
    """A block of text with every control character escaped (``\\x1b``), but for those in ``keep``."""
    return "".join(
        char
        if char in keep or char in _JOINERS or unicodedata.category(char) not in _UNSEEN
        else escaped(char)
        for char in text
    )


def shown_line(text: str) -> str:
    """Text on one line: line breaks and tabs are escaped, too."""
    return shown(text, keep="")


def escaped(char: str) -> str:
    """A character as Python would write it in a string: ``\\x1b``, ``\\u202e``, ``\\ud800``."""
    return char.encode("unicode_escape").decode()
