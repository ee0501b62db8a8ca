"""A stage on any model and any data, as one run in a folder: described."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cola_agents.train.adapters import LoRA
from cola_agents.train.data.packing import LongDocuments
from cola_agents.train.fta import Codes
from cola_agents.train.presets import PRESETS, Preset
from cola_agents.train.specs import DataSpec
from cola_agents.train.stage import StageConfig
from cola_agents.train.world import CodeConfig
from cola_envs.jsonl import JsonObject

STAGES = ("world", "policy", "fta")
#: Flags of `cola pretrain` that are not named after the field that they set.
_FLAGS = {
    "num_codes": "--codes",
    "num_inverse_layers": "--inverse-layers",
    "num_merge_layers": "--merge-layers",
    "num_policy_layers": "--policy-layers",
}


def flag_of(name: str) -> str:
    """The flag of `cola pretrain` that sets a field."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


@dataclass(frozen=True)
class Run:
    """What is trained, on what, and into which folder.

    Attributes:
        stage: ``world`` (inverse dynamics, codebook and world model), ``policy`` (cloned from them) or
            ``fta`` (the base under codes, and after the inverse dynamics' the policy again).
        model: folder or hub id: of a causal LM, which ``world`` grows into a latent-action model, or of a
            latent-action model, in our format or the official one.
        out: folder to write: absent, empty, or of the same run, which is resumed.
        data: what it is trained on; without any the generated corpus.
        held_out: what a finished policy is measured on; without any the generated corpus where that was
            trained on too, and otherwise nothing is measured.
        tokenizer: folder or hub id; None for the model's own.
        preset: ``"tiny"`` or ``"paper"``: see :mod:`cola_agents.train.presets`.
        steps, tokens, epochs: how long, at most one of them; epochs of finite data are counted beforehand,
            by a pass that packs them. None of them for the preset's.
        seed: of new weights, data and noise; None for the preset's.
        config, grow, codes: what differs from the preset, by field of
            :class:`~cola_agents.train.stage.StageConfig`,
            :class:`~cola_agents.model.configuration.CoLAConfig` and
            :class:`~cola_agents.train.world.CodeConfig`.
        long: what becomes of documents longer than a row; None for ``"cut"`` in ``fta`` and on the generated
            corpus, ``"chunk"`` elsewhere.
        tune: whose codes ``fta`` trains the base under.
        reclone: whether it clones the policy again after the inverse dynamics' codes.
        lora: adapters that it trains in place of the base's weights.
        keep_adapters: write them beside an unchanged base, in place of merging them into it. What is then
            measured, base and adapters together, is written beside the adapters.
        device, dtype: where and in which type the model is loaded; trained weights are float32 meanwhile.

    Raises:
        ValueError: for what contradicts itself, or belongs to another stage.
    """

    stage: str
    model: str
    out: Path
    data: tuple[DataSpec, ...] = ()
    held_out: tuple[DataSpec, ...] = ()
    tokenizer: str | None = None
    preset: str = "tiny"
    steps: int | None = None
    tokens: int | None = None
    epochs: int | None = None
    seed: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    grow: Mapping[str, Any] = field(default_factory=dict)
    codes: Mapping[str, Any] = field(default_factory=dict)
    long: LongDocuments | None = None
    tune: Codes = "inverse"
    reclone: bool = True
    lora: LoRA | None = None
    keep_adapters: bool = False
    device: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"stage {self.stage!r} is not one of {STAGES}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset {self.preset!r} is not one of {tuple(PRESETS)}")
        foreign: JsonObject = {
            "world": {"tune": self.tune != "inverse", "reclone": not self.reclone, "lora": self.lora},
            "policy": {"tune": self.tune != "inverse", "reclone": not self.reclone, "lora": self.lora},
            "fta": {},
        }[self.stage]
        if self.stage != "world":
            foreign |= {"grow": self.grow, "codes": self.codes}
        else:
            foreign |= {"held_out": self.held_out}
        wrong = [name for name, given in foreign.items() if given]
        if wrong:
            raise ValueError(f"the stage {self.stage!r} takes no {', '.join(wrong)}")
        if self.keep_adapters and self.lora is None:
            raise ValueError("there are no adapters to keep: give their rank")
        lengths = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"give one of {' and '.join(lengths)}")
        for name in lengths:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype {self.dtype!r} is not a torch type; use 'float32' or 'bfloat16'")
        self.stage_config(self.epochs)
        self.code_config()
        if self.device and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("several processes are given their devices by accelerate: leave device out")

    @property
    def seeded(self) -> int:
        """The seed, the preset's where none was given."""
        return self._preset.seed if self.seed is None else self.seed

    @property
    def generated(self) -> bool:
        """Whether it is trained on the generated corpus alone, named as its data or not."""
        return all(spec.kind == "generated" for spec in self.data)

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.preset]

    def stage_config(self, steps: int | None = None) -> StageConfig:
        """How the stage is trained: the preset's way, but for what was given."""
        changed = {"seed": self.seeded, **self.config}
        config = self._preset.config(self.stage, steps or self.steps, changed)
        if self.tokens is not None:
            needed = math.ceil(self.tokens / (config.rows * config.length))
            config = self._preset.config(self.stage, needed, changed)
        return config

    def code_config(self) -> CodeConfig:
        return replace(self._preset.codes, **self.codes)

    def described(self) -> JsonObject:
        """All of it as JSON values; the folders' and files' own names without where they are."""
        cut = asdict(self)
        del cut["out"]
        for name in ("model", "tokenizer"):
            cut[name] = _name(cut[name])
        for spec in (*cut["data"], *cut["held_out"]):
            spec["source"] = _name(spec["source"])
        return cut

    @property
    def digest(self) -> str:
        """Tells runs apart, whatever folder and device they are in."""
        whole = {key: value for key, value in asdict(self).items() if key not in ("out", "device")}
        return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()


def _name(path: str | None) -> str | None:
    return Path(path).name if path and Path(path).is_absolute() else path
