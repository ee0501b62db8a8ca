"""Latent-action language models, their training, and RL agents over them.

Shapes: B rows, T tokens, D hidden, A actions, V vocabulary.

A name is imported from its module when it is first used, so that ``import cola_agents`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cola_agents.model.versions import check_system, check_transformers
from cola_agents.moved import let_old_names_work

if TYPE_CHECKING:
    from cola_agents.common.threads import set_threads
    from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
    from cola_agents.decoding.loading import load_bundled
    from cola_agents.model.configuration import CoLAConfig
    from cola_agents.model.modeling import CoLAForCausalLM
    from cola_agents.rl.collecting import collect
    from cola_agents.rl.grpo import GRPO
    from cola_agents.rl.ppo import PPO
    from cola_agents.rl.remax import ReMax
    from cola_agents.rl.rloo import RLOO
    from cola_agents.rl.rollout import Rollout
    from cola_agents.sb3 import ClonedPolicy, SB3VecEnv, sb3_defaults
    from cola_agents.tensor_env import TensorVectorEnv, make_tensor_vec

__all__ = [
    "GRPO",
    "PPO",
    "RLOO",
    "ClonedPolicy",
    "CoLAConfig",
    "CoLAForCausalLM",
    "LatentBackbone",
    "ReMax",
    "Rollout",
    "SB3VecEnv",
    "TensorVectorEnv",
    "TokenBackbone",
    "collect",
    "load_bundled",
    "make_tensor_vec",
    "sb3_defaults",
    "set_threads",
]

#: Public name -> its module in this package.
_MODULES = {
    "GRPO": "rl.grpo",
    "PPO": "rl.ppo",
    "RLOO": "rl.rloo",
    "ClonedPolicy": "sb3",
    "CoLAConfig": "model.configuration",
    "CoLAForCausalLM": "model.modeling",
    "LatentBackbone": "decoding.backbones",
    "ReMax": "rl.remax",
    "Rollout": "rl.rollout",
    "SB3VecEnv": "sb3",
    "TensorVectorEnv": "tensor_env",
    "TokenBackbone": "decoding.backbones",
    "collect": "rl.collecting",
    "load_bundled": "decoding.loading",
    "make_tensor_vec": "tensor_env",
    "sb3_defaults": "sb3",
    "set_threads": "common.threads",
}

check_system()
check_transformers()  # before any module of this package imports transformers
let_old_names_work()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
