"""Documents into training rows: packed, and kept apart from one another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cola_envs.backbone import Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    Attributes:
        ids: token ids [B, T].
        targets: the next token of the same document [B, T]; -100 after its last token and at pads.
        positions: position within the document [B, T].
        mask: attention mask [B, 1, T, T] bool: causal, and within one document.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Document:
    """A text in two parts that are tokenised apart, as they are when a model continues a prompt."""

    prompt: str
    continuation: str

    @property
    def text(self) -> str:
        return self.prompt + self.continuation


def packed_batches(
    documents: Iterable[Document], tokenizer: Tokenizer, *, rows: int, length: int
) -> Iterator[Batch]:
    """Pack documents, each closed by the end-of-text token, into rows.

    No document attends to another and each one's positions start at zero, so that training sees
    exactly what a prompt sees. A document longer than a row is cut. Where the documents run out, the
    last batch may have fewer rows.
    """
    stream = (_encoded(document, tokenizer)[:length] for document in documents)
    pending = next(stream, None)
    while pending is not None:
        batch: list[list[list[int]]] = []
        while pending is not None and len(batch) < rows:
            row: list[list[int]] = []
            free = length
            while pending is not None and len(pending) <= free:
                row.append(pending)
                free -= len(pending)
                pending = next(stream, None)
            batch.append(row)
        yield collate(batch, length)


def _encoded(document: Document, tokenizer: Tokenizer) -> list[int]:
    ids = tokenizer.encode(document.prompt) + tokenizer.encode(document.continuation)
    return [*ids, tokenizer.eos_token_id or 0]


def collate(rows: list[list[list[int]]], length: int) -> Batch:
    """Lay rows of documents out as tensors."""
    shape = (len(rows), length)
    ids = torch.zeros(shape, dtype=torch.long)
    targets = torch.full(shape, IGNORED)
    positions = torch.zeros(shape, dtype=torch.long)
    document = torch.full(shape, -1)
    for r, row in enumerate(rows):
        at = 0
        for number, tokens in enumerate(row):
            end = at + len(tokens)
            ids[r, at:end] = torch.tensor(tokens)
            targets[r, at : end - 1] = ids[r, at + 1 : end]
            positions[r, at:end] = torch.arange(len(tokens))
            document[r, at:end] = number
            at = end
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (document[:, None, :, None] == document[:, None, None, :]) & causal
    return Batch(ids, targets, positions, mask)
