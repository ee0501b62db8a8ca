"""Write saved agents, each in one atomic step, in the format of :mod:`cola_agents.rl.saving`."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import save as save_tensors
from torch import Tensor

from cola_agents.common.files import LOCK, flush, one_writer, write_whole
from cola_agents.common.sealed import SEAL, DamagedError, is_sealed, sealed
from cola_agents.rl.history import Ledger, Record, cut
from cola_agents.rl.saving import DESCRIPTION, LEFT, PREVIOUS, Described, check_free, read_described

T = TypeVar("T")


class Saver:
    """Writes the saves of one agent."""

    def __init__(self) -> None:
        self._ledger = Ledger()
        self._last: str | None = None  # the seal of the last description that this object wrote

    def write(
        self,
        path: Path,
        description: dict[str, Any],
        weights: dict[str, Tensor],
        optimiser: dict[str, Any],
        history: Sequence[Record],
    ) -> None:
        """Write a saved agent; until the last step readers get the previous one.

        The files are written under new names and are on the disk before :data:`DESCRIPTION`, which names
        them, is replaced in one step. The old description becomes :data:`PREVIOUS`. The save before that is
        deleted first, so that there are never more than two.

        Raises:
            FileExistsError: if ``path`` holds something other than a saved agent.
            InUseError: while another process writes there.
            FloatingPointError: for weights that are not finite.
            OSError: where it cannot be written. After any of these the last save is unchanged.
        """
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"{name} is not finite: the agent was not saved to {path}")
        with one_writer(path):
            check_free(path)
            last = self._last_whole(path)
            _clear(path, last)
            try:
                self._write(path, last, description, weights, optimiser, history)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror or error}: the agent was not saved"
                    + (", the save before is whole" if last else ""),
                    str(path),
                ) from error

    def _write(
        self,
        path: Path,
        last: Described | None,
        description: dict[str, Any],
        weights: dict[str, Tensor],
        optimiser: dict[str, Any],
        history: Sequence[Record],
    ) -> None:
        mark = uuid4().hex[:8]
        files = {"actor": f"actor-{mark}.safetensors", "optimiser": f"optimiser-{mark}.pt"}
        name = f"history-{mark}.jsonl"
        text: bytes | None = None
        try:
            digests = {
                files["actor"]: _put(path / files["actor"], lambda out: out.write(save_tensors(weights))),
                files["optimiser"]: _put(path / files["optimiser"], lambda out: torch.save(optimiser, out)),
            }
            place = self._ledger.write(path, history, last.place if last else None, name)
            text = sealed({**description, "files": files, "digests": digests, "history": asdict(place)})
            flush(path)
            if last:
                write_whole(path / PREVIOUS, last.text)
            write_whole(path / DESCRIPTION, text)
        except BaseException:
            if not (path / DESCRIPTION).is_file() or (path / DESCRIPTION).read_bytes() != text:
                for new in (*files.values(), name):
                    (path / new).unlink(missing_ok=True)
                if last and last.place:
                    cut(path, last.place)
            raise
        self._last = json.loads(text)[SEAL]

    def _last_whole(self, path: Path) -> Described | None:
        """The last whole save; saves of other objects are checked by their digests."""
        for name in (DESCRIPTION, PREVIOUS):
            try:
                described = read_described(path, name)
                if not is_sealed(described.content) or described.content[SEAL] != self._last:
                    described.check()
            except DamagedError:
                continue
            return described
        return None


class _Output:
    """An open file that computes the digest of its content, and records an error of the disk."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self._noting(lambda: self._file.write(content))

    def flush(self) -> None:
        self._noting(self._file.flush)

    def _noting(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            self.error = error
            raise


def _put(path: Path, write: Callable[[Any], object]) -> str:
    """Write a new file to the disk; return its digest."""
    with path.open("xb") as file:
        output = _Output(file)
        try:
            write(output)
        except (RuntimeError, SafetensorError) as error:  # how the libraries report an error of the disk
            raise (output.error or OSError(errno.EIO, str(error))) from error
    flush(path)
    return output.digest.hexdigest()


def _clear(path: Path, last: Described | None) -> None:
    """Delete all saves except the last whole one, and files of interrupted saves."""
    current = {LOCK} if last is None else {LOCK, last.name, *last.files}
    for old in path.iterdir():
        if old.name not in current and (LEFT.fullmatch(old.name) or old.name == PREVIOUS):
            old.unlink()
