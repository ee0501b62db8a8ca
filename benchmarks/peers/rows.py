"""PPO over per-token rows, in the manner of RL4LMs: each action is a row with its whole prefix.

The update is Stable-Baselines3's own: its rollout buffer, its advantages, its ``train()``. What is made
here is the policy that runs a language model over each row's prefix, and the rows.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from benchmarks.peers.setting import PeerSetting
from cola_agents.rl.actors import TokenActor
from cola_agents.rl.rollout import Rollout

#: Fills a row behind its prefix.
PAD = -1


class PrefixPolicy(nn.Module):
    """A token actor as a policy of Stable-Baselines3's, whose observation is a padded prefix of ids.

    Rows are padded on the right, where a causal model does not see it, and cut to the longest of their
    minibatch; logits are made at a row's last token alone. RL4LMs pads to a fixed length and runs
    a second language model for the value: this one is spared both.

    Args:
        observation_space, action_space, lr_schedule: of Stable-Baselines3.
        actor: whose trunk, head and value head are trained.
        betas: Adam's.
    """

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Any,
        *,
        actor: TokenActor,
        betas: tuple[float, float],
        use_sde: bool = False,
    ) -> None:
        super().__init__()
        self.actor = actor
        trained = [parameter for parameter in actor.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=lr_schedule(1), betas=betas)

    def set_training_mode(self, mode: bool) -> None:
        """Do nothing: the actor behaves the same in both modes, as under the bundled agents."""

    def evaluate_actions(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probabilities of ``actions`` and entropies, [B] each, of prefixes [B, L]."""
        lengths = (observations != PAD).sum(1)
        ids = observations[:, : int(lengths.max())].long().clamp_min(0)
        states = self.actor.trunk(input_ids=ids, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ids)), lengths - 1]
        log_policy = self.actor.logits(last).log_softmax(-1)
        entropy = -(log_policy.exp() * log_policy).sum(-1)
        return self.actor.values(last), log_policy.gather(-1, actions[:, None]).squeeze(-1), entropy


def rows_ppo(
    actor: TokenActor,
    rollout: Rollout,
    rewards: Tensor,
    values: Tensor,
    setting: PeerSetting,
    *,
    passes: int,
    batch_size: int,
    value_coef: float,
    gamma: float,
    lam: float,
    normalise: bool = True,
) -> sb3.PPO:
    """Stable-Baselines3's PPO with its buffer full of a rollout's actions, a row each; ``train()`` learns.

    Args:
        actor: is copied.
        rollout: whole episodes at token level, all of them terminated.
        rewards, values: at the actions, [N, T].
        passes, batch_size: passes over the rows, and rows of a gradient step.
        value_coef: of *half* the squared error, as in the bundled agents.
        gamma, lam: of generalised advantage estimation.
        normalise: shift and scale the advantages of every minibatch.

    Raises:
        ValueError: for an episode that was cut: this buffer has nowhere to put what follows it.
    """
    if not bool(rollout.terminated.all()):
        raise ValueError("per-token rows are made of episodes that terminated; one of these was cut")
    highest = int(actor.num_actions) - 1
    # What this class asks of an environment is its spaces: there is none to play in.
    agent: Any = sb3.PPO(
        PrefixPolicy,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        learning_rate=setting.lr,
        n_steps=rollout.num_actions,
        batch_size=batch_size,
        n_epochs=passes,
        gamma=gamma,
        gae_lambda=lam,
        clip_range=setting.clip,
        clip_range_vf=setting.clip,
        normalize_advantage=normalise,
        vf_coef=value_coef / 2,
        max_grad_norm=setting.max_grad_norm,
        policy_kwargs={"actor": copy.deepcopy(actor), "betas": setting.betas},
        device="cpu",
        _init_setup_model=False,
    )
    agent.observation_space = gym.spaces.Box(PAD, highest, (rollout.ids.shape[1],), np.int64)
    agent.action_space = gym.spaces.Discrete(highest + 1)
    agent.n_envs = 1
    agent._setup_model()
    agent.set_logger(Logger(folder=None, output_formats=[]))
    _fill(agent.rollout_buffer, rollout, rewards, values)
    return agent


def _fill(buffer: Any, rollout: Rollout, rewards: Tensor, values: Tensor) -> None:
    """Add one row per action, episode after episode; the buffer computes the advantages."""
    ids = rollout.ids.numpy()
    for n in range(len(rollout)):
        for count, t in enumerate(rollout.mask[n].nonzero().flatten().tolist()):
            prefix = np.full(ids.shape[1], PAD)
            prefix[: t + 1] = ids[n, : t + 1]
            buffer.add(
                prefix,
                rollout.actions[n, t].numpy(),
                rewards[n, t].numpy(),
                np.array(count == 0),
                values[n, t],
                rollout.log_probs[n, t],
            )
    buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
