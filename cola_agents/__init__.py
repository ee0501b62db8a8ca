"""Latent-action language models, their training, and RL agents over them.

Shapes: B rows, T tokens, D hidden, A actions, V vocabulary.
"""

import cola_agents.model.versions  # noqa: F401  first: it refuses a transformers that was not tested
from cola_agents.common.threads import set_threads
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.loading import load_bundled
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.moved import let_old_names_work
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.rloo import RLOO
from cola_agents.rl.rollout import Rollout, collect
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
    "set_threads",
]

let_old_names_work()
