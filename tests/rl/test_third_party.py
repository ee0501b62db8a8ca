"""A third party's backbone, known by the protocol alone, is played, collected, trained over and searched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import cola_envs  # noqa: F401
from cola_agents import GRPO, PPO, RLOO, ReMax, collect
from cola_agents.decoding.contract import PolicyBackbone, PolicySession, missing
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import InitialPolicy
from cola_agents.rl.rows import make_rows
from cola_agents.rl.update import Batch, Record
from cola_agents.search import MCTS, SearchConfig
from cola_envs import Turn
from cola_envs.backbone import Backbone, Session
from cola_envs.testing import FakeBackbone

LEVELS = pytest.mark.parametrize("level", ["latent", "token"])
SMALL: dict[type[Agent], dict[str, Any]] = {
    PPO: {"episodes": 8, "minibatch": None, "epochs": 1},
    GRPO: {"prompts": 2, "group_size": 4},
    RLOO: {"prompts": 2, "group_size": 4},
    ReMax: {"episodes": 4},
}


class LikesE:
    """Pays for each e; a line ends a turn, and a second one the episode."""

    stop = ("\n",)

    def reset(self, rng: np.random.Generator) -> str:
        self.turns = 0
        return f"Write {rng.integers(100)}:"

    def step(self, text: str) -> Turn:
        self.turns += 1
        return Turn(reward=float(text.count("e")), text="more:", done=self.turns == 2)


def env_id(level: str) -> str:
    return "CoLA-Text-Token-v0" if level == "token" else "CoLA-Text-v0"


def settings(level: Any) -> dict[str, Any]:
    return {"model": FakeBackbone(level), "env_kwargs": {"task": LikesE, "max_tokens": 12}}


@LEVELS
def test_the_fake_backbone_has_all_that_policies_need(level):
    backbone = FakeBackbone(level)
    assert missing(backbone, PolicyBackbone) == missing(backbone.session(1), PolicySession) == []


@LEVELS
def test_its_initial_policy_is_the_one_that_its_sessions_tell_of(level):
    episodes = make_rows(env_id(level), 4, model=FakeBackbone(level), task=LikesE, max_tokens=6).episodes
    trunk, head = FakeBackbone(level).initial_policy()
    rollout = collect(episodes, InitialPolicy(), seeds=range(8))
    logits = head(trunk(inputs_embeds=rollout.hidden, use_cache=False).last_hidden_state)
    logits = logits.masked_fill(~torch.from_numpy(episodes.action_mask), float("-inf"))
    log_probs = logits.log_softmax(-1).gather(-1, rollout.actions[..., None]).squeeze(-1)
    torch.testing.assert_close(log_probs[rollout.mask], rollout.taken_log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("algorithm", SMALL)
@LEVELS
def test_each_agent_learns_over_it_and_goes_on_from_a_save(level, algorithm, tmp_path):
    agent = algorithm(env_id(level), num_envs=4, lr=0.05, kl_coef=0.01, **SMALL[algorithm], **settings(level))
    before = {name: p.clone() for name, p in agent.actor.trained().items()}
    first = agent.update()
    assert first["kl"] == pytest.approx(0.0, abs=1e-6), "the policy starts as the backbone's own"
    assert any(not torch.equal(p, before[name]) for name, p in agent.actor.trained().items())
    # Without a difference in reward an update moves the weights by rounding alone.
    assert max(agent.update()["kl"] for _ in range(4)) > 1e-5
    agent.save(tmp_path / "agent")
    again = algorithm.load(tmp_path / "agent", **settings(level))
    assert again.evaluate(4).ids.tolist() == agent.evaluate(4).ids.tolist()
    actions, _ = agent.predict(agent.vec_env(2).reset(), deterministic=True)
    assert actions.shape == (2,)


def test_adapters_are_trained_over_it():
    agent = GRPO(env_id("latent"), num_envs=4, prompts=2, group_size=2, lora_rank=2, **settings("latent"))
    agent.update()
    assert all("lora" in name or "value_head" in name for name in agent.actor.trained())


@LEVELS
def test_it_is_searched(level):
    backbone = FakeBackbone(level)
    solver = MCTS(
        env_id(level),
        SearchConfig(simulations=6),
        env_kwargs={"model": backbone, "task": LikesE, "max_tokens": 6},
        num_trees=2,
    )
    result = solver.solve([0, 1])
    assert result.visits.sum(-1).tolist() == [6, 6]


class Numpy(FakeBackbone):
    """What an environment needs of a backbone, and no more."""

    def session(self, num_rows: int, max_length: int | None = None) -> Any:
        session = super().session(num_rows, max_length)
        only = {name: getattr(session, name) for name in dir(Session) if name[0] != "_"}
        return type("Plain", (), {**only, "num_rows": num_rows, "max_length": session.max_length})()

    def __getattribute__(self, name: str) -> Any:
        if name == "initial_policy":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_a_backbone_without_a_policy_is_refused_by_name_and_played_all_the_same():
    backbone = Numpy()
    assert missing(backbone, Backbone) == []
    with pytest.raises(TypeError, match="trained over a Numpy, which has no initial_policy: see cola_agents"):
        GRPO(env_id("latent"), model=backbone, env_kwargs={"task": LikesE})
    episodes = make_rows(env_id("latent"), 2, model=backbone, task=LikesE, max_tokens=4).episodes
    episodes.reset([0, 1], [0, 1])
    episodes.step([0, 1], np.array([0, 1]))
    with pytest.raises(TypeError, match="act in a Plain, which has no follow, last, policy, states, tokens"):
        collect(episodes, InitialPolicy())


class Own(Agent):
    """An algorithm of somebody's own, in its simplest form."""

    def batch(self) -> Batch:
        rollout = self.play(*self.draw_seeds(8))
        advantages = rollout.episode_rewards[:, None] * rollout.mask
        return Batch(rollout, rollout.mask, advantages, {})

    def loss(self, part: Batch) -> tuple[torch.Tensor, Record]:
        return self.reinforce_loss(part)


