"""Checkpoints of a stage that survive a kill at any moment.

A folder holds ``run.json`` (what the run was begun with) and the last checkpoints, ``step-00000500`` and
so on:

- ``trained.safetensors``: the trained weights under their names in the stage's loss;
- ``optimiser.safetensors``: the optimiser's state, ``exp_avg:NAME`` and so on;
- ``state.json``: the step, the place in the data, the log records so far, and a digest of everything.

There is no random state: a stage's noise is seeded by the step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cola_agents.folders import unfinished, whole_folder, write_whole

RUN, STATE = "run.json", "state.json"
TRAINED, OPTIMISER = "trained.safetensors", "optimiser.safetensors"


class CheckpointWarning(UserWarning):
    """A checkpoint is not whole."""


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint.

    Attributes:
        path: its folder.
        step: steps done.
        stream: the place in the data.
        records: the log records so far.
        cpu_s: CPU seconds spent so far.
    """

    path: Path
    step: int
    stream: Any
    records: list[dict[str, float]]
    cpu_s: float

    def trained(self) -> dict[str, Tensor]:
        """The trained weights."""
        return load_file(self.path / TRAINED)

    def optimiser(self) -> dict[str, Tensor]:
        """The optimiser's state."""
        return load_file(self.path / OPTIMISER)


class Checkpoints:
    """The checkpoints of one run in one folder.

    Args:
        folder: empty, absent, or a run's that was begun with the same settings.
        settings: all that changes the result, as JSON values by name.
        keep: how many checkpoints are kept.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], keep: int) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._keep = keep

    def newest(self) -> Saved | None:
        """The last whole checkpoint, None for a run that has none yet.

        One that is not whole is set aside under another name, with a :class:`CheckpointWarning`.

        Raises:
            FileExistsError: for a folder that holds something else.
            ValueError: for one that was begun with other settings, naming them, or where there are
                checkpoints and none is whole.
        """
        if not self._begun():
            return None
        broken = []
        for path in reversed(self._steps()):
            try:
                saved = _read(path)
            except (OSError, ValueError, KeyError, TypeError) as error:
                broken.append((path, error))
                continue
            for worse, why in broken:
                aside = _set_aside(worse)
                warnings.warn(
                    f"checkpoint {worse} is not whole ({why}): going on from {path.name}; it was renamed to "
                    f"{aside.name}",
                    CheckpointWarning,
                    stacklevel=2,
                )
            return saved
        if broken:
            raise ValueError(
                f"no checkpoint in {self.folder} is whole: "
                + "; ".join(f"{path.name}: {why}" for path, why in broken)
                + ". To begin anew, give another folder"
            )
        return None

    def begin(self, log_size: int | None) -> int | None:
        """Note down what the run is begun with, unless that was done, and clear away what a kill has left.

        Args:
            log_size: bytes of the log file before the run, None for no log.

        Returns:
            ``log_size`` as it was when the run was begun.
        """
        begun = self._begun()
        for left in self._left():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._prune()
        if begun:
            return json.loads((self.folder / RUN).read_text())["log_size"]
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"log_size": log_size, "settings": self._settings}, indent=1) + "\n"
        write_whole(self.folder / RUN, text.encode())
        return log_size

    def save(
        self,
        step: int,
        trained: dict[str, Tensor],
        optimiser: dict[str, Tensor],
        *,
        stream: Any,
        records: list[dict[str, float]],
        cpu_s: float,
    ) -> None:
        """Write a checkpoint, and delete those before the last ``keep``."""
        with whole_folder(self.folder / f"step-{step:08d}") as new:
            save_file(trained, new / TRAINED)
            save_file(optimiser, new / OPTIMISER)
            state = {"step": step, "stream": stream, "records": records, "cpu_s": cpu_s}
            state["digests"] = {name: _digest(new / name) for name in (TRAINED, OPTIMISER)}
            body = json.dumps(state)
            own = hashlib.sha256(body.encode()).hexdigest()
            (new / STATE).write_text(json.dumps({"sha256": own, "state": body}))
        self._prune()

    def _prune(self) -> None:
        for old in self._steps()[: -self._keep]:
            shutil.rmtree(old)

    def _begun(self) -> bool:
        path = self.folder / RUN
        if not path.exists():
            others = set(self.folder.iterdir()) - set(self._left()) if self.folder.is_dir() else set()
            if others or (self.folder.exists() and not self.folder.is_dir()):
                raise FileExistsError(
                    f"{self.folder} holds something else than checkpoints (no {RUN}): give an empty folder"
                )
            return False
        try:
            before = json.loads(path.read_text())["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): give another folder to begin anew") from error
        for name in [*before, *self._settings]:
            was, now = before.get(name), self._settings.get(name)
            if was != now:
                raise ValueError(
                    f"{self.folder} was begun with {name}={was!r}, and now it is {now!r}: resume with what "
                    "it was begun with, or give another folder"
                )
        return True

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + 8 * "[0-9]"))

    def _left(self) -> list[Path]:
        return [*self.folder.glob(".step-*"), *self.folder.glob(unfinished(Path(RUN)).name)]


def _read(path: Path) -> Saved:
    outer = json.loads((path / STATE).read_text())
    if hashlib.sha256(outer["state"].encode()).hexdigest() != outer["sha256"]:
        raise ValueError(f"{STATE} is not what was written")
    state = json.loads(outer["state"])
    for name, digest in state["digests"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} is not what was written")
    return Saved(path, state["step"], state["stream"], state["records"], state["cpu_s"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _set_aside(path: Path) -> Path:
    number = 0
    while (aside := path.with_name(f"broken-{number}-{path.name}")).exists():
        number += 1
    path.rename(aside)
    return aside
