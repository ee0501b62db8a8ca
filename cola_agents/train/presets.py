"""Presets of all stages: ``tiny`` for models of the bundled size, and ``paper``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cola_agents.model.sizes import GROWTH, PAPER_GROWTH
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.options import CodeConfig, StageConfig, paper_fta, short_warmup

#: Optimiser steps of FTA on models of the bundled size.
TINY_FTA_STEPS = 200


@dataclass(frozen=True)
class Preset:
    """Default settings of a model and its stages.

    Attributes:
        seed: seed of weights, data and noise.
        grow: fields of :class:`~cola_agents.model.configuration.CoLAConfig`.
        codes: options of the code assignment in the stage ``world``.
        config: a function from a stage (``world``, ``policy`` or ``fta``), its number of steps (None for the
            preset's) and other changed fields to the stage's configuration.
    """

    seed: int
    grow: Mapping[str, Any]
    codes: CodeConfig
    config: Callable[[str, int | None, Mapping[str, Any]], StageConfig]


def _tiny(stage: str, steps: int | None, changed: Mapping[str, Any]) -> StageConfig:
    if stage != "fta":
        # As in the recipe of the bundled models.
        config: StageConfig = getattr(Recipe(), stage)
        steps = steps or config.steps
        warmup = short_warmup(steps, config.warmup)
        return replace(config, **{"warmup": warmup, **changed, "steps": steps})
    steps = steps or TINY_FTA_STEPS
    defaults = {"lr": 1e-3, "warmup": math.ceil(0.03 * steps), "final": 0.1, "weight_decay": 0.0}
    return StageConfig(**{**defaults, **changed, "steps": steps})


def _paper(stage: str, steps: int | None, changed: Mapping[str, Any]) -> StageConfig:
    if stage == "fta":
        if steps is None:
            raise ValueError("FTA takes one epoch in the paper: give --epochs 1, or --steps or --tokens")
        return paper_fta(steps, **changed)
    if steps is not None:
        changed = {**changed, "steps": steps}
    make = StageConfig.paper_world if stage == "world" else StageConfig.paper_policy
    config = make(**changed)
    return replace(config, **{"warmup": short_warmup(config.steps, config.warmup), **changed})


PRESETS = {
    "tiny": Preset(0, GROWTH, Recipe().codes, _tiny),
    "paper": Preset(42, PAPER_GROWTH, CodeConfig.paper(), _paper),
}
