"""What is a signal: rounding error is none, a small difference is one, and without one nothing is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cola_agents.rl.agent import Agent
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.losses import group_advantages, leave_one_out, less_baseline, whiten, zero_groups
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.rloo import RLOO
from cola_envs import Turn
from tests import tiny

SMALL: dict[type[Agent], dict[str, Any]] = {
    GRPO: {"prompts": 2, "group_size": 4},
    RLOO: {"prompts": 2, "group_size": 4},
    ReMax: {"episodes": 8},
    PPO: {"episodes": 8, "value_coef": 0.0},
}
AGENTS = pytest.mark.parametrize("cls", list(SMALL))


def total(*steps: float) -> float:
    """A return as float32 adds it up."""
    return torch.tensor(steps).sum().item()


#: The same return on two ways.
EQUAL = [
    ((0.07, 0.13), (0.2,)),
    ((0.1, 0.2, 0.4), (0.7,)),
    ((7e-8, 1.3e-7), (2e-7,)),
    ((333.4, 666.7), (1000.1,)),
    ((-0.3, -0.6), (-0.9,)),
    ((0.01,) * 100, (1.0,)),
]
#: Returns that are not the same.
DIFFERENT = [(0.70, 0.71), (7.0e-7, 7.1e-7), (1e-12, 2e-12), (1e-30, 2e-30), (1e25, 2e25), (1000.0, 1000.1)]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_returns_that_were_added_up_otherwise_have_zero_advantages(one, other):
    rewards = torch.tensor([total(*one), total(*other)]).repeat(4)
    for found in (group_advantages(rewards, 4), leave_one_out(rewards, 4), whiten(rewards, rewards != 9)):
        assert found.tolist() == [0.0] * 8
    assert zero_groups(rewards, 4) == 1.0
    assert less_baseline(rewards, rewards.flip(0), rewards.abs()).tolist() == [0.0] * 8


@pytest.mark.parametrize(("low", "high"), DIFFERENT)
def test_different_returns_keep_their_scale_at_every_size(low, high):
    rewards = torch.tensor([low, high, low, high])
    root = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    torch.testing.assert_close(group_advantages(rewards, 4), root * 0.75**0.5, rtol=2e-3, atol=0)
    away = rewards.double()
    torch.testing.assert_close(
        leave_one_out(rewards, 4).double() * 3, 4 * (away - away.mean()), rtol=1e-3, atol=0
    )
    assert (less_baseline(rewards, rewards.flip(0), rewards) == rewards - rewards.flip(0)).all()
    assert zero_groups(rewards, 4) == 0.0


@pytest.mark.parametrize(("low", "high"), [(0.70, 0.71), (7.0e-7, 7.1e-7), (1000.0, 1000.1), (0.0, 1e-6)])
def test_whitening_scales_small_differences_too(low, high):
    found = whiten(torch.tensor([low, high, low, high]), torch.ones(4))
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, -1.0, 1.0]), rtol=6e-3, atol=0)


def test_each_group_is_judged_by_its_own_size():
    rewards = torch.tensor([1000.0, 1000.0, 1e-6, 2e-6, 0.0, 0.0])
    assert (group_advantages(rewards, 2) != 0).tolist() == [False, False, True, True, False, False]
    assert zero_groups(rewards, 2) == pytest.approx(2 / 3)


def test_rounding_error_is_measured_by_what_was_added_up():
    """100 - 99.8 in float32 is .2 to a few millionths: a difference of .2 to .2 of another way."""
    steps = torch.tensor([[100.0, -99.8], [0.2, 0.0]])
    rewards, sizes = steps.sum(1), steps.abs().sum(1)
    assert rewards[0] != rewards[1]
    assert group_advantages(rewards, 2, sizes).tolist() == [0.0, 0.0]
    assert leave_one_out(rewards, 2, sizes).tolist() == [0.0, 0.0]
    assert zero_groups(rewards, 2, sizes) == 1.0


@pytest.mark.parametrize("amount", [0.0, 0.1, 1 / 3, 1.0, 1000.1, -7.3e-9])
@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_whitening_equal_rewards_gives_nothing(amount, count):
    values = torch.full((2, count), amount)
    values[1] = 99.0
    mask = torch.ones(2, count)
    mask[1] = 0
    assert not whiten(values, mask).any()
    assert not whiten(values, torch.zeros(2, count)).any()
    assert not whiten(values * (1 + 1e-7 * torch.arange(count) / count), mask).any()


def test_whitening_knows_what_its_values_were_subtracted_from():
    """Values that have all but reached rewards of 1000.1 leave their own rounding error."""
    left = torch.tensor([6e-5, -6e-5, 0.0])
    assert whiten(left, torch.ones(3)).any()
    assert not whiten(left, torch.ones(3), size=torch.tensor(1000.1)).any()


# ------------------------------------------------------------------ agents


class Score:
    """A return of .2, paid in two steps: which, the length of the first segment decides."""

    stop = ("e", "a", "1", "t")
    ways: tuple[tuple[float, ...], ...] = ((0.07, 0.13), (0.2, 0.0))

    def reset(self, rng: np.random.Generator) -> str:
        self.left: list[float] = []
        return "Q: go\n"

    def step(self, text: str) -> Turn:
        self.left = self.left or list(self.ways[len(text) % 2])
        return Turn("ok\n", self.left.pop(0), done=not self.left)


class Cancelling(Score):
    ways = ((100.0, -99.8), (0.2, 0.0))


class Always(Score):
    ways = ((1000.1,), (1000.1,))


class Differs(Score):
    ways = ((7.0e-7,), (7.1e-7,))


def make(cls: type[Agent], task: type[Score], **options: Any) -> Agent:
    arguments = {"kl_coef": 0.0, **SMALL[cls], **options}
    kwargs = {"task": task, "max_tokens": 60}
    tokenizer = tiny.make_tokenizer()
    return cls(
        "CoLA-Text-v0",
        num_envs=8,
        model=tiny.make_cola(),
        tokenizer=tokenizer,
        env_kwargs=kwargs,
        **arguments,
    )


def state_of(agent: Agent) -> list[torch.Tensor]:
    weights = [p.detach().clone() for p in agent.actor.parameters()]
    averages = [value.clone() for one in agent.optimiser.adam.state.values() for value in one.values()]
    return weights + averages


def unchanged(before: list[torch.Tensor], agent: Agent) -> bool:
    after = state_of(agent)
    return len(before) == len(after) and all(map(torch.equal, before, after))


@pytest.mark.parametrize("task", [Score, Cancelling, Always])
@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("cls", [GRPO, RLOO, ReMax])
def test_rewards_that_are_equal_in_all_teach_nothing(cls, task, whitened):
    agent = make(cls, task, whiten=whitened)
    batch = agent.batch()
    assert not batch.advantages.any()
    assert batch.figures["frac_zero_advantage"] == 1.0


def test_ppo_learns_nothing_from_rewards_that_are_all_equal():
    agent = make(PPO, Always)
    assert agent.options.whiten
    record = agent.update()
    assert (record["frac_zero_advantage"], record["grad_norm"], record["skipped"]) == (1.0, 0.0, 1.0)
    with torch.no_grad():
        agent.actor.value_head.bias.fill_(1000.0)
    assert not agent.batch().advantages.any(), "less a value that has all but reached the reward"


@AGENTS
def test_a_difference_of_a_hundredth_teaches_at_every_size(cls):
    agent = make(cls, Differs)
    batch = agent.batch()
    assert len(set(batch.rollout.episode_rewards.tolist())) == 2
    assert batch.advantages.any()
    assert batch.figures["frac_zero_advantage"] < 1
    record = agent.update()
    assert record["skipped"] == 0.0
    assert record["grad_norm"] > 0


@AGENTS
def test_an_update_without_a_signal_moves_neither_weights_nor_optimiser(cls):
    agent = make(cls, Differs)
    agent.update()  # Adam has averages from here on
    agent.episodes.tasks.tasks = [Always() for _ in range(8)]  # type: ignore[attr-defined]
    before, timesteps = state_of(agent), agent.num_timesteps
    record = agent.update()
    assert unchanged(before, agent)
    assert (record["skipped"], record["grad_norm"], record["loss"], record["approx_kl"]) == (
        1.0,
        0.0,
        0.0,
        0.0,
    )
    assert not {"kl", "entropy"} & set(record), "nobody made the pass that would tell"
    assert (agent.num_updates, agent.num_timesteps > timesteps) == (2, True)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (GRPO, {"kl_coef": 0.1}),
        (RLOO, {"entropy_coef": 0.1}),
        (ReMax, {"kl_coef": 0.1, "kl_estimator": "k3"}),
        (PPO, {"value_coef": 0.5}),
    ],
)
def test_an_update_without_a_signal_still_learns_what_else_its_loss_asks_for(cls, options):
    agent = make(cls, Always, **options)
    with torch.no_grad():
        agent.actor.head.weight.mul_(1.1)
    before = state_of(agent)
    record = agent.update()
    assert record["frac_zero_advantage"] == 1.0
    assert record["skipped"] == 0.0
    assert not unchanged(before, agent)


@AGENTS
def test_what_is_skipped_changes_no_later_episode(cls):
    """Random streams are counted by updates, not by gradient steps."""
    agent, other = make(cls, Always), make(cls, Always, entropy_coef=1e-12)
    first = [one.update() for one in (agent, other)]
    assert [record["skipped"] for record in first] == [1.0, 0.0]
    assert (agent.batch().rollout.seeds == other.batch().rollout.seeds).all()


def test_an_update_that_was_skipped_is_shown_logged_and_saved(tmp_path, capsys):
    agent = make(GRPO, Always, prompts=1)
    agent.learn(1, progress_bar=True, save_to=tmp_path / "run")
    assert agent.history[0]["skipped"] == 1.0
    assert "reward=1000" in capsys.readouterr().err
