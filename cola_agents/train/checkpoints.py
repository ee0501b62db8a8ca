"""Checkpoints of a stage, from which a run can be resumed after a kill at any moment.

A folder holds ``run.json`` (the settings of the run) and the last checkpoints, ``step-00000500`` and so on:

- ``trained.safetensors``: the trained weights under their names in the stage's loss;
- ``optimiser.safetensors``: the optimiser's state, ``exp_avg:NAME`` and so on;
- ``state.json``: the step, the position in the data, the log records so far, and digests of all files.

No random state is saved: a stage's noise is seeded by the step.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from cola_agents.common.files import unfinished, whole_folder, write_json
from cola_agents.model.shards import write_tensors
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

RUN, STATE = "run.json", "state.json"
TRAINED, OPTIMISER = "trained.safetensors", "optimiser.safetensors"
#: Settings that may change where the steps are raised; some presets derive the warm-up from the steps.
_WITH_STEPS = ("steps", "warmup", "epochs")
#: Settings that an error names at most.
_NAMED = 4
#: Settings that runs which earlier versions began do not have: a digest of the model's configurations, and
#: the types of its frozen weights.
CONFIGURATION, TYPES = "configuration", "types of the frozen weights"
#: An upper bound of the CPU seconds of a run, for checking a checkpoint.
_MOST_CPU_S = 1e12


class CheckpointWarning(UserWarning):
    """A checkpoint is incomplete or damaged."""


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint.

    Attributes:
        path: its folder.
        step: number of steps done.
        stream: the position in the data.
        records: the log records so far.
        cpu_s: CPU seconds spent so far.
    """

    path: Path
    step: int
    stream: object
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
        folder: empty, absent, or that of a run with the same settings; ``steps`` may be fewer there.
        settings: everything that changes the result, as JSON values by name.
        keep: number of checkpoints to keep.
    """

    def __init__(self, folder: Path, settings: JsonObject, keep: int) -> None:
        self.folder = folder
        self._settings = json.loads(json.dumps(settings))
        self._keep = keep

    def newest(self) -> Saved | None:
        """The last complete checkpoint; None for a run without checkpoints.

        A later one that is damaged is renamed, with a :class:`CheckpointWarning`.

        Raises:
            FileExistsError: for a folder that holds something else.
            ValueError: for the folder of a run with other settings, naming them, or where there are
                checkpoints and all are damaged.
        """
        if not self._begun():
            return None
        damaged = []
        for path in reversed(self._steps()):
            try:
                saved = _read(path)
            except (OSError, ValueError) as error:
                damaged.append((path, error))
                continue
            for other, cause in damaged:
                renamed = other.rename(broken_name(other))
                warnings.warn(
                    f"checkpoint {other} is damaged ({cause}) and was renamed to {renamed.name}; the run is "
                    f"resumed from {path.name}",
                    CheckpointWarning,
                    stacklevel=2,
                )
            return saved
        if damaged:
            raise ValueError(
                f"all checkpoints in {self.folder} are damaged: "
                + "; ".join(f"{path.name}: {cause}" for path, cause in damaged)
                + ". To begin again, give another folder"
            )
        return None

    def begin(self, log_size: int | None) -> int | None:
        """Write the run's settings, unless it has begun already, and delete the leftovers of a kill.

        Args:
            log_size: bytes of the log file before the run, None for no log.

        Returns:
            ``log_size`` at the time when the run was begun.
        """
        begun = self._begun()
        for path in self._leftovers():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._prune()
        if begun:
            run = _read_run(self.folder / RUN)
            if run["settings"] != self._settings:
                write_json(self.folder / RUN, {**run, "settings": self._settings}, indent=1)
            return run["log_size"]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RUN, {"log_size": log_size, "settings": self._settings}, indent=1)
        return log_size

    def save(
        self,
        step: int,
        trained: dict[str, Tensor],
        optimiser: dict[str, Tensor],
        *,
        stream: object,
        records: list[dict[str, float]],
        cpu_s: float,
    ) -> None:
        """Write a checkpoint, and delete those before the last ``keep``.

        Raises:
            OSError: where it cannot be written, on a full disk for instance; the others are kept.
        """
        with whole_folder(self.folder / _step_name(step)) as new:
            write_tensors(trained, new / TRAINED)
            write_tensors(optimiser, new / OPTIMISER)
            state = {"step": step, "stream": stream, "records": records, "cpu_s": cpu_s}
            state["digests"] = {name: _digest(new / name) for name in (TRAINED, OPTIMISER)}
            body = json.dumps(state)
            digest = hashlib.sha256(body.encode()).hexdigest()
            (new / STATE).write_text(json.dumps({"sha256": digest, "state": body}))
        self._prune()

    def _prune(self) -> None:
        for old in self._steps()[: -self._keep]:
            shutil.rmtree(old)

    def _begun(self) -> bool:
        """Whether the folder is that of this run; False for an empty one, errors as for :meth:`newest`."""
        path = self.folder / RUN
        if not path.exists():
            others = set(self.folder.iterdir()) - set(self._leftovers()) if self.folder.is_dir() else set()
            if others or (self.folder.exists() and not self.folder.is_dir()):
                raise FileExistsError(
                    f"{self.folder} holds something other than checkpoints (no {RUN}): give an empty folder"
                )
            return False
        before, now = _read_run(path)["settings"], dict(self._settings)
        for name in {CONFIGURATION, TYPES} - before.keys():
            now.pop(name, None)  # a run that an earlier version began
        if difference := differences(before, now):
            raise ValueError(
                f"{self.folder} was begun with {difference}: resume with the same settings, of which only "
                "steps may be raised, or give another folder"
            )
        return True

    def _steps(self) -> list[Path]:
        return sorted(self.folder.glob("step-" + 8 * "[0-9]"))

    def _leftovers(self) -> list[Path]:
        return [*self.folder.glob(".step-*"), *self.folder.glob(unfinished(Path(RUN)).name)]


def begun_steps(folder: Path) -> int | None:
    """The number of steps for which the run in a folder was begun; None where there is no run."""
    path = folder / RUN
    return _read_run(path)["settings"].get("steps") if path.exists() else None


def differences(before: JsonObject, now: JsonObject, *, longer: bool = True) -> str:
    """What differs between the settings of a run and those of now, with both values; "" for the same.

    Args:
        before, now: the settings, as JSON values by name.
        longer: whether the steps may be raised.
    """
    free = _WITH_STEPS if longer and _raised(before, now) else ()
    found = []
    for name in {**before, **now}:
        was, new = before.get(name), now.get(name)
        if was != new and name not in free:
            found.append(f"{name}={was!r}, and now it is {new!r}")
    more = [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    return "; ".join(found[:_NAMED] + more)


def _raised(before: JsonObject, now: JsonObject) -> bool:
    """Whether the second settings are those of a longer run."""
    then, wanted = before.get("steps"), now.get("steps")
    return type(then) is int and type(wanted) is int and then < wanted


def _read_run(path: Path) -> JsonObject:
    """Read ``run.json``: the settings of a run, and the size of its log when it was begun."""
    try:
        run = jsonl.read_object(path, "log_size", "settings")
        size = run["log_size"]
        if not isinstance(run["settings"], dict):
            raise ValueError(f"its settings are {run['settings']!r:.60}")
        if size is not None and (type(size) is not int or size < 0):
            raise ValueError(f"its log_size is {size!r:.60}")
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}), so the settings of the run are unknown: restore the file from a "
            "copy, or give another folder to begin again"
        ) from error
    return run


def _read(path: Path) -> Saved:
    """Read a checkpoint and check its files against their digests.

    Raises:
        OSError, ValueError: for an incomplete or damaged one, naming the file.
    """
    outer = jsonl.read_object(path / STATE, "sha256", "state")
    if not isinstance(outer["state"], str):
        raise ValueError(f"{STATE} is not what was saved")
    body = outer["state"].encode(errors="surrogatepass")
    if hashlib.sha256(body).hexdigest() != outer["sha256"]:
        raise ValueError(f"{STATE} is not what was saved")
    state = jsonl.parsed(body, STATE)
    _check_state(state, path)
    for name, digest in state["digests"].items():
        if _digest(path / name) != digest:
            raise ValueError(f"{name} is not what was saved")
    return Saved(path, state["step"], state["stream"], state["records"], state["cpu_s"])


def _check_state(state: Any, path: Path) -> None:
    """Raise ValueError for a state that :meth:`Checkpoints.save` cannot have written."""
    names = ("step", "stream", "records", "cpu_s", "digests")
    if not isinstance(state, dict) or not state.keys() >= set(names):
        raise ValueError(f"{STATE} lacks some of {', '.join(names)}")
    step, records, cpu_s, digests = (state[name] for name in ("step", "records", "cpu_s", "digests"))
    if type(step) is not int or path.name != _step_name(step):
        raise ValueError(f"{STATE} is of step {step!r:.60}")
    if not isinstance(records, list) or not all(
        isinstance(record, dict) and "step" in record and all(map(_is_number, record.values()))
        for record in records
    ):
        raise ValueError(f"{STATE} holds records that are not numbers by name")
    if not _is_number(cpu_s) or not 0 <= cpu_s < _MOST_CPU_S:
        raise ValueError(f"{STATE} says that {cpu_s!r:.60} CPU seconds were spent")
    if not isinstance(digests, dict) or digests.keys() != {TRAINED, OPTIMISER}:
        raise ValueError(f"{STATE} must have digests of {TRAINED} and {OPTIMISER}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _step_name(step: int) -> str:
    return f"step-{step:08d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def broken_name(path: Path) -> Path:
    """A free name beside ``path`` for a damaged file or folder."""
    number = 0
    while (renamed := path.with_name(f"broken-{number}-{path.name}")).exists():
        number += 1
    return renamed
