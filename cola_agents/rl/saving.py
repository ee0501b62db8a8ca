"""Read a saved agent: a folder that always holds one whole save, whatever interrupts the next.

``agent.json`` describes the agent and names its files with their digests: ``actor-MARK.safetensors`` and
``optimiser-MARK.pt`` of each save, and ``history-MARK.jsonl``, which grows from save to save.
``agent-previous.json`` describes the previous save in the same way.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from cola_agents.common.files import LOCK, SETTINGS
from cola_agents.common.sealed import DamagedError, is_sealed, unsealed
from cola_agents.rl.history import Place, Record, read_history
from cola_agents.rl.optimiser import tensors_of

#: Written last, in one step: it names the other files of a save, so that it never describes half of one.
DESCRIPTION = "agent.json"
#: The description of the previous save.
PREVIOUS = "agent-previous.json"

_FILE = re.compile(r"(actor-\w{8}\.safetensors|optimiser-\w{8}\.pt|history-\w{8}\.jsonl)")
#: Files that a kill may leave; ``agent.json-MARK`` is of earlier versions.
LEFT = re.compile(
    rf"{_FILE.pattern}|\.(agent|agent-previous|run)\.json\.new|agent\.json-\w{{8}}|{re.escape(LOCK)}"
)

#: The types of what a description holds, whatever the agent.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "agent": str,
    "env_id": str,
    "env_kwargs": dict,
    "env_kwargs_not_saved": list,
    "num_envs": int,
    "seed": int,
    "model": (str, type(None)),
    "tokenizer": (str, type(None)),
    "device": (str, type(None)),
    "dtype": str,
    "fingerprint": str,
    "options": dict,
    "kl_coef": (int, float),
    "num_timesteps": int,
    "num_episodes": int,
    "num_updates": int,
    "files": dict,
}


@dataclass(frozen=True)
class SavedAgent:
    """What was read of a saved agent.

    Attributes:
        path: its folder.
        description: what was given to :meth:`Saver.write`.
        weights, optimiser: on the CPU.
        history: the records of its updates.
    """

    path: Path
    description: dict[str, Any]
    weights: dict[str, Tensor]
    optimiser: dict[str, Any]
    history: list[Record]


def saved_path(path: str | Path) -> Path:
    """The folder of a saved agent: ``path``, or without a trailing ``.zip`` that other libraries append."""
    path = Path(path)
    return path.with_suffix("") if path.suffix == ".zip" and not path.is_dir() else path


def holds_agent(path: Path) -> bool:
    """Whether a folder holds a saved agent, whole or damaged."""
    if (path / PREVIOUS).is_file():
        return True
    if not (path / DESCRIPTION).is_file():
        return False
    if any(_FILE.fullmatch(one.name) for one in path.iterdir()):
        return True
    try:
        return {"agent", "files"} <= set(unsealed(path / DESCRIPTION))
    except DamagedError:
        return False


def is_free(path: Path) -> bool:
    """Whether an agent can be saved here: the path holds at most what a killed first save has left."""
    if not path.exists():
        return True
    return path.is_dir() and all(LEFT.fullmatch(one.name) or one.name == SETTINGS for one in path.iterdir())


def check_free(path: Path) -> None:
    """Raise FileExistsError where ``path`` holds something that is no saved agent."""
    if not is_free(path) and not (path.is_dir() and holds_agent(path)):
        raise FileExistsError(f"{path} holds something other than a saved agent: it is not replaced")


def read_saved(path: Path) -> SavedAgent:
    """Read the last whole save.

    Where the newest save is damaged, that is the previous one, with a warning that names the damaged file. Of
    a damaged history the records before the damage are read, with a warning. Agents of versions without
    digests are read with a warning.

    Raises:
        FileNotFoundError: where there is no saved agent.
        DamagedError: where none is whole, naming the damaged file.
    """
    if not holds_agent(path) and not (path / DESCRIPTION).exists():
        raise FileNotFoundError(f"{path} holds no saved agent: there is no {DESCRIPTION} in it")
    try:
        described, weights, optimiser = _read(path, DESCRIPTION)
    except DamagedError as damage:
        if not (path / PREVIOUS).exists():
            raise
        try:
            described, weights, optimiser = _read(path, PREVIOUS)
        except DamagedError:
            raise damage from None
        warnings.warn(
            f"{damage}; the save before it is loaded, of update {described.content['num_updates']}",
            stacklevel=3,
        )
    else:
        if (path / PREVIOUS).exists():
            try:
                read_described(path, PREVIOUS).check()
            except DamagedError as damage:
                warnings.warn(
                    f"{damage}; it belongs to the save before the newest, which is whole", stacklevel=3
                )
    if not is_sealed(described.content):
        warnings.warn(
            f"{path / described.name} was saved by a version without digests: damage to its files may go "
            "unseen; save the agent again",
            stacklevel=3,
        )
    return SavedAgent(path, described.content, weights, optimiser, described.history())


def _read(path: Path, name: str) -> tuple[Described, dict[str, Tensor], dict[str, Any]]:
    """Read and check a save."""
    described = read_described(path, name)
    described.check()
    return described, *read_tensors(path, described.content["files"])


def read_description(path: Path) -> dict[str, Any]:
    """Read the newest description that is whole, with the names of its ``files``, but not the files.

    Raises:
        FileNotFoundError: where there is no saved agent.
        DamagedError: where none is whole.
    """
    if not holds_agent(path) and not (path / DESCRIPTION).exists():
        raise FileNotFoundError(f"{path} holds no saved agent: there is no {DESCRIPTION} in it")
    try:
        return read_described(path, DESCRIPTION).content
    except DamagedError:
        if not (path / PREVIOUS).exists():
            raise
        return read_described(path, PREVIOUS).content


def read_tensors(path: Path, files: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and the optimiser's state of a saved agent, on the CPU.

    Raises:
        DamagedError: where they cannot be read, or hold numbers that are not finite.
    """
    readers: dict[str, Callable[[Path], Any]] = {
        "actor": load_file,
        "optimiser": lambda file: torch.load(file, map_location="cpu", weights_only=True),
    }
    read = []
    for name, reader in readers.items():
        file = path / files[name]
        try:
            content = reader(file)
        except Exception as error:  # the libraries raise errors of many classes at foreign content
            raise DamagedError(f"{file} is damaged: {error}") from error
        if not isinstance(content, dict) or not all(torch.isfinite(one).all() for one in tensors_of(content)):
            raise DamagedError(f"{file} is damaged: it holds numbers that are not finite")
        read.append(content)
    return read[0], read[1]


