"""skrl's trainers over the batched environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.libraries import alone, make

pytest.importorskip("skrl", reason="in the extra 'libraries'")
from skrl.agents.torch.ppo import PPO, PPO_RNN
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer

from cola_agents.adaptors.skrl import BatchedWrapper


def test_every_step_of_a_row_acts_in_its_episode() -> None:
    env = BatchedWrapper(make(3, "same_step"))
    env._seed = 7  # skrl's own, which its set_seed sets
    now, _ = env.reset()
    codes = torch.from_numpy(np.random.default_rng(0).integers(8, size=(3, 40, 1)))
    seen: list[Any] = []
    for step in range(40):
        following, reward, terminated, truncated, _ = env.step(codes[:, step])
        seen.append((now, reward, terminated | truncated))
        now = following
    states, rewards, dones = (torch.stack(parts, 1) for parts in zip(*seen, strict=True))
    for row in range(3):
        end = int(dones[row].flatten().int().argmax()) + 1
        observations, wanted, *_ = alone(7 + row, codes[row, :end].flatten())
        np.testing.assert_array_equal(states[row, :end], observations[:-1])
        np.testing.assert_allclose(rewards[row, :end].flatten(), wanted)
        if end < 40:  # and the next one begins in the very next state
            assert not np.array_equal(states[row, end], observations[-1])


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_another_autoreset_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="same_step"):
        BatchedWrapper(make(2, mode))


def test_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="one row"):
        BatchedWrapper(make(1, "same_step"))


def test_it_renders_where_a_render_mode_says_so() -> None:
    assert BatchedWrapper(make(2, "same_step")).render() is None
    env = BatchedWrapper(make(2, "same_step", render_mode="ansi"))
    env.reset()
    assert [text.startswith("Write") for text in env.render()] == [True, True]


class _Linear(DeterministicMixin, Model):
    """The value of a state is its first number."""

    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        DeterministicMixin.__init__(self)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def compute(self, inputs: dict[str, Any], role: str = "") -> Any:
        return inputs["observations"][:, :1] * self.scale, {}


class _Policy(CategoricalMixin, Model):
    def __init__(self, **spaces: Any) -> None:
        Model.__init__(self, **spaces)
        CategoricalMixin.__init__(self)
        self.net = torch.nn.Linear(self.num_observations, self.num_actions)

    def compute(self, inputs: dict[str, Any], role: str = "") -> Any:
        return self.net(inputs["observations"]), {}


def _agent(env: BatchedWrapper, steps: int = 40, kind: Any = PPO, **settings: Any) -> Any:
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    return kind(
        models={"policy": _Policy(**spaces), "value": _Linear(**spaces)},
        memory=RandomMemory(memory_size=steps, num_envs=env.num_envs, device="cpu"),
        cfg={
            "rollouts": steps,
            "learning_epochs": 1,
            "discount_factor": 1.0,
            "gae_lambda": 1.0,
            "experiment": {"write_interval": 0, "checkpoint_interval": 0},
            **settings,
        },
        **spaces,
    )


def _train(env: BatchedWrapper, agent: Any, steps: int = 40) -> None:
    options = {"timesteps": steps, "disable_progressbar": True, "close_environment_at_exit": False}
    SequentialTrainer(env=env, agents=agent, cfg=options).train()


def test_a_truncated_episode_is_worth_the_value_of_the_state_that_it_ended_in() -> None:
    env = BatchedWrapper(make(3, "same_step", budget_end="truncate"))
    env._seed = 7
    agent = _agent(env, time_limit_bootstrap=True)
    env.give_final_observations(agent)
    _train(env, agent)
    memory = {
        name: agent.memory.get_tensor_by_name(name)[..., 0]
        for name in ("actions", "returns", "truncated", "terminated")
    }
    cut = 0
    for row in range(3):
        end = int((memory["truncated"] | memory["terminated"])[:, row].int().argmax()) + 1
        observations, rewards, _, truncated = alone(
            7 + row, memory["actions"][:end, row].long(), budget_end="truncate"
        )
        cut += truncated
        wanted = sum(rewards) + truncated * observations[-1][0]
        assert float(memory["returns"][0, row]) == pytest.approx(float(wanted), abs=1e-5)
    assert cut


def test_a_truncated_episode_is_refused_where_no_agent_gets_its_last_state() -> None:
    env = BatchedWrapper(make(3, "same_step", budget_end="truncate"))
    with pytest.raises(RuntimeError, match="give_final_observations"):
        _train(env, _agent(env))


def test_an_agent_whose_returns_go_on_behind_a_truncation_is_refused() -> None:
    env = BatchedWrapper(make(3, "same_step"))
    with pytest.raises(ValueError, match="time_limit_bootstrap=False"):
        env.give_final_observations(_agent(env))
    with pytest.raises(ValueError, match="recurrent"):
        env.give_final_observations(_agent(env, kind=PPO_RNN, time_limit_bootstrap=True))
