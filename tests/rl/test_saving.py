"""A folder always gives back a whole saved agent, and no damage to it goes unseen."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cola_agents.common.files import InUseError
from cola_agents.common.sealed import DamagedError, sealed, unsealed
from cola_agents.rl import history as histories
from cola_agents.rl import saver as savers
from cola_agents.rl.saver import Saver
from cola_agents.rl.saving import (
    DESCRIPTION,
    PREVIOUS,
    check_free,
    is_free,
    read_description,
    read_saved,
    read_tensors,
)

DESCRIBED: dict[str, Any] = {
    "agent": "PPO",
    "env_id": "CoLA-Text-v0",
    "env_kwargs": {"max_tokens": 3},
    "env_kwargs_not_saved": [],
    "num_envs": 2,
    "seed": 0,
    "model": None,
    "tokenizer": None,
    "device": None,
    "dtype": "float32",
    "fingerprint": "f" * 64,
    "options": {"lr": 0.1, "note": "é"},
    "kl_coef": 0.1,
    "num_timesteps": 10,
    "num_episodes": 4,
    "num_updates": 1,
}


def save(path: Path, number: int, saver: Saver | None = None, **changed: Any) -> None:
    """The save after ``number`` updates."""
    weights = {"w": torch.full((3, 2), float(number)), **changed}
    optimiser = {"twins": [None], "adam": {"state": {0: {"exp_avg": torch.full((3, 2), float(number))}}}}
    history = [{"update": at + 1, "reward": at / 3} for at in range(number)]
    (saver or Saver()).write(path, {**DESCRIBED, "num_updates": number}, weights, optimiser, history)


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with two saves, after 1 and after 2 updates."""
    saver = Saver()
    for number in (1, 2):
        save(tmp_path / "run", number, saver)
    return tmp_path / "run"


def number_of(path: Path) -> int:
    """Which save a folder gives back: all of its parts must say the same."""
    read = read_saved(path)
    number = read.description["num_updates"]
    assert read.weights["w"].tolist() == [[number] * 2] * 3
    assert read.optimiser["adam"]["state"][0]["exp_avg"].tolist() == [[number] * 2] * 3
    assert [record["update"] for record in read.history] == list(range(1, number + 1))
    return number


def files_of(path: Path, name: str = DESCRIPTION) -> dict[str, Path]:
    """The files of one save, by what they are."""
    described = json.loads((path / name).read_text())
    files = {**described["files"], "description": name}
    if isinstance(described["history"], dict):
        files["history"] = described["history"]["file"]
    return {kind: path / file for kind, file in files.items()}


# ------------------------------------------------------------------ damage


def test_what_was_saved_comes_back_with_the_save_before(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert number_of(run) == 2
    assert sorted(path.name.split("-")[0] for path in run.iterdir()) == [
        "actor",
        "actor",
        "agent",
        "agent.json",
        "history",
        "optimiser",
        "optimiser",
    ]
    described = read_description(run)
    assert read_tensors(run, described["files"])[0]["w"][0, 0] == 2


def test_no_flipped_bit_goes_unseen_and_the_damaged_file_is_named(run):
    flips = 0
    for file in sorted(run.iterdir()):
        whole = file.read_bytes()
        for at in range(0, len(whole), 1 + len(whole) // 120):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << (at % 8)
            file.write_bytes(bytes(flipped))
            with pytest.warns(UserWarning, match=file.name):
                read = read_saved(run)
            assert read.weights["w"].tolist() in ([[1] * 2] * 3, [[2] * 2] * 3)
            flips += 1
        file.write_bytes(whole)
    assert flips > 500
    assert number_of(run) == 2


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "missing": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b" "),
    "not text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("kind", ["actor", "optimiser", "description"])
@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_save_falls_back_on_the_one_before_by_name(kind, damage, run):
    file = files_of(run)[kind]
    DAMAGE[damage](file)
    with pytest.warns(UserWarning, match=f"{file.name}.*the save before it is loaded, of update 1"):
        assert number_of(run) == 1


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_history_costs_no_save_its_weights(damage, run):
    DAMAGE[damage](files_of(run)["history"])
    if damage == "longer":  # what is beyond the save is of one that was killed
        assert number_of(run) == 2
        return
    with pytest.warns(UserWarning, match=r"history-\w+.jsonl is damaged: of its 2 records the first [01] "):
        read = read_saved(run)
    assert read.weights["w"][0, 0] == 2
    assert read.history == [{"update": 1, "reward": 0.0}][: len(read.history)]


@pytest.mark.parametrize("kind", ["actor", "optimiser", "description"])
def test_where_no_save_is_whole_an_error_names_the_newest_ones_file(kind, run):
    for name in (PREVIOUS, DESCRIPTION):
        file = files_of(run, name)[kind]
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DamagedError, match=file.name):
        read_saved(run)