@dataclass(frozen=True)
class Described:
    """The description of a save.

    Attributes:
        path, name: its folder and file name.
        text, content: the file, as bytes and as JSON; the content is of the right form.
        place: of the history; None for an agent of versions without digests, whose description holds it.
    """

    path: Path
    name: str
    text: bytes
    content: dict[str, Any]
    place: Place | None

    @property
    def files(self) -> list[str]:
        """The names of all files of the save."""
        return [*self.content["files"].values(), *([self.place.file] if self.place else [])]

    def check(self) -> None:
        """Compute the digests of the weights and of the optimiser.

        Raises:
            DamagedError: where one is missing, not inside the folder, or not what was written.
        """
        for name in self.content["files"].values():
            file = _inside(self.path, name)
            if not file.is_file():
                raise DamagedError(f"{file} is missing")
            if not is_sealed(self.content):
                continue
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if digest != self.content["digests"].get(name):
                raise DamagedError(f"{file} is damaged: its sha256 is not what was written")

    def history(self) -> list[Record]:
        """The records, with a warning where not all are whole."""
        place = self.place
        if place is None:
            history: list[Record] = self.content["history"]
            return history
        _inside(self.path, place.file)
        records, whole = read_history(self.path, place)
        if not whole:
            warnings.warn(
                f"{self.path / place.file} is damaged: of its {place.records} records the first "
                f"{len(records)} are whole, and are the history of the loaded agent",
                stacklevel=4,
            )
        return records


def read_described(path: Path, name: str) -> Described:
    """Read a description.

    Raises:
        DamagedError: where it is missing, damaged, or not of the right form.
    """
    file = path / name
    if not file.exists():
        raise DamagedError(f"{file} is missing")
    _inside(path, name)
    content = unsealed(file)
    place: Place | None = None
    try:
        for field, kind in _FIELDS.items():
            if not isinstance(content[field], kind):
                raise TypeError(f"{field} is {content[field]!r}")
        beside = content.get("beside", {})  # earlier versions wrote none
        if not (isinstance(beside, dict) and all(isinstance(place, str) for place in beside.values())):
            raise TypeError(f"beside is {beside!r}")
        if is_sealed(content):
            place = Place(**content["history"])
            names = (*content["digests"], place.file)
        elif isinstance(content["history"], list):
            names = tuple(content["files"].values())
        else:
            raise TypeError(f"history is {content['history']!r}")
        content["files"]["actor"], content["files"]["optimiser"]
        for one in names:
            _inside(path, one)
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{file} is damaged, or describes no agent: {error!r}") from error
    return Described(path, name, file.read_bytes(), content, place)


def _inside(path: Path, name: str) -> Path:
    """A file of a folder, by its name.

    Raises:
        DamagedError: for a name, or a link, that leads out of the folder.
    """
    file = path / name
    if not name or name in (".", "..") or set("/\\\0") & set(name) or file.resolve().parent != path.resolve():
        raise DamagedError(f"{path} names {name!r}, which leads out of the folder: it is not read")
    return file


def as_json(value: Any) -> Any:
    """A value as it is read again from JSON: tuples and arrays as lists, paths as text, plain numbers.

    Raises:
        TypeError: for a value that JSON does not hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return [as_json(one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): as_json(one) for key, one in value.items()}
    if value is None or (isinstance(value, (bool, int, float, str)) and value == value):  # NaN differs
        return value
    raise TypeError(f"JSON does not hold {value!r:.80}")
