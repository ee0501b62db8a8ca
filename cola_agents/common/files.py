"""Atomic writes of files and folders, and a lock by which one process writes at a time."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import stat
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

#: The lock file of a folder, which names the process that writes it.
LOCK = ".writer.lock"
#: The settings of `cola train`, beside its agent: number of timesteps, saving, logging.
SETTINGS = "run.json"
#: Environment variables in which launchers of several processes set the rank of each.
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


#: How the name of a folder begins whose files are moved to the folder around it, and the list of the moves.
_MOVING, _STEPS = ".moving-", ".steps.json"
Step = Literal["move", "remove"]


class InUseError(OSError):
    """Another process holds the lock."""


# ---------------------------------------------------------------- atomic writes


def flush(path: Path) -> None:
    """Write a file, or a folder's entries, to the disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unfinished(path: Path) -> Path:
    """The temporary file of :func:`write_whole`, which remains if the process is killed."""
    return path.with_name(f".{path.name}.new")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: after an interruption it has its old or its new content.

    Raises:
        OSError: where it cannot be written; the file is unchanged.
    """
    temporary = unfinished(path)
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # "x" does not follow a link of that name
            file.write(content)
        flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_json(path: Path, value: object, *, indent: int | None = None) -> None:
    """Write a JSON file as :func:`write_whole` does."""
    write_whole(path, (json.dumps(value, indent=indent) + "\n").encode())


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Write a folder atomically: yield a temporary one, which is renamed to ``path`` at the block's end.

    After an error it is removed. Its files are flushed to the disk before it is renamed, so that a new folder
    is whole after a crash of the machine. It is renamed once, so that no kill leaves half of it: what is to
    replace the files of another is for :func:`move_files`.

    Args:
        path: the folder to write, absent or empty, or a link to it, which stays one; its parents are created.

    Raises:
        FileExistsError: where ``path`` exists and is no empty folder; before anything is written.
    """
    path = path.resolve()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} is not an empty folder: nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, files in os.walk(temporary, topdown=False):
            for file in files:
                flush(Path(folder, file))
            flush(Path(folder))
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_files(new: Path, plan: Callable[[], Sequence[tuple[Step, str]]]) -> None:
    """Move files of a folder to the folder that it is in, and remove files there, as one step.

    The steps are written down first. After a kill between two of them :func:`finish_moves` makes the others,
    so that whoever calls it before reading finds all or none of them done. A lock on the folder around is
    held from the plan to the last step, so that another writer's steps come before or after; not on a file
    system without locks. A link is replaced or removed itself, not the file that it leads to.

    Args:
        new: the folder with the files, flushed to the disk; it is gone after steps that move all of them.
        plan: gives the steps in their order, ``("move", name)`` or ``("remove", name)``. A file that is moved
            may be removed before, but not after. It is called while the lock is held, and must not wait for
            another save into the folder.

    Raises:
        ValueError: for a name that is not a plain one; nothing was moved.
        IsADirectoryError: where a folder has the name of a file to move or to remove; nothing was moved.
        OSError: where it cannot be done; :func:`finish_moves` tries again.
    """
    folder = new.parent
    with _alone(folder):
        _finish(folder)
        steps = plan()
        for _, name in steps:
            if not _is_plain(name):
                raise ValueError(f"{name!r} is no plain name of a file in {folder}: nothing was moved")
            if (folder / name).is_dir() and not (folder / name).is_symlink():
                raise IsADirectoryError(
                    f"{folder / name} is a folder, and a file of that name is to be written or removed: "
                    "nothing was changed; move it away, or give another folder"
                )
        write_json(new / _STEPS, {"steps": steps})
        moving = folder / f"{_MOVING}{uuid.uuid4().hex[:8]}"
        os.replace(new, moving)
        flush(folder)
        _make_steps(moving)


def finish_moves(folder: Path) -> None:
    """Make the steps of :func:`move_files` that a kill has left; returns at once where there are none.

    Raises:
        OSError: where they cannot be made, as in a folder that is read-only.
        ValueError: where the list of the steps is damaged.
    """
    if _begun(folder):
        with _alone(folder):
            _finish(folder)


def _begun(folder: Path) -> list[Path]:
    """The folders in a folder with a name as :func:`move_files` gives it; a link is none."""
    found = sorted(folder.glob(f"{_MOVING}*"))
    name = re.compile(re.escape(_MOVING) + "[0-9a-f]{8}")
    return [path for path in found if name.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]


def _finish(folder: Path) -> None:
    """As :func:`finish_moves`, while the lock is held; an empty one, without a list of steps, is removed."""
    for moving in _begun(folder):
        try:
            _make_steps(moving)
        except FileNotFoundError:
            continue  # its writer was faster, on a file system without locks
        except OSError as error:
            raise type(error)(
                f"{folder} holds a save that was interrupted while its files were moved, and those left in "
                f"{moving.name} cannot be moved now: {error}. Load it once where it can be written and "
                "nothing is in their way"
            ) from error


def _make_steps(moving: Path) -> None:
    """Make the steps that are written down in a folder, and remove it if it is empty then."""
    if (moving / _STEPS).is_file():
        steps = _read_steps(moving)
        moved = {name for step, name in steps if step == "move"}
        for step, name in steps:
            source, target = moving / name, moving.parent / name
            if step == "move" and os.path.lexists(source):
                os.replace(source, target)
            elif step == "remove" and (name not in moved or os.path.lexists(source)):
                target.unlink(missing_ok=True)
        flush(moving.parent)
        (moving / _STEPS).unlink()
    with suppress(OSError):
        moving.rmdir()


