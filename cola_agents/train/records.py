"""Where a stage's log records go: a file of JSON lines, and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cola_agents.folders import flush, unfinished, write_whole


class RecordLog:
    """Appends records to a JSON-lines file and, where it is installed, to TensorBoard beside it.

    Args:
        name: of the stage; scalars are called ``name/key``.
        path: the file; None for no log at all. TensorBoard's events are in the folder ``tensorboard``
            next to it.
        tensorboard: None for where the package is installed, True to insist, False for never.

    Raises:
        ImportError: if TensorBoard is insisted on and missing.
        ValueError: if it is insisted on and there is no ``path``.
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
                # Without purge_step, which would hide other stages' events in the folder, too: a resumed run
                # writes the events of the steps that it does again twice, with the same values.
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
        """Have everything on the disk."""
        if self._path and self._path.exists():
            flush(self._path)
        if self._writer:
            self._writer.flush()

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer:
            self._writer.close()


def rewind(path: Path, name: str, step: int, start: int) -> None:
    """Take out of a log what a killed run wrote after the checkpoint that it is resumed from.

    Args:
        path: the log; it may be absent.
        name: of the stage.
        step: of the checkpoint: records of later steps go, and so does a line that was left unfinished.
        start: bytes of the log when the run was begun; what is before them stays as it is.
    """
    unfinished(path).unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    kept = [line for line in content[start:].splitlines(keepends=True) if not _void(line, name, step)]
    rewound = content[:start] + b"".join(kept)
    if rewound != content:
        write_whole(path, rewound)


def _void(line: bytes, name: str, step: int) -> bool:
    if not line.endswith(b"\n"):
        return True
    record = json.loads(line)
    return record.get("stage") == name and record["step"] > step
