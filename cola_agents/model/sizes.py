"""The sizes of new latent parts around a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What ``from_base`` and ``cola pretrain world`` grow where nothing else is given. The defaults of
#: :class:`~cola_agents.model.configuration.CoLAConfig` are the paper's sizes instead, and are not written
#: into a saved ``config.json``.
GROWTH: Mapping[str, Any] = {
    "num_codes": 64,
    "num_inverse_layers": 1,
    "num_merge_layers": 2,
    "num_policy_layers": 1,
    "readout": "state",
}
#: The sizes of the paper's model: the official pre-training code.
PAPER_GROWTH: Mapping[str, Any] = {
    "num_codes": 64,
    "num_inverse_layers": 4,
    "num_merge_layers": 2,
    "num_policy_layers": 8,
    "readout": "difference",
}
