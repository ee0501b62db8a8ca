"""Files and folders appear whole or not at all, and have one writer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
            parent = bool(os.fork()) if with_child else True
            if parent is not with_child:  # with a child it tells, once it has let go of the lock
                os.write(told, b"1")
            time.sleep(60)  # a child lives on without its parent, as a worker process may
            if not parent:
                os._exit(0)

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


@pytest.mark.parametrize("number", range(15))
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
        os.unlink, os.rmdir = partial(counted, os.unlink), partial(counted, os.rmdir)  # which Path calls
        move_files(tmp_path / "new", lambda: STEPS)

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


def begun(folder: Path, steps: str, name: str = ".moving-0123abcd") -> Path:
    """A save of the file ``a`` into a folder that was killed after its steps were written down."""
    (folder / name).mkdir(parents=True)
    (folder / name / ".steps.json").write_text(steps)
    (folder / name / "a").write_text("new")
    return folder / name


def every(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


MOVE_A = '{"steps": [["move", "a"]]}'
DAMAGED = [
    "",
    "[]",
    "{}",
    '{"steps": 1}',
    '{"steps": [["move"]]}',
    '{"steps": [["move", 1]]}',
    "\xff",
    MOVE_A[:-1],
]
OUTSIDE = [json.dumps({"steps": [["remove", name]]}) for name in ("../a", "..", ".", "", "/a", "b/a")]


@pytest.mark.parametrize("steps", DAMAGED + OUTSIDE)
def test_damaged_steps_and_those_out_of_the_folder_are_refused_and_what_to_do_is_said(tmp_path, steps):
    moving = begun(tmp_path / "in", steps)
    (tmp_path / "a").write_text("a")
    before = every(tmp_path)
    with pytest.raises(ValueError, match=r"is damaged .*in/\.moving-0123abcd and save the model again"):
        finish_moves(tmp_path / "in")
    assert every(tmp_path) == before
    for path in moving.iterdir():
        path.unlink()
    finish_moves(tmp_path / "in")
    assert not moving.exists()


@pytest.mark.parametrize("name", ["../b", "..", ".", "", "in/b"])
def test_moves_out_of_the_folder_are_refused_before_any(tmp_path, name):
    (tmp_path / "in" / "new").mkdir(parents=True)
    (tmp_path / "in" / "new" / "a").write_text("a")
    with pytest.raises(ValueError, match="no plain name"):
        move_files(tmp_path / "in" / "new", lambda: [("move", "a"), ("remove", name)])
    assert every(tmp_path) == {"in/new/a": "a"}


def test_a_link_is_replaced_or_removed_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "store" / "folder").mkdir(parents=True)
    (tmp_path / "in" / "new").mkdir(parents=True)
    for name, to in {"a": "kept", "b": "folder", "c": "absent", "old": "kept"}.items():
        (tmp_path / "in" / name).symlink_to(tmp_path / "store" / to)
        (tmp_path / "in" / "new" / name).write_text("new")
    (tmp_path / "in" / "new" / "old").unlink()
    (tmp_path / "store" / "kept").write_text("kept")
    move_files(tmp_path / "in" / "new", lambda: [*(("move", one) for one in "abc"), ("remove", "old")])
    assert every(tmp_path) == {"store/kept": "kept", "in/a": "new", "in/b": "new", "in/c": "new"}
    assert not any(path.is_symlink() for path in (tmp_path / "in").iterdir())
    assert (tmp_path / "store" / "folder").is_dir()


@pytest.mark.parametrize("step", ["move", "remove"])
def test_a_folder_with_the_name_of_a_file_is_refused_before_any_move(tmp_path, step):
    (tmp_path / "b").mkdir()
    (tmp_path / "new").mkdir()
    for name in ("a", "b"):
        (tmp_path / "new" / name).write_text("new")
    with pytest.raises(IsADirectoryError, match=r"b is a folder.*nothing was changed"):
        move_files(tmp_path / "new", lambda: [("move", "a"), (step, "b")])
    assert every(tmp_path) == {"new/a": "new", "new/b": "new"}


def test_a_folder_in_the_way_of_a_killed_save_is_named_and_the_save_finished_without_it(tmp_path):
    begun(tmp_path, MOVE_A)
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError, match=r"interrupted while its files were moved.*\.moving-0123abcd"):
        finish_moves(tmp_path)
    (tmp_path / "a").rmdir()
    finish_moves(tmp_path)
    assert every(tmp_path) == {"a": "new"}


def test_folders_of_others_and_links_are_left_alone(tmp_path):
    begun(tmp_path / "elsewhere", MOVE_A)
    begun(tmp_path / "in", MOVE_A, ".moving-pictures")
    begun(tmp_path / "in", MOVE_A, ".moving-01234567")
    (tmp_path / "in" / ".moving-01234567" / ".steps.json").unlink()
    (tmp_path / "in" / ".moving-89abcdef").symlink_to(tmp_path / "elsewhere" / ".moving-0123abcd")
    before = every(tmp_path)
    finish_moves(tmp_path / "in")
    assert every(tmp_path) == before
    (tmp_path / "in" / "new").mkdir()
    move_files(tmp_path / "in" / "new", list)
    assert every(tmp_path) == before


def test_a_child_that_is_forked_in_a_save_does_not_keep_its_lock(tmp_path):
    (tmp_path / "new").mkdir()
    children: list[int] = []

    def plan() -> list[Any]:
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
        children.append(forked(partial(time.sleep, 60)))
        return []

    move_files(tmp_path / "new", plan)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(children[0], signal.SIGKILL)
        status_of(children[0])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The lock of a folder itself, if nobody has it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


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


def test_a_folder_where_nothing_can_be_made_ends_the_tries():
    """/proc answers that it does not exist, for good."""
    with pytest.raises(FileNotFoundError), one_writer("/proc/agent"):
        pass
