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
    exactly what a prompt sees. A document longer than a row is cut.
    """
    stream = iter(documents)
    pending: list[int] = []
    while True:
        batch = []
        for _ in range(rows):
            row: list[list[int]] = []
            free = length
            while True:
                if not pending:
                    document = next(stream)
                    pending = tokenizer.encode(document.prompt) + tokenizer.encode(document.continuation)
                    pending = [*pending, tokenizer.eos_token_id or 0][:length]
                if len(pending) > free:
                    break
                row.append(pending)
                free -= len(pending)
                pending = []
            batch.append(row)
        yield collate(batch, length)


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
