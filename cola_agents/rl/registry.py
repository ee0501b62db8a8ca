"""The bundled agents by name."""

from __future__ import annotations

from cola_agents.rl.agent import Agent
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.rloo import RLOO

#: What a saved agent calls its class.
AGENTS: dict[str, type[Agent]] = {cls.__name__: cls for cls in (GRPO, PPO, ReMax, RLOO)}
