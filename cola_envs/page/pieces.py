"""The text of a row, cut into the smallest pieces that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cola_envs.backbone import Tokenizer
from cola_envs.episodes import Episodes
from cola_envs.segments import CUT
from cola_envs.text import end_ids


@dataclass(frozen=True)
class Piece:
    """Text that stands together.

    Attributes:
        text: as it was written; ``""`` for a token without text, which ends a text.
        steps: the steps that wrote it, in order; none for the prompt and for text of the task.
    """

    text: str
    steps: tuple[int, ...]


def pieces(episodes: Episodes, row: int) -> Iterator[Piece]:
    """The pieces of a row behind its prompt, in their order.

    A piece of the agent's is one action's tokens. Where a character's bytes are spread over several actions,
    they share a piece.
    """
    decode = episodes.backbone.tokenizer.decode
    tokens, origins = episodes.tokens(row), episodes.origins(row)
    before: list[int] = []  # the agent's piece before: a decoder may drop the space in front of a first id
    ids: list[int] = []
    steps: list[int] = []
    start = episodes.prompt_length(row)
    for position, (token, origin) in enumerate(zip(tokens[start:], origins[start:], strict=True), start):
        ids.append(token)
        after = origins[position + 1] if position + 1 < len(origins) else None
        if origin >= 0 and after != origin:
            steps.append(origin)
        if after == origin:
            continue
        text = decode([*before, *ids]).removeprefix(decode(before)) if origin >= 0 else decode(ids)
        # A fifth token cannot belong to one character: the bytes are broken, and are shown as such.
        if origin >= 0 and after is not None and after >= 0 and text.endswith(CUT) and len(ids) < 5:
            continue
        yield Piece(text, tuple(steps))
        before = ids if origin >= 0 and CUT not in text else []
        ids, steps = [], []


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's own text: ``""`` for one that ends a text, ``#id`` for one that is part of a character."""
    if token in end_ids(tokenizer):
        return ""
    # Twice, because some decoders drop the space in front of the first token of a text.
    text = tokenizer.decode([token, token]).removeprefix(tokenizer.decode([token]))
    return text if text and CUT not in text else f"#{token}"
