"""Packing of documents into rows of tokens in which no document attends to another.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cola_agents.train.data.documents import AnyDocument, Documents, Mixture, RecordedEpisode
from cola_envs.backbone import Tokenizer
from cola_envs.jsonl import JsonObject
from cola_envs.text import end_ids, with_start_ids

#: The target of positions that do not count.
IGNORED = -100

#: After this many consecutive documents without a target, reading a stream fails.
MOST_BARREN = 100_000

#: Treatment of a document longer than a row. ``chunk``: it begins in the free part of a row and is split at
#: the ends of rows into pieces, which have positions from zero and do not attend to each other; ``cut``: only
#: its beginning, of the length of a row, is used; ``error``: raise ValueError.
LongDocuments = Literal["chunk", "cut", "error"]


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    Attributes:
        ids: token ids [B, T].
        targets: the next token of the same document [B, T]; -100 after its last token, at pads, and where
            the next token belongs to a prompt that is not trained on.
        positions: position within the document [B, T].
        segments: index of a token's document within its row [B, T]; -1 at pads.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    segments: Tensor

    @property
    def mask(self) -> Tensor:
        """Attention mask [B, 1, T, T] bool: causal, and within one document. Computed at every access."""
        length = self.ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).tril()
        return (self.segments[:, None, :, None] == self.segments[:, None, None, :]) & causal

    def part(self, start: int, stop: int) -> Batch:
        """Rows ``start`` to ``stop``."""
        return Batch(*(x[start:stop] for x in (self.ids, self.targets, self.positions, self.segments)))

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(*(x.to(device) for x in (self.ids, self.targets, self.positions, self.segments)))


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one, that fits a row.

    Attributes:
        ids: its token ids, including the document's start-of-text and end-of-text tokens.
        learned_from: index of the first token that is a target, at least 1.
        skipped: ranges of later tokens that are no targets.
    """

    ids: list[int]
    learned_from: int = 1
    skipped: tuple[tuple[int, int], ...] = ()

    @property
    def learned(self) -> np.ndarray:
        """Whether each token is a target, [T] bool."""
        learned = np.arange(len(self.ids)) >= self.learned_from
        for start, end in self.skipped:
            learned[start:end] = False
        return learned

    def split(self, at: int) -> tuple[Piece, Piece]:
        """The first ``at`` tokens, and the others."""
        rest = tuple((max(start - at, 0), end - at) for start, end in self.skipped if end > at)
        return (
            Piece(self.ids[:at], self.learned_from, self.skipped),
            Piece(self.ids[at:], max(1, self.learned_from - at), rest),
        )


def packed_batches(
    documents: Iterable[AnyDocument], tokenizer: Tokenizer, *, rows: int, length: int
) -> PackedBatches:
    """:class:`PackedBatches` in which a document longer than a row is cut."""
    return PackedBatches(documents, tokenizer, rows=rows, length=length, long="cut")


