"""Documents into training rows: packed, and kept apart from one another.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cola_agents.train.data.documents import Document, Documents, Mixture
from cola_envs.backbone import Tokenizer
from cola_envs.jsonl import JsonObject
from cola_envs.text import begun

IGNORED = -100

#: Documents in a row of which nothing is learned, after which a stream is said to hold nothing.
MOST_BARREN = 100_000

#: What becomes of a document that is longer than a row: it is split where rows end (it begins in what is left
#: of one), into pieces with positions from zero that are blind to those before; or a row's length of it is
#: kept; or it is an error.
LongDocuments = Literal["chunk", "cut", "error"]


@dataclass(frozen=True)
class Batch:
    """Packed rows.

    Attributes:
        ids: token ids [B, T].
        targets: the next token of the same document [B, T]; -100 after its last token, at pads, and where
            the next token is not to be learned (a prompt's).
        positions: position within the document [B, T].
        segments: which document of its row a token belongs to [B, T], counted from 0; -1 at pads.
    """

    ids: Tensor
    targets: Tensor
    positions: Tensor
    segments: Tensor

    @property
    def mask(self) -> Tensor:
        """Attention mask [B, 1, T, T] bool: causal, and within one document. Made anew at every call."""
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
        ids: its token ids, what a text begins with and the end-of-text token among them where the document
            begins and ends.
        learned_from: index of the first token that is a target, at least 1: no token comes before the first.
    """

    ids: list[int]
    learned_from: int = 1


def packed_batches(
    documents: Iterable[Document], tokenizer: Tokenizer, *, rows: int, length: int
) -> PackedBatches:
    """:class:`PackedBatches` in which a document longer than a row is cut."""
    return PackedBatches(documents, tokenizer, rows=rows, length=length, long="cut")


class RowPacker:
    """Documents of one stream, in their order, into rows: each row takes as many as fit.

    Args:
        documents, tokenizer, length, long, learn_prompts: as in :class:`PackedBatches`.

    Attributes:
        counts: ``split``, ``cut`` and ``dropped`` documents so far: of those that were longer than a row,
            what became of them, and those of which nothing was left to learn.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        tokenizer: Tokenizer,
        *,
        length: int,
        long: LongDocuments,
        learn_prompts: bool,
    ) -> None:
        self.name: str = getattr(documents, "name", "the given documents")
        self.documents = documents
        self._stream = iter(documents)
        self._tokenizer, self._eos = tokenizer, _end_of_text(tokenizer)
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
        """A piece of at most ``free`` tokens that something is learned from; None where there is none."""
        barren = 0
        while free > 1 and (self._pending or self._draw()):
            piece = self._pending
            if piece is None or piece.learned_from >= len(piece.ids):
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
                rest = Piece(piece.ids[free:], max(1, piece.learned_from - free))
                self._pending = rest if len(rest.ids) > 1 else None
                if piece.learned_from < free:
                    return Piece(piece.ids[:free], piece.learned_from)
            else:
                return None
        return None

    def _draw(self) -> bool:
        """Whether there was another document, which is pending now."""
        document = next(self._stream, None)
        if document is None:
            return False
        encode = self._tokenizer.encode
        prompt = encode(document.prompt) if document.prompt else []
        text = [*prompt, *encode(document.continuation)]
        ids = [*(begun(self._tokenizer, text) if text else ()), self._eos]
        continuation = len(ids) - 1 - (len(text) - len(prompt))  # where it begins
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
        self._pending = Piece(ids, 1 if self._learn_prompts else max(1, continuation))
        return True

    def state_dict(self) -> JsonObject:
        """The place in the stream, and the pieces that were drawn and have no row yet."""
        return {
            "documents": self._source().state_dict(),
            "pending": self._pending and [self._pending.learned_from, self._splitting, self._pending.ids],
            "rows": self._rows,
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Go on from such a state."""
        source = self._source()
        source.load_state_dict(state["documents"])
        self._stream = iter(source)
        self._pending = None
        if state["pending"]:
            learned_from, self._splitting, ids = state["pending"]
            self._pending = Piece(list(ids), learned_from)
        self._rows = state["rows"]
        self.counts = dict(state["counts"])

    def _source(self) -> Documents:
        if isinstance(self.documents, Documents):
            return self.documents
        raise TypeError(
            f"{self.name}: documents of type {type(self.documents).__name__} do not know their place. To "
            "resume, train on a source of cola_agents.train.data.sources, or give yours state_dict() and "
            "load_state_dict()"
        )


def _end_of_text(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the tokenizer has no end-of-text token (eos_token), with which documents are closed"
        )
    return tokenizer.eos_token_id


class PackedBatches:
    """Endless or finite batches of packed documents, which know their place.

    Documents begin as the tokenizer's own template says (with a beginning-of-text token, where it has one),
    are closed by the end-of-text token and laid side by side in their order, as many in a row as fit. No
    document attends to another and each one's positions start at zero, so that training sees exactly what a
    prompt sees. Where the documents run out, the last batch may have fewer rows.

    Args:
        documents: any documents, or a :class:`Mixture`, each row of which is filled from one stream. To be
            resumed they have to know their place (:class:`Documents`).
        tokenizer: encodes without special tokens, has an end-of-text token, and may have ``start_ids``.
        rows, length: shape of a batch, in rows and tokens.
        long: what becomes of a document longer than a row: see :data:`LongDocuments`.
        learn_prompts: whether tokens of prompts are targets. A document of which nothing would be learned is
            left out, and counted.

    Raises:
        ValueError: for a tokenizer without end-of-text token; while iterating, for documents that hold
            nothing to learn, naming the source, and where ``long`` says so for one that is too long.
    """

    def __init__(
        self,
        documents: Iterable[Document] | Mixture,
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
            "end_of_text": _end_of_text(tokenizer),
            "start_of_text": begun(tokenizer, []),
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
            which = self._mixture.draw(self._drawn, self._ended) if self._mixture else 0
            row = next(self._packers[which], None)
            if row is None:
                self._ended.append(which)
            else:
                rows.append(row)
                self._drawn += 1
        if not rows:
            raise StopIteration
        return collate_pieces(rows, self.length)

    def figures(self) -> dict[str, float]:
        """What a log should say of the corpus.

        Returns:
            how many documents were split, cut or left out, where there were any; and of every finite source
            ``epoch/NAME``, the pass that it is in, counted from 1.
        """
        found: dict[str, float] = {}
        for packer in self._packers:
            epoch = getattr(packer.documents, "epoch", None)
            if epoch is not None:
                found[f"epoch/{packer.name}"] = epoch
            for kind, count in packer.counts.items():
                if count:
                    found[f"documents_{kind}"] = found.get(f"documents_{kind}", 0) + count
        return found

    def state_dict(self) -> JsonObject:
        """The place after the last batch; JSON can hold it.

        Besides places in the sources it holds the token ids of at most one document a source: what was drawn
        and has no row yet.

        Raises:
            TypeError: for documents that do not know their place.
        """
        return {
            "settings": self._settings,
            "drawn": self._drawn,
            "ended": list(self._ended),
            "streams": {packer.name: packer.state_dict() for packer in self._packers},
        }

    def load_state_dict(self, state: JsonObject) -> None:
        """Go on from such a place.

        Raises:
            ValueError: where it is one of other sources, or of batches that are made otherwise.
            TypeError: for documents that do not know their place.
        """
        for name, value in self._settings.items():
            saved = state["settings"].get(name, [])
            if saved != value:
                raise ValueError(f"the saved place is one in batches of {name}={saved!r}, not {value!r}")
        names = [packer.name for packer in self._packers]
        if list(state["streams"]) != names:
            raise ValueError(f"the saved place is one in {list(state['streams'])}, not in {names}")
        for packer in self._packers:
            packer.load_state_dict(state["streams"][packer.name])
        self._drawn, self._ended = state["drawn"], list(state["ended"])


def collate(rows: Sequence[Sequence[list[int]]], length: int) -> Batch:
    """Lay rows of documents, given as token ids, out as tensors; every next token is a target."""
    return collate_pieces([[Piece(ids) for ids in row] for row in rows], length)


def collate_pieces(rows: Sequence[Sequence[Piece]], length: int) -> Batch:
    """Lay rows of pieces out as tensors.

    Args:
        rows: pieces of at most ``length`` tokens a row together.
        length: T.
    """
    shape = (len(rows), length)
    ids = np.zeros(shape, dtype=np.int64)
    targets = np.full(shape, IGNORED, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int64)
    counting = np.arange(length)
    for r, row in enumerate(rows):
        at = 0
        for number, piece in enumerate(row):
            end = at + len(piece.ids)
            ids[r, at:end] = piece.ids
            targets[r, at + piece.learned_from - 1 : end - 1] = ids[r, at + piece.learned_from : end]
            positions[r, at:end] = counting[: end - at]
            segments[r, at:end] = number
            at = end
    return Batch(*(torch.from_numpy(x) for x in (ids, targets, positions, segments)))