class WithoutKL(Own):
    """Its loss has no KL, and so nothing that ``kl_target`` could be compared with."""

    def loss(self, part: Batch) -> tuple[torch.Tensor, Record]:
        return -self.policy.evaluate_actions(part.rollout).log_probs.mean(), {}


class Silent(Own):
    """No update makes a gradient step."""

    def batch(self) -> Batch:
        batch = super().batch()
        return replace(batch, advantages=torch.zeros_like(batch.advantages))

    def has_other_terms(self) -> bool:
        return False


def test_a_loss_without_the_kl_that_kl_target_needs_is_refused_before_anything_changes():
    agent = WithoutKL(env_id("latent"), num_envs=4, kl_target=0.1, **settings("latent"))
    before = {name: p.clone() for name, p in agent.actor.trained().items()}
    with pytest.raises(
        TypeError, match=r"the loss of WithoutKL has none: make it by self.policy.regularised"
    ):
        agent.update()
    assert (agent.num_updates, agent.history, agent.interrupted_mid_update) == (0, [], False)
    assert all(torch.equal(p, before[name]) for name, p in agent.actor.trained().items())


def test_an_update_without_a_gradient_step_leaves_the_kls_weight_as_it_was():
    agent = Silent(env_id("latent"), num_envs=4, kl_target=0.1, **settings("latent"))
    assert agent.update()["skipped"] == 1.0
    assert (agent.num_updates, agent.kl_coef) == (1, agent.options.kl_coef)


def test_an_own_algorithm_needs_no_figures_and_an_option_that_it_leaves_out_is_said():
    agent = Own(env_id("latent"), num_envs=4, lr=0.01, **settings("latent"))
    paid = agent.batch().rollout.episode_rewards
    assert agent.update()["frac_zero_advantage"] == (paid == 0).float().mean().item()
    agent = Own(env_id("latent"), num_envs=4, kl_in="reward", **settings("latent"))
    before = {name: p.clone() for name, p in agent.actor.trained().items()}
    with pytest.raises(TypeError, match=r'kl_in="reward" takes the KL .* of Own does not: make it by'):
        agent.update()
    assert agent.num_updates == 0
    assert all(torch.equal(p, before[name]) for name, p in agent.actor.trained().items())
