"""Ids with holes: what no token stands for is never drawn, and every token may be."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch

from cola_agents import GRPO, PPO, ClonedPolicy, SB3VecEnv, collect
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.sampling import sample
from cola_agents.rl.actors import TokenActor, reference_actor
from cola_agents.rl.collecting import InitialPolicy
from cola_agents.search import MCTS, MCTSQConfig, SearchConfig
from cola_agents.search.q import QFunction, train_q
from cola_agents.train.options import QConfig
from cola_envs import Turn
from tests import tiny
from tests.spelling import TAGS, base_for, byte_tokenizer

HOLES = range(256, 296)


class Brief:
    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return f"Q{int(rng.integers(10))}"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text) % 2))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer(special=TAGS, holes=len(HOLES))


@pytest.fixture(scope="module")
def base(tokenizer) -> Any:
    """A model that likes the ids that stand for nothing best."""
    model = base_for(tokenizer, padded=5)
    with torch.no_grad():
        wanted = torch.cat(
            [torch.tensor(HOLES), torch.arange(model.config.vocab_size - 5, len(model.lm_head.weight))]
        )
        model.lm_head.weight[wanted] *= 4
    return model


@pytest.fixture(scope="module")
def allowed(tokenizer, base) -> np.ndarray:
    mask = np.zeros(base.config.vocab_size, dtype=bool)
    mask[sorted(tokenizer.get_vocab().values())] = True
    return mask


def settings(level: str, base: Any, tokenizer: Any) -> dict[str, Any]:
    model = base if level == "token" else tiny.make_cola(base=base)
    return {"model": model, "tokenizer": tokenizer, "task": Brief, "max_tokens": 6}


def test_every_token_may_be_drawn_and_no_other_id(tokenizer, base, allowed):
    assert not allowed[HOLES.start : HOLES.stop].any()
    assert allowed[tokenizer.eos_token_id]
    backbone = TokenBackbone(base, tokenizer)
    np.testing.assert_array_equal(backbone.action_mask(), allowed)
    env: Any = gym.make("CoLA-Text-Token-v0", **settings("token", base, tokenizer)).unwrapped
    env.reset(seed=0)
    np.testing.assert_array_equal(env.action_masks(), allowed)
    assert all(allowed[env.action_space.sample()] for _ in range(200))
    with pytest.raises(gym.error.InvalidAction, match="256 is not allowed"):
        env.step(256)
    *_, terminated, _, _ = env.step(tokenizer.eos_token_id)
    assert terminated


def test_observed_ids_reach_to_the_largest(tokenizer, base):
    for level in ("latent", "token"):
        name = f"CoLA-Text{'-Token' if level == 'token' else ''}-v0"
        env: Any = gym.make(name, **settings(level, base, tokenizer), observation="tokens").unwrapped
        assert env.observation_space.high.max() == max(tokenizer.get_vocab().values())
    env.reset(seed=0)
    observation, *_ = env.step(tokenizer.convert_tokens_to_ids(TAGS[-1]))
    assert env.observation_space.contains(observation)


def test_a_model_without_an_embedding_for_the_largest_id_is_refused(tokenizer):
    largest = max(tokenizer.get_vocab().values())
    assert len(tokenizer) < largest
    with pytest.raises(ValueError, match=f"none of them for id {largest}"):
        TokenBackbone(tiny.make_base(vocab_size=largest), tokenizer)
    assert TokenBackbone(tiny.make_base(vocab_size=largest + 1), tokenizer).action_mask()[largest]


@pytest.mark.parametrize("level", ["latent", "token"])
def test_play_draws_no_hole(level, tokenizer, base, allowed):
    name = f"CoLA-Text{'-Token' if level == 'token' else ''}-v0"
    options = {"world_temperature": 1.0} if level == "latent" else {}
    envs: Any = gym.make_vec(name, num_envs=8, **settings(level, base, tokenizer), **options)
    rollout = collect(envs.unwrapped.episodes, InitialPolicy(), seeds=range(16), temperature=2.0)
    assert allowed[rollout.ids.numpy()].all()


def test_an_actor_is_the_session_s_policy(tokenizer, base, allowed):
    backbone = TokenBackbone(base, tokenizer)
    session = backbone.session(2)
    session.load([0, 1], [[65, 66], [67]])
    actor = reference_actor(backbone)
    logits = actor.logits(session.last([0, 1]))
    assert actor.num_actions == np.flatnonzero(allowed)[-1] + 1
    ours, theirs = logits.log_softmax(-1), session.policy([0, 1]).log_softmax(-1)[:, : actor.num_actions]
    torch.testing.assert_close(ours, theirs)
    assert "_holes" not in actor.state_dict()
    drawn = TokenActor(TokenBackbone(copy.deepcopy(base), tokenizer)).logits(session.last([0]))
    assert torch.isneginf(drawn[0, HOLES.start : HOLES.stop]).all()


@pytest.mark.parametrize(
    "options", [{}, {"lora_rank": 2}, {"top_k": 8}], ids=["all weights", "lora", "top 8"]
)
@pytest.mark.parametrize("agent", [GRPO, PPO])
def test_agents_learn_beside_holes(agent, options, tokenizer, base, allowed):
    given = settings("token", base, tokenizer)
    model = {name: given.pop(name) for name in ("model", "tokenizer")}
    sizes: dict[str, Any] = {"group_size": 4, "prompts": 4} if agent is GRPO else {"episodes": 16}
    learner = agent(
        "CoLA-Text-Token-v0", num_envs=8, **model, env_kwargs=given, kl_coef=0.1, **sizes, **options
    )
    figures = learner.update()
    assert all(np.isfinite(value) for value in figures.values() if isinstance(value, float)), figures
    assert allowed[learner.play(*learner.draw_seeds(8)).ids.cpu().numpy()].all()


@pytest.mark.parametrize(
    "config", [SearchConfig(simulations=8), MCTSQConfig(rounds=4, rewards="environment")]
)
def test_search_tries_no_hole(config, tokenizer, base, allowed):
    q = QFunction.over(TokenBackbone(base, tokenizer)) if isinstance(config, MCTSQConfig) else None
    found = MCTS(
        "CoLA-Text-Token-v0", config, q=q, num_trees=2, env_kwargs=settings("token", base, tokenizer)
    ).solve(range(2))
    assert all(allowed[list(answer.actions)].all() for answer in found.answers if answer)


def test_a_q_function_takes_no_hole_for_the_best(tokenizer, base, allowed):
    q = QFunction.over(TokenBackbone(base, tokenizer))
    with torch.no_grad():
        q.head.weight[HOLES.start : HOLES.stop] = 1e3
        q.head.weight[: HOLES.start] = 0.01
    envs: Any = gym.make_vec("CoLA-Text-Token-v0", num_envs=4, **settings("token", base, tokenizer))
    rollout = collect(envs.unwrapped.episodes, InitialPolicy(), seeds=range(8))
    best = q(rollout).argmax(-1)
    assert allowed[best.numpy()].all()
    assert all(np.isfinite(record["loss"]) for record in train_q(q, rollout, QConfig(steps=3)))


@pytest.mark.parametrize("level", ["latent", "token"])
def test_decoding_with_fixed_shapes_draws_no_hole(level, tokenizer, base, allowed):
    backbone = (
        TokenBackbone(base, tokenizer, static=True)
        if level == "token"
        else LatentBackbone(tiny.make_cola(base=base), tokenizer, static=True)
    )
    session, rows = backbone.session(3, 64), [0, 1, 2]
    session.load(rows, [[65], [66, 67], [68]])
    rng = np.random.default_rng(0)
    for _ in range(20):
        actions, _ = session.act(rows, session.device_policy(), sample, rng.random(3))
        tokens = session.decode(rows, actions, rng.random(3), 1.0).tokens
        session.extend(rows, [ids.tolist() for ids in tokens])
    assert allowed[np.concatenate([ids[2:] for ids in session.tokens])].all()


def test_the_cloned_policy_of_stable_baselines_draws_no_hole(tokenizer, base, allowed):
    venv = SB3VecEnv("CoLA-Text-Token-v0", num_envs=2, env_kwargs=settings("token", base, tokenizer))
    policy = sb3.PPO(ClonedPolicy, venv, n_steps=8, batch_size=16).policy
    observations = torch.as_tensor(np.asarray(venv.reset()))
    probabilities = policy.get_distribution(observations).distribution.probs
    assert not probabilities[:, ~torch.from_numpy(allowed)].any()
