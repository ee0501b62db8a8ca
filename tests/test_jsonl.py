"""Files of JSON lines: damage is named by file and line, and what is appended is whole or can be cut off."""

from __future__ import annotations

import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from cola_envs import jsonl

DAMAGED = {
    "zeros": b"\0" * 50,
    "cut": b'{"stage": "world", "st',
    "no JSON": b"so it goes",
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "a deep nest": b"[" * 100_000,
    "a huge number": b"1" * 5000,
    "two values": b"{} {}",
}


def anything(value: Any, line: int) -> None:
    """Accept every value."""


@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_an_error_that_names_file_and_line(raw, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n' + raw + b"\n{}\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3"):
        list(jsonl.read(path))
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3.*nothing was changed"):
        list(jsonl.records(path, anything))


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("raw", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_last_record_is_left_out(raw, end, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + raw + end)
    found = list(jsonl.records(path, anything))
    assert [(line.end, value) for line, value in found] == [(9, {"a": 1})]


def test_a_last_record_without_its_newline_was_not_finished(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n23")
    assert [value for _, value in jsonl.records(path, anything)] == [1]
    assert [value for _, value in jsonl.read(path)] == [1, 23], "a file of somebody else's may end so"


def test_a_record_of_another_form_is_damage(tmp_path):
    def check(value: Any, line: int) -> None:
        if value is None:
            raise ValueError("null is no record")

    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\nnull\n")
    assert [value for _, value in jsonl.records(path, check)] == [1]
    path.write_bytes(b"1\nnull\n2\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: null is no record"):
        list(jsonl.records(path, check))


def test_a_compressed_file_that_breaks_off_anywhere_gives_what_is_whole(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    for i in range(4):
        jsonl.append(path, [{"i": i, "k": k} for k in range(3)])
    content, whole = path.read_bytes(), list(jsonl.lines(path))
    assert [value for _, value in jsonl.read(path)] == [{"i": i, "k": k} for i in range(4) for k in range(3)]
    ends = [line.end for line in whole if line.end is not None]
    assert [line.number for line in whole if line.end is not None] == [3, 6, 9, 12]
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        found = list(jsonl.lines(path))
        assert [line.end for line in found if line.end is not None] == [end for end in ends if end <= size]
        assert all(line.raw == old.raw for line, old in zip(found, whole, strict=False) if line.whole)
        if size not in ends and size > 1:  # one byte does not say that it begins a compressed file
            with pytest.raises(
                ValueError, match=r"a\.jsonl\.gz is truncated (after line \d+|in its first line)$"
            ):
                list(jsonl.read(path))
    path.write_bytes(content[: ends[1] + 14] + b"\xff" * 20 + content[ends[2] :])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is damaged after line 6"):
        list(jsonl.read(path))


def test_what_cannot_be_appended_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    jsonl.append(path, [1])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*old content is unchanged.*a\.jsonl"):
        jsonl.append(path, [2])
    assert path.read_bytes().startswith(b"1\n")


def test_an_object_is_read_or_its_file_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": 1, "b": None}))
    assert jsonl.read_object(path, "a", "b") == {"a": 1, "b": None}
    for content in (b"", b"[", b"null", b"[]", b'"a"', b'{"a": 1}', b"\xff", b"[" * 100_000):
        Path(path).write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.json"):
            jsonl.read_object(path, "a", "b")


def test_a_compressed_file_need_not_end_in_a_newline(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}'))
    assert [value for _, value in jsonl.read(path)] == [{"a": 1}, {"a": 2}]
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a"') + gzip.compress(b": 2}\n"))
    assert [value for _, value in jsonl.read(path)] == [{"a": 1}, {"a": 2}]
    path.write_bytes(gzip.compress(b'{"a": 1}\n{"a": 2}')[:-9])
    with pytest.raises(ValueError, match=r"is truncated after line 1$"):
        list(jsonl.read(path))


PACKED = gzip.compress(b'{"a": 1}\n')


@pytest.mark.parametrize(
    ("content", "values"),
    [
        (gzip.compress(b""), []),
        (PACKED + b"\0" * 100, [1]),
        (PACKED + gzip.compress(b""), [1]),
        (PACKED + gzip.compress(b"") + b"\0" * 100 + PACKED, [1, 1]),
        (gzip.compress(b'{"a": 1}') + gzip.compress(b"") + b"\0", [1]),
    ],
    ids=["empty", "padded", "empty-behind", "members", "no-newline"],
)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"])
def test_a_whole_compressed_file_is_read_whatever_its_end_and_name(content, values, name, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert [value["a"] for _, value in jsonl.read(path)] == values


@pytest.mark.parametrize("size", [3, 10, len(PACKED) - 1, len(PACKED) + 5, 2 * len(PACKED) - 1])
def test_a_file_that_ends_within_a_member_is_truncated(size, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes((PACKED + PACKED)[:size])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz is truncated (after line [12]|in its first line)$"):
        list(jsonl.read(path))


def test_a_byte_order_mark_in_front_of_a_line_is_left_out(tmp_path):
    mark, path = b"\xef\xbb\xbf", tmp_path / "a.jsonl"
    path.write_bytes(mark + b"1\n2\n" + mark + b"3\n" + mark + b"\n")  # two files joined
    assert [value for _, value in jsonl.read(path)] == [1, 2, 3]
    path.write_bytes(mark + b'{"a": 1}')
    assert jsonl.read_object(path, "a") == {"a": 1}