class RowPacker:
    """Packs the documents of one stream, in their order, into rows, each with as many as fit.

    Args:
        documents, tokenizer, length, long, learn_prompts: as in :class:`PackedBatches`.

    Attributes:
        counts: the number of documents so far that were ``split`` or ``cut`` because they were longer than
            a row, and of those ``dropped`` because they had no target.
    """

    def __init__(
        self,
        documents: Iterable[AnyDocument],
        tokenizer: Tokenizer,
        *,
        length: int,
        long: LongDocuments,
        learn_prompts: bool,
    ) -> None:
        self.name: str = getattr(documents, "name", "the given documents")
        self.documents = documents
        self._stream = iter(documents)
        self._tokenizer, self._eos = tokenizer, _eos(tokenizer)
        self._length, self._long, self._learn_prompts = length, long, learn_prompts
        self._pending: Piece | None = None
        self._splitting = False
        self._rows = 0
        self.counts = {"split": 0, "cut": 0, "dropped": 0}

    def __iter__(self) -> Iterator[list[Piece]]:
        return self

    def __next__(self) -> list[Piece]:
        row: list[Piece] = []
        free = self._length
        while (piece := self._next_piece(free)) is not None:
            row.append(piece)
            free -= len(piece.ids)
        if not row:
            if not self._rows:
                raise ValueError(f"{self.name} holds no document with anything to learn")
            raise StopIteration
        self._rows += 1
        return row

    def _next_piece(self, free: int) -> Piece | None:
        """The next piece with a target, if it has at most ``free`` tokens or can be split; else None."""
        barren = 0
        while free > 1 and (self._pending or self._read_document()):
            piece = self._pending
            if piece is None or not piece.learned.any():
                self._pending = None
                self.counts["dropped"] += 1
                barren += 1
                if barren == MOST_BARREN:
                    raise ValueError(
                        f"{self.name}: {barren:,} documents in a row hold nothing to learn: empty ones, or "
                        f"prompts that fill a row of {self._length} tokens"
                    )
            elif len(piece.ids) <= free:
                self._pending = None
                return piece
            elif self._splitting:
                first, rest = piece.split(free)
                self._pending = rest if len(rest.ids) > 1 else None
                if first.learned.any():
                    return first
            else:
                return None
        return None

    def _read_document(self) -> bool:
        """Read the next document into ``_pending``; return False where the stream has ended."""
        document = next(self._stream, None)
        if document is None:
            return False
        prompt, continued = document.ids(self._tokenizer)
        text = [*prompt, *continued]
        ids = [*(with_start_ids(self._tokenizer, text) if text else ()), self._eos]
        continuation = len(ids) - 1 - len(continued)  # where it begins
        self._splitting = len(ids) > self._length and self._long == "chunk"
        if len(ids) > self._length:
            if self._long == "error":
                raise ValueError(
                    f"{self.name}: a document of {len(ids):,} tokens is longer than a row of {self._length}; "
                    f"it begins {document.text[:60]!r}. Raise length, or have long documents split "
                    "(long='chunk') or cut (long='cut')"
                )
            self.counts["split" if self._splitting else "cut"] += 1
        if not self._splitting:
            ids = ids[: self._length]
        if self._learn_prompts:
            self._pending = Piece(ids)
            return True
        skipped: tuple[tuple[int, int], ...] = ()
        if isinstance(document, RecordedEpisode):
            moved = continuation - len(prompt)
            skipped = tuple((start + moved, end + moved) for start, end in document.replies)
            if document.tokens[-1] not in end_ids(self._tokenizer):  # a reply, or an answer that was cut
                skipped += ((continuation + len(continued), continuation + len(continued) + 1),)
        self._pending = Piece(ids, max(1, continuation), skipped)
        return True

    def state_dict(self) -> JsonObject:
        """The position in the stream and the pending piece, as JSON values."""
        piece = self._pending
        skipped = [[start, end] for start, end in piece.skipped] if piece else []
        return {
            "documents": self._source().state_dict(),
            "pending": piece and [piece.learned_from, self._splitting, piece.ids, skipped],
            "rows": self._rows,
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at a position that :meth:`state_dict` returned."""
        source = self._source()
        source.load_state_dict(state["documents"])
        self._stream = iter(source)
        self._pending = None
        if state["pending"]:
            # Checkpoints of earlier versions have no ranges.
            learned_from, self._splitting, ids, *skipped = state["pending"]
            ranges = tuple((start, end) for start, end in (skipped[0] if skipped else ()))
            self._pending = Piece(list(ids), learned_from, ranges)
        self._rows = state["rows"]
        self.counts = dict(state["counts"])

    def _source(self) -> Documents:
        if isinstance(self.documents, Documents):
            return self.documents
        raise TypeError(
            f"{self.name}: documents of type {type(self.documents).__name__} cannot be resumed. Use a source "
            "of cola_agents.train.data.sources, or give yours state_dict() and load_state_dict()"
        )


def _eos(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token (eos_token), with which every document ends")
    return tokenizer.eos_token_id


class PackedBatches:
    """Batches of packed documents, endless or finite, which can be resumed.

    Documents begin as in the tokenizer's template (with a beginning-of-text token, if it has one), end with
    the end-of-text token and are packed in their order, as many in a row as fit. No document attends to
    another, and the positions of each start at zero, so that a document looks in training as it does alone at
    inference. When the documents end, the last batch may have fewer rows.

    Args:
        documents: any documents, or a :class:`Mixture`, from whose streams one is drawn for each row. Only
            :class:`Documents` can be resumed.
        tokenizer: encodes without special tokens, has an end-of-text token, and may have ``start_ids``.
        rows, length: shape of a batch, in rows and tokens.
        long: treatment of a document longer than a row: see :data:`LongDocuments`.
        learn_prompts: whether tokens of prompts, and of a task's replies in recorded episodes, are targets. A
            document without a target is dropped and counted.

    Raises:
        ValueError: for a tokenizer without end-of-text token; while iterating, for a source without any
            target, naming it, and for a document that is too long with ``long="error"``.
    """

    def __init__(
        self,
        documents: Iterable[AnyDocument] | Mixture,
        tokenizer: Tokenizer,
        *,
        rows: int,
        length: int,
        long: LongDocuments = "chunk",
        learn_prompts: bool = True,
    ) -> None:
        if long not in get_args(LongDocuments):
            raise ValueError(f"long={long!r} is not one of {get_args(LongDocuments)}")
        if rows < 1 or length < 2:
            raise ValueError(f"rows >= 1 and length >= 2 are needed, got {rows} and {length}")
        self._mixture = documents if isinstance(documents, Mixture) else None
        self._packers = [
            RowPacker(stream, tokenizer, length=length, long=long, learn_prompts=learn_prompts)
            for stream in (documents.streams if isinstance(documents, Mixture) else [documents])
        ]
        self.rows, self.length = rows, length
        self._settings = {
            "rows": rows,
            "length": length,
            "long": long,
            "learn_prompts": learn_prompts,
            "end_of_text": _eos(tokenizer),
            "start_of_text": with_start_ids(tokenizer, []),
            "mixture": self._mixture
            and {"weights": self._mixture.weights.tolist(), "seed": self._mixture.seed},
        }
        self._drawn = 0
        self._ended: list[int] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows: list[list[Piece]] = []
        while len(rows) < self.rows and len(self._ended) < len(self._packers):
            stream = self._mixture.draw(self._drawn, self._ended) if self._mixture else 0
            row = next(self._packers[stream], None)
            if row is None:
                self._ended.append(stream)
            else:
                rows.append(row)
                self._drawn += 1
        if not rows:
            raise StopIteration
        return collate_pieces(rows, self.length)

    def figures(self) -> dict[str, float]:
        """Figures of the data for the log.

        Returns:
            the number of documents that were split, cut or dropped, if there are any; and for every finite
            source ``epoch/NAME``, its current pass, counted from 1.
        """
        figures: dict[str, float] = {}
        for packer in self._packers:
            epoch = getattr(packer.documents, "epoch", None)
            if epoch is not None:
                figures[f"epoch/{packer.name}"] = epoch
            for kind, count in packer.counts.items():
                if count:
                    figures[f"documents_{kind}"] = figures.get(f"documents_{kind}", 0) + count
        return figures

    def state_dict(self) -> JsonObject:
        """The position after the last batch, as JSON values.

        It holds the positions in the sources and the token ids of at most one pending document per source.

        Raises:
            TypeError: for documents that cannot be resumed.
        """
        return {
            "settings": self._settings,
            "drawn": self._drawn,
            "ended": list(self._ended),
            "streams": {packer.name: packer.state_dict() for packer in self._packers},
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Resume at a position that :meth:`state_dict` returned.

        Raises:
            ValueError: for a position in other sources, or in batches with other settings.
            TypeError: for documents that cannot be resumed.
        """
        for name, value in self._settings.items():
            saved = state["settings"].get(name, [])
            if saved != value:
                raise ValueError(f"the saved position is in batches with {name}={saved!r}, not {value!r}")
        names = [packer.name for packer in self._packers]
        if list(state["streams"]) != names:
            raise ValueError(f"the saved position is in {list(state['streams'])}, not in {names}")
        for packer in self._packers:
            packer.load_state_dict(state["streams"][packer.name])
        self._drawn, self._ended = state["drawn"], list(state["ended"])
        if len(self._ended) == len(self._packers):  # a source may have more epochs now
            self._ended = []


def collate(rows: Sequence[Sequence[list[int]]], length: int) -> Batch:
    """A batch of rows of documents, each a list of token ids; every next token is a target."""
    return collate_pieces([[Piece(ids) for ids in row] for row in rows], length)


def collate_pieces(rows: Sequence[Sequence[Piece]], length: int) -> Batch:
    """A batch of rows of pieces.

    Args:
        rows: the pieces of each row, which have at most ``length`` tokens together.
        length: T.
    """
    shape = (len(rows), length)
    ids = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int64)
    for r, row in enumerate(rows):
        start = 0
        for number, piece in enumerate(row):
            end = start + len(piece.ids)
            ids[r, start:end] = piece.ids
            learned = piece.learned[1:]
            targets[r, start : end - 1][learned] = ids[r, start + 1 : end][learned]
            positions[r, start:end] = np.arange(end - start)
            segments[r, start:end] = number
            start = end
    return Batch(*(torch.from_numpy(x) for x in (ids, targets, positions, segments)))
