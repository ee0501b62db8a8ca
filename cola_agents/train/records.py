"""The log of a stage: a file of JSON lines, and TensorBoard."""

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
        name: of the stage; scalars are called ``name/key``.
        path: the file; None for no log at all. TensorBoard's events are in the folder ``tensorboard``
            next to it.
        tensorboard: None if the package is installed, True to require it, False for never.

    Raises:
        ImportError: if TensorBoard is required and missing.
        ValueError: if it is required and there is no ``path``.
    """

    def __init__(self, name: str, path: Path | None, tensorboard: bool | None = None) -> None:
        self._name, self._path = name, path
        self._writer: Any = None
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
                # Without purge_step, which would hide other stages' events in the folder too: a resumed run
                # repeats the events of the steps that it repeats, with the same values.
                self._writer = SummaryWriter(str(path.parent / "tensorboard"))

    def write(self, record: dict[str, float]) -> None:
        """Write one record; its ``step`` is the abscissa."""
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
    """A line of a log is damaged."""


def rewind(path: Path, name: str, step: int, start: int) -> None:
    """Remove from a log the records that a killed run wrote after the checkpoint it resumes from.

    A damaged line is removed too, with a :class:`LogWarning` that names it; the old log is then kept under
    another name.

    Args:
        path: the log; it may be absent.
        name: of the stage.
        step: of the checkpoint: records of later steps and an unfinished line are removed.
        start: size of the log in bytes at the beginning of the run; earlier bytes stay unchanged.
    """
    unfinished(path).unlink(missing_ok=True)
    if not path.exists():
        return
    remaining, damage = [], []
    for line in jsonl.lines(path):
        if line.end is not None and line.end > start:
            # A kill truncates a line, which is written again; a power cut leaves zeros, which are reported.
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
        aside = broken_name(path)
        shutil.copyfile(path, aside)
        flush(aside)
        _warn(damage, f"it is left out, and the log as it was is kept as {aside.name}")
    if len(rewound) != path.stat().st_size:
        write_whole(path, rewound)


def check_log(path: Path) -> None:
    """Warn of damaged lines in a finished run's log, naming them; the log may be absent."""
    damage = []
    for line in jsonl.lines(path) if path.exists() else ():
        try:
            _record(line, path)
        except ValueError as error:
            damage.append(str(error))
    if damage:
        _warn(damage, "the log is left as it is")


def _record(line: jsonl.Line, path: Path) -> JsonObject:
    """Parse the record of a line.

    Raises:
        ValueError: for a line without a record, naming file and line.
    """
    where = f"{path}, line {line.number}"
    record = jsonl.parsed(line.raw, where)
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("stage"), str)
        or type(record.get("step")) not in (int, float)
        or not 0 <= record["step"] < math.inf
    ):
        raise ValueError(f"{where} is no record of a stage's step: {record!r:.60}")
    return record


def _warn(damage: list[str], outcome: str) -> None:
    more = f" (and {len(damage) - 1} lines more)" if len(damage) > 1 else ""
    warnings.warn(f"a damaged line in a log: {damage[0]}{more}; {outcome}", LogWarning, stacklevel=3)
