"""Latent-action models saved without their base: latent parts, and a reference to the base.

Beside ``config.json`` and the weights of the latent parts (inverse dynamics, codebook, merge layers, policy,
the readout's norm) the folder holds ``base.json``: where the base is, and the sha256 of its weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import cached_file

from cola_agents.common.files import write_json
from cola_agents.model.loading import check_files, load_config, load_model
from cola_agents.model.reach import FILES, HUB_ID, reachable
from cola_agents.model.shards import DTYPES, Stored, find_tensors, read_tensors, some
from cola_envs import jsonl

#: The file with the reference, in the folder of the latent parts.
REFERENCE = "base.json"
#: Modules of a latent-action model that are the base's.
BASE_PARTS = ("base.", "lm_head.")
#: Arguments of ``from_pretrained`` with which the base of a model of the hub is read too.
_SHARED = ("cache_dir", "local_files_only", "token")
_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})/?$")


@dataclass(frozen=True)
class Base:
    """Where the base of a latent-action model is.

    Attributes:
        source: a folder, or a hub id.
        revision: the commit of a hub id; None for its newest.
    """

    source: str
    revision: str | None = None

    @classmethod
    def named(cls, source: str | Path, revision: str | None = None) -> Base | None:
        """The base that a path or hub id names; None where there is none of that name.

        A folder in the hub's cache is named by its hub id and commit.
        """
        if match := _CACHED.search(Path(source).as_posix()):
            return cls(f"{match[1]}/{match[2]}", match[3])
        if Path(source).is_dir():
            return cls(str(Path(source).resolve()))
        return cls(str(source), revision) if HUB_ID.fullmatch(str(source)) else None

    @property
    def is_folder(self) -> bool:
        return Path(self.source).is_dir()

    def folder(self, **options: Any) -> Path:
        """The folder of its files, fetched from the hub where needed.

        Args:
            options: of ``snapshot_download``.

        Raises:
            OSError: where it cannot be had.
        """
        if self.is_folder:
            return Path(self.source)
        if not options and Path(source := reachable(self.source, "base", self.revision)).is_dir():
            return Path(source)
        files = list(FILES)
        return Path(snapshot_download(self.source, revision=self.revision, allow_patterns=files, **options))


def digest_of(folder: Path) -> str:
    """sha256 of the weights of a folder: names, types, shapes and bytes, however they are sharded.

    Raises:
        FileNotFoundError, ValueError: for a folder without readable weights.
    """
    stored = find_tensors(folder)
    digest = hashlib.sha256()
    for name in sorted(stored):
        one = stored[name]
        digest.update(f"{name} {one.dtype} {one.shape}".encode())
        digest.update(_bytes(stored, name))
    return digest.hexdigest()


def _bytes(stored: Mapping[str, Stored], name: str) -> Any:
    dtype = DTYPES.get(stored[name].dtype)
    if dtype is None:
        raise ValueError(
            f"{stored[name].file} holds {name} as {stored[name].dtype}; the weights of a base are "
            f"{', '.join(DTYPES)}"
        )
    ((_, tensor),) = read_tensors(stored, [name], dtype, lambda name: torch.device("cpu"))
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def base_weights(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of the base in a folder, by their names in a latent-action model."""
    model = load_model(AutoModelForCausalLM, folder, config=load_config(folder), dtype=dtype)
    return {
        **{f"base.{name}": tensor for name, tensor in model.model.state_dict().items()},
        "lm_head.weight": model.lm_head.weight.detach(),
    }


def latent_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a latent-action model that are not its base's."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(BASE_PARTS)}