@pytest.mark.parametrize(
    "content",
    [
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        "{",
        "[" * 100_000,
        '{"agent": "PPO"}',
        '{"agent": 3, "files": []}',
        '{"name": "of another program", "files": {"a": 1}}',
        json.dumps({**DESCRIBED, "files": {"actor": "a", "optimiser": "b"}, "history": {}}),
        json.dumps({**DESCRIBED, "files": {"actor": 3, "optimiser": []}, "history": []}),
        json.dumps({**DESCRIBED, "seed": "0", "files": {"actor": "a", "optimiser": "b"}, "history": []}),
        sealed({"agent": "PPO"}).decode(),
        sealed({**DESCRIBED, "files": {}, "digests": {}, "history": {}}).decode(),
        sealed(
            {**DESCRIBED, "files": {"actor": "a"}, "digests": [], "history": {"file": 1, "records": "x"}}
        ).decode(),
    ],
)
def test_a_foreign_description_of_any_shape_is_damage(content, run, tmp_path):
    (run / DESCRIPTION).write_text(content)
    with pytest.warns(UserWarning, match=r"agent\.json.*the save before it is loaded"):
        assert number_of(run) == 1
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / DESCRIPTION).write_text(content)
    with pytest.raises(DamagedError, match=r"agent\.json"):
        read_saved(tmp_path / "alone")


def test_a_description_of_another_program_is_not_replaced(tmp_path):
    (tmp_path / DESCRIPTION).write_text('{"name": "of another program"}')
    with pytest.raises(FileExistsError, match="something other than a saved agent"):
        save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == [DESCRIPTION]


@pytest.mark.parametrize("kind", ["actor", "optimiser", "history"])
@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "..", ".", "", "inner/../../outside", "link"]
)
def test_no_name_leads_out_of_the_folder(kind, name, run, tmp_path):
    shutil.copy(files_of(run)[kind], tmp_path / "outside")
    (run / "link").symlink_to(tmp_path / "outside")
    described = unsealed(run / DESCRIPTION)
    part = described["history"] if kind == "history" else described["files"]
    old, part["file" if kind == "history" else kind] = part["file" if kind == "history" else kind], name
    described["digests"][name] = described["digests"].get(old, "")
    content = {key: value for key, value in described.items() if key not in ("sha256", "format")}
    (run / DESCRIPTION).write_bytes(sealed(content))
    with pytest.warns(UserWarning, match="leads out of the folder"):
        assert number_of(run) == 1


def test_a_link_in_the_place_of_a_file_is_not_followed_out_of_the_folder(run, tmp_path):
    file = files_of(run)["actor"]
    file.rename(tmp_path / "outside")
    file.symlink_to(tmp_path / "outside")
    with pytest.warns(UserWarning, match="leads out of the folder"):
        assert number_of(run) == 1


def test_numbers_that_are_not_finite_are_damage_and_are_never_saved(run):
    before = sorted(run.iterdir())
    with pytest.raises(FloatingPointError, match="v is not finite: the agent was not saved"):
        save(run, 3, v=torch.tensor([1.0, float("nan")]))
    assert sorted(run.iterdir()) == before
    as_before_digests(run)
    file = files_of(run)["actor"]
    save_file({"w": torch.full((3, 2), float("inf"))}, file)
    (run / PREVIOUS).unlink()
    with pytest.raises(DamagedError, match=f"{file.name} is damaged: it holds numbers that are not finite"):
        read_saved(run)


