"""Low-rank adapters in the base of a latent-action model, made by `peft`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cola_agents.common.randomness import drawn_from
from cola_agents.model import loading
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.shards import disk_errors

#: The linear layers of a decoder layer, by the names that every supported family gives them.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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
        if self.rank < 1 or not self.targets:
            raise ValueError(f"a rank of at least 1 (--lora-rank) and targets are needed, got {self}")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"alpha must be positive (--lora-alpha), got {self.alpha}")


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
            lora_alpha=2 * config.rank if config.alpha is None else config.alpha,
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

        Raises:
            OSError: where they cannot be written.
        """
        with disk_errors(folder):
            self._wrapped.save_pretrained(str(folder))

    def remove(self) -> None:
        """Remove the adapters, which restores the base."""
        self._wrapped.unload()


def load_adapters(model: CoLAForCausalLM, folder: str | Path) -> None:
    """Merge saved adapters into the base of the model that they were trained on.

    Raises:
        ImportError: without `peft`.
        FileNotFoundError: for a folder without adapters.
        ValueError: for adapters that are pickled or require the execution of code.
    """
    _peft()
    if not (Path(folder) / loading.ADAPTER).is_file():
        raise FileNotFoundError(f"{folder} holds no adapters: there is no {loading.ADAPTER} in it")
    with drawn_from(None):  # peft draws random adapters before it loads the saved ones
        adapted = loading.load_adapters(model.base, Path(folder))
    adapted.merge_and_unload()


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("low-rank adapters need `peft`: pip install 'cola-rl[train]'") from error
    return peft