def changed_weights(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[str]:
    """Names of the base's weights in ``state`` that differ from the base, rounded to the same type."""
    return [
        name
        for name, tensor in state.items()
        if name.startswith(BASE_PARTS)
        and (name not in base or not torch.equal(tensor.detach().cpu(), base[name].to(tensor.dtype)))
    ]


def write_reference(folder: Path, base: Base, digest: str, *, beside: Path) -> None:
    """Write :data:`REFERENCE` to ``folder``; a base in a folder is named relative to ``beside``."""
    place: dict[str, str | None]
    if base.is_folder:
        place = {"folder": Path(os.path.relpath(base.source, beside.resolve())).as_posix()}
    else:
        place = {"hub": base.source, "revision": base.revision}
    write_json(folder / REFERENCE, {**place, "sha256": digest}, indent=1)


@dataclass(frozen=True)
class Parts:
    """Latent parts that were saved without their base.

    Attributes:
        folder: of their files.
        base: the base that they name, or that the caller gave.
        digest: sha256 of its weights, as it was when they were saved.
        options: of ``snapshot_download``, for the base.
    """

    folder: Path
    base: Base
    digest: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def state(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """All weights of the whole model, on the CPU.

        Raises:
            FileNotFoundError: where the base is not there.
            ValueError: for another base than the one that the parts were saved with.
        """
        try:
            folder = self.base.folder(**self.options)
            digest = digest_of(folder)
        except OSError as error:
            raise FileNotFoundError(
                f"{self.folder} holds the latent parts of a model, without its base, and the base "
                f"{self.base.source} cannot be read: {error}. Pass base= (a folder or hub id) to "
                f"CoLAForCausalLM.from_pretrained, or write the parts anew beside it by `cola convert "
                f"{self.folder} TARGET --base BASE`"
            ) from error
        if digest != self.digest:
            raise ValueError(
                f"{self.folder} was trained on a base whose weights have the sha256 {self.digest[:12]}..., "
                f"and those of {self.base.source} have {digest[:12]}...: another base, or one that was "
                "trained further, has other states. Pass base= with the base it was trained on, or write the "
                f"parts anew beside that one by `cola convert {self.folder} TARGET --base BASE`"
            )
        stored = find_tensors(self.folder)
        parts = dict(read_tensors(stored, stored, dtype, lambda name: torch.device("cpu")))
        return {**base_weights(folder, dtype), **parts}


def saved_parts(source: str | Path, base: str | Path | None = None, **options: Any) -> Parts | None:
    """The latent parts in a folder or at a hub id; None for a model that was saved whole.

    Args:
        base: a folder or hub id to read in place of the one that the parts name.
        options: of ``from_pretrained``, on reading the hub.

    Raises:
        FileNotFoundError: for a ``base`` that is neither a folder nor a hub id.
        ValueError: for a reference that names no base, or a folder in the files of the hub.
    """
    local = Path(source).is_dir()
    quiet = dict.fromkeys(("missing_entries", "gated_repo", "connection_errors"), False)
    quiet = {f"_raise_exceptions_for_{name}": value for name, value in quiet.items()}
    file = cached_file(source, REFERENCE, **quiet, **options)
    if file is None:
        return None
    folder = Path(file).parent
    if not local:
        given = {name: options[name] for name in (*_SHARED, "revision") if name in options}
        root = Path(snapshot_download(str(source), allow_patterns=list(FILES), **given))
        folder = root / str(options.get("subfolder") or "")
    check_files(folder)
    if any(name.startswith(BASE_PARTS) for name in find_tensors(folder)):
        return None  # a whole model was pushed over latent parts
    fields = jsonl.read_object(folder / REFERENCE)
    if base is None:
        named = _base_of(folder, fields, local)
    elif (found := Base.named(base)) is not None:
        named = found
    else:
        raise FileNotFoundError(f"base={str(base)!r} is no folder here, and no hub id (owner/name)")
    digest = fields.get("sha256")
    if not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise ValueError(f"{folder / REFERENCE} has no sha256 of the base's weights: {digest!r:.80}")
    shared = {name: options[name] for name in _SHARED if options.get(name) is not None}
    return Parts(folder, named, digest, shared)


def _base_of(folder: Path, fields: Mapping[str, Any], local: bool) -> Base:
    """The base that :data:`REFERENCE` names."""
    hub, path = fields.get("hub"), fields.get("folder")
    revision = fields.get("revision")
    if isinstance(hub, str) and HUB_ID.fullmatch(hub) and isinstance(revision, str | None):
        return Base(hub, revision)
    if not isinstance(path, str):
        raise ValueError(f"{folder / REFERENCE} names no base: it needs folder, or hub (owner/name)")
    if not local:
        raise ValueError(
            f"{folder / REFERENCE} names a folder of the machine that pushed it, {path!r}: pass base= with "
            "the base that the model was trained on"
        )
    return Base(str(Path(os.path.normpath(folder.resolve() / path))))


def origin_of(base: PreTrainedModel, source: str | Path | None = None) -> Base | None:
    """Where a loaded causal LM came from; None where that is unknown."""
    name = source or base.name_or_path
    return Base.named(name, getattr(base.config, "_commit_hash", None)) if name else None


def reference_for(state: Mapping[str, Tensor], base: Base, dtype: torch.dtype) -> tuple[str | None, str]:
    """The digest of the base's files, or None with the reason where the model's base differs from them.

    Args:
        state: all weights of the model.
        base: the base that it was built on.
        dtype: of the model's weights.
    """
    try:
        folder = base.folder()
        digest = digest_of(folder)
        changed = changed_weights(state, base_weights(folder, dtype))
    except (OSError, ValueError) as error:
        return None, f"its base {base.source} cannot be read: {error}"
    if changed:
        return None, f"{some(changed)} of its base differ from those of {base.source}"
    return digest, ""
