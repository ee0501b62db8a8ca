"""Byte-level tokenizers with special tokens, templates and holes, for tests of text and ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests import tiny

END, START, TURN_END = "<|end|>", "<bos>", "<|turn_end|>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


def byte_tokenizer(
    *,
    special: Sequence[str] = (),
    extra: Sequence[str] = (),
    holes: int = 0,
    start: str | None = None,
    template: str = "$A",
) -> Any:
    """A token for each byte, then ``holes`` ids that stand for nothing, then the added tokens.

    Args:
        special, extra: added tokens; the former are special ones.
        start: the beginning-of-text token, one of ``special`` or START, which then begins every text; or
            several, with blanks between them.
        template: of a whole text, such as ``"<bos> $A"``; not read if ``start`` is given.
    """
    if start is not None:
        template = f"{start} $A"
    vocab = {char: i for i, char in enumerate(sorted(ByteLevel.alphabet()))}
    added = [END, START, *special, *extra]
    vocab |= {token: len(vocab) + holes + i for i, token in enumerate(added)}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(token, normalized=False) for token in (END, START, *special)])
    raw.add_tokens([AddedToken(token, normalized=False) for token in extra])
    named = [(token, raw.token_to_id(token)) for token in added if token in template.split()]
    raw.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token=END,
        bos_token=start.split()[0] if start else START,
        pad_token=END,
        clean_up_tokenization_spaces=False,
    )


def base_for(tokenizer: Any, padded: int = 3, **changed: Any) -> Any:
    """A tiny Llama with embeddings for every id of a tokenizer, and ``padded`` more."""
    size = max(tokenizer.get_vocab().values()) + 1 + padded
    return tiny.make_base(vocab_size=size, eos_token_id=None, pad_token_id=None, **changed)
