"""Where a stage's log records go: a file of JSON lines, and TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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

    def __enter__(self) -> RecordLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer:
            self._writer.close()
