"""GRPO and PPO at both levels: they learn, they continue, they refuse."""

from __future__ import annotations

import copy
import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from cola_agents.agent import Agent, AgentOptions
from cola_agents.backbones import LatentBackbone, TokenBackbone
from cola_agents.grpo import GRPO
from cola_agents.ppo import PPO
from cola_envs import Turn
from tests import tiny

IDS = {"latent": "CoLA-Text-v0", "token": "CoLA-Text-Token-v0"}
SMALL: dict[type[Agent], dict[str, Any]] = {
    GRPO: {"prompts": 8, "group_size": 8},
    PPO: {"episodes": 64, "minibatch": 32},
}
BOTH = [pytest.param(cls, level, id=f"{cls.__name__}-{level}") for cls in (GRPO, PPO) for level in IDS]


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
    assert agent.num_episodes == 15 * 64
    assert [record["timesteps"] for record in agent.history][-1] == agent.num_timesteps
    assert agent.history[-1]["success"] == agent.history[-1]["reward"]


@pytest.mark.parametrize(("cls", "level"), BOTH)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_before_the_first_step(cls, level, models, temperature):
    agent = make(cls, level, models, task=Chatty, max_tokens=20, temperature=temperature)
    rollout = agent._collect(8, 2)
    with torch.no_grad():
        scores = agent._score(rollout)
        reference = agent._score(rollout, agent.reference)
    assert scores.log_policy.shape == (rollout.num_actions, scores.log_policy.shape[-1])
    ratio = torch.exp(scores.log_probs - rollout.log_probs[rollout.mask])
    torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-3, rtol=0)
    torch.testing.assert_close(scores.log_policy, reference.log_policy, atol=1e-6, rtol=0)


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
    frozen = [p.clone() for p in agent.reference.parameters()]
    agent.update()
    assert not torch.equal(weights_of(agent), start)
    assert all(torch.equal(a, b) for a, b in zip(frozen, agent.reference.parameters(), strict=True))
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
    rollout = agent._collect(4, 1)
    calls = []
    hook = agent.backbone.base.register_forward_hook(lambda *_: calls.append(1))
    try:
        agent._score(rollout)
        agent._advantages(rollout)
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
        rewards.append(agent._collect(8, 4).episode_rewards)
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
    rollout = agent._collect(16, 1)
    assert not rollout.terminated.all()
    _, _, returns = agent._advantages(rollout)
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
    assert {i["level"] for i in one.evaluate(3, level=3).infos} == {3}
    assert two.num_timesteps == counted
    assert not torch.equal(weights_of(two), before)
    greedy = [two.evaluate(5, greedy=True, seed=3).ids for _ in range(2)]
    assert torch.equal(*greedy)
    thinking = two.evaluate(3, env_id="CoLA-Thinking-v0", max_tokens=4)
    assert all("format" in info for info in thinking.infos)


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
    assert {path.name for path in (saved / "run").iterdir()} == {
        "actor.safetensors",
        "agent.json",
        "optimiser.pt",
    }


def test_an_agent_in_another_dtype_loads_in_it(saved):
    settings: dict[str, Any] = {"num_envs": 2, "model": saved / "latent", "env_kwargs": {"max_tokens": 2}}
    agent = PPO("CoLA-Arithmetic-v0", dtype="bfloat16", episodes=2, **settings)
    agent.save(saved / "half")
    assert PPO.load(saved / "half").backbone.model.dtype == torch.bfloat16


def test_saving_again_replaces_and_leaves_nothing_beside(saved):
    agent = PPO.load(saved / "run")
    agent.update()
    agent.save(saved / "run")
    agent.save(saved / "deep" / "er" / "run")
    assert PPO.load(str(saved / "run")).num_updates == 2
    assert {path.name for path in saved.iterdir()} == {"latent", "token", "run", "deep"}


def test_a_save_that_fails_leaves_the_last_one_intact(saved, monkeypatch):
    agent = PPO.load(saved / "run")
    agent.update()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        agent.save(saved / "run")
    monkeypatch.undo()
    assert PPO.load(saved / "run").num_updates == 1
    assert {path.name for path in saved.iterdir()} == {"latent", "token", "run"}


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


def test_arguments_that_were_not_saved_must_be_given_again(models, tmp_path):
    make(PPO, "latent", models).save(tmp_path / "run")
    described = json.loads((tmp_path / "run" / "agent.json").read_text())
    assert described["env_kwargs"] == {"max_tokens": 3}
    with pytest.raises(ValueError, match="task, which could not be saved"):
        PPO.load(tmp_path / "run", model=models["latent"], tokenizer=models["tokenizer"])


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("cls", "options", "error", "message"),
    [
        (PPO, {"learning_rate": 1e-3}, TypeError, "unknown option 'learning_rate': PPO takes lr"),
        (GRPO, {"episodes": 4}, TypeError, "unknown option 'episodes'"),
        (PPO, {"lr": 0.0}, ValueError, "lr"),
        (PPO, {"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
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
    with pytest.raises(FloatingPointError, match="loss is nan in update 0"):
        agent.update()
    assert torch.equal(weights_of(agent).nan_to_num(7.0), before)


def test_every_option_is_documented_and_read():
    for cls in (GRPO, PPO):
        text = (cls.options_class.__doc__ or "") + (AgentOptions.__doc__ or "")
        for name in cls.options_class.__dataclass_fields__:
            assert f"{name}:" in text or f"{name}," in text, f"{cls.__name__}.{name} is not documented"


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
