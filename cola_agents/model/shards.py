"""Find and read the safetensors files of a model's folder."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cola_agents.common.files import finish_moves, inside
from cola_envs import jsonl
from cola_envs.shown import shown_line

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SHARD = re.compile(r"model-(\d+)-of-(\d+)\.safetensors")
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Stored:
    """The file of a tensor, and its type (as safetensors names it) and shape from the file's header."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def find_tensors(folder: Path) -> dict[str, Stored]:
    """Every weight in a folder by its official name, from the headers of its safetensors files.

    The files are ``model.safetensors``, or those of the index if all of them exist, or else all
    ``model-*-of-*.safetensors``, with a warning; other safetensors files are ignored.

    Raises:
        FileNotFoundError: without weights.
        ValueError: for pickled weights, a damaged file, a tensor in two files, or an index with wrong files
            or files outside the folder.
    """
    finish_moves(folder)
    files, index = _weight_files(folder)
    stored: dict[str, Stored] = {}
    for file in files:
        for name, tensor in read_header(file).items():
            if name in stored:
                raise ValueError(
                    f"tensor {name} is in two files of {folder}: {stored[name].file.name} and {file.name}"
                )
            stored[name] = tensor
    for name, filename in index.items():
        if name not in stored or stored[name].file.name != filename:
            where = f"is in {stored[name].file.name}" if name in stored else "is in none of its files"
            raise ValueError(f"{folder / INDEX} puts {name} into {filename}, but it {where}")
    return stored


def _weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files of the weights, and the index if it is usable, else an empty one."""
    single = folder / "model.safetensors"
    if single.is_file():
        return [single], {}
    shards = sorted(path for path in folder.glob("model-*.safetensors") if SHARD.fullmatch(path.name))
    reason = f"there is no {INDEX} beside its shards"
    if (folder / INDEX).is_file():
        index = _read_index(folder)
        named = sorted(set(index.values()))
        absent = [name for name in named if not (folder / name).is_file()]
        if named and not absent:
            return [folder / name for name in named], index
        reason = f"{INDEX} names files that are not there ({some(absent)})"
    if not shards:
        refuse_pickles(folder)
        raise FileNotFoundError(
            f"{folder} holds no weights: neither model.safetensors nor model-*-of-*.safetensors"
        )
    warnings.warn(
        f"{folder}: {reason}; the map was rebuilt from the headers of {len(shards)} shards, "
        f"{shards[0].name} to {shards[-1].name}",
        stacklevel=5,
    )
    return shards, {}


def _read_index(folder: Path) -> dict[str, str]:
    """The index of a folder, from tensors to files inside the folder."""
    index = jsonl.read_object(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise ValueError(f"{folder / INDEX} has no weight_map from tensors to files")
    for name in set(index.values()):
        inside(folder, name)
    return index


def check_weights(folder: Path) -> None:
    """Raise ValueError for a folder with only pickled weights, or an index of files outside it."""
    if (folder / INDEX).is_file():
        _read_index(folder)
    if not any(folder.glob("*.safetensors")):
        refuse_pickles(folder)


def refuse_pickles(folder: Path) -> None:
    """Raise ValueError for a folder with pickled weights."""
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"{folder} holds pickled weights ({some(pickles)}), which can run code when they are "
            "loaded: they are refused. Save them as safetensors where you trust them"
        )


def missing_shards(files: Iterable[Path]) -> list[str]:
    """Names of the shards ``model-1-of-N`` ... ``model-N-of-N`` that are not among the files."""
    names = {file.name for file in files}
    expected = set()
    for name in names:
        if match := SHARD.fullmatch(name):
            total = int(match[2])
            expected |= {f"model-{number + 1:05d}-of-{total:05d}.safetensors" for number in range(total)}
    return sorted(expected - names)


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, from its header.

    Raises:
        ValueError: when the file is damaged or truncated, naming the first truncated tensor.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{file} is no whole safetensors file (truncated, or a Git LFS pointer?)")
        header = stream.read(length)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        described = {
            name: (e["dtype"], tuple(e["shape"]), e["data_offsets"][1]) for name, e in entries.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"{file} has no readable safetensors header: {error!r}") from error
    for name, (_, _, end) in sorted(described.items(), key=lambda item: item[1][2]):
        if 8 + length + end > size:
            raise ValueError(
                f"{file} is truncated: tensor {name} ends at byte {8 + length + end} of {size}; "
                "copy or download it again"
            )
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(f"{file} is a damaged safetensors file: {error}") from error
    return {name: Stored(file, dtype, shape) for name, (dtype, shape, _) in described.items()}


def read_tensors(
    stored: Mapping[str, Stored],
    names: Iterable[str],
    dtype: torch.dtype,
    device_of: Callable[[str], torch.device],
) -> Iterator[tuple[str, Tensor]]:
    """Yield official names and tensors, file by file."""
    by_file: dict[Path, list[str]] = {}
    for name in names:
        by_file.setdefault(stored[name].file, []).append(name)
    for file, held in by_file.items():
        mapped = [n for n in held if DTYPES[stored[n].dtype] == dtype and device_of(n).type == "cpu"]
        with safe_open(file, framework="pt") as opened:
            for name in mapped:
                yield name, opened.get_tensor(name)
        for name in [n for n in held if n not in mapped]:
            # Opened again for each, so that closing the mapping frees the pages of the last.
            with safe_open(file, framework="pt") as opened:
                yield name, opened.get_tensor(name).to(device=device_of(name), dtype=dtype)


def write_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: where it cannot be written, naming it.
    """
    with disk_errors(file):
        save_file(tensors, file)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """A block in which safetensors' own error of a file that cannot be written is an OSError."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def float_type(dtype: torch.dtype | str) -> torch.dtype:
    """The type of weights that is given as such or by its name.

    Raises:
        ValueError: for one that is not of :data:`DTYPES`.
    """
    named = str(dtype).removeprefix("torch.")
    kind = getattr(torch, named, None)
    if not isinstance(kind, torch.dtype) or kind not in DTYPES.values():
        allowed = ", ".join(str(kind).removeprefix("torch.") for kind in DTYPES.values())
        raise ValueError(f"dtype {named!r} is no floating type of a model's weights; use one of {allowed}")
    return kind


def some(names: list[str]) -> str:
    """The first three names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(shown_line, names[:3])) + more
