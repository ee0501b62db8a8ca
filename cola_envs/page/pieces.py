"""Divide a row's text into the smallest readable pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cola_envs.backbone import Tokenizer
from cola_envs.episodes import Episodes
from cola_envs.segments import REPLACEMENT
from cola_envs.text import end_ids


@dataclass(frozen=True)
class Piece:
    """A piece of a row's text.

    Attributes:
        text: ``""`` for a token that ends a text.
        steps: the steps that wrote it, in order; empty for the task's text.
    """

    text: str
    steps: tuple[int, ...]


def pieces(episodes: Episodes, row: int) -> Iterator[Piece]:
    """Yield the pieces of a row after its prompt, in order.

    A piece of the agent's text is the tokens of one action, or of several that share a character's bytes.
    """
    decode = episodes.backbone.tokenizer.decode
    tokens, origins = episodes.tokens(row), episodes.origins(row)
    before: list[int] = []  # the agent's previous piece, because a decoder may drop the first id's space
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
        # A character has at most four bytes: with a fifth token they are invalid and shown as they are.
        if origin >= 0 and after is not None and after >= 0 and text.endswith(REPLACEMENT) and len(ids) < 5:
            continue
        yield Piece(text, tuple(steps))
        before = ids if origin >= 0 and REPLACEMENT not in text else []
        ids, steps = [], []


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token's text; ``""`` for one that ends a text, ``#id`` for a part of a character."""
    return "" if token in end_ids(tokenizer) else own_text(tokenizer.decode, token)


def own_text(decode: Callable[[Sequence[int]], str], token: int) -> str:
    """What ``decode`` makes of a token inside a text; ``#id`` for a part of a character, or for nothing."""
    # Decoded twice, because some decoders drop the space in front of a text's first token.
    text = decode([token, token]).removeprefix(decode([token]))
    return text if text and REPLACEMENT not in text else f"#{token}"


def span_texts(episodes: Episodes, row: int, codes: Sequence[int]) -> list[str]:
    """What codes that last several tokens would write whole: the world model's likeliest tokens.

    A text that would end there has ``<end>`` at its end.
    """
    return [span_text(episodes, ids) for ids in span_tokens(episodes, row, codes)]


def span_tokens(episodes: Episodes, row: int, codes: Sequence[int]) -> list[tuple[int, ...]]:
    """The tokens that codes would write whole: the world model's likeliest."""
    return [tuple(episodes.session.decode([row], np.array([code])).tokens[0].tolist()) for code in codes]


def span_text(episodes: Episodes, ids: Sequence[int]) -> str:
    """The text of the tokens of a code."""
    decode, ends = episodes.backbone.tokenizer.decode, end_ids(episodes.backbone.tokenizer)
    return decode([token for token in ids if token not in ends]) + "<end>" * (ids[-1] in ends)
