"""Put data, scripts and style into one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files

from cola_envs.jsonl import JsonObject
from cola_envs.shown import shown

LARGEST = 3_000_000  # bytes of a page
#: In the order of their dependencies.
_SCRIPTS = ("base.js", "viewer.js", "views.js", "page.js")


def page(data: JsonObject) -> str:
    """A self-contained page, as HTML.

    The data is JSON with all markup characters escaped, which the page's script shows as text. A content
    security policy forbids to run or load anything but the page's script and style.

    Args:
        data: with ``title``, and optionally ``about``, ``words``, ``episodes``, ``codebook``, ``run`` and
            ``tree``.

    Raises:
        ValueError: for a page that would be larger than :data:`LARGEST`, or a number that is not finite.
    """
    script, style = "\n".join(map(own_file, _SCRIPTS)), own_file("look.css")
    digests = source_digest(script), source_digest(style)
    filled = {
        "title": html.escape(shown(str(data["title"]))),
        "policy": "default-src 'none'; script-src '{}'; style-src '{}'".format(*digests),
        "style": style,
        "data": in_script(data),
        "script": script,
    }
    # All at once, so that text that was filled in is not searched for further placeholders.
    parts = own_file("look.html").split("@@")
    text = "".join(filled[part] if i % 2 else part for i, part in enumerate(parts))
    size = len(text.encode())
    if size > LARGEST:
        raise ValueError(
            f"the page would have {size / 1e6:.1f} MB, and may have {LARGEST / 1e6:g}: show fewer episodes "
            "or fewer tables (`cola look --episodes`, `--tables`)"
        )
    return text


def in_script(data: JsonObject) -> str:
    """Data as ASCII JSON for a ``<script>``, without characters that could end it or open another.

    Raises:
        ValueError: for a number that is not finite.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def own_file(name: str) -> str:
    """The text of a file of this folder."""
    return files("cola_envs.page").joinpath(name).read_text(encoding="utf-8")


def source_digest(text: str) -> str:
    """What a content security policy calls a script or a style by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
