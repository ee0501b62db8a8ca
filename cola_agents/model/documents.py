"""Attention within the documents of packed rows, without a mask of T x T.

transformers calls the function registered here where a stack's attention implementation is :data:`NAME`.
On a GPU, in 16 bits, torch's kernel for rows of unequal length computes it; elsewhere each document is one
call of transformers' own SDPA attention.

Shapes: B rows, T tokens, H heads, K heads of keys, E size of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "cola_documents"


@dataclass(frozen=True)
class DocumentMask:
    """The attention mask of packed rows, as lengths: causal, and within one document.

    Attributes:
        lengths: of the documents in tokens, row after row; the pads of a row count as a document.
        device: where the rows are.
    """

    lengths: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, segments: Tensor) -> DocumentMask:
        """The mask of rows of documents, given by each token's number of its document in its row [B, T]."""
        starts = torch.ones_like(segments, dtype=torch.bool)
        starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
        at = [*starts.flatten().nonzero().flatten().tolist(), segments.numel()]
        lengths = tuple(end - start for start, end in pairwise(at))
        return cls(lengths, segments.device)

    @cached_property
    def offsets(self) -> Tensor:
        """The first token of each document in the flattened rows, and the number of tokens; int32."""
        ends = torch.tensor([0, *self.lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
        return ends.to(self.device)


def takes_documents(stack: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Whether :func:`document_attention` may replace a decoder's attention that computes in ``dtype``.

    Elsewhere the mask is used: for attention other than "sdpa", on a GPU in float32 or before torch 2.13, and
    on other devices.
    """
    if stack.config._attn_implementation != "sdpa":
        return False
    kind = next(stack.parameters()).device.type
    return kind == "cpu" or (kind == "cuda" and dtype in (torch.bfloat16, torch.float16) and _has_kernel())


def _has_kernel() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


@contextmanager
def document_attention(stacks: Iterable[PreTrainedModel]) -> Iterator[None]:
    """A block in which decoders take a :class:`DocumentMask`; they are restored at its end."""
    before = [(stack, stack.config._attn_implementation) for stack in stacks]
    try:
        for stack, _ in before:
            stack.set_attn_implementation(NAME)
        yield
    finally:
        for stack, name in before:
            stack.set_attn_implementation(name)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: DocumentMask | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, E], key and value [B, K, T, E] -> [B, T, H, E]."""
    if documents is None:
        raise ValueError(f"attention {NAME!r} needs the argument documents, a DocumentMask")
    rows, _, length, _ = query.shape
    # [B, H, T, E] -> [1, H, B T, E], which copies nothing where heads were split off a row of tokens.
    q, k, v = (x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None] for x in (query, key, value))
    if query.is_cuda:
        out = _varlen(q, k, v, documents, scaling, sliding_window)
    else:
        parts = []
        pieces = zip(*(x.split(documents.lengths, dim=2) for x in (q, k, v)), strict=True)
        for one in pieces:
            mask = _window(one[0].shape[2], sliding_window, query.device)
            part, _ = sdpa_attention_forward(module, *one, mask, dropout=dropout, scaling=scaling, **kwargs)
            parts.append(part)
        out = torch.cat(parts, dim=1)
    return out.view(rows, length, *out.shape[2:]), None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """The mask [1, 1, T, T] of a document that is longer than a sliding window; None for a shorter one."""
    if window is None or length <= window:
        return None
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return (causal & ~causal.tril(-window))[None, None]


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, documents: DocumentMask, scaling: float | None, window: int | None
) -> Tensor:
    """[1, H, N, E], and [1, K, N, E] twice -> [1, N, H, E]."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(documents.lengths)
    query, key, value = (x[0].transpose(0, 1) for x in (q, k, v))
    out = varlen_attn(
        query,
        key,
        value,
        documents.offsets,
        documents.offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]


# Compiled, it would be compiled anew for every batch.
AttentionInterface.register(NAME, torch.compiler.disable(_attend))
