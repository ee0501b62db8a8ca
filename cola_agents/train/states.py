"""A cache on disk of the frozen base's states, so that stages and epochs run the base once for a document.

A document's states depend on its own tokens alone: no document of a row attends to another. So they are kept
under a digest of its tokens, whatever the rows, the order and the seed, and any stage, epoch or run over the
same base reads them. A folder holds ``states.json`` (which base, computed how) and, for each process that
wrote to it, a file of states, ``part-00000.bin``, and its index, ``part-00000.index``.

A file of states holds D bfloat16 values for a token. A record of the index is written after the states that
it names, and holds their check sum: a kill loses at most the documents that were being written.

Shapes: B rows, T tokens, D hidden.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
import uuid
import warnings
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from cola_agents.common.files import unfinished
from cola_agents.model.configuration import non_defaults
from cola_agents.model.families import Mask
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.train.data.packing import Batch
from cola_envs import jsonl
from cola_envs.jsonl import JsonObject

ABOUT = "states.json"
#: Bytes of the disk that are left free, for checkpoints and the model.
RESERVE = 2**30
#: Digest of the tokens; first token in the file, number of tokens; check sum of the states.
_RECORD = struct.Struct("<16sQII")


class StateCacheWarning(UserWarning):
    """States are not cached any more, or cached ones are damaged."""


class _Place(NamedTuple):
    """Where a document's states are: number of the file, first token in it, number of tokens, check sum."""

    part: int
    start: int
    length: int
    crc: int


class _Piece(NamedTuple):
    """A document in a row: its tokens ``start`` to ``end``, and their digest."""

    start: int
    end: int
    key: bytes


