"""The beginning and end of a text by its tokenizer's ids, with defaults for attributes that it lacks."""

from __future__ import annotations

from collections.abc import Sequence

from cola_envs.backbone import Tokenizer


def end_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Ids that end a text: the tokenizer's ``end_ids``, by default its ``eos_token_id``."""
    ids = getattr(tokenizer, "end_ids", None)
    if ids is not None:
        return frozenset(ids)
    return frozenset() if tokenizer.eos_token_id is None else frozenset({tokenizer.eos_token_id})


def largest_id(tokenizer: Tokenizer) -> int:
    """The largest id of a token: the tokenizer's ``largest_id``, by default its length less 1."""
    return int(getattr(tokenizer, "largest_id", len(tokenizer) - 1))


def begun(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """``ids`` of a text at the beginning of a context, after the tokenizer's ``start_ids``, if any.

    They are not repeated where the text begins with them already, as the output of a chat template does.
    """
    start = list(getattr(tokenizer, "start_ids", ()))
    return list(ids) if list(ids[: len(start)]) == start else [*start, *ids]
