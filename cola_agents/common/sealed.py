"""JSON files that hold a digest of their own bytes, so that damage is detected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cola_envs.jsonl import JsonObject

SEAL, FORMAT = "sha256", "format"
#: The format of :func:`sealed`; files of earlier versions have neither a seal nor a format.
VERSION = 2
_BLANK = b"0" * 64


class DamagedError(ValueError):
    """A file differs from what was written."""


def sealed(content: JsonObject) -> bytes:
    """A JSON object as text with its own sha256, which is computed with zeros in place of the digest.

    ``content`` may be what :func:`unsealed` read: it is sealed anew.
    """
    own = {name: value for name, value in content.items() if name not in (SEAL, FORMAT)}
    text = json.dumps({SEAL: _BLANK.decode(), FORMAT: VERSION, **own}, indent=2).encode()
    return text.replace(_BLANK, _digest(text), 1)


def unsealed(path: Path) -> JsonObject:
    """Read a sealed file, including its seal, or a JSON object of versions without seals.

    Raises:
        DamagedError: for any other content, and for a file that cannot be read.
    """
    try:
        text = path.read_bytes()
        content = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object")
    if not {SEAL, FORMAT} & set(content):
        return content
    seal = str(content.get(SEAL)).encode()
    if _digest(text.replace(seal, _BLANK, 1)) != seal:
        raise DamagedError(f"{path} is damaged: its sha256 is not what was written")
    if content[FORMAT] != VERSION:
        raise DamagedError(
            f"{path} is of format {content[FORMAT]!r}, and this version of cola-rl reads {VERSION}: upgrade"
        )
    return content


def is_sealed(content: JsonObject) -> bool:
    """Whether the content of :func:`unsealed` has a seal."""
    return SEAL in content


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()