class StateCache:
    """The base's states of documents: read from a folder, or computed and written there.

    States are rounded to bfloat16 also where they have just been computed, so that a document has the same
    ones in every epoch. Several processes may use a folder at a time; each reads what was there when it
    began.

    Where less than :data:`RESERVE` bytes of the disk would stay free, further documents are not kept but
    computed in every epoch, with a :class:`StateCacheWarning`.

    Args:
        folder: empty, absent, or a cache of the same base: equal weights under an equal configuration.
        model: the model of the base, whose weights must not change meanwhile.
        precision: in which the base computes: ``"float32"`` or ``"bf16"``.

    Attributes:
        read, computed: tokens whose states were read, and tokens whose states were computed.

    Raises:
        ValueError: for a cache of another base or precision, or a damaged ``states.json``.
        FileExistsError: for a folder that holds something else.
    """

    def __init__(self, folder: Path, model: CoLAForCausalLM, precision: str = "float32") -> None:
        self.folder = folder
        self.read = self.computed = 0
        self._model = model
        self._width = int(model.config.hidden_size)
        self._places: dict[bytes, _Place] = {}
        self._files: list[FileIO] = []
        self._out: tuple[int, FileIO, FileIO] | None = None
        self._full = False
        about = {
            "base": base_digest(model),
            "configuration": configuration_digest(model.base.config),
            "width": self._width,
            "precision": precision,
            "type": "bfloat16",
        }
        _check_folder(folder, about)
        for path in sorted(folder.glob("part-*.bin")):
            self._read_index(path)

    def __call__(self, batch: Batch, mask_of: Callable[[Batch], Mask]) -> Tensor:
        """The base's states h [B, T, D] of a batch, in the type of the base's weights; zeros at pads.

        Args:
            batch: B rows.
            mask_of: the attention mask of rows whose states must be computed.
        """
        base = next(self._model.base.parameters())
        h = torch.zeros((*batch.ids.shape, self._width), dtype=torch.bfloat16)
        rows = _pieces(batch)
        missing = {
            number: absent
            for number, row in enumerate(rows)
            if (absent := [piece for piece in row if not self._load(piece, h[number])])
        }
        if missing:
            self._compute(batch, missing, mask_of, h)
        self.read += sum(piece.end - piece.start for row in rows for piece in row)
        self.read -= sum(piece.end - piece.start for row in missing.values() for piece in row)
        return h.to(base.device, base.dtype)

    def _load(self, piece: _Piece, row: Tensor) -> bool:
        """Read a document's states into its row [T, D]; False where they are not there or damaged."""
        place = self._places.get(piece.key)
        if place is None or place.length != piece.end - piece.start:
            return False
        into = memoryview(_as_bytes(row[piece.start : piece.end]))
        size = os.preadv(self._files[place.part].fileno(), [into], place.start * self._width * 2)
        if size == len(into) and zlib.crc32(into) == place.crc:
            return True
        name = self._files[place.part].name
        warnings.warn(
            f"{name} is damaged at token {place.start:,}: the states of that document are computed again",
            StateCacheWarning,
            stacklevel=4,
        )
        del self._places[piece.key]
        return False

    def _compute(
        self, batch: Batch, missing: dict[int, list[_Piece]], mask_of: Callable[[Batch], Mask], h: Tensor
    ) -> None:
        """Compute the rows of a batch that have ``missing`` documents, keep these, and put them into h."""
        numbers = list(missing)
        part = Batch(*(x[numbers] for x in (batch.ids, batch.targets, batch.positions, batch.segments)))
        # On a CPU, the activations of one row fit its caches better: a tenth to a quarter less time.
        single = [part.part(at, at + 1) for at in range(len(numbers))]
        with torch.no_grad():
            states = torch.cat(
                [
                    self._model.hidden(p.ids, mask=mask_of(p), positions=p.positions).to(torch.bfloat16).cpu()
                    for p in (single if part.ids.device.type == "cpu" else [part])
                ]
            )
        new: dict[bytes, Tensor] = {}
        for at, number in enumerate(numbers):
            for piece in missing[number]:
                found = new.setdefault(piece.key, states[at, piece.start : piece.end])
                h[number, piece.start : piece.end] = found
                self.computed += len(found)
        self._keep(new)

    def _keep(self, new: dict[bytes, Tensor]) -> None:
        """Write documents' states [tokens, D], all or none."""
        size = sum(len(states) for states in new.values()) * self._width * 2
        if self._full:
            return
        if shutil.disk_usage(self.folder).free < RESERVE + size:
            self._stop(f"less than {RESERVE / 2**30:g} GiB would be left")
            return
        self._out = number, data, index = self._out or self._begin()
        before = data.tell(), index.tell()
        start = before[0] // (self._width * 2)
        records, places = [], {}
        try:
            for key, states in new.items():
                raw = memoryview(_as_bytes(states.contiguous()))
                _write(data, raw)
                place = _Place(number, start, len(states), zlib.crc32(raw))
                records.append(_RECORD.pack(key, *place[1:]))
                places[key] = place
                start += len(states)
            _write(index, memoryview(b"".join(records)))
        except OSError as error:
            for file, end in zip((index, data), reversed(before), strict=True):
                file.truncate(end)
                file.seek(end)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._stop(str(error.strerror))
            return
        self._places |= places

    def _stop(self, reason: str) -> None:
        """Keep no further states: the disk is full."""
        self._full = True
        kept = sum(place.length for place in self._places.values())
        warnings.warn(
            f"the disk of {self.folder} is full ({reason}): the states of {kept:,} tokens are kept; those of "
            "other documents are computed in every epoch, which takes longer and changes no result. To keep "
            "them too, free space or move the folder to a larger disk, stop the run and start it again: it "
            "resumes",
            StateCacheWarning,
            stacklevel=5,
        )

    def _begin(self) -> tuple[int, FileIO, FileIO]:
        """Create a file of states, its number in ``_files``, and its index; no other process writes them."""
        number = len(list(self.folder.glob("part-*.bin")))
        while True:
            path = self.folder / f"part-{number:05d}.bin"
            try:
                data = path.open("x+b", buffering=0)
            except FileExistsError:
                number += 1
                continue
            self._files.append(data)
            return len(self._files) - 1, data, path.with_suffix(".index").open("xb", buffering=0)

    def _read_index(self, path: Path) -> None:
        """Open a file of states, and read the records of its index that are whole."""
        index = path.with_suffix(".index")
        raw = index.read_bytes() if index.exists() else b""
        tokens = path.stat().st_size // (self._width * 2)
        whole = len(raw) - len(raw) % _RECORD.size
        for key, start, length, crc in _RECORD.iter_unpack(raw[:whole]):
            if start + length <= tokens:
                self._places[key] = _Place(len(self._files), start, length, crc)
        self._files.append(path.open("rb", buffering=0))

    def __len__(self) -> int:
        """The number of documents whose states are kept."""
        return len(self._places)

    def __enter__(self) -> StateCache:
        return self

    def __exit__(self, *error: object) -> None:
        for file in [*self._files, *(self._out[2:] if self._out else ())]:
            file.close()


