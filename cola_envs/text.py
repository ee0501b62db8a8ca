"""What a tokenizer says about where a text begins and ends, and what it may leave unsaid."""

from __future__ import annotations

from collections.abc import Sequence

from cola_envs.backbone import Tokenizer


def end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a text: the tokenizer's ``end_ids``; where it has none its ``eos_token_id``."""
    told = getattr(tokenizer, "end_ids", None)
    if told is not None:
        return frozenset(told)
    return frozenset() if tokenizer.eos_token_id is None else frozenset({tokenizer.eos_token_id})


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest id of a token: the tokenizer's ``largest_id``, or that of ids without a hole."""
    return int(getattr(tokenizer, "largest_id", len(tokenizer) - 1))


def begun(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """``ids`` of a text that begins a context, behind the tokenizer's ``start_ids``, if it has any.

    A text that spells them itself, as one that a chat template made does, gets them once.
    """
    start = list(getattr(tokenizer, "start_ids", ()))
    return list(ids) if list(ids[: len(start)]) == start else [*start, *ids]
