"""The bundled agents at both levels: they learn, they continue, they refuse."""

from __future__ import annotations

import copy
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.sampling import distribution
from cola_agents.rl import options, policy
from cola_agents.rl.agent import Agent
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.rloo import RLOO
from cola_agents.rl.saving import as_json
from cola_envs import Turn
from tests import tiny

IDS = {"latent": "CoLA-Text-v0", "token": "CoLA-Text-Token-v0"}
SMALL: dict[type[Agent], dict[str, Any]] = {
    GRPO: {"prompts": 8, "group_size": 8},
    PPO: {"episodes": 64, "minibatch": 32},
    ReMax: {"episodes": 64},
    RLOO: {"prompts": 8, "group_size": 8},
}
BOTH = [pytest.param(cls, level, id=f"{cls.__name__}-{level}") for cls in SMALL for level in IDS]
LEVELS = pytest.mark.parametrize("level", list(IDS))


class FirstIsAscii:
    """Learnable in a few updates: begin with an ASCII character."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return f"Q: {int(rng.integers(10))}"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(text[:1] != "" and text[:1].isascii()))


class Chatty(FirstIsAscii):
    """Two segments, with text of the task between them, a reward for each."""

    stop = ("e", "a", "1", "t")

    def reset(self, rng: np.random.Generator) -> str:
        self.turns = 0
        return super().reset(rng)

    def step(self, text: str) -> Turn:
        self.turns += 1
        return Turn(text=" So?", reward=float(text[:1].isascii()), done=self.turns == 2)


@pytest.fixture(scope="module")
def models(tiny_tokenizer) -> dict[str, Any]:
    """Models whose actions make a difference to the first token, and their tokenizer."""
    latent = tiny.make_cola()
    with torch.no_grad():
        latent.codebook.weight *= 10
    return {"latent": latent, "token": tiny.make_base(), "tokenizer": tiny_tokenizer}


def make(cls, level: str, models: dict[str, Any], *, task=FirstIsAscii, max_tokens: int = 3, **options: Any):
    arguments = {"lr": 1e-2 if level == "latent" else 5e-3, "kl_coef": 0.0, **SMALL[cls], **options}
    return cls(
        IDS[level],
        num_envs=16,
        model=models[level],
        tokenizer=models["tokenizer"],
        env_kwargs={"task": task, "max_tokens": max_tokens},
        **arguments,
    )


def weights_of(agent: Agent) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.actor.parameters()])


@pytest.mark.parametrize(("cls", "level"), BOTH)
def test_the_reward_rises(cls, level, models):
    agent = make(cls, level, models, max_tokens=2)
    for _ in range(15):
        agent.update()
    rewards = [record["reward"] for record in agent.history]
    assert np.mean(rewards[:2]) < 0.65
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.2
    assert agent.num_updates == 15
    assert agent.num_episodes == 15 * 64 * (2 if cls is ReMax else 1), "greedy rollouts count"
    assert [record["timesteps"] for record in agent.history][-1] == agent.num_timesteps
    assert agent.history[-1]["success"] == agent.history[-1]["reward"]


@LEVELS
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_and_the_kl_zero_before_the_first_step(level, models, temperature):
    agent = make(GRPO, level, models, task=Chatty, max_tokens=20, temperature=temperature)
    rollout = agent.play(*agent.draw_seeds(8, 2))
    with torch.no_grad():
        scores = agent.policy.evaluate_actions(rollout, with_kl=True)
    assert scores.log_probs.shape == scores.entropy.shape == scores.kl.shape == (rollout.num_actions,)
    ratio = torch.exp(scores.log_probs - rollout.log_probs[rollout.mask])
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-3, rtol=0)
    assert scores.kl.abs().max() < 1e-6
    assert (scores.entropy > 0).all()


@LEVELS
@pytest.mark.parametrize("rank", [None, 2])
def test_the_references_features_are_computed_once_a_batch_and_change_no_gradient(
    level, models, rank, monkeypatch
):
    given = {"task": Chatty, "max_tokens": 20, "episodes": 8, "minibatch": 4, "kl_coef": 0.3, "lr": 0.01}
    agent = make(PPO, level, models, epochs=3, micro_batch=3, lora_rank=rank, **given)
    agent.update()  # away from the initial policy, where the KL is 0
    batch = agent.batch()
    shared = replace(batch, rollout=agent.policy.with_reference(batch.rollout))
    if rank is None:
        monkeypatch.setattr(agent.policy.reference, "acting", pytest.fail)
    gradients = []
    for one in (shared, batch):
        if one is batch:
            monkeypatch.undo()
        agent.optimiser.zero_grad()
        for part in one.select(np.arange(5)).parts(2):
            loss, figures = agent.loss(part)
            loss.backward()
        assert figures["kl"] > 0
        gradients.append([p.grad.clone() for p in agent.actor.trained().values()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("cls", "level"), BOTH)
def test_a_loaded_agent_continues_like_one_that_never_stopped(cls, level, models, tmp_path):
    through = make(cls, level, models)
    for _ in range(4):
        through.update()
    stopped = make(cls, level, models)
    for _ in range(2):
        stopped.update()
    folder = stopped.save(tmp_path / "run")
    loaded = cls.load(
        folder,
        model=models[level],
        tokenizer=models["tokenizer"],
        env_kwargs={"task": FirstIsAscii, "max_tokens": 3},
    )
    assert torch.equal(weights_of(loaded), weights_of(stopped))
    for _ in range(2):
        loaded.update()
    assert torch.equal(weights_of(loaded), weights_of(through))

    def lasting(agent: Agent) -> list[dict[str, float]]:
        return [{k: v for k, v in record.items() if k != "cpu_s"} for record in agent.history]

    assert lasting(loaded) == lasting(through)
    assert (loaded.num_timesteps, loaded.num_updates) == (through.num_timesteps, 4)
    assert loaded.options == through.options


@pytest.mark.parametrize(("cls", "level"), BOTH)
def test_the_callers_model_is_left_untouched(cls, level, models):
    model = models[level]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    agent = make(cls, level, models)
    start = weights_of(agent)
    assert agent.policy.reference is not None
    frozen = [p.clone() for p in agent.policy.reference.parameters()]
    agent.update()
    assert not torch.equal(weights_of(agent), start)
    assert all(torch.equal(a, b) for a, b in zip(frozen, agent.policy.reference.parameters(), strict=True))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_two_agents_over_one_backbone_do_not_meet(models):
    backbone = TokenBackbone(models["token"], models["tokenizer"])
    settings: dict[str, Any] = {
        "num_envs": 4,
        "model": backbone,
        "env_kwargs": {"task": FirstIsAscii, "max_tokens": 2},
    }
    one, two = (PPO(IDS["token"], episodes=8, **settings) for _ in range(2))
    one.update()
    assert torch.equal(weights_of(two), weights_of(PPO(IDS["token"], episodes=8, **settings)))


def test_a_latent_update_never_runs_the_base(models):
    agent = make(PPO, "latent", models)
    rollout = agent.play(*agent.draw_seeds(4))
    calls = []
    hook = agent.backbone.base.register_forward_hook(lambda *_: calls.append(1))
    try:
        agent.policy.evaluate_actions(rollout, with_kl=True)
        agent.batch_of(rollout)
    finally:
        hook.remove()
    assert not calls


def test_the_same_seed_gives_the_same_run_and_another_one_another(models):
    runs = []
    for seed in (0, 0, 1):
        agent = make(GRPO, "latent", models, seed=seed)
        agent.update()
        runs.append(weights_of(agent))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_number_of_rows_changes_no_update(models):
    rewards = []
    for rows in (1, 16, 40):
        agent = make(GRPO, "latent", models)
        agent.episodes = agent._episodes(agent.env_id, rows, agent.env_kwargs)
        rewards.append(agent.play(*agent.draw_seeds(8, 4)).episode_rewards)
    assert torch.equal(rewards[0], rewards[1])
    assert torch.equal(rewards[0], rewards[2])


def test_a_strong_kl_keeps_the_policy_where_it_was(models):
    moved = []
    for coefficient in (0.0, 100.0):
        agent = make(GRPO, "latent", models, kl_coef=coefficient, lr=1e-3)
        for _ in range(8):
            agent.update()
        moved.append(agent.history[-1]["kl"])
    assert moved[0] > 3 * moved[1]


def test_an_entropy_bonus_raises_the_entropy(models):
    agent = make(PPO, "latent", models, entropy_coef=1.0)
    for _ in range(10):
        agent.update()
    assert agent.history[-1]["entropy"] > agent.history[0]["entropy"] + 0.1


def test_ppo_learns_the_value(models):
    agent = make(PPO, "latent", models, value_clip=10.0)
    for _ in range(10):
        agent.update()
    assert agent.history[-1]["value_loss"] < 0.5 * agent.history[0]["value_loss"]


def test_ppo_bootstraps_from_the_last_state_where_an_episode_was_cut(models):
    agent = make(PPO, "latent", models)
    with torch.no_grad():
        agent.actor.value_head.bias.fill_(5.0)
    agent.episodes = agent._episodes(agent.env_id, 8, {**agent.env_kwargs, "budget_end": "truncate"})
    rollout = agent.play(*agent.draw_seeds(16))
    assert not rollout.terminated.all()
    returns = agent.batch_of(rollout).returns
    for n in range(len(rollout)):
        expected = rollout.episode_rewards[n] + (0.0 if rollout.terminated[n] else 5.0)
        torch.testing.assert_close(returns[n][rollout.mask[n]], expected.expand(int(rollout.mask[n].sum())))


def test_learn_counts_actions_and_stops_after_the_total(models, capsys):
    agent = make(PPO, "latent", models, episodes=8)
    assert agent.learn(60) is agent
    taken = agent.num_timesteps
    assert taken >= 60
    assert taken - agent.history[-1]["length"] * 8 < 60
    assert agent.learn(1, progress_bar=True).num_updates == len(agent.history)
    assert "reward" in capsys.readouterr().err
    with pytest.raises(ValueError, match="total_timesteps must be at least 1, got 0"):
        agent.learn(0)


def test_evaluate_plays_the_same_problems_whoever_plays_them_and_trains_nothing(models):
    settings: dict[str, Any] = {"num_envs": 4, "model": models["latent"], "tokenizer": models["tokenizer"]}
    arithmetic = {"max_tokens": 3}
    one = PPO("CoLA-Arithmetic-v0", episodes=4, env_kwargs={**arithmetic, "split": "test"}, **settings)
    two = PPO("CoLA-Arithmetic-v0", episodes=4, seed=5, env_kwargs=arithmetic, **settings)
    before = weights_of(two)
    two.update()
    counted = two.num_timesteps
    first, second = one.evaluate(6), two.evaluate(6)
    assert [i["question"] for i in first.infos] == [i["question"] for i in second.infos]
    assert {i["split"] for i in first.infos + second.infos} == {"test"}
    assert {i["split"] for i in one.evaluate(3, split="train").infos} == {"train"}
    assert {i["level"] for i in one.evaluate(3, env_kwargs={"level": 3}).infos} == {3}
    assert two.num_timesteps == counted
    assert not torch.equal(weights_of(two), before)
    greedy = [two.evaluate(5, greedy=True, seed=3).ids for _ in range(2)]
    assert torch.equal(*greedy)
    thinking = two.evaluate(3, env_id="CoLA-Thinking-v0", env_kwargs={"max_tokens": 4})
    assert all("format" in info for info in thinking.infos)


def test_an_agent_over_a_sampled_world_model_is_evaluated_over_one_on_other_tasks_too(models):
    settings: dict[str, Any] = {"num_envs": 4, "model": models["latent"], "tokenizer": models["tokenizer"]}
    kwargs = {"max_tokens": 8, "task": FirstIsAscii}
    argmax, sampled = (
        PPO(IDS["latent"], episodes=4, env_kwargs={**kwargs, **more}, **settings)
        for more in ({}, {"world_temperature": 1.0})
    )
    for other in (None, "CoLA-Thinking-v0"):
        shorter = {} if other is None else {"max_tokens": 8}
        plain, drawn = (
            agent.evaluate(8, env_id=other, env_kwargs=shorter).ids for agent in (argmax, sampled)
        )
        assert plain.shape != drawn.shape or not torch.equal(plain, drawn), other
    assert sampled.kwargs_on("CoLA-Thinking-v0") == {"world_temperature": 1.0}


# ------------------------------------------------------------------ truncated sampling


@LEVELS
@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.8}])
def test_a_truncated_distribution_is_what_is_drawn_learned_and_evaluated(level, models, cut):
    agent = make(GRPO, level, models, task=Chatty, max_tokens=20, temperature=0.9, **cut)
    rollout = agent.play(*agent.draw_seeds(8, 2))
    whole = torch.log_softmax(agent.actor.logits(agent.actor.features(rollout)[rollout.mask]) / 0.9, -1)
    taken = rollout.actions[rollout.mask]
    if "top_k" in cut:
        assert ((whole > whole.gather(-1, taken[:, None])).sum(-1) < 3).all()
        played = agent.evaluate(8)
        again = agent.actor.logits(agent.actor.features(played)[played.mask])
        chosen = again.gather(-1, played.actions[played.mask][:, None])
        assert ((again > chosen).sum(-1) < 3).all()
    with torch.no_grad():
        scores = agent.policy.evaluate_actions(rollout, with_kl=True)
    torch.testing.assert_close(scores.log_probs, rollout.log_probs[rollout.mask], atol=1e-3, rtol=0)
    # Against the whole initial policy: what was cut is what the KL is of.
    kept = distribution(whole, **cut)
    mass = torch.where(kept.isfinite(), whole, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(scores.kl, -mass, atol=1e-4, rtol=0)


def test_an_action_that_leaves_the_cut_set_keeps_a_finite_ratio(models):
    agent = make(GRPO, "token", models, top_k=2, epochs=3, lr=0.3)
    for _ in range(2):
        record = agent.update()
    assert all(np.isfinite(value) for value in record.values())
    assert record["approx_kl"] < 100


# ------------------------------------------------------------------ what an update is made of


def leave(agent: Agent) -> None:
    """Move a policy away from its reference."""
    noise = torch.randn(agent.actor.head.weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        agent.actor.head.weight += 0.1 * noise


@pytest.mark.parametrize(("cls", "level"), BOTH)
@pytest.mark.parametrize("loss_mean", ["token", "sequence"])
def test_a_minibatch_in_parts_gives_the_gradient_of_the_whole(cls, level, models, loss_mean):
    gradients = []
    for micro_batch in (None, 3):
        agent = make(
            cls, level, models, task=Chatty, max_tokens=9, micro_batch=micro_batch, loss_mean=loss_mean,
            kl_coef=0.1, entropy_coef=0.1, **({"macro": 2} if cls in (GRPO, PPO) else {}),
        )  # fmt: skip
        leave(agent)
        agent.update()
        record = agent.history[-1]
        gradients.append([p.grad.clone() for p in agent.optimiser.parameters if p.grad is not None])
        assert record["grad_norm"] > 0
    for whole, parts in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, parts, atol=2e-5, rtol=1e-3)


@LEVELS
def test_the_two_means_of_the_loss_weigh_short_episodes_otherwise(level, models):
    gradients = []
    for loss_mean in ("token", "sequence"):
        agent = make(GRPO, level, models, task=Chatty, max_tokens=9, loss_mean=loss_mean)
        agent.update()
        gradients.append(agent.actor.trained()["trunk.norm.weight"].grad)
    assert not torch.allclose(*gradients, rtol=0.01)


@LEVELS
def test_scores_of_a_few_positions_at_a_time_are_those_of_all(level, models, monkeypatch):
    """Two roads to values and gradients: one table of log-probabilities, or eleven made twice."""
    agent = make(GRPO, level, models, task=Chatty, max_tokens=12)
    rollout = agent.play(*agent.draw_seeds(4, 2))
    leave(agent)
    for estimator in ("exact", "k3"):
        object.__setattr__(agent.options, "kl_estimator", estimator)
        found = []
        for at_once in (policy.LOGITS_AT_ONCE, 5 * agent.actor.num_actions):
            monkeypatch.setattr(policy, "LOGITS_AT_ONCE", at_once)
            scores = agent.policy.evaluate_actions(rollout, with_kl=True)
            agent.actor.zero_grad()
            (scores.log_probs + scores.entropy + scores.kl).sum().backward()
            gradient = agent.actor.head.weight.grad
            assert gradient is not None
            found.append((scores.log_probs, scores.entropy, scores.kl, gradient.clone()))
            monkeypatch.undo()
        for whole, parts in zip(*found, strict=True):
            torch.testing.assert_close(whole, parts, atol=1e-4, rtol=1e-4)


@LEVELS
def test_estimators_agree_with_the_exact_kl_on_average(level, models):
    means = {}
    for estimator in ("exact", "k1", "k3"):
        agent = make(
            GRPO,
            level,
            models,
            max_tokens=4,
            kl_estimator=estimator,
            kl_in="reward" if estimator == "k1" else "loss",
        )
        leave(agent)
        rollout = agent.play(*agent.draw_seeds(256))
        means[estimator] = agent.policy.kl(rollout)[rollout.mask].mean().item()
    assert means["exact"] > 0.02
    assert means["k1"] == pytest.approx(means["exact"], rel=0.25)
    assert means["k3"] == pytest.approx(means["exact"], rel=0.25)


def moved(cls, models, **options: Any) -> Any:
    """An agent that has left its reference, with several actions an episode."""
    agent = make(cls, "latent", models, task=Chatty, max_tokens=9, **options)
    leave(agent)
    return agent


@pytest.mark.parametrize("cls", [GRPO, ReMax])
def test_kl_in_the_reward_is_paid_by_all_actions_before_it(cls, models):
    with_kl, without = (moved(cls, models, kl_in=where, kl_coef=0.5) for where in ("reward", "loss"))
    paid, free = with_kl.batch(), without.batch()
    kl = with_kl.policy.kl(paid.rollout)
    assert (kl[paid.rollout.mask] != 0).any()
    assert paid.figures["kl"] == pytest.approx(kl[paid.rollout.mask].mean().item())
    for n in range(3):
        at = paid.rollout.mask[n].nonzero().flatten().tolist()
        for t in at:
            later = sum(kl[n, u].item() for u in at if u >= t)
            expected = free.advantages[n, t].item() - 0.5 * later
            assert paid.advantages[n, t].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_kl_that_is_steered_is_per_action_whatever_the_mean_of_the_loss(models, kl_in, micro_batch):
    agent = moved(GRPO, models, kl_in=kl_in, loss_mean="sequence", micro_batch=micro_batch, lr=1e-9)
    batch = agent.batch()
    assert len(set(batch.rollout.mask.sum(1).tolist())) > 1, "the episodes weigh otherwise in the other mean"
    wanted = agent.policy.kl(batch.rollout)[batch.rollout.mask].mean().item()
    agent.update()  # of the same episodes
    assert agent.history[0]["kl"] == pytest.approx(wanted, rel=1e-5)


def test_kl_in_the_reward_is_part_of_what_rloo_compares(models):
    batch = (agent := moved(RLOO, models, kl_in="reward", kl_coef=0.5, prompts=2, group_size=3)).batch()
    net = batch.rollout.episode_rewards - 0.5 * agent.policy.kl(batch.rollout).sum(1)
    for n in range(6):
        others = [m for m in range(n // 3 * 3, n // 3 * 3 + 3) if m != n]
        expected = net[n] - net[others].mean()
        torch.testing.assert_close(batch.advantages[n][batch.decision_mask[n]].unique(), expected[None])


def test_kl_in_the_reward_lowers_ppos_returns(models):
    agent = moved(PPO, models, kl_in="reward", kl_coef=0.5)
    batch = agent.batch()
    kl = agent.policy.kl(batch.rollout)
    for n in range(4):
        first = int(batch.rollout.mask[n].int().argmax())
        expected = batch.rollout.episode_rewards[n] - 0.5 * kl[n].sum()
        torch.testing.assert_close(batch.returns[n, first], expected)


@pytest.mark.parametrize("cls", list(SMALL))
def test_a_reward_for_staying_keeps_the_policy_nearer(cls, models):
    far = []
    for coefficient in (0.0, 10.0):
        agent = make(cls, "latent", models, kl_coef=coefficient, kl_in="reward", lr=3e-3)
        for _ in range(6):
            agent.update()
        far.append(agent.history[-1]["kl"])
    assert far[0] > 2 * far[1]


def test_the_kls_weight_is_steered_to_its_target_and_saved(models, tmp_path):
    agent = make(GRPO, "latent", models, kl_coef=0.1, kl_target=0.5, kl_gain=1.0)
    agent.update()  # the KL is 0: the weight falls by a fifth
    assert agent.kl_coef == pytest.approx(0.08)
    assert agent.history[-1]["kl_coef"] == 0.1, "a record holds the weight that was used"
    agent.save(tmp_path / "run")
    again = GRPO.load(
        tmp_path / "run", model=models["latent"], tokenizer=models["tokenizer"], env_kwargs=agent.env_kwargs
    )
    assert again.kl_coef == agent.kl_coef
    assert again.options.kl_coef == 0.1


def test_options_changed_on_loading_take_effect_and_others_are_restored(models, tmp_path):
    agent = make(GRPO, "latent", models, kl_coef=0.1, kl_target=0.5, kl_gain=1.0, lr=1e-2)
    agent.update()
    agent.save(tmp_path / "run")
    over = {"model": models["latent"], "tokenizer": models["tokenizer"], "env_kwargs": agent.env_kwargs}
    same = GRPO.load(tmp_path / "run", **over)
    changed = GRPO.load(tmp_path / "run", lr=1e-5, kl_coef=0.3, **over)
    for one, lr, kl_coef in ((same, 1e-2, 0.08), (changed, 1e-5, 0.3)):
        assert [group["lr"] for group in one.optimiser.adam.param_groups] == [lr]
        assert one.kl_coef == pytest.approx(kl_coef)
    before = weights_of(changed)
    changed.update()
    assert 0 < (weights_of(changed) - before).abs().max() < 1e-4
    assert changed.history[-1]["kl_coef"] == 0.3


def test_advantages_are_whitened_where_asked(models):
    for cls, default in ((PPO, True), (GRPO, False), (RLOO, False), (ReMax, False)):
        assert cls.options_class().whiten is default
        batch = make(cls, "latent", models, whiten=True).batch()
        taken = batch.advantages[batch.decision_mask]
        assert taken.mean().abs() < 1e-5
        assert taken.std(unbiased=False).item() == pytest.approx(1, abs=1e-3)


def test_remax_compares_with_the_greedy_answer_to_the_same_problem(models):
    agent = make(ReMax, "latent", models, episodes=6)
    batch = agent.batch()
    seeds, problems = batch.rollout.seeds, batch.rollout.problem_seeds
    greedy = agent.play(seeds, problems, greedy=True)
    for n in range(6):
        expected = batch.rollout.episode_rewards[n] - greedy.episode_rewards[n]
        assert (batch.advantages[n][batch.decision_mask[n]] == expected).all()
    same = (batch.rollout.episode_rewards == greedy.episode_rewards).float().mean().item()
    assert batch.figures["frac_zero_advantage"] == pytest.approx(same)


@LEVELS
def test_a_macro_action_longer_than_the_episode_is_one_decision(level, models):
    agent = make(GRPO, level, models, max_tokens=5, macro=100)
    batch = agent.batch()
    assert (batch.decision_mask.sum(1) == 1).all()
    summed = batch.by_decision(batch.rollout.taken_log_probs)
    torch.testing.assert_close(summed, batch.rollout.log_probs.sum(1))
    agent.update()


def test_ppo_with_macro_actions_learns_from_fewer_decisions_and_pays_them_whole(models):
    agent = make(PPO, "latent", models, task=Chatty, max_tokens=4, macro=2, episodes=48)
    batch = agent.batch()
    assert 0 < int(batch.decision_mask.sum()) < batch.rollout.num_actions
    for n in range(4):
        first = int(batch.decision_mask[n].int().argmax())
        torch.testing.assert_close(batch.returns[n, first], batch.rollout.episode_rewards[n])
    for _ in range(9):
        agent.update()
    rewards = [record["reward"] for record in agent.history]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.2


# ------------------------------------------------------------------ adapters, and other types than float32


@LEVELS
def test_adapters_start_as_the_model_learn_and_are_all_that_is_saved(level, models, tmp_path):
    agent = make(GRPO, level, models, lora_rank=4, kl_coef=0.05)
    assert agent.policy.reference is None
    full = make(GRPO, level, models)
    rollouts = [one.play(*one.draw_seeds(8, 2)) for one in (agent, full)]
    assert torch.equal(rollouts[0].ids, rollouts[1].ids), "before the first step it is the model itself"
    torch.testing.assert_close(rollouts[0].log_probs, rollouts[1].log_probs, atol=1e-5, rtol=0)
    trained = agent.actor.trained()
    assert all("lora_" in name or name.startswith("value_head") for name in trained)
    kept = {name: tensor.clone() for name, tensor in models[level].state_dict().items()}
    for _ in range(3):
        agent.update()
    assert agent.history[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert agent.history[-1]["kl"] > 1e-5, "the reference is the model without its adapters"
    assert all(torch.equal(tensor, kept[name]) for name, tensor in models[level].state_dict().items())
    folder = agent.save(tmp_path / "run")
    loaded = GRPO.load(
        folder, model=models[level], tokenizer=models["tokenizer"], env_kwargs=agent.env_kwargs
    )
    for one in (agent, loaded):
        one.update()
    assert torch.equal(weights_of(agent), weights_of(loaded))


@LEVELS
def test_adapters_hold_no_second_copy_of_the_weights(level, models):
    agent = make(GRPO, level, models, lora_rank=2)
    memory = {p.data_ptr() for p in models[level].parameters()}
    held = {n: p for n, p in agent.actor.named_parameters() if "lora_" not in n and "value_head" not in n}
    assert held
    assert all(p.data_ptr() in memory and not p.requires_grad for p in held.values())


@LEVELS
def test_the_reference_is_the_model_itself_and_not_a_copy(level, models):
    agent = make(GRPO, level, models)
    assert agent.policy.reference is not None
    memory = {p.data_ptr() for p in models[level].parameters()}
    held = [p for n, p in agent.policy.reference.named_parameters() if not n.startswith("value_head")]
    assert all(p.data_ptr() in memory for p in held)


@LEVELS
def test_adapters_learn(level, models):
    agent = make(GRPO, level, models, max_tokens=2, lora_rank=8, lr=3e-2)
    for _ in range(12):
        agent.update()
    rewards = [record["reward"] for record in agent.history]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:2]) + 0.15


@LEVELS
def test_bfloat16_weights_take_steps_smaller_than_bfloat16_can_add(level, models, tmp_path):
    """A hundred steps of 1e-5 move a weight of 1 by nothing in bfloat16, and by 1e-3 in its float32 twin."""
    for part in ("latent", "token"):
        copy.deepcopy(models[part]).save_pretrained(tmp_path / part)
        models["tokenizer"].save_pretrained(tmp_path / part)
    agent = GRPO(
        IDS[level],
        num_envs=8,
        model=tmp_path / level,
        dtype="bfloat16",
        env_kwargs={"task": FirstIsAscii, "max_tokens": 2},
        prompts=4,
        group_size=8,
        lr=1e-5,
    )
    twins = [twin.clone() for twin in agent.optimiser._twins]
    for _ in range(3):
        agent.update()
    assert next(p for n, p in agent.actor.named_parameters() if n.startswith("trunk")).dtype == torch.bfloat16
    assert agent.play(*agent.draw_seeds(2, 2)).hidden.dtype == torch.bfloat16
    changed = [not torch.equal(a, b) for a, b in zip(twins, agent.optimiser._twins, strict=True)]
    assert sum(changed) > len(changed) // 2
    agent.save(tmp_path / "run")
    loaded = GRPO.load(tmp_path / "run", env_kwargs=agent.env_kwargs)
    for a, b in zip(agent.optimiser._twins, loaded.optimiser._twins, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == torch.float32


# ------------------------------------------------------------------ saving and loading


@pytest.fixture
def saved(models, tmp_path):
    """A PPO agent saved over models that lie in folders."""
    for level in ("latent", "token"):
        copy.deepcopy(models[level]).save_pretrained(tmp_path / level)
        models["tokenizer"].save_pretrained(tmp_path / level)
    agent = PPO(
        "CoLA-Arithmetic-v0",
        num_envs=4,
        model=tmp_path / "latent",
        env_kwargs={"max_tokens": 3, "level": 2},
        episodes=4,
        minibatch=None,
        epochs=1,
        seed=3,
    )
    agent.update()
    agent.save(tmp_path / "run")
    return tmp_path


def test_an_agent_over_a_path_loads_without_being_told_anything(saved):
    agent = PPO.load(saved / "run")
    assert (agent.env_id, agent.num_envs, agent.seed) == ("CoLA-Arithmetic-v0", 4, 3)
    assert agent.env_kwargs == {"max_tokens": 3, "level": 2}
    assert agent.options.minibatch is None
    assert len(agent.history) == agent.num_updates == 1
    agent.update()
    assert sorted(path.name.split("-")[0] for path in (saved / "run").iterdir()) == [
        "actor",
        "agent.json",
        "history",
        "optimiser",
    ]


def test_an_agent_in_another_dtype_loads_in_it(saved):
    settings: dict[str, Any] = {"num_envs": 2, "model": saved / "latent", "env_kwargs": {"max_tokens": 2}}
    agent = PPO("CoLA-Arithmetic-v0", dtype="bfloat16", episodes=2, **settings)
    agent.save(saved / "half")
    assert PPO.load(saved / "half").backbone.model.dtype == torch.bfloat16


def test_saving_again_replaces_keeps_one_save_before_and_leaves_nothing_beside(saved):
    agent = PPO.load(saved / "run")
    for _ in range(3):
        agent.update()
        agent.save(saved / "run")
        names = sorted(path.name.split("-")[0] for path in (saved / "run").iterdir())
        assert names == ["actor", "actor", "agent", "agent.json", "history", "optimiser", "optimiser"]
    agent.save(saved / "deep" / "er" / "run")
    assert PPO.load(str(saved / "run")).num_updates == 4
    assert {path.name for path in saved.iterdir()} == {"latent", "token", "run", "deep"}


def test_load_errors_say_what_is_wrong(saved, models):
    with pytest.raises(FileNotFoundError, match=r"no agent\.json"):
        PPO.load(saved / "nothing")
    with pytest.raises(ValueError, match=r"holds a PPO: load it with PPO\.load"):
        GRPO.load(saved / "run")
    other = copy.deepcopy(models["latent"])
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="fingerprint"):
        PPO.load(saved / "run", model=other, tokenizer=models["tokenizer"])


def test_an_agent_is_saved_with_the_fingerprint_of_its_frozen_model_as_it_is(models, tmp_path):
    model = copy.deepcopy(models["latent"])
    agent = make(PPO, "latent", {**models, "latent": model})
    before = agent.fingerprint
    model.codebook.weight.data.mul_(1.5)
    agent.save(tmp_path / "run")
    assert agent.fingerprint != before
    changed = {"env_kwargs": {"task": FirstIsAscii, "max_tokens": 3}, "tokenizer": models["tokenizer"]}
    assert PPO.load(tmp_path / "run", model=model, **changed).fingerprint == agent.fingerprint
    with pytest.raises(ValueError, match="fingerprint"):
        PPO.load(tmp_path / "run", model=models["latent"], **changed)


def test_arguments_that_were_not_saved_must_be_given_again(models, tmp_path):
    make(PPO, "latent", models).save(tmp_path / "run")
    described = json.loads((tmp_path / "run" / "agent.json").read_text())
    assert described["env_kwargs"] == {"max_tokens": 3}
    with pytest.raises(ValueError, match="task, which could not be saved"):
        PPO.load(tmp_path / "run", model=models["latent"], tokenizer=models["tokenizer"])


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ((1, 2), [1, 2]),
        (range(1, 3), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        ([np.int64(1), (2,)], [1, [2]]),
        (np.int64(8), 8),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.str_("sum"), "sum"),
        (Path("p.jsonl"), "p.jsonl"),
        ({"a": (Path("p"), None)}, {"a": ["p", None]}),
        (MappingProxyType({"a": 1.5}), {"a": 1.5}),
    ],
)
def test_a_value_as_json_is_what_is_read_again(given, read):
    plain = as_json(given)
    assert plain == json.loads(json.dumps(plain)) == read
    assert type(plain) is type(read)


@pytest.mark.parametrize("given", [{1, 2}, {1: 2}, float("nan"), [object()], b"a", np.longdouble(1), 1j])
def test_a_value_that_json_does_not_hold_is_refused(given):
    with pytest.raises(TypeError, match="JSON does not hold"):
        as_json(given)


def test_an_agent_whose_environment_has_tuples_paths_and_numbers_of_numpy_loads(models, tmp_path):
    problems = tmp_path / "p.jsonl"
    problems.write_text(
        "".join(f'{{"problem": "{i}+1?", "answer": "{i + 1}", "level": {i}}}\n' for i in (1, 2))
    )
    kwargs = {"levels": (1, np.int64(2)), "max_tokens": np.int64(3), "problems": problems}
    given = {"num_envs": 2, "model": models["latent"], "tokenizer": models["tokenizer"]}
    agent = GRPO("CoLA-Math500-v0", env_kwargs=kwargs, prompts=1, group_size=2, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.save(tmp_path / "run")
    loaded = GRPO.load(tmp_path / "run", **{key: given[key] for key in ("model", "tokenizer")})
    assert loaded.env_kwargs == {"levels": [1, 2], "max_tokens": 3, "problems": str(problems)}
    assert loaded.batch().rollout.prompts == agent.batch().rollout.prompts


def test_what_is_left_out_of_a_save_is_warned_of_but_for_the_task(models, tmp_path):
    agent = make(PPO, "latent", models)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.save(tmp_path / "run")
    agent.env_kwargs["shots"] = {1: 2}
    with pytest.warns(
        UserWarning, match="the environment's shots cannot be saved, since JSON does not hold it"
    ):
        agent.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"--env shots=\.\.\. --task module:Class\)"):
        PPO.load(tmp_path / "run", model=models["latent"], tokenizer=models["tokenizer"])


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (PPO, {"learning_rate": 1e-3}, TypeError, "unknown option 'learning_rate': PPO takes lr"),
        (GRPO, {"episodes": 4}, TypeError, "unknown option 'episodes'"),
        (PPO, {"lr": 0.0}, ValueError, "lr"),
        (PPO, {"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        (PPO, {"epochs": 1.5}, ValueError, "epochs must be an integer, got 1.5"),
        (PPO, {"epochs": True}, ValueError, "epochs must be an integer, got True"),
        (PPO, {"macro": 0}, ValueError, "macro must be at least 1"),
        (PPO, {"value_coef": -1.0}, ValueError, "value_coef"),
        (PPO, {"value_clip": 0.0}, ValueError, "value_clip"),
        (GRPO, {"whiten": 1}, ValueError, "whiten must be True or False, got 1"),
        (GRPO, {"kl_in": "both"}, ValueError, "kl_in must be 'loss' or 'reward', got 'both'"),
        (GRPO, {"kl_estimator": "k2"}, ValueError, "kl_estimator must be"),
        (GRPO, {"kl_estimator": "k1"}, ValueError, "gradient of mean zero"),
        (GRPO, {"kl_estimator": "exact", "kl_in": "reward"}, ValueError, "does not depend on the action"),
        (RLOO, {"kl_estimator": "k3", "kl_in": "reward"}, ValueError, "use 'k1'"),
        (GRPO, {"kl_target": 0.1, "kl_coef": 0.0}, ValueError, "set kl_coef"),
        (GRPO, {"loss_mean": "batch"}, ValueError, "loss_mean"),
        (GRPO, {"micro_batch": 0}, ValueError, "micro_batch must be at least 1"),
        (GRPO, {"lora_alpha": 2.0}, ValueError, "set lora_rank too"),
        (GRPO, {"lora_rank": 0}, ValueError, "lora_rank must be at least 1"),
        (GRPO, {"lr": float("nan")}, ValueError, "lr must be a finite number, got nan"),
        (RLOO, {"epochs": 2}, TypeError, "unknown option 'epochs': RLOO takes lr"),
        (RLOO, {"group_size": 1}, ValueError, "group_size"),
        (ReMax, {"episodes": 0}, ValueError, "episodes must be at least 1"),
        (PPO, {"minibatch": 0}, ValueError, "minibatch"),
        (PPO, {"clip": 0.0}, ValueError, "clip"),
        (PPO, {"temperature": 0.0}, ValueError, "temperature"),
        (PPO, {"kl_coef": -1.0}, ValueError, "kl_coef"),
        (PPO, {"gamma": 0.0}, ValueError, "gamma"),
        (PPO, {"gamma": 1.1}, ValueError, "gamma"),
        (PPO, {"lam": 2.0}, ValueError, "lam"),
        (PPO, {"episodes": 0}, ValueError, "episodes"),
        (GRPO, {"group_size": 1}, ValueError, "group_size"),
        (GRPO, {"prompts": 0}, ValueError, "prompts"),
        (GRPO, {"top_k": 0}, ValueError, "top_k must be at least 1"),
        (GRPO, {"top_p": 1.5}, ValueError, "top_p is a share of at most 1"),
        (GRPO, {"top_p": 0.9, "kl_estimator": "k3"}, ValueError, "biased under top_k or top_p"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(cls, options, error, message):
    with pytest.raises(error, match=message):
        cls("CoLA-Text-v0", model="/no/such/model", **options)


def test_ids_are_checked(models):
    with pytest.raises(gym.error.Error, match="NoSuch"):
        PPO("NoSuch-v0", model=models["latent"])
    with pytest.raises(ValueError, match="not one of the CoLA environments"):
        PPO("CartPole-v1", model=models["latent"])
    with pytest.raises(ValueError, match="latent level"):
        PPO(IDS["token"], model=LatentBackbone(models["latent"], models["tokenizer"]))


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(models):
    agent = make(PPO, "latent", models)
    with torch.no_grad():
        agent.actor.value_head.bias.fill_(float("nan"))
    before = weights_of(agent).nan_to_num(7.0)
    with pytest.raises(FloatingPointError, match="the loss is nan: no step was made"):
        agent.update()
    assert torch.equal(weights_of(agent).nan_to_num(7.0), before)


@LEVELS
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(level, bad, models):
    agent, straight = (make(GRPO, level, models) for _ in range(2))
    parameter = agent.optimiser.parameters[0]
    hook = parameter.register_hook(lambda gradient: torch.full_like(gradient, bad))
    before = weights_of(agent)
    with pytest.raises(FloatingPointError, match=r"gradient's norm is (nan|inf): no step was made; lower lr"):
        agent.update()
    assert torch.equal(weights_of(agent), before)
    hook.remove()
    for one in (agent, straight):
        one.update()
    assert torch.equal(weights_of(agent), weights_of(straight)), "nothing of it is left, in Adam either"


def test_every_option_is_documented_and_read():
    source = "".join(path.read_text() for path in sorted(Path(options.__file__).parent.glob("*.py")))
    for cls in SMALL:
        # The classes that it is made of, and no others.
        text = "".join(one.__doc__ or "" for one in cls.options_class.__mro__ if one is not object)
        for name in cls.options_class.__dataclass_fields__:
            assert f"{name}:" in text or f"{name}," in text, f"{cls.__name__}.{name} is not documented"
            assert re.search(rf"(o|options|self)\.{name}\b", source), f"{cls.__name__}.{name} is read nowhere"


def test_the_docstring_of_an_agent_says_where_its_options_are_explained():
    class Reinforce(GRPO):
        """An algorithm of one's own."""

    for cls, name in ((GRPO, "grpo"), (PPO, "ppo"), (Reinforce, "module:Reinforce")):
        said = cls.__doc__ or ""
        assert f"``cola train --algo {name} --help`` says what each option means." in said
        assert "    kl_coef: float = 0.01" in said.partition("\nOptions:\n")[2]


