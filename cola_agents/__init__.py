"""Latent-action language models, their training, and agents that learn over them.

Shapes use one glossary: B rows, T tokens, D hidden, A actions, V vocabulary.
"""

import cola_agents.versions  # noqa: F401  first: it refuses a transformers that was not tested
from cola_agents.backbones import LatentBackbone, TokenBackbone, load_bundled
from cola_agents.configuration import CoLAConfig
from cola_agents.grpo import GRPO
from cola_agents.modeling import CoLAForCausalLM
from cola_agents.ppo import PPO
from cola_agents.remax import ReMax
from cola_agents.rloo import RLOO
from cola_agents.rollout import Rollout, collect
from cola_agents.sb3 import ClonedPolicy, SB3VecEnv, sb3_defaults

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
    "TokenBackbone",
    "collect",
    "load_bundled",
    "sb3_defaults",
]
