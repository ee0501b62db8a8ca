"""sb3-contrib's algorithms over SB3VecEnv."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback

from cola_agents import SB3VecEnv
from cola_envs.testing import FakeBackbone
from tests.libraries import SETTINGS, alone

sb3_contrib = pytest.importorskip("sb3_contrib", reason="in the extra 'libraries'")


def test_maskable_ppo_never_takes_an_action_that_is_masked() -> None:
    backbone = FakeBackbone("token")
    venv = SB3VecEnv("CoLA-Text-Token-v0", 4, env_kwargs={"model": backbone, **SETTINGS})
    allowed = backbone.action_mask()
    assert not allowed.all()
    agent = sb3_contrib.MaskablePPO("MlpPolicy", venv, n_steps=16, batch_size=32, seed=0, device="cpu")
    agent.learn(128)  # a masked id would be an InvalidAction
    taken = agent.rollout_buffer.actions.astype(int).flatten()
    assert allowed[taken].all()
    assert agent.rollout_buffer.action_masks.reshape(-1, len(allowed)).all(0).tolist() == allowed.tolist()


@pytest.mark.parametrize("name", ["RecurrentPPO", "TRPO"])
def test_an_on_policy_algorithm_sees_whole_episodes(name: str) -> None:
    venv = SB3VecEnv("CoLA-Text-v0", 3, env_kwargs={"model": FakeBackbone(), **SETTINGS})
    policy = "MlpLstmPolicy" if name == "RecurrentPPO" else "MlpPolicy"
    agent = getattr(sb3_contrib, name)(policy, venv, n_steps=16, batch_size=16, seed=0, device="cpu")
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).clone()
    agent.learn(96)
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(agent.policy.parameters()))
    episodes = list(agent.ep_info_buffer)
    assert len(episodes) > 10
    assert {episode["l"] for episode in episodes} <= set(range(1, 6))
    assert {episode["r"] for episode in episodes} <= {0.0, 1.0}


def test_the_replay_buffer_of_qr_dqn_holds_the_state_that_an_action_led_to() -> None:
    settings: dict[str, Any] = {"budget_end": "truncate"}
    venv = SB3VecEnv("CoLA-Text-v0", 2, env_kwargs={"model": FakeBackbone(), **SETTINGS, **settings})
    agent = sb3_contrib.QRDQN("MlpPolicy", venv, buffer_size=200, learning_starts=40, seed=3, device="cpu")
    agent.learn(80)
    buffer = agent.replay_buffer
    for row in range(2):
        end = int(np.argmax(buffer.dones[:, row])) + 1
        observations, rewards, *_ = alone(3 + row, buffer.actions[:end, row, 0], **settings)
        np.testing.assert_array_equal(buffer.observations[:end, row], observations[:-1])
        np.testing.assert_array_equal(buffer.next_observations[:end, row], observations[1:])
        np.testing.assert_allclose(buffer.rewards[:end, row], rewards)


@pytest.mark.parametrize("name", ["PPO", "MaskablePPO", "RecurrentPPO", "TRPO"])
def test_a_truncated_episode_is_worth_the_value_of_the_state_that_it_ended_in(name: str) -> None:
    settings: dict[str, Any] = {"budget_end": "truncate"}
    venv = SB3VecEnv("CoLA-Text-v0", 8, env_kwargs={"model": FakeBackbone(), **SETTINGS, **settings})
    recurrent = name == "RecurrentPPO"
    agent = getattr(stable_baselines3 if name == "PPO" else sb3_contrib, name)(
        "MlpLstmPolicy" if recurrent else "MlpPolicy",
        venv,
        n_steps=8,
        batch_size=16,
        gamma=1.0,
        seed=3,
        device="cpu",
        policy_kwargs={"net_arch": [], **({"enable_critic_lstm": False} if recurrent else {})},
    )
    with torch.no_grad():  # the value of a state is its first number
        for layer in [agent.policy.value_net, *([agent.policy.critic] if recurrent else [])]:
            layer.weight.zero_()
            layer.weight[0, 0] = 1
            layer.bias.zero_()
    played: dict[str, np.ndarray] = {}

    class Keep(BaseCallback):
        """Keeps what was played before training rearranges it."""

        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            for key in ("actions", "rewards", "episode_starts"):
                played[key] = getattr(agent.rollout_buffer, key).copy()

    agent.learn(64, callback=Keep())
    cut = 0
    for row in range(8):
        end = int(played["episode_starts"][1:, row].argmax()) + 1
        observations, rewards, _, truncated = alone(3 + row, played["actions"][:end, row, 0], **settings)
        rewards[-1] += truncated * observations[-1][0]
        np.testing.assert_allclose(played["rewards"][:end, row], rewards, atol=1e-5)
        cut += truncated
    assert cut
