"""The log of a stage: a JSON-lines file, and TensorBoard."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

from cola_agents.common.files import flush, unfinished, write_whole
from cola_agents.train.checkpoints import broken_name
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject


class RecordLog:
    """Appends records to a JSON-lines file and, where it is installed, to TensorBoard beside it.

    Args:
        name: name of the stage; scalars are called ``name/key``.
        path: the file; None for no log. TensorBoard's events are in the folder ``tensorboard`` beside it.
        tensorboard: None to write events if the package is installed, True to require it, False for never.

    Raises:
        ImportError: if TensorBoard is required and missing.
        ValueError: if it is required and there is no ``path``.
    """

    def __init__(self, name: str, path: Path | None, tensorboard: bool | None = None) -> None:
        self._name, self._path = name, path
        self._writer: Any = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path is None:
            if tensorboard:
                raise ValueError("tensorboard=True needs a log file, beside which its events are written")
        elif tensorboard is not False:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                if tensorboard:
                    raise ImportError(
                        "tensorboard=True needs TensorBoard: pip install 'cola-rl[tensorboard]'"
                    ) from error
            else:
                # No purge_step: it would also hide other stages' events in the folder. A resumed run writes
                # the events of repeated steps again, with the same values.
                self._writer = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, record: dict[str, float]) -> None:
        """Write one record; its ``step`` is TensorBoard's global step."""
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"stage": self._name, **record}) + "\n")
        if self._writer:
            for key, value in record.items():
                if key != "step":
                    self._writer.add_scalar(f"{self._name}/{key}", value, int(record["step"]))

    def flush(self) -> None:
        """Write everything to the disk."""
        if self._path and self._path.exists():
            flush(self._path)
        if self._writer:
            self._writer.flush()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer:
            self._writer.close()


class LogWarning(UserWarning):
    """A log has a damaged line."""


def rewind(path: Path, name: str, step: int, start: int) -> None:
    """Remove from a log the records after the checkpoint from which a killed run is resumed.

    A damaged line is removed too, with a :class:`LogWarning` that names it; the old log is then kept under
    another name.

    Args:
        path: the log; it may be absent.
        name: name of the stage.
        step: step of the checkpoint: records of later steps and an unfinished last line are removed.
        start: size of the log in bytes at the beginning of the run; these bytes are not changed.
    """
    unfinished(path).unlink(missing_ok=True)
    if not path.exists():
        return
    remaining, damage = [], []
    for line in jsonl.lines(path):
        if line.end is not None and line.end > start:
            # A kill truncates a line, which is written again; a power cut leaves zeros: a damaged line.
            if not line.whole and b"\0" not in line.raw:
                continue
            try:
                record = _record(line, path)
            except ValueError as error:
                damage.append(str(error))
                continue
            if record["stage"] == name and record["step"] > step:
                continue
        remaining.append(line.raw)
    rewound = b"".join(remaining)
    if damage:
        copy = broken_name(path)
        shutil.copyfile(path, copy)
        flush(copy)
        _warn(damage, f"it was removed, and the old log is kept as {copy.name}")
    if len(rewound) != path.stat().st_size:
        write_whole(path, rewound)


def check_log(path: Path) -> None:
    """Warn about damaged lines in a finished run's log, naming them; the log may be absent."""
    damage = []
    for line in jsonl.lines(path) if path.exists() else ():
        try:
            _record(line, path)
        except ValueError as error:
            damage.append(str(error))
    if damage:
        _warn(damage, "the log is left as it is")


def _record(line: jsonl.Line, path: Path) -> JsonObject:
    """Parse a line's record; ValueError for a line without one, naming file and line."""
    where = f"{path}, line {line.number}"
    record = jsonl.parsed(line.raw, where)
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("stage"), str)
        or type(record.get("step")) not in (int, float)
        or not 0 <= record["step"] < math.inf
    ):
        raise ValueError(f"{where} is not a record with stage and step: {record!r:.60}")
    return record


def _warn(damage: list[str], outcome: str) -> None:
    more = f" (and {len(damage) - 1} more lines)" if len(damage) > 1 else ""
    warnings.warn(f"a damaged line in a log: {damage[0]}{more}; {outcome}", LogWarning, stacklevel=3)