def opened(
    folder: Path | None, model: CoLAForCausalLM, precision: str
) -> AbstractContextManager[StateCache | None]:
    """The cache in a folder, to be closed; None without a folder."""
    return nullcontext() if folder is None else StateCache(folder, model, precision)


def frozen_states(
    model: CoLAForCausalLM, cache: StateCache | None, batch: Batch, mask_of: Callable[[Batch], Mask]
) -> Tensor:
    """The base's states h [B, T, D] of a batch, from the cache if there is one, without gradients."""
    if cache is not None:
        return cache(batch, mask_of)
    with torch.no_grad():
        return model.hidden(batch.ids, mask=mask_of(batch), positions=batch.positions)


def settings_of(cache: StateCache | None) -> JsonObject:
    """What a cache changes in a stage's result: the rounding of the states."""
    return {} if cache is None else {"states": "bfloat16"}


def base_digest(model: CoLAForCausalLM) -> str:
    """A digest of all weights of a model's base, its head excepted."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.base.state_dict().items()):
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def configuration_digest(*configs: PretrainedConfig) -> str:
    """A digest of configurations.

    Fields with their class's defaults do not count, nor do names of files and what changes no state: ids of
    special tokens, the range of fresh weights, dropout, and what a pass returns besides.
    """
    computing = [_computing(non_defaults(config)) for config in configs]
    fields = json.dumps(computing, sort_keys=True, default=str)
    return hashlib.sha256(fields.encode()).hexdigest()[:32]


def _computing(fields: dict[str, object]) -> dict[str, object]:
    """The fields of a configuration that the states of a model in eval mode depend on."""
    return {
        name: _computing(value) if isinstance(value, dict) else value
        for name, value in fields.items()
        if not (
            name.endswith(("_token_id", "dropout"))
            or name.startswith("output_")
            or name in ("use_cache", "initializer_range")
        )
    }


def _check_folder(folder: Path, about: JsonObject) -> None:
    """Begin a cache, or check that the folder holds one of the same base."""
    path = folder / ABOUT
    if not path.exists():
        begun = unfinished(path).name
        odd = folder.exists() and not folder.is_dir()
        if folder.is_dir():
            odd = any(not one.name.startswith(begun) for one in folder.iterdir())
        if odd and not path.exists():  # another process may have begun the same cache since
            raise FileExistsError(
                f"{folder} holds something other than a cache of states (no {ABOUT}): give an empty folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{begun}-{uuid.uuid4().hex[:8]}"  # several processes may begin it at once
        own.write_text(json.dumps(about, indent=1) + "\n")
        os.replace(own, path)
    before = jsonl.read_object(path, *(name for name in about if name != "configuration"))
    if "configuration" in {*about} - {*before}:
        raise ValueError(
            f"{folder} holds states of an earlier version, which did not write down the configuration of "
            "their base: give another folder, or delete this one; its states can be computed again"
        )
    wrong = [name for name, value in about.items() if before[name] != value]
    if wrong:
        differences = ", ".join(f"{name} {before[name]!r} and not {about[name]!r}" for name in wrong)
        other = {"base", "configuration", "width"} & set(wrong)
        kind = "another base" if other else "the base in another precision"
        raise ValueError(
            f"{folder} holds states of {kind} ({differences}): give another folder, or delete this one; its "
            "states can be computed again"
        )


def _pieces(batch: Batch) -> list[list[_Piece]]:
    """The documents of each row."""
    ids, segments = batch.ids.cpu().numpy().astype(np.int32), batch.segments.cpu().numpy()
    rows = []
    for tokens, row in zip(ids, segments, strict=True):
        ends = [*(np.flatnonzero(row[1:] != row[:-1]) + 1).tolist(), len(row)]
        rows.append(
            [
                _Piece(start, end, hashlib.blake2b(tokens[start:end].tobytes(), digest_size=16).digest())
                for start, end in zip([0, *ends[:-1]], ends, strict=True)
                if row[start] >= 0
            ]
        )
    return rows


def _as_bytes(states: Tensor) -> Any:
    """The memory of contiguous bfloat16 states [tokens, D] as bytes."""
    return states.view(torch.uint8).numpy().reshape(-1)


def _write(file: FileIO, left: memoryview) -> None:
    """Write all bytes; an unbuffered file may take a part at a time."""
    while left:
        left = left[file.write(left) :]
