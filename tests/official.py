"""Values that the authors' code computed on tiny models, and those models, drawn anew from their seeds."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import Tensor

from cola_agents.model.modeling import CoLAForCausalLM
from tests.model.litgpt import litgpt_to_official

FIXTURES = Path(__file__).parent / "fixtures"


def drawn(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder's model, by the seed, names, shapes and scales of ``weights.json``."""
    recipe = json.loads((folder / "weights.json").read_text())
    source = torch.Generator().manual_seed(recipe["seed"])
    return {
        name: torch.randn(shape, generator=source) * scale + (len(shape) == 1)  # norms lie around 1
        for name, shape, scale in recipe["drawn"]
    }


def read_model(folder: Path) -> CoLAForCausalLM:
    """A folder's model in float32, read from the files that the authors' code would have written."""
    weights = drawn(folder)
    if "transformer.wte.weight" in weights:
        config = json.loads((folder / "config.json").read_text())
        weights = litgpt_to_official(weights, SimpleNamespace(**config))
    files = dict.fromkeys(weights, "model.safetensors")
    if (folder / "shards.json").is_file():
        files = json.loads((folder / "shards.json").read_text())["weight_map"]
    with tempfile.TemporaryDirectory() as place:
        for name in ("config.json", "model.safetensors.index.json"):
            if (folder / name).is_file():
                shutil.copy(folder / name, place)
        for file in set(files.values()):
            part = {name: weights[name].contiguous() for name in weights if files[name] == file}
            save_file(part, Path(place, file))
        return CoLAForCausalLM.from_official(place, dtype=torch.float32)


def fingerprint(tensor: Tensor) -> float:
    """A number that changes with every element and with their order."""
    flat = tensor.double().flatten()
    return float(flat @ torch.arange(len(flat), dtype=torch.float64).mul(0.7).cos())
