"""Sources of documents: what they read, where they go on from, and how they refuse."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from cola_agents.train.bundled.corpus import documents
from cola_agents.train.bundled.settings import CorpusConfig
from cola_agents.train.data.documents import Document, Documents, Mixture
from cola_agents.train.data.formats import RowFormat
from cola_agents.train.data.sources import (
    FileDocuments,
    GeneratedDocuments,
    Source,
    StreamedDocuments,
    file_identity,
)
from cola_agents.train.specs import DataSpec, open_data, parse_data


def texts(source: Any, count: int | None = None) -> list[str]:
    return [document.text for document in islice(source, count)]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.txt").write_text("first\n\n  second \nthird\n\n\nfourth, no line end")
    jsonl(tmp_path / "two.jsonl", [{"text": "fifth"}, {"text": " "}, {"prompt": "Q", "response": "A"}])
    return tmp_path


# ------------------------------------------------------------------ local files


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["first", "  second ", "third", "fourth, no line end"]),
        ("paragraph", ["first", "  second \nthird", "fourth, no line end"]),
        ("file", ["first\n\n  second \nthird\n\n\nfourth, no line end"]),
    ],
)
def test_a_document_of_a_text_file_is_a_line_a_paragraph_or_the_file(folder, unit, expected):
    assert texts(FileDocuments(folder / "one.txt", unit=unit, epochs=1)) == expected


def test_lines_of_spaces_between_paragraphs_belong_to_none(tmp_path):
    (tmp_path / "a.txt").write_text("one\n   \ntwo\n more\n\t\n \nthree\n  \n")
    assert texts(FileDocuments(tmp_path / "a.txt", unit="paragraph", epochs=1)) == [
        "one",
        "two\n more",
        "three",
    ]


@pytest.mark.parametrize("unit", [None, "paragraph", "file"])
def test_a_byte_order_mark_is_no_part_of_a_document(tmp_path, unit):
    text = "\ufefffirst \ufeff line"
    (tmp_path / "a.txt").write_text(text)
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as packed:
        packed.write(text)
    (tmp_path / "c.jsonl").write_text('\ufeff\n{"text": "row"}\n')
    for name in ("a.txt", "b.txt.gz"):
        assert texts(FileDocuments(tmp_path / name, unit=unit, epochs=1)) == ["first \ufeff line"]
    assert texts(FileDocuments(tmp_path / "c.jsonl", epochs=1)) == ["row"]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("one.txt,template=chat", r"one\.txt is a text file, without prompts that template='chat'"),
        ("one.txt,prompt=a,response=b", r"one\.txt is a text file, without the fields"),
        ("one.txt,text=a", r"one\.txt is a text file, without the fields"),
        (",template=dialogue", r"one\.txt is a text file, without prompts that template='dialogue'"),
        ("two.jsonl,unit=file", r"two\.jsonl: unit='file' is a part of a text file"),
        ("two.jsonl,unit=line", r"two\.jsonl: unit='line' is a part of a text file"),
        (
            "two.jsonl,text=a,template=chat",
            r"text='a' is a complete text, without a prompt that template='cha",
        ),
    ],
)
def test_an_option_that_the_files_do_not_take_is_refused(folder, described, message):
    with pytest.raises(ValueError, match=message):
        parse_data([f"{folder}/{described}" if not described.startswith(",") else f"{folder}{described}"])[
            0
        ].open(0)


def test_two_sources_of_one_name_are_told_to_take_names(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "one.txt"
    other.write_text("other")
    described = [str(folder / "one.txt"), str(other)]
    with pytest.raises(ValueError, match=r"got one\.txt, one\.txt: give name= to all but one of each"):
        open_data(parse_data(described), 0)
    open_data(parse_data([described[0], f"{other},name=two"]), 0)


def test_a_complete_text_is_not_laid_out_as_a_prompt(folder):
    source = FileDocuments(folder / "two.jsonl", rows=RowFormat(template="chat"))
    with pytest.raises(
        ValueError, match=r"two\.jsonl, line 1: the field 'text' is a complete text, without a"
    ):
        next(source)


def test_a_folder_is_its_files_in_the_order_of_their_names(folder):
    (folder / "deeper").mkdir()
    (folder / "deeper" / "zero.md").write_text("zeroth")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    documents = list(FileDocuments(folder, epochs=1))
    assert [document.text for document in documents] == [
        *("zeroth", "first", "  second ", "third", "fourth, no line end", "fifth", "QA")
    ]
    assert documents[-1] == Document("Q", "A")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.ndjson.gz", "A.JSONL.GZ"])
def test_compressed_json_lines_are_read(name, tmp_path):
    with gzip.open(tmp_path / name, "wt") as file:
        file.write('{"text": "one"}\n{"text": "two"}\n')
    source = FileDocuments(tmp_path / name, epochs=1)
    assert next(source).text == "one"
    again = FileDocuments(tmp_path / name, epochs=1)
    again.load_state_dict(source.state_dict())
    assert texts(again) == ["two"]
    assert texts(FileDocuments(tmp_path, epochs=1)) == ["one", "two"], "found in its folder"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "torn', "is not JSON"),
        (b"[1, 2]", "an object with named fields is needed, got list"),
        (b'{"text": 3}', "the field 'text' must be a string, got int"),
        (b'{"prompt": "a"}', "has the fields 'prompt'; it needs 'text', or 'prompt' with"),
        (
            b'{"text": "a", "prompt": "b", "response": "c"}',
            "as 'text' or as 'prompt and response': choose the",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "ends with an assistant's"),
        (b'{"messages": [{"role": "robot", "content": "a"}]}', "a message is an object with role"),
        (b'{"messages": "hello"}', "a list of two or more"),
        (b'{"text": "\xff"}', "is not UTF-8 text"),
        (b'{"text": "cut \\ud83d emoji"}', "the field 'text' is not Unicode text: surrogates not allowed"),
        (b'{"prompt": "a", "response": "\\ud83d"}', "the field 'response' is not Unicode text"),
        (
            b'{"messages": [{"role": "user", "content": "\\ude00"}, {"role": "assistant", "content": "a"}]}',
            "a message's content is not Unicode text",
        ),
    ],
)
def test_a_malformed_line_names_file_and_line(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    source = FileDocuments(path)
    assert next(source).text == "good"
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 3") as error:
        next(source)
    assert message in str(error.value)


def test_a_malformed_line_is_counted_in_its_own_file_also_after_resuming(tmp_path):
    jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    (tmp_path / "b.jsonl").write_text('{"text": "three"}\ntorn\n')
    source, resumed = FileDocuments(tmp_path), FileDocuments(tmp_path)
    assert next(source).text == "one"
    resumed.load_state_dict(source.state_dict())
    assert texts(source, 2) == texts(resumed, 2) == ["two", "three"]
    for one in (source, resumed):
        with pytest.raises(ValueError, match=r"b\.jsonl, line 2 is not JSON"):
            next(one)


def test_data_that_are_not_there_or_hold_nothing_are_errors_that_name_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*nowhere\.txt"):
        FileDocuments(tmp_path / "nowhere.txt")
    with pytest.raises(FileNotFoundError, match="holds no file that ends in"):
        FileDocuments(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"empty\.txt holds no document with any text"):
        next(FileDocuments(tmp_path / "empty.txt"))
    wrong: Any = "sentence"
    with pytest.raises(ValueError, match="unit='sentence' is not one of"):
        FileDocuments(tmp_path / "empty.txt", unit=wrong)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        FileDocuments(tmp_path / "empty.txt", epochs=0)


# ------------------------------------------------------------------ rows


def test_a_prompt_and_its_response_become_the_official_dialogue():
    """Laid out as the official fine-tuning does; packing adds the end of text."""
    row = {"problem": "1+1?", "solution": "2\n\n", "level": 1}
    read = RowFormat(prompt="problem", response="solution", template="dialogue")
    assert read.document(row, "") == Document("User: 1+1?\nAssistant: ", "2 ")
    assert RowFormat(prompt="problem", response="solution").document(row, "") == Document("1+1?", "2\n\n")


def test_of_messages_all_but_the_last_are_the_prompt():
    messages = [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "{d}")]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    expected = Document("System: S\nUser: a\nAssistant: b\nUser: c\nAssistant: ", "{d} ")
    assert RowFormat().document(row, "") == expected


def test_fields_are_chosen_by_name():
    row = {"text": "whole", "prompt": "p", "continuation": "c", "content": "other"}
    assert RowFormat(text="content").document(row, "").text == "other"
    assert RowFormat(prompt="prompt").document(row, "") == Document("p", "c")
    with pytest.raises(ValueError, match=r"row 3 has the fields .*; it needs 'body'"):
        RowFormat(text="body").document(row, "row 3")
    with pytest.raises(ValueError, match="either a complete text"):
        RowFormat(text="a", prompt="b")
    wrong: Any = "chats"
    with pytest.raises(ValueError, match="template='chats' is not one of"):
        RowFormat(template=wrong)


# ------------------------------------------------------------------ places


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    path = tmp_path_factory.mktemp("tables")
    rows = [{"text": f"row {number}" if number % 7 else ""} for number in range(40)]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).to_parquet(path / "rows.parquet", batch_size=16)
    jsonl(path / "rows.jsonl", rows)
    return path


MAKERS: dict[str, Callable[[Path, int | None], Source]] = {
    "line": lambda path, epochs: FileDocuments(path / "rows.jsonl", epochs=epochs),
    "json": lambda path, epochs: StreamedDocuments("json", files=[str(path / "rows.jsonl")], epochs=epochs),
    "parquet": lambda path, epochs: StreamedDocuments(
        "parquet", files=[str(path / "rows.parquet")], epochs=epochs
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_finite_data_repeat_or_end_as_asked(tables, kind):
    once = texts(MAKERS[kind](tables, 1))
    assert once == [f"row {number}" for number in range(40) if number % 7]
    assert texts(MAKERS[kind](tables, 2)) == once * 2
    endless = MAKERS[kind](tables, None)
    assert texts(endless, 90) == (once * 3)[:90]
    assert endless.epoch == 3


@pytest.mark.parametrize("kind", MAKERS)
def test_a_source_goes_on_exactly_from_every_place(tables, kind):
    whole = texts(MAKERS[kind](tables, 2))
    running = MAKERS[kind](tables, 2)
    for done in range(len(whole) + 1):
        # Every third: making a stream takes milliseconds.
        if done % 3 == 0 or done in (34, 35, len(whole)):
            state = json.loads(json.dumps(running.state_dict()))
            resumed = MAKERS[kind](tables, 2)
            resumed.load_state_dict(state)
            assert texts(resumed) == whole[done:]
        next(running, None)


def test_text_goes_on_exactly_from_every_place(folder):
    for unit in ("line", "paragraph", "file"):
        chosen: Any = unit
        whole = texts(FileDocuments(folder, unit=chosen, epochs=2))
        running = FileDocuments(folder, unit=chosen, epochs=2)
        for done in range(len(whole) + 1):
            resumed = FileDocuments(folder, unit=chosen, epochs=2)
            resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
            assert texts(resumed) == whole[done:]
            next(running, None)


def test_the_generated_corpus_goes_on_exactly_and_is_the_corpus():
    whole = list(islice(documents(5), 30))
    running = GeneratedDocuments(5)
    assert list(islice(running, 11)) == whole[:11]
    resumed = GeneratedDocuments(5)
    resumed.load_state_dict(json.loads(json.dumps(running.state_dict())))
    assert list(islice(resumed, 19)) == whole[11:]
    for other in (GeneratedDocuments(6), GeneratedDocuments(5, CorpusConfig(instructed=0.25))):
        with pytest.raises(ValueError, match="stopped in a corpus of"):
            other.load_state_dict(running.state_dict())


def test_data_that_changed_meanwhile_are_refused(folder):
    source = FileDocuments(folder / "one.txt")
    next(source)
    state = source.state_dict()
    (folder / "one.txt").write_text("first\nand something else")
    with pytest.raises(ValueError, match=r"one\.txt has changed since the run was stopped"):
        FileDocuments(folder / "one.txt").load_state_dict(state)
    with pytest.raises(ValueError, match="has changed since the run was stopped"):
        FileDocuments(folder / "one.txt", unit="file").load_state_dict(source.state_dict())


@pytest.mark.parametrize(("kind", "at"), [("line", 10), ("line", -5), ("parquet", 40)])
def test_data_that_changed_at_the_same_size_are_refused(tables, tmp_path, kind, at):
    for path in tables.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = MAKERS[kind](tmp_path, None)
    next(source)
    state = json.loads(json.dumps(source.state_dict()))
    MAKERS[kind](tmp_path, None).load_state_dict(state)
    path = tmp_path / ("rows.jsonl" if kind == "line" else "rows.parquet")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="has changed since the run was stopped"):
        MAKERS[kind](tmp_path, None).load_state_dict(state)


def test_a_file_is_known_by_both_of_its_ends(tmp_path):
    path = tmp_path / "long.txt"
    path.write_bytes(bytes(200_000))
    known = [file_identity(path)]
    for at in (0, 199_999):
        content = bytearray(200_000)
        content[at] = 1
        path.write_bytes(bytes(content))
        known.append(file_identity(path))
    assert len({digest for _, _, digest in known}) == 3


def test_a_row_that_is_no_document_and_a_torn_file_name_the_source(tables, tmp_path):
    read = RowFormat(text="body")
    source = StreamedDocuments("parquet", files=[str(tables / "rows.parquet")], rows=read, name="mine")
    with pytest.raises(ValueError, match="mine, row 1 has the fields 'text'; it needs 'body'"):
        next(source)
    jsonl(tmp_path / "odd.jsonl", [{"text": "a"}, {"text": "b"}, {"text": None}])
    odd = [StreamedDocuments("json", files=[str(tmp_path / "odd.jsonl")]) for _ in range(2)]
    assert texts(odd[0], 2) == ["a", "b"]
    odd[1].load_state_dict(odd[0].state_dict())
    for one in odd:
        with pytest.raises(ValueError, match="json, row 3: the field 'text' must be a string, got NoneType"):
            next(one)
    (tmp_path / "torn.jsonl").write_text('{"text": "a"}\n{torn\n')
    with pytest.raises(ValueError, match="mine cannot be read after row 0"):
        next(StreamedDocuments("json", files=[str(tmp_path / "torn.jsonl")], name="mine"))


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="nobody/nothing cannot be streamed"):
        StreamedDocuments("nobody/nothing")


def test_a_missing_package_comes_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'cola-rl\[data\]'"):
        StreamedDocuments("owner/name")


# ------------------------------------------------------------------ descriptions


def test_descriptions_of_a_command_line_are_opened(folder, tables):
    described = [
        "generated,seed=3,weight=0.5,name=made",
        f"{folder / 'one.txt'},unit=paragraph,epochs=2",
        f"{tables / 'rows.parquet'},weight=2",
        f"hub:{tables},split=train,name=streamed",
    ]
    made, text, table, streamed = parse_data(described)
    assert (made.seed, made.weight, made.name) == (3, 0.5, "made")
    assert (text.unit, text.epochs, table.weight) == ("paragraph", 2, 2.0)
    assert texts(text.open(0)) == ["first", "  second \nthird", "fourth, no line end"] * 2
    assert texts(made.open(0), 5) == texts(documents(3), 5)
    assert texts(table.open(0), 3) == ["row 1", "row 2", "row 3"]
    assert isinstance(streamed.open(0), Documents)
    mixture = open_data([made, text, table], seed=4)
    assert isinstance(mixture, Mixture)
    assert mixture.weights.tolist() == [0.5, 1.0, 2.0]
    assert isinstance(open_data([table], seed=4), StreamedDocuments)


def test_a_file_describes_a_mixture_and_its_paths_are_relative_to_it(folder, tmp_path_factory):
    spec = folder / "mixture.json"
    spec.write_text(json.dumps([{"source": "one.txt", "weight": 0.3}, {"source": "generated", "seed": 1}]))
    first, second = parse_data([str(spec)])
    assert first == DataSpec(str(folder / "one.txt"), weight=0.3)
    assert second == DataSpec("generated", seed=1)
    assert texts(first.open(0), 1) == ["first"]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ("generated,unit=line", "take no 'unit'; they take weight, name, seed"),
        ("hub:a/b,unit=line", r"\(hub\) take no 'unit'"),
        ("a.txt,split=test", r"\(file\) take no 'split'"),
        ("a.txt,weight=heavy", "weight='heavy' is not a number"),
        ("a.txt,epochs=2.7", "epochs='2.7' is not a number"),
        ("a.txt,weight=0", "the weight must be a positive number"),
        ("a.txt,wait=1", "unknown 'wait'; the fields are source, weight"),
        ("a.txt,weight", "'weight' is not another key=value"),
        ("a.txt,name=a,name=b", "'name=b' is not another key=value"),
        (",weight=1", "no source; the fields are"),
    ],
)
def test_a_description_that_cannot_be_is_refused(described, message):
    with pytest.raises(ValueError, match=message):
        parse_data([described])


def test_a_mixture_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "m.json"
    for content, message in (
        ("{", "is not JSON"),
        ("{}", "a list of objects"),
        ('[{"source": 3}]', "must be strings"),
        ('[{"source": "a.txt", "epochs": 2.7}]', "epochs must be a whole number, got 2.7"),
        ('[{"source": "a.txt", "epochs": true}]', "epochs must be a whole number, got True"),
        ('[{"source": "a.txt", "weight": true}]', "the weight must be a positive number, got True"),
        ('[{"source": "a.txt", "weight": [1]}]', r"the weight must be a positive number, got \[1\]"),
        ('[{"source": "generated", "seed": 1.5}]', "seed must be a whole number, got 1.5"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            parse_data([str(path)])
    path.write_text('[{"source": "generated"}]')
    with pytest.raises(ValueError, match="put weight=2 into the file"):
        parse_data([f"{path},weight=2"])


def test_a_compressed_file_that_breaks_off_is_named(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    packed = gzip.compress("".join(f'{{"text": "number {n}"}}\n' for n in range(99)).encode())
    for content in (packed[:-30], packed[:20], packed[:20] + b"\xff" * 40, b"no gzip at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.jsonl\.gz is truncated or damaged after line"):
            list(FileDocuments(path, epochs=1))


def test_parquet_files_are_found_in_subfolders_and_not_mixed_with_text(tables, tmp_path):
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    shutil.copy(tables / "rows.parquet", folder / "deep" / "rows.parquet")
    (spec,) = parse_data([str(folder)])
    assert spec.kind == "parquet"
    assert next(iter(spec.open(0)))
    (folder / "more.txt").write_text("text")
    with pytest.raises(ValueError, match=r"rows\.parquet and more\.txt"):
        spec.open(0)
