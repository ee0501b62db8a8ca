"""Files and folders appear whole or not at all, and have one writer."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cola_agents.common.files import (
    LOCK,
    InUseError,
    finish_moves,
    move_files,
    one_writer,
    whole_folder,
    write_whole,
)

KINDS = pytest.mark.parametrize("kind", ["folder", "file"])


def forked(run: Callable[[], object]) -> int:
    """A child process that runs something; its status is 0 where that returned."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def hold(path: Path, kind: Any, *, with_child: bool = False) -> int:
    """A process that has the lock when this returns, and until it is killed."""
    ready, told = os.pipe()

    def run() -> None:
        with one_writer(path, kind):
            if with_child and os.fork() == 0:  # lives on without its parent, as a worker process may
                time.sleep(60)
                os._exit(0)
            os.write(told, b"1")
            time.sleep(60)

    child = forked(run)
    os.read(ready, 1)
    return child


@KINDS
def test_a_second_writer_is_refused_with_the_name_of_the_first(kind, tmp_path):
    child = hold(tmp_path / "run", kind)
    try:
        before = sorted(tmp_path.rglob("*"))
        holder = f"process {child} on {socket.gethostname()}, since 20"
        with pytest.raises(InUseError, match=f"is being written by {holder}.*wait until"):
            one_writer(tmp_path / "run", kind).__enter__()
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        os.kill(child, signal.SIGKILL)
        status_of(child)


@KINDS
def test_a_killed_writer_holds_nothing_even_where_its_forked_child_lives(kind, tmp_path):
    child = hold(tmp_path / "run", kind, with_child=True)
    try:
        os.kill(child, signal.SIGKILL)
        assert status_of(child) == -signal.SIGKILL
        os.killpg(child, 0)  # its child is alive
        with one_writer(tmp_path / "run", kind):
            pass
    finally:
        os.killpg(child, signal.SIGKILL)


@KINDS
def test_a_writer_that_has_ended_leaves_nothing(kind, tmp_path):
    with one_writer(tmp_path / "deep" / "run", kind):
        assert list(tmp_path.rglob("*.lock"))
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_may_take_it_again(tmp_path):
    with one_writer(tmp_path / "run"):
        with one_writer(tmp_path / "there" / ".." / "run"):
            pass
        text = (tmp_path / "run" / LOCK).read_text()
        assert text.startswith(f"process {os.getpid()} on "), "the inner block ended nothing"


def test_a_forked_child_does_not_have_the_lock_and_cannot_end_it(tmp_path):
    def refused() -> None:
        with pytest.raises(InUseError):
            one_writer(tmp_path / "run").__enter__()

    block = one_writer(tmp_path / "run")
    block.__enter__()
    assert status_of(forked(refused)) == 0
    assert status_of(forked(lambda: block.__exit__(None, None, None))) == 0
    assert status_of(forked(refused)) == 0
    block.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_removed_meanwhile_is_locked_anew(tmp_path):
    run = tmp_path / "run"
    with one_writer(run):
        (run / LOCK).unlink()
        run.rmdir()
        with one_writer(run):
            assert (run / LOCK).read_text().startswith(f"process {os.getpid()} on ")
            (run / "kept").touch()
    assert [path.name for path in run.iterdir()] == ["kept"]


