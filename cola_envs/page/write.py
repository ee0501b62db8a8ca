"""Data, script and style put into one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files

from cola_envs.jsonl import JsonObject
from cola_envs.shown import shown

#: The most bytes that a page may have.
LARGEST = 3_000_000
#: In the order that they need one another in.
_SCRIPTS = ("base.js", "viewer.js", "views.js", "page.js")


def page(data: JsonObject) -> str:
    """A page of its own, as HTML.

    The data is JSON in which no sign of markup stands as itself, and the page's script makes text of it.
    A content security policy lets run and load nothing but the page's own script and style.

    Args:
        data: with a ``title``; of ``about``, ``words``, ``episodes``, ``codebook``, ``run`` and ``tree`` what
            there is.

    Raises:
        ValueError: for a page that would be larger than :data:`LARGEST`, or a number that is not finite.
    """
    script, style = "\n".join(map(_own, _SCRIPTS)), _own("look.css")
    filled = {
        "title": html.escape(shown(str(data["title"]))),
        "policy": f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'",
        "style": style,
        "data": in_script(data),
        "script": script,
    }
    text = _own("look.html")
    # All at once: what was filled in is not looked through for further places.
    parts = text.split("@@")
    text = "".join(filled[part] if i % 2 else part for i, part in enumerate(parts))
    size = len(text.encode())
    if size > LARGEST:
        raise ValueError(
            f"the page would have {size / 1e6:.1f} MB, and may have {LARGEST / 1e6:g}: show fewer episodes, "
            "or fewer tables (`cola look --episodes`, `--tables`)"
        )
    return text


def in_script(data: JsonObject) -> str:
    """Data as JSON of ASCII signs that may stand in a ``<script>``: nothing in it ends or opens one.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _own(name: str) -> str:
    return files("cola_envs.page").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