def test_save_never_replaces_a_folder_that_is_no_agent(tmp_path, models):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not replaced"):
        make(GRPO, "latent", models).save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_token_agent_refuses_a_prior_that_would_change_under_it(models):
    with pytest.raises(ValueError, match="kl_coef"):
        GRPO(
            IDS["token"],
            model=models["token"],
            tokenizer=models["tokenizer"],
            env_kwargs={"task": FirstIsAscii, "prior_coef": 0.1},
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": "a"}, "lr must be a finite number, got 'a'"),
        ({"clip": float("nan")}, "clip must be a finite number"),
        ({"epochs": 1.5}, "epochs must be an integer, got 1.5"),
        ({"minibatch": True}, "minibatch must be an integer"),
        ({"gamma": None}, "gamma must be a finite number"),
    ],
)
def test_options_are_checked_before_anything_is_played(options, message):
    with pytest.raises(ValueError, match=message):
        PPO(IDS["latent"], **options)


def test_agent_takes_an_id():
    with pytest.raises(TypeError, match="id of an environment"):
        GRPO(object())


def test_a_token_agent_keeps_how_its_backbone_steps(tiny_base, tiny_tokenizer):
    for static in (None, True, False):
        backbone = TokenBackbone(tiny_base, tiny_tokenizer, static)
        agent = GRPO("CoLA-Arithmetic-Token-v0", num_envs=2, model=backbone)
        assert agent.backbone.static is static


def test_the_place_of_a_backbone_is_its_models(tiny_base, tiny_tokenizer):
    backbone = TokenBackbone(tiny_base, tiny_tokenizer)
    task = "CoLA-Arithmetic-Token-v0"
    assert GRPO(task, num_envs=2, model=backbone, device="cpu").backbone is not None
    with pytest.raises(ValueError, match="device='cuda' cannot be changed for a Backbone, which is on cpu"):
        GRPO(task, num_envs=2, model=backbone, device="cuda")
    with pytest.raises(ValueError, match=r"dtype='bfloat16' cannot be changed .* computes in float32"):
        gym.make(task, model=backbone, dtype="bfloat16")


def test_the_kl_coefficient_cannot_be_adapted_below_0():
    with pytest.raises(ValueError, match="kl_gain must be below 5"):
        GRPO("CoLA-Arithmetic-v0", num_envs=2, kl_target=0.1, kl_coef=0.01, kl_gain=6.0)