# ------------------------------------------------------------------ earlier versions


def as_before_digests(run: Path) -> None:
    """Make of the newest save what versions without digests wrote."""
    files = files_of(run)
    described = unsealed(run / DESCRIPTION)
    old = {key: value for key, value in described.items() if key not in ("sha256", "format", "digests")}
    records = [json.loads(line) for line in files["history"].read_text().splitlines()]
    for record in records:
        del record["check"]
    (run / DESCRIPTION).write_text(json.dumps({**old, "history": records}, indent=2))


def test_an_agent_of_before_digests_loads_with_a_warning_and_is_kept_as_the_save_before(run):
    as_before_digests(run)
    (run / PREVIOUS).unlink()
    with pytest.warns(UserWarning, match="saved by a version without digests"):
        assert number_of(run) == 2
    save(run, 3)
    assert number_of(run) == 3
    (run / DESCRIPTION).unlink()
    with (
        pytest.warns(UserWarning, match="without digests"),
        pytest.warns(UserWarning, match=r"agent\.json is missing"),
    ):
        assert number_of(run) == 2


# ------------------------------------------------------------------ writing


def test_a_save_over_a_damaged_one_keeps_the_whole_one_before(run):
    DAMAGE["truncated"](files_of(run)["actor"])
    save(run, 3)
    assert number_of(run) == 3
    DAMAGE["truncated"](files_of(run)["actor"])
    with pytest.warns(UserWarning, match="of update 1"):
        assert number_of(run) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "replace", "truncate", "ftruncate"])
def test_whatever_the_disk_refuses_leaves_the_saves_as_they_were(call, number, run, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    calls = 0
    real = getattr(os, call)

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    for fails in range(1, 20):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, call, counted)
            with suppress(OSError):
                save(run, 3)
        if calls < fails:
            break
        if number_of(run) == 3:  # the very last step, of the folder, failed: the save is there
            break
        # The save before the last may have gone; the last is as it was, and nothing was added.
        now = {path.name: path.read_bytes() for path in run.iterdir()}
        assert all(now[file.name] == before[file.name] for file in files_of(run).values())
        assert set(now) <= set(before)
    assert number_of(run) == 3


