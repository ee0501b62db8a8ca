"""Compiled loops are kept for later processes, and only ever read as the code of this very source."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numba")

from numba.core.caching import CacheImpl

from cola_agents.decoding import compiling

SOURCE = (
    "from cola_agents.decoding.compiling import compiled\n\n@compiled\ndef f(x):\n    return {factor} * x\n"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder; and no module of :func:`written` outlives a test."""
    monkeypatch.setitem(sys.modules, "loops", None)
    for name in ("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def written(folder: Path, factor: float) -> Callable[[float], float]:
    """A module of the same size and time of change whatever the factor is, as a new process imports it."""
    folder.mkdir(exist_ok=True)
    path = folder / "loops.py"
    path.write_text(SOURCE.format(factor=factor))
    os.utime(path, (1, 1))
    spec = importlib.util.spec_from_file_location("loops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["loops"] = module
    spec.loader.exec_module(module)
    f: Callable[[float], float] = module.f
    return f


def read(f: Any) -> bool:
    """Whether the first call of ``f`` read what was kept."""
    return sum(f.stats.cache_hits.values()) == 1


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.compiled"))


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """A disk on which no file can hold more than ``room`` bytes."""
    resource = pytest.importorskip("resource", reason="limits of a process")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_later_process_reads_what_was_compiled(tmp_path: Path) -> None:
    first = written(tmp_path, 2.0)
    assert first(3.0) == 6.0
    assert not read(first)
    again = written(tmp_path, 2.0)
    assert again(3.0) == 6.0
    assert read(again)
    assert again(3) == 6, "another type of argument is compiled"
    assert len(kept(tmp_path / "__pycache__")) == 2


@pytest.mark.parametrize("room", [300, 2000])
def test_a_full_disk_never_brings_back_the_code_of_an_older_source(tmp_path: Path, room: int) -> None:
    """numba's own files do: 2000 bytes hold its index and not the code, and the next process computed 6."""
    assert written(tmp_path, 2.0)(3.0) == 6.0
    assert kept(tmp_path)[0].stat().st_size > 2000
    with full_disk(room):
        assert written(tmp_path, 5.0)(3.0) == 15.0, "the process itself goes on"
    assert len(kept(tmp_path)) == 1
    later = written(tmp_path, 5.0)
    assert later(3.0) == 15.0
    assert not read(later)
    assert len(kept(tmp_path)) == 2


@pytest.mark.parametrize("damage", [lambda code: code[:-10], lambda code: b"", lambda code: code[:40] + b"x"])
def test_a_damaged_file_is_compiled_and_written_again(tmp_path: Path, damage: Any) -> None:
    assert written(tmp_path, 2.0)(3.0) == 6.0
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    later = written(tmp_path, 2.0)
    assert later(3.0) == 6.0
    assert not read(later)
    again = written(tmp_path, 2.0)
    assert again(3.0) == 6.0
    assert read(again)


def test_other_flags_and_another_numba_are_other_files(tmp_path: Path, monkeypatch: Any) -> None:
    assert written(tmp_path, 2.0)(3.0) == 6.0
    monkeypatch.setattr(compiling, "REORDERED", frozenset())
    plain = written(tmp_path, 2.0)
    assert plain(3.0) == 6.0
    assert not read(plain)
    monkeypatch.setattr(compiling.numba, "__version__", "0.0")
    other = written(tmp_path, 2.0)
    assert other(3.0) == 6.0
    assert not read(other)
    assert len(kept(tmp_path)) == 3


def test_beside_a_source_that_cannot_be_written_the_users_folder_keeps_it(tmp_path: Path, home: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__pycache__").write_text("a file, so that no folder can be made")
    assert written(package, 2.0)(3.0) == 6.0
    assert not kept(package)
    assert len(kept(home)) == 1
    again = written(package, 2.0)
    assert again(3.0) == 6.0
    assert read(again)


def test_where_nothing_can_be_kept_every_process_compiles(tmp_path: Path, monkeypatch: Any) -> None:
    """A container whose installation and home are read-only, say."""
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    for _ in range(2):
        f = written(tmp_path, 2.0)
        assert f(3.0) == 6.0
        assert not read(f)
    assert not kept(tmp_path)


def _compile(folder: Path, answer: Any) -> None:
    answer.send(written(folder, 2.0)(3.0))


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_forked_processes_that_compile_at_once_all_go_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    pipes, processes = [context.Pipe() for _ in range(3)], []
    for _, theirs in pipes:
        processes.append(context.Process(target=_compile, args=(tmp_path, theirs)))
        processes[-1].start()
    for (mine, _), process in zip(pipes, processes, strict=True):
        assert mine.poll(120)
        assert mine.recv() == 6.0
        process.join()
    later = written(tmp_path, 2.0)
    assert later(3.0) == 6.0
    assert read(later)