def _read_steps(moving: Path) -> list[tuple[Step, str]]:
    try:
        steps = json.loads((moving / _STEPS).read_bytes())["steps"]
        if all(step in ("move", "remove") and _is_plain(name) for step, name in steps):
            return [(step, name) for step, name in steps]
        cause = "it holds other steps than to move or remove files with plain names"
    except (ValueError, KeyError, TypeError) as error:
        cause = repr(error)
    raise ValueError(
        f"{moving / _STEPS} is damaged ({cause}): a save into {moving.parent} was interrupted while its "
        f"files were moved, and which are left is not known. Remove {moving} and save the model again; what "
        "is beside it may be of two saves"
    )


def _is_plain(name: object) -> bool:
    """Whether something is the name of a file, without a path."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; other threads or processes hold it for moments."""
    import fcntl  # only on POSIX

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(1000):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    break  # a file system without locks
                time.sleep(0.01)  # after ten seconds its holder is taken for a child of one that was killed
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone leaves it to a child forked meanwhile
        os.close(descriptor)


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a folder.

    Raises:
        ValueError: for a name that leads out of the folder, directly or through a link.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent  # in the hub's cache a repository's files are links to its own blobs
    if Path(name).name != name or not (folder / name).resolve().is_relative_to(root):
        raise ValueError(
            f"the file {name!r} is not in {folder}: only plain names of files in it are allowed, and no "
            "links out of it: copy the file into the folder"
        )
    return folder / name


# ---------------------------------------------------------------- one writer


@dataclass
class _Held:
    """A lock of this process: its open file, and the number of blocks that use it."""

    descriptor: int
    blocks: int = 0


_held: dict[Path, _Held] = {}
_guard = threading.RLock()
#: How often a lock is tried to be made while others remove it.
_MOST_TRIES = 1000


@contextmanager
def one_writer(path: str | Path, kind: Literal["folder", "file"] = "folder") -> Iterator[None]:
    """Lock a folder or a file within the block, so that only this process writes it.

    The lock is the operating system's (``flock``) on a small file, :data:`LOCK` in a folder or ``.NAME.lock``
    beside a file, which names the process. It is released at the end of the block, or of the process in any
    way; a forked child does not inherit it. The same process may take it again inside the block. A missing
    folder is created, and removed again if the block leaves it empty.

    The package ``filelock`` is not used: the versions of it that torch and huggingface_hub accept truncate
    the lock file in a second process, pass the lock to forked children, or fall back to a lock that outlives
    its process.

    Raises:
        InUseError: where another process holds the lock, naming it; nothing was changed.
        FileExistsError: where ``path`` is a file and ``kind`` is ``"folder"``.
    """
    path = Path(path).resolve()
    if kind == "folder" and _is_other_than_a_folder(path):
        raise FileExistsError(f"{path} is a file, and a folder is to be written: give another name")
    folder = path if kind == "folder" else path.parent
    lock = path / LOCK if kind == "folder" else path.with_name(f".{path.name}.lock")
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        with _guard:
            held = _take(lock, path)
        try:
            yield
        finally:
            with _guard:
                _give_back(lock, held)
    finally:
        _remove_empty(missing)


def first_process() -> bool:
    """Whether this process is rank 0, the only one that writes files; True without a launcher."""
    return all(int(os.environ.get(name) or 0) == 0 for name in _RANKS)


def _take(lock: Path, path: Path) -> _Held:
    """Take the lock for one more block."""
    held = _held.get(lock)
    if held is None:
        held = _held[lock] = _Held(_locked(lock, path))
    elif not _is_there(held.descriptor, lock):  # the folder was removed meanwhile
        descriptor = _locked(lock, path)
        os.close(held.descriptor)
        held.descriptor = descriptor
    held.blocks += 1
    return held


def _give_back(lock: Path, held: _Held) -> None:
    """Release the lock for one block; the last one removes it."""
    if _held.get(lock) is not held:  # in a forked child
        return
    held.blocks -= 1
    if not held.blocks:
        del _held[lock]
        if _is_there(held.descriptor, lock):
            lock.unlink()  # before releasing: afterwards the file may be another process's
        os.close(held.descriptor)


def _locked(lock: Path, path: Path) -> int:
    """Open and lock the file that names this process as the writer of ``path``."""
    for left in reversed(range(_MOST_TRIES)):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # another process has just removed the folder that it created
            if not left:  # or nothing can be made there, as in /proc
                raise
            continue
        except FileExistsError:  # the same, between two steps of mkdir
            if _is_other_than_a_folder(lock.parent):
                raise
            continue
        try:
            _flock(descriptor, path)
            if _is_there(descriptor, lock):
                try:
                    _write_holder(descriptor)
                except BaseException:
                    lock.unlink()
                    raise
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed the file after it was opened here
    raise InUseError(f"{path} was locked and released {_MOST_TRIES} times meanwhile: try again")


def _write_holder(descriptor: int) -> None:
    """Write id, host and time of this process into its lock file."""
    since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}, since {since}\n".encode(), 0)


def _flock(descriptor: int, path: Path) -> None:
    """Lock an open file, or raise InUseError that names its holder."""
    import fcntl  # only on POSIX

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").strip()
            raise InUseError(
                f"{path} is being written by {holder or 'another process'}: wait until that has ended, or "
                "stop it, or give another name; nothing was changed"
            ) from None
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        warnings.warn(
            f"the file system of {path} has no locks ({error}): a second process could write there at the "
            "same time",
            stacklevel=6,
        )


def _is_there(descriptor: int, lock: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def _is_other_than_a_folder(path: Path) -> bool:
    """Whether the path exists and is not a folder; with one stat, since it may vanish meanwhile."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, ordered from the innermost, until one is not empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:  # not empty, or removed already
            return


def _drop_inherited() -> None:
    """Close the parent's locks in a forked child, which must not hold them."""
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()
    _guard.release()


os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release, after_in_child=_drop_inherited)
