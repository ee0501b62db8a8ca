"""Import modules by their names from before they were put in folders; version 0.2 removes these names."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Folder -> the modules in it that used to be in ``cola_agents`` itself.
_MOVED = {
    "model": "configuration families hub lora modeling sampling shards",
    "decoding": "kv lean session static",
    "rl": (
        "acting actors agent generate grpo logs losses memory optimiser options ppo "
        "registry remax rloo saving workers"
    ),
    "evaluation": "demo inspection play probe reports scores",
    "common": "provenance threads",
    "train": "reward",
}
#: Old name -> new name, for the others.
_RENAMED = {
    "backbones": "decoding.loading",
    "checkpoint": "model.official",
    "table": "decoding.code_table",
    "loop": "rl.callbacks",
    "rollout": "rl.collecting",
    "updates": "rl.update",
    "folders": "common.files",
    "train.distributed": "common.processes",
    "train.card": "evaluation.bundled_card",
    "search.core": "search.puct",
    "search.play": "search.playout",
    "train.lora": "train.adapters",
    "train.documents": "train.data.documents",
    "train.formats": "train.data.formats",
    "train.sources": "train.data.sources",
    "train.corpus": "train.bundled.corpus",
    "train.english": "train.bundled.english",
    "train.recipe": "train.bundled.recipe",
    "train.tokenizer": "train.bundled.tokenizer",
}
NEW_NAMES = {
    **{f"cola_agents.{old}": f"cola_agents.{new}" for old, new in _RENAMED.items()},
    **{
        f"cola_agents.{name}": f"cola_agents.{room}.{name}"
        for room, names in _MOVED.items()
        for name in names.split()
    },
}


class _OldNames(MetaPathFinder, Loader):
    """Finds a module by its old name: the module itself, with a DeprecationWarning."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in NEW_NAMES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module, which :meth:`exec_module` replaces by the real one."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = NEW_NAMES[module.__name__]
        warnings.warn(
            f"{module.__name__} is now {new}; version 0.2 removes the old name",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[module.__name__] = importlib.import_module(new)


def let_old_names_work() -> None:
    """Let modules be imported by their old names. Calling it again changes nothing."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())