@pytest.mark.parametrize("limit", [0, 100, 700, 1200])
def test_a_file_that_grows_too_large_is_an_error_of_the_disk(limit, run):
    """The kernel's own limit, so that torch and safetensors meet the real error."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save(run, 3)
        except OSError as error:
            os._exit(error.errno or 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == errno.EFBIG
    assert number_of(run) == 2
    assert all(before[path.name] == path.read_bytes() for path in run.iterdir() if path.suffix != ".lock")


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
)
@pytest.mark.parametrize("library", ["torch", "safetensors"])
def test_what_the_libraries_make_of_the_disks_error_is_an_error_of_the_disk(error, library, run, monkeypatch):
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(*((torch, "save") if library == "torch" else (savers, "save_tensors")), fails)
    with pytest.raises(OSError, match=r"the agent was not saved, the save before is whole") as raised:
        save(run, 3)
    assert str(error) in str(raised.value)
    assert number_of(run) == 2


def test_at_no_moment_are_there_more_than_two_saves(run, monkeypatch):
    most = 0
    real = os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal most
        most = max(most, len(list(run.glob("actor-*"))))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for number in (3, 4, 5):
        save(run, number)
    assert most == 2


def test_a_save_is_on_the_disk_before_the_description_names_it(run, monkeypatch):
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name.split("-")[0])
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        calls.append(f"-> {Path(target).name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save(run, 3)
    described = calls.index(f"-> {DESCRIPTION}")
    assert {"actor", "optimiser", "history", "run", ".agent.json.new"} <= set(calls[:described])
    assert calls[calls.index("history") + 1] == "run", "names of the new files are on the disk first"
    assert calls[described + 1 :] == ["run"]


def test_what_a_killed_first_save_has_left_is_in_nobodys_way(tmp_path):
    run = tmp_path / "run"
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(9)  # type: ignore[assignment]
        save(run, 1)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(run.iterdir())) == 5, "three files, the description and the lock"
    assert is_free(run)
    with pytest.raises(FileNotFoundError, match="no saved agent"):
        read_saved(run)
    save(run, 1)
    assert number_of(run) == 1
    assert len(list(run.iterdir())) == 4
    (run / "thesis.txt").touch()
    check_free(run)
    assert not is_free(run)


def test_a_folder_that_another_process_writes_is_not_saved_to(run):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        with savers.one_writer(run):
            os.write(told, b"1")
            time.sleep(60)
    os.read(ready, 1)
    try:
        with pytest.raises(InUseError, match=f"is being written by process {child} "):
            save(run, 3)
        assert number_of(run) == 2, "it can be read meanwhile"
        assert before.items() <= {path.name: path.read_bytes() for path in run.iterdir()}.items()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# ------------------------------------------------------------------ history


def records(number: int) -> list[dict[str, float]]:
    return [
        {"update": at + 1, "reward": at / 7, "kl": float("inf") if at == 2 else 0.0} for at in range(number)
    ]


def test_a_save_writes_the_new_records_alone(tmp_path, monkeypatch):
    ledger, history = histories.Ledger(), records(2000)
    place = ledger.write(tmp_path, history, None, "history-0.jsonl")
    size = (tmp_path / "history-0.jsonl").stat().st_size
    made = []
    real = histories._line
    monkeypatch.setattr(histories, "_line", lambda *given: made.append(1) or real(*given))
    history.append({"update": 2001, "reward": 1.0})
    again = ledger.write(tmp_path, history, place, "history-1.jsonl")
    assert len(made) <= 2, "the cost of a save does not grow with the run"
    assert (again.file, again.records) == ("history-0.jsonl", 2001)
    assert (tmp_path / again.file).stat().st_size == again.bytes > size
    assert histories.read_history(tmp_path, again) == (history, True)
    assert histories.read_history(tmp_path, place) == (history[:2000], True), (
        "a save before is read as it was"
    )


def test_what_a_killed_save_has_added_is_cut_off(tmp_path):
    place = histories.Ledger().write(tmp_path, records(3), None, "history-0.jsonl")
    with (tmp_path / place.file).open("ab") as file:
        file.write(b'{"update": 4, "rew')
    assert histories.read_history(tmp_path, place) == (records(3), True)
    place = histories.Ledger().write(tmp_path, records(5), place, "history-1.jsonl")
    assert place.file == "history-0.jsonl"
    assert histories.read_history(tmp_path, place) == (records(5), True)
    assert (tmp_path / place.file).stat().st_size == place.bytes


@pytest.mark.parametrize("other", ["cut", "changed", "emptied"])
def test_records_that_are_no_continuation_go_to_a_file_of_their_own(other, tmp_path):
    ledger, history = histories.Ledger(), records(4)
    place = ledger.write(tmp_path, history, None, "history-0.jsonl")
    new = {"cut": history[:2], "changed": [{"update": 9.0}, *records(5)], "emptied": []}[other]
    again = ledger.write(tmp_path, new, place, "history-1.jsonl")
    assert again.file == "history-1.jsonl"
    assert histories.read_history(tmp_path, again) == (new, True)
    assert histories.read_history(tmp_path, place) == (records(4), True)


def test_a_history_of_another_run_in_the_same_folder_is_left_to_it(run):
    """A second agent is saved over the first: its records do not follow the first one's."""
    weights = {"w": torch.full((3, 2), 7.0)}
    Saver().write(run, {**DESCRIBED, "num_updates": 1}, weights, {}, [{"update": 1, "reward": 5.0}])
    assert read_saved(run).history == [{"update": 1, "reward": 5.0}]
    (run / DESCRIPTION).unlink()
    with pytest.warns(UserWarning, match="the save before it is loaded, of update 2"):
        assert number_of(run) == 2


def test_weights_are_plain_safetensors(run):
    assert load_file(files_of(run)["actor"])["w"][0, 0] == 2
