"""Packing: rows hold every document once, know their place, and say what became of long documents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch

from cola_agents.model.text import PlainTokenizer
from cola_agents.train.bundled.corpus import documents
from cola_agents.train.data import packing as data
from cola_agents.train.data.documents import Document, Documents, Mixture
from cola_agents.train.data.packing import IGNORED, Batch, PackedBatches, collate, packed_batches


class Letters:
    """A tokenizer of one id a character; 0 ends a text."""

    eos_token_id: int | None = 0

    def __len__(self) -> int:
        return 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


class Listed:
    """Documents from a list, which know their place."""

    def __init__(self, name: str, texts: list[Document]) -> None:
        self.name = name
        self.texts = texts
        self.at = 0

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        if self.at == len(self.texts):
            raise StopIteration
        self.at += 1
        return self.texts[self.at - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: Any) -> None:
        self.at = state["at"]


def pieces_of(batches: list[Batch]) -> list[list[int]]:
    """The token ids of every piece, in order."""
    pieces = []
    for batch in batches:
        for ids, segments in zip(batch.ids, batch.segments, strict=True):
            pieces += [ids[segments == number].tolist() for number in range(int(segments.max()) + 1)]
    return pieces


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("ids", "targets", "positions", "segments")
    )


TEXTS = [Document("", "x" * n) for n in (3, 30, 1, 9, 4, 57, 2, 2, 11)]


def test_long_documents_are_split_where_rows_end_and_nothing_is_lost():
    batches = list(PackedBatches(TEXTS, Letters(), rows=2, length=12, long="chunk"))
    pieces = pieces_of(batches)
    assert [token for piece in pieces for token in piece] == [
        token for document in TEXTS for token in [*document.text.encode(), 0]
    ]
    # The second document begins in what the first has left of a row.
    assert [len(piece) for piece in pieces[:4]] == [4, 8, 12, 11]
    for batch in batches:
        for positions, segments in zip(batch.positions, batch.segments, strict=True):
            for number in range(int(segments.max()) + 1):
                own = positions[segments == number]
                assert own.tolist() == list(range(len(own))), "a piece begins at position zero"


def test_every_row_but_the_last_is_full_where_all_documents_are_long():
    long = [Document("", "y" * n) for n in (40, 33, 71, 29)]
    rows = torch.cat([batch.segments for batch in PackedBatches(long, Letters(), rows=3, length=16)])
    assert (rows[:-1] >= 0).all()


def test_a_document_that_fits_a_row_is_never_split():
    fitting = [document for document in TEXTS if len(document.text) < 12]
    pieces = pieces_of(list(PackedBatches(fitting, Letters(), rows=2, length=12, long="chunk")))
    assert [len(piece) - 1 for piece in pieces] == [len(document.text) for document in fitting]


def test_long_documents_are_cut_or_refused_as_asked():
    cut = PackedBatches(TEXTS, Letters(), rows=2, length=12, long="cut")
    assert [len(piece) for piece in pieces_of(list(cut))] == [4, 12, 2, 10, 5, 12, 3, 3, 12]
    assert cut.figures() == {"documents_cut": 2}, "one of eleven characters just fits"
    refused = PackedBatches(TEXTS, Letters(), rows=2, length=12, long="error")
    with pytest.raises(
        ValueError, match=r"given documents: a document of 31 tokens .* row of 12; it begins 'x"
    ):
        list(refused)


def test_tokens_of_prompts_are_no_targets_where_that_is_asked():
    some = [Document("ab", "cd"), Document("", "ef")]
    (batch,) = PackedBatches(some, Letters(), rows=1, length=10, learn_prompts=False)
    c, d, f, no = *b"cdf", IGNORED
    # Of the first document b -> c, c -> d, d -> end; a -> b is the prompt's own business.
    assert batch.targets[0].tolist() == [no, c, d, 0, no, f, 0, no, no, no]
    (every,) = PackedBatches(some, Letters(), rows=1, length=10)
    assert every.targets[0, 0] == b"b"[0]
    assert equal(every, collate([[[*b"abcd", 0], [*b"ef", 0]]], 10))


@pytest.mark.parametrize("long", ["cut", "chunk"])
def test_where_only_a_prompt_would_be_seen_nothing_is_packed(long):
    some = [Document("p" * 30, "abc"), Document("", ""), Document("q", "z")]
    batches = PackedBatches(some, Letters(), rows=4, length=12, long=long, learn_prompts=False)
    (batch,) = batches
    answers = [bytes(piece).strip(b"\0") for piece in pieces_of([batch])]
    assert answers == ([b"qz"] if long == "cut" else [b"p" * 6 + b"abc", b"qz"])
    assert batches.figures()["documents_dropped"] == (2 if long == "cut" else 1)
    assert int((batch.targets != IGNORED).sum()) == (2 if long == "cut" else 6)


def test_a_corpus_with_nothing_to_learn_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(data, "MOST_BARREN", 5)
    with pytest.raises(ValueError, match="mine holds no document with anything to learn"):
        next(PackedBatches(Listed("mine", []), Letters(), rows=1, length=12))
    endless = Listed("prompts", [Document("p" * 30, "a")] * 9)
    with pytest.raises(ValueError, match=r"prompts: 5 documents in a row hold nothing to learn"):
        next(PackedBatches(endless, Letters(), rows=1, length=12, long="cut", learn_prompts=False))


def test_a_tokenizer_without_end_of_text_and_an_unknown_policy_are_refused():
    endless = Letters()
    endless.eos_token_id = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        PackedBatches(TEXTS, endless, rows=1, length=12)
    wrong: Any = "wrap"
    with pytest.raises(ValueError, match=r"long='wrap' is not one of \('chunk', 'cut', 'error'\)"):
        PackedBatches(TEXTS, Letters(), rows=1, length=12, long=wrong)
    with pytest.raises(ValueError, match="rows >= 1 and length >= 2"):
        PackedBatches(TEXTS, Letters(), rows=0, length=12)


def test_packing_equals_the_plain_way_on_documents_that_fit(tiny_tokenizer):
    plain = PlainTokenizer(tiny_tokenizer)
    few = list(islice(documents(3), 60))
    rows: list[list[list[int]]] = [[]]
    for document in few:
        ids = [*plain.encode(document.prompt), *plain.encode(document.continuation), plain.eos_token_id or 0]
        if sum(map(len, rows[-1])) + len(ids) > 800:
            rows.append([])
        rows[-1].append(ids)
    batches = list(packed_batches(few, plain, rows=4, length=800))
    expected = [collate(rows[i : i + 4], 800) for i in range(0, len(rows), 4)]
    assert len(batches) == len(expected) > 1
    assert all(map(equal, batches, expected))


# ------------------------------------------------------------------ batches


def test_a_part_of_a_batch_and_its_mask_are_those_rows():
    batch = collate([[[1, 2], [3]], [[4, 5, 6]], [[7]]], 4)
    part = batch.part(1, 3)
    assert equal(part, collate([[[4, 5, 6]], [[7]]], 4))
    assert torch.equal(part.mask, batch.mask[1:3])
    assert equal(batch.to("cpu"), batch)
    assert batch.to("meta").ids.device.type == "meta"


# ------------------------------------------------------------------ resuming


def made(which: str) -> PackedBatches:
    if which == "mixture":
        streams = [(Listed("a", TEXTS * 3), 2.0), (Listed("b", [Document("pq", "r" * 5)] * 20), 1.0)]
        return PackedBatches(Mixture(streams, 4), Letters(), rows=2, length=12, learn_prompts=False)
    long: Any = which
    return PackedBatches(Listed("a", TEXTS * 3), Letters(), rows=2, length=12, long=long)


@pytest.mark.parametrize("which", ["chunk", "cut", "mixture"])
def test_batches_go_on_exactly_from_every_place(which):
    whole = list(made(which))
    assert len(whole) > 8
    running = made(which)
    for done in range(len(whole) + 1):
        state = json.loads(json.dumps(running.state_dict()))
        assert state == running.state_dict(), "JSON holds it exactly"
        resumed = made(which)
        resumed.load_state_dict(state)
        rest = list(resumed)
        assert len(rest) == len(whole) - done
        assert all(map(equal, rest, whole[done:]))
        next(running, None)


def test_a_place_holds_no_more_tokens_than_one_document():
    batches = made("chunk")
    for _ in islice(batches, 20):
        pending = batches.state_dict()["streams"]["a"]["pending"]
        assert pending is None or len(pending[2]) <= max(len(document.text) for document in TEXTS) + 1


def test_a_place_in_other_batches_is_refused():
    state = made("chunk").state_dict()
    with pytest.raises(ValueError, match=r"long='chunk', not 'cut'"):
        made("cut").load_state_dict(state)
    others = PackedBatches(Listed("c", TEXTS), Letters(), rows=2, length=12)
    with pytest.raises(ValueError, match=r"\['a'\], not in \['c'\]"):
        others.load_state_dict(state)


def test_documents_without_a_place_say_so_only_when_it_is_asked_for():
    batches = PackedBatches(TEXTS, Letters(), rows=2, length=12)
    next(batches)
    with pytest.raises(TypeError, match="documents of type list cannot be resumed"):
        batches.state_dict()
    assert isinstance(Listed("a", []), Documents)


# ------------------------------------------------------------------ mixtures


def test_weights_are_shares_of_rows_whatever_the_length_of_the_documents():
    short, long = [Document("", "s" * 3)] * 90_000, [Document("", "l" * 100)] * 9000
    mixture = Mixture([(Listed("short", short), 3.0), (Listed("long", long), 1.0)], seed=1)
    batches = islice(PackedBatches(mixture, Letters(), rows=8, length=16), 250)
    drawn = Counter(chr(int(ids[0])) for batch in batches for ids in batch.ids)
    # 2,000 rows: the standard deviation of a share is about .01.
    assert drawn["s"] / 2000 == pytest.approx(0.75, abs=0.04)
    assert set(drawn) == {"s", "l"}


def test_the_order_of_a_mixture_is_its_seeds():
    def order(seed: int) -> list[int]:
        mixture = Mixture([(Listed("a", []), 1.0), (Listed("b", []), 1.0)], seed)
        return [mixture.draw(row, []) for row in range(40)]

    assert order(0) == order(0) != order(1)


def test_a_stream_that_ends_leaves_its_share_to_the_others():
    mixture = Mixture([(Listed("a", [Document("", "a")]), 1.0), (Listed("b", [Document("", "b")] * 50), 1.0)])
    pieces = pieces_of(list(PackedBatches(mixture, Letters(), rows=2, length=4)))
    assert Counter(chr(piece[0]) for piece in pieces) == {"a": 1, "b": 50}


def test_mixtures_that_cannot_be_are_refused():
    a, b = Listed("a", TEXTS), Listed("a", TEXTS)
    with pytest.raises(ValueError, match="at least one stream"):
        Mixture([])
    with pytest.raises(ValueError, match="different names, got a, a"):
        Mixture([(a, 1.0), (b, 1.0)])
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a: the weight must be a positive number"):
            Mixture([(a, weight)])
