"""The optional attributes of a :class:`~cola_envs.backbone.Tokenizer`, with their defaults."""

from __future__ import annotations

from collections.abc import Sequence

from cola_envs.backbone import Tokenizer


def end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """The ids that end a text: the tokenizer's ``end_ids``, by default its ``eos_token_id``."""
    ids = getattr(tokenizer, "end_ids", None)
    if ids is not None:
        return frozenset(ids)
    return frozenset() if tokenizer.eos_token_id is None else frozenset({tokenizer.eos_token_id})


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest token id: the tokenizer's ``largest_id``, by default its length less 1."""
    return int(getattr(tokenizer, "largest_id", len(tokenizer) - 1))


def with_start_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """``ids`` of a text at the beginning of a context, with the tokenizer's ``start_ids`` in front, if any.

    They are not added if the text already begins with them, as the output of a chat template does.
    """
    start = list(getattr(tokenizer, "start_ids", ()))
    return list(ids) if list(ids[: len(start)]) == start else [*start, *ids]
