"""PPO updates: latent on cached hidden states, token sequences, and per-token rows, a turn each."""

from __future__ import annotations

from typing import Any

import stable_baselines3 as sb3
import torch

from benchmarks.peers.rows import rows_ppo
from benchmarks.peers.setting import Clock, PeerSetting, TurnPPO, Weights
from benchmarks.speed.turns import ratios
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.update import Batch

#: What the three updates do not do alike; part of every result.
DIFFERENCES = (
    "the rows are timed in their train() alone: they are given the values, KL and advantages that ours make "
    "on the clock",
    "rows are normalised a minibatch, ours over the batch",
    "rows of all episodes are mixed in a minibatch of as many actions as the whole episodes of ours have",
    "latent and token episodes have the same prompts and lengths, and other actions",
)


def measure_updates(
    setting: PeerSetting, weights: Weights, repeats: int, *, passes: int, minibatches: int
) -> dict[str, Any]:
    """CPU seconds of a whole PPO update from the same number of episodes, steps and passes.

    Args:
        passes: over the episodes.
        minibatches: gradient steps of a pass.

    Raises:
        ValueError: where the episodes do not divide into so many minibatches.
    """
    if minibatches < 1 or setting.rows % minibatches:
        raise ValueError(f"{setting.rows} episodes do not divide into {minibatches} minibatches")
    size = setting.rows // minibatches
    agents = {
        level: TurnPPO(level, setting, weights, passes=passes, minibatch=size)
        for level in ("latent", "token")
    }
    rollouts = {level: agent.first_turn() for level, agent in agents.items()}
    rows = rows_beside(
        agents["token"], rollouts["token"], setting, passes=passes, batch_size=size * setting.tokens
    )
    clock = Clock()
    for turn in range(repeats + 1):
        for level, agent in agents.items():
            with clock.time(level):
                agent.once(rollouts[level])
        with clock.time("rows"):
            rows.train()
        if turn == 0:
            clock.forget()
    for agent in agents.values():
        agent.close()
    cpu = clock.cpu
    return {
        "episodes": setting.rows,
        "tokens_per_answer": setting.tokens,
        "actions": rollouts["token"].num_actions,
        "passes": passes,
        "gradient_steps": passes * minibatches,
        "seconds": clock.seconds(),
        **{f"{name}_cpu_s": figures["cpu_s"] for name, figures in clock.seconds().items()},
        "token_of_latent": ratios(cpu["token"], cpu["latent"]),
        "rows_of_token": ratios(cpu["rows"], cpu["token"]),
        "rows_of_latent": ratios(cpu["rows"], cpu["latent"]),
        "differences": list(DIFFERENCES),
    }


def rows_beside(
    agent: TurnPPO,
    rollout: Rollout,
    setting: PeerSetting,
    *,
    passes: int,
    batch_size: int,
    normalise: bool = True,
) -> sb3.PPO:
    """The per-token rows of a rollout, with the agent's weights, values and options."""
    o: Any = agent.options
    batch: Batch = agent.batch_of(rollout)
    assert batch.values is not None
    with torch.no_grad():
        rewards = rollout.rewards - agent.kl_coef * agent.policy.kl(rollout)
    return rows_ppo(
        agent.actor,  # type: ignore[arg-type]
        rollout,
        rewards,
        batch.values,
        setting,
        passes=passes,
        batch_size=batch_size,
        value_coef=o.value_coef,
        gamma=o.gamma,
        lam=o.lam,
        normalise=normalise,
    )