def test_a_lock_that_is_a_link_to_somewhere_else_is_not_followed(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "thesis")
    with pytest.raises(OSError), one_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(FileExistsError, match="is a file, and a folder is to be written"):
        one_writer(tmp_path / "thesis").__enter__()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def without(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.warns(UserWarning, match="has no locks"), one_writer(tmp_path / "run"):
        pass


def test_many_that_begin_at_once_have_one_writer_at_a_time(tmp_path):
    """Each takes the lock for a moment and gives it back, many times over: none meets another inside."""
    until = time.monotonic() + 1

    def take_turns() -> None:
        while time.monotonic() < until:
            with suppress(InUseError), one_writer(tmp_path / "run"):
                os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                os.unlink(tmp_path / "inside")

    assert [status_of(child) for child in [forked(take_turns) for _ in range(4)]] == [0] * 4


def test_a_folder_that_vanishes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """The writer before removes the folder after mkdir has met its name and before it looks what has it."""
    real_mkdir, met = os.mkdir, []

    def mkdir(path: Any, *rest: Any) -> None:
        if not met:
            met.append(path)
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        real_mkdir(path, *rest)

    monkeypatch.setattr(os, "mkdir", mkdir)
    with one_writer(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).exists()
    assert met


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_is_as_it_was(step, tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"first")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_whole_is_on_the_disk_with_its_names(tmp_path, monkeypatch):
    """Files first, then the names in their folders, and the new name last."""
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_fsync(descriptor)

    def replace(source: str, target: str) -> None:
        calls.append(f"-> {Path(target).name}")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_whole(tmp_path / "a", b"content")
    assert calls == [".a.new", "-> a", tmp_path.name]
    calls.clear()
    with whole_folder(tmp_path / "new") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").touch()
    assert calls == ["file", "inner", folder.name, "-> new", tmp_path.name]


def test_what_is_there_already_is_no_whole_folder_to_write(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")
    for name in ("a", "a/old"):
        with pytest.raises(FileExistsError, match="nothing was written"), whole_folder(tmp_path / name):
            pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "old"]


def test_a_whole_folder_comes_with_one_rename_also_where_an_empty_one_is(tmp_path, monkeypatch):
    """A kill between two would leave none."""
    replace, calls = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(paths), replace(*paths)))
    (tmp_path / "a").mkdir()
    with whole_folder(tmp_path / "a") as new:
        (new / "new").write_text("new")
    assert len(calls) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "new"]


STEPS: list[tuple[Any, str]] = [
    ("remove", "b"),
    ("move", "a"),
    ("move", "b"),
    ("move", "c"),
    ("remove", "old"),
    ("remove", "never"),
]


@pytest.mark.parametrize("number", range(12))
def test_moves_that_were_killed_anywhere_are_finished_or_have_not_begun(tmp_path, number):
    """A child is killed before its ``number``-th rename, removal or flush."""
    for name in ("a", "b", "old", "other"):
        (tmp_path / name).write_text("old")
    (tmp_path / "new").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "new" / name).write_text("new")

    def killed() -> None:
        left = iter(range(number))

        def counted(real: Any, *given: Any, **options: Any) -> Any:
            if next(left, None) is None:
                os._exit(9)
            return real(*given, **options)

        os.replace, os.fsync = partial(counted, os.replace), partial(counted, os.fsync)
        os.unlink = partial(counted, os.unlink)  # which Path.unlink calls
        move_files(tmp_path / "new", STEPS)

    assert status_of(forked(killed)) == 9
    finish_moves(tmp_path)
    found = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    begun = not (tmp_path / "new").exists()
    after = {"a": "new", "b": "new", "c": "new", "other": "old"}
    assert found == (after if begun else {"a": "old", "b": "old", "old": "old", "other": "old"})
    assert not list(tmp_path.glob(".moving*"))
    assert begun or number < 6
    before = found
    finish_moves(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()} == before


def test_moves_that_lead_out_of_the_folder_are_refused(tmp_path):
    (tmp_path / "in" / ".moving-1").mkdir(parents=True)
    (tmp_path / "a").write_text("a")
    (tmp_path / "in" / ".moving-1" / ".steps.json").write_text('{"steps": [["remove", "../a"]]}')
    with pytest.raises(ValueError, match="only plain names"):
        finish_moves(tmp_path / "in")
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_written_where_a_link_leads(tmp_path, there) -> None:
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "big", tmp_path / "link"
    link.symlink_to(target)
    if there:
        target.mkdir()
    with whole_folder(link) as new:
        (new / "weights").write_text("1")
    assert link.is_symlink()
    assert (target / "weights").read_text() == "1"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["big", "disk", "link", "weights"]
