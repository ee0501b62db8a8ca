"""Whatever plays and learns, over actions that write several tokens each."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch

from cola_agents.evaluation.play import Outlook
from cola_agents.evaluation.probe import held_out_cross_entropy
from cola_agents.rl.agent import Agent
from cola_agents.rl.generate import generate, read
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.rloo import RLOO
from cola_agents.sb3 import SB3VecEnv
from cola_agents.search import SearchConfig, search
from cola_agents.search.evaluators import RolloutEvaluator
from cola_agents.search.judges import likelihood_judge
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.search.q import QFunction
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.data.packing import packed_batches
from cola_agents.train.metrics import measure
from cola_envs import EachRow, Episodes, Turn
from tests import tiny

ENV, K = "CoLA-Text-v0", 3
SMALL: dict[type[Agent], dict[str, Any]] = {
    GRPO: {"prompts": 2, "group_size": 4},
    PPO: {"episodes": 8, "minibatch": 8},
    ReMax: {"episodes": 8},
    RLOO: {"prompts": 2, "group_size": 4},
}


class Turns:
    """Two segments, each paid by the share of its characters that are ASCII."""

    stop = ("e", "t")

    def reset(self, rng: np.random.Generator) -> str:
        self.turns = 0
        return f"Q: {rng.integers(10)}"

    def step(self, text: str) -> Turn:
        self.turns += 1
        reward = sum(char.isascii() for char in text) / max(1, len(text))
        return Turn(text=" So?", reward=reward, done=self.turns == 2)


def env_kwargs(backbone: Any, **changed: Any) -> dict[str, Any]:
    return {"model": backbone, "task": Turns, "max_tokens": 14, **changed}


@pytest.mark.parametrize("world_temperature", [0.0, 1.0])
@pytest.mark.parametrize("cls", list(SMALL))
def test_every_algorithm_learns_from_the_states_in_which_it_chose(span_backbone, cls, world_temperature):
    agent = cls(
        ENV,
        num_envs=8,
        lr=1e-2,
        model=span_backbone,
        env_kwargs={"task": Turns, "max_tokens": 14, "world_temperature": world_temperature},
        **SMALL[cls],
    )
    rollout = agent.play(*agent.draw_seeds(4, 2))
    own = sum(info["num_tokens"] for info in rollout.infos)
    assert own / K <= rollout.num_actions < own / 2, "an action writes several tokens"
    with torch.no_grad():
        scores = agent.policy.evaluate_actions(rollout, with_kl=True)
    torch.testing.assert_close(scores.log_probs, rollout.taken_log_probs, atol=1e-3, rtol=0)
    before = torch.cat([p.detach().flatten().clone() for p in agent.actor.parameters()])
    agent.update()
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in agent.actor.parameters()]))
    assert np.isfinite(agent.history[-1]["reward"])


class Paid(Turns):
    """Each segment is paid 1, so that rewards tell where one ends."""

    def step(self, text: str) -> Turn:
        return replace(super().step(text), reward=1.0)


@pytest.mark.parametrize("macro", [1, 2, 1000])
@pytest.mark.parametrize("cls", [GRPO, PPO])
def test_a_macro_action_is_as_many_codes_of_a_segment_whatever_these_write(span_backbone, cls, macro):
    kwargs = {"task": Paid, "max_tokens": 24, "budget_end": "terminate"}
    batch = cls(ENV, num_envs=8, model=span_backbone, env_kwargs=kwargs, macro=macro, **SMALL[cls]).batch()
    wanted = []
    for rewards, mask in zip(batch.rollout.rewards, batch.rollout.mask, strict=True):
        ends = [0, *(rewards[mask].nonzero().flatten() + 1).tolist()]
        wanted.append(sum(math.ceil((end - start) / macro) for start, end in pairwise(ends)))
    assert batch.decision_mask.sum(1).tolist() == wanted
    assert (batch.num_decisions < batch.rollout.num_actions) == (macro > 1)


def test_recorded_episodes_are_read_as_they_were_played(span_backbone, tmp_path):
    path = tmp_path / "tries.jsonl"
    generate(ENV, path, problems=2, n=3, env_kwargs=env_kwargs(span_backbone))
    rollout = read(path).rollout(span_backbone)
    log_pi = span_backbone.model.policy(rollout.hidden).log_softmax(-1)
    taken = log_pi.gather(-1, rollout.actions[..., None])[..., 0][rollout.mask]
    torch.testing.assert_close(taken.detach(), rollout.taken_log_probs, atol=1e-3, rtol=0)


@pytest.mark.parametrize("cls", ["DQN", "PPO"])
def test_sb3_learns_with_a_plain_network(span_backbone, cls):
    venv = SB3VecEnv(ENV, num_envs=4, env_kwargs=env_kwargs(span_backbone))
    options = {"learning_starts": 8} if cls == "DQN" else {"n_steps": 8, "batch_size": 32}
    learner = getattr(sb3, cls)("MlpPolicy", venv, seed=0, device="cpu", **options)
    before = [p.detach().clone() for p in learner.policy.parameters()]
    learner.learn(64)
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.policy.parameters(), strict=True))
    venv.close()


def test_a_row_of_a_vector_environment_plays_what_a_single_one_does(span_backbone):
    kwargs = env_kwargs(span_backbone)
    many = gym.make_vec(ENV, num_envs=3, vectorization_mode="vector_entry_point", **kwargs)
    one = gym.make(ENV, **kwargs)
    many.reset(seed=[4, 5, 6])
    one.reset(seed=5)
    codes, named = np.random.default_rng(0).integers(tiny.CODES, size=9), 0
    for code in codes.tolist():
        _, rewards, terminated, truncated, infos = many.step(np.full(3, code))
        _, reward, ended, cut, info = one.step(code)
        assert (rewards[1], terminated[1], truncated[1]) == (reward, ended, cut)
        if "tokens" in info:
            named += 1
            assert tuple(infos["tokens"][1]) == info["tokens"]
            assert info["tokens"][0] == info["token"]
            assert len(info["tokens"]) > 1
        if ended or cut:
            break
    assert named
    many.close()
    one.close()


@pytest.fixture
def rows(span_backbone) -> Episodes:
    episodes = Episodes(span_backbone, EachRow(Turns, 2), num_rows=2, max_tokens=14)
    episodes.reset([0, 1], [3, 4])
    return episodes


@pytest.mark.parametrize("per_edge", [1, 2])
def test_a_tree_of_spans_leaves_its_rows_and_tells_what_its_endings_are_worth(rows, per_edge):
    """Two actions of three tokens an edge; where the episode ends within an edge, the edge does."""
    before = [rows.snapshot(row) for row in (0, 1)]
    config = SearchConfig(simulations=12, span=per_edge, width=4, early_stop=False)
    follow = None if per_edge == 1 else rows.session.policy
    result = search(rows, [0, 1], RolloutEvaluator(rows), config, follow=follow, seed=0)
    assert [rows.tokens(row) for row in (0, 1)] == [list(state.tokens) for state in before]
    assert result.visits.sum(1).tolist() == [12, 12]
    for row in (0, 1):
        for ending in result.endings[row]:
            rows.restore([row], [before[row]])
            total = 0.0
            for action in ending.actions:
                _, rewards, *_ = rows.step([row], [action])
                total += float(rewards[0])
            assert not rows.running(row)
            assert total == pytest.approx(ending.reward)


def test_codes_that_begin_alike_are_edges_of_their_own(rows):
    first = rows.session.outcomes([0])[0][0, :, 0].tolist()
    assert len(set(first)) < tiny.CODES
    config = SearchConfig(simulations=48, c_init=50.0, early_stop=False)
    visits = search(rows, [0], RolloutEvaluator(rows), config, seed=0).visits[0]
    assert (visits > 0).sum() > len(set(first))


def test_mcts_q_and_a_judge_of_likelihood_count_actions(rows, span_backbone):
    q = QFunction.over(span_backbone).attach(rows.session)
    result = mcts_q(rows, [0], rows.session.policy, q, MCTSQConfig(rounds=4, stop_at_end=False), seed=0)
    assert len(result.endings[0]) >= 4
    log_probs = []
    while rows.running(0):
        log_probs.append(float(rows.session.prior([0])[0, 1]))
        rows.step([0], [1])
    (value,) = likelihood_judge(rows)([0]).tolist()
    assert value == pytest.approx(np.exp(np.mean(log_probs)), abs=1e-4)


def test_the_probes_cross_entropy_is_that_of_whole_spans(span_backbone):
    agent = GRPO(ENV, num_envs=1, model=span_backbone, env_kwargs={"task": Turns, "max_tokens": 14})
    batches = packed_batches(documents(HELD_OUT), span_backbone.tokenizer, rows=8, length=256)
    expected = measure(span_backbone.model, islice(batches, 1)).composed_ce
    assert held_out_cross_entropy(agent, num_batches=1) == pytest.approx(expected, abs=1e-3)


def test_what_a_code_would_write_is_shown_whole(rows, span_backbone):
    outlook = Outlook.of(rows, np.full(tiny.CODES, 1 / tiny.CODES))
    decode = span_backbone.tokenizer.decode
    for code in (0, 3, 9):
        (ids,) = rows.session.decode([0], np.array([code])).tokens
        assert outlook.words[code].removesuffix("<end>") == decode(ids.tolist())
    assert rows.tokens(0) == rows.session.tokens[0]
