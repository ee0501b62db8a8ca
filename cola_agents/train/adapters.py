"""Low-rank adapters in the base of a latent-action model, made by `peft`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cola_agents.common.files import write_json
from cola_agents.common.randomness import drawn_from
from cola_agents.model import loading
from cola_agents.model.lora import alpha_of
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.shards import disk_errors, read_header, some
from cola_envs import jsonl

#: The linear layers of a decoder layer, by the names that every supported family gives them.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
#: What `peft` puts before the names of an adapted model's layers.
_PREFIX = "base_model.model."
#: The file beside saved adapters with the digests of the base that they were trained on.
BASE = "adapter_base.json"
#: Types in which a base is compared: one that was rounded to another type when it was loaded is the same.
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class LoRA:
    """Low-rank adaptation of the base's decoder layers: W + (alpha / rank) B A.

    Attributes:
        rank: rank of B A.
        alpha: numerator of its scale, alpha / rank; None for twice the rank.
        targets: names of the adapted linear layers.

    Raises:
        ValueError: for a rank below 1, an alpha that is not positive, or without targets.

    Source: Hu et al. 2022 (arXiv 2106.09685), section 4.1. CoLA's authors train all weights.
    """

    rank: int
    alpha: float | None = None
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank (--lora-rank) must be at least 1, got {self.rank}")
        if not self.targets:
            raise ValueError(f"targets must name layers to adapt, such as {TARGETS}, got none")
        alpha_of(self.rank, self.alpha)


class Adapters:
    """Low-rank adapters in a model's base; the constructor inserts them and freezes the base's weights.

    B is initialised to zeros, so that the model does not change at first; A is drawn from torch's default
    generator.

    Args:
        model: the model whose ``base`` is adapted, in place.
        config: rank, scale and targets.

    Raises:
        ImportError: without `peft`.
    """

    def __init__(self, model: CoLAForCausalLM, config: LoRA) -> None:
        peft = _peft()
        settings = peft.LoraConfig(
            r=config.rank,
            lora_alpha=alpha_of(config.rank, config.alpha),
            target_modules=list(config.targets),
        )
        self._model = model
        self._wrapped: Any = peft.get_peft_model(model.base, settings)
        self.settings = asdict(config)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The adapters' weights."""
        return [p for name, p in self._model.base.named_parameters() if "lora_" in name]

    def merge(self) -> None:
        """Add the adapters to the base's weights and remove them."""
        self._wrapped.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Save the adapters in `peft`'s format, for :func:`load_adapters` and ``peft.PeftModel``.

        Digests of the base go beside them, in :data:`BASE`.

        Raises:
            OSError: where they cannot be written.
        """
        with disk_errors(folder):
            (folder / BASE).unlink(missing_ok=True)  # a kill leaves no digests of another base
            self._wrapped.save_pretrained(str(folder))
            digests = {str(kind): _digest(self._model.base, kind) for kind in _TYPES}
            write_json(folder / BASE, {"sha256": digests}, indent=1)

    def remove(self) -> None:
        """Remove the adapters, which restores the base."""
        self._wrapped.unload()


def load_adapters(model: CoLAForCausalLM, folder: str | Path) -> None:
    """Merge saved adapters into the base of the model that they were trained on.

    Raises:
        ImportError: without `peft`.
        FileNotFoundError: for a folder without adapters.
        ValueError: for adapters that are pickled or require the execution of code, and for those of a model
            with other layers or widths, or with other weights in its base; the model is unchanged then. Of
            adapters that earlier versions saved only layers and widths are compared.
    """
    _peft()
    if not (Path(folder) / loading.ADAPTER).is_file():
        raise FileNotFoundError(f"{folder} holds no adapters: there is no {loading.ADAPTER} in it")
    loading.check_adapters(Path(folder))
    _check_shapes(model.base, Path(folder))
    _check_weights(model.base, Path(folder))
    with drawn_from(None):  # peft draws random adapters before it loads the saved ones
        adapted = loading.load_adapters(model.base, Path(folder))
    adapted.merge_and_unload()


def _check_shapes(base: nn.Module, folder: Path) -> None:
    """Raise ValueError for adapters of other layers than those of a base, or of other widths."""
    fields = jsonl.read_object(folder / loading.ADAPTER)
    layers = {name: module for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    found: set[str] = set()
    for name, stored in read_header(folder / loading.ADAPTER_WEIGHTS).items():
        layer, _, part = name.removeprefix(_PREFIX).partition(".lora_")
        if part not in ("A.weight", "B.weight"):
            continue
        found.add(layer)
        at = 1 if part == "A.weight" else 0
        width = layers[layer].weight.shape[at] if layer in layers else None
        if stored.shape[at] != width:
            has = "no such layer" if width is None else f"{width} there"
            raise ValueError(
                f"{folder} holds adapters of another model: {name} has the shape {list(stored.shape)}, and "
                f"this base has {has}. Give the model that they were trained on"
            )
    targets = fields.get("target_modules")
    if isinstance(targets, list) and fields.get("layers_to_transform") is None:
        missing = sorted({name for name in layers if name.rpartition(".")[2] in targets} - found)
        if missing:
            raise ValueError(
                f"{folder} holds adapters of another model: there are none for {some(missing)} of this base. "
                "Give the model that they were trained on"
            )


def _check_weights(base: nn.Module, folder: Path) -> None:
    """Raise ValueError for adapters that were trained on a base with other weights; old ones do not tell."""
    if not (folder / BASE).is_file():
        return
    digests = jsonl.read_object(folder / BASE, "sha256")["sha256"]
    if not isinstance(digests, dict) or not any(str(kind) in digests for kind in _TYPES):
        raise ValueError(
            f"{folder / BASE} is damaged: its sha256 are those of the base in {', '.join(map(str, _TYPES))}, "
            f"got {digests!r:.80}"
        )
    if not any(str(kind) in digests and digests[str(kind)] == _digest(base, kind) for kind in _TYPES):
        raise ValueError(
            f"{folder} holds adapters that were trained on a base with other weights than this model's: "
            "another base, or one that was trained further, has other states. Give the model that they were "
            "trained on; `cola pretrain --keep-adapters` wrote it into the folder above the adapters"
        )


def _digest(base: nn.Module, kind: torch.dtype) -> str:
    """sha256 of a base's weights, without adapters in it: names, shapes and values, rounded to a type."""
    digest = hashlib.sha256(str(kind).encode())
    for name, weight in sorted(base.named_parameters()):
        if "lora_" not in name:
            digest.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}".encode())
            rounded = weight.detach().to("cpu", kind).contiguous()
            digest.update(rounded.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("low-rank adapters need `peft`: pip install 'cola-rl[train]'") from error
    return peft
