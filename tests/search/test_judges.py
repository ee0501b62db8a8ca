"""Judges of finished answers: likelihoods by hand, the outcome model, and searches that rely on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cola_agents import GRPO
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.evaluation import run
from cola_agents.rl.actors import make_actor
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rollout import Rollout
from cola_agents.search import (
    MCTS,
    MCTSQConfig,
    OutcomeModel,
    QFunction,
    SearchConfig,
    likelihood_judge,
    mcts_q,
    search,
    train_outcome,
)
from cola_agents.search.baselines import CompleteEpisodes
from cola_agents.search.config import Ending
from cola_agents.search.evaluators import RolloutEvaluator, prior_evaluation
from cola_agents.search.fitting import split_problems
from cola_agents.search.playout import ActionScores
from cola_agents.search.puct import vote
from cola_agents.train.options import FitConfig
from cola_envs import EachRow, Episodes
from tests.envs.tiny import Talk
from tests.search.test_mcts_q import UNSURE, logits
from tests.search.test_q import FirstToken, played
from tests.search.test_search import Words, code
from tests.search.test_search import played as letters_played


def finished(backbone: Any, rows: int = 3) -> Episodes:
    """Rows whose episodes of three segments, with task text between them, are over."""
    episodes = Episodes(backbone, EachRow(Talk, rows), num_rows=rows, max_tokens=6)
    episodes.reset(range(rows), range(rows))
    rng = np.random.default_rng(0)
    while running := [row for row in range(rows) if episodes.running(row)]:
        actions = rng.choice(np.flatnonzero(episodes.action_mask), size=len(running))
        episodes.step(running, actions)
    return episodes


@pytest.mark.parametrize("level", ["latent", "token"])
@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_policys_likelihood_is_the_product_of_its_probabilities(
    level: str, power: float, latent_backbone: LatentBackbone, token_backbone: TokenBackbone
) -> None:
    backbone: Any = latent_backbone if level == "latent" else token_backbone
    episodes = finished(backbone)
    values = likelihood_judge(episodes, power=power)([2, 0])
    session = backbone.session(1)
    for row, value in zip([2, 0], values.tolist(), strict=True):
        tokens, origins = episodes.tokens(row), episodes.origins(row)
        total = 0.0
        for number, action in enumerate(episodes.actions(row)):
            session.load([0], [tokens[: origins.index(number)]])
            total += float(session.prior([0])[0, action])
        assert value == pytest.approx(np.exp(total / len(episodes.actions(row)) ** power), rel=1e-4)


def test_the_bases_likelihood_is_that_of_the_tokens_the_agent_wrote(latent_backbone: LatentBackbone) -> None:
    episodes = finished(latent_backbone)
    (value,) = likelihood_judge(episodes, "base")([1]).tolist()
    tokens, origins = episodes.tokens(1), episodes.origins(1)
    own = [at for at, origin in enumerate(origins) if origin >= 0]
    assert 0 < len(own) < len(tokens) - episodes.prompt_length(1) + 1
    with torch.no_grad():
        states = latent_backbone.base(input_ids=torch.tensor([tokens])).last_hidden_state[0]
        log_probs = latent_backbone.lm_head(states).log_softmax(-1)
    mean = np.mean([float(log_probs[at - 1, tokens[at]]) for at in own])
    assert value == pytest.approx(np.exp(mean), rel=1e-4)


def test_a_trained_policys_likelihood_is_its_own(latent_backbone: LatentBackbone) -> None:
    episodes = finished(latent_backbone)
    actor = make_actor(latent_backbone)
    before = likelihood_judge(episodes, actor)([0, 1])
    torch.testing.assert_close(before, likelihood_judge(episodes, "policy")([0, 1]))
    with torch.no_grad():
        actor.head.weight.mul_(3.0)
    assert not torch.allclose(before, likelihood_judge(episodes, actor)([0, 1]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"power": -1.0}, "not negative"),
        ({"power": "1"}, "not negative, got '1'"),
        ({"power": True}, "not negative, got True"),
        ({"under": "q"}, "'policy', 'base' or"),
    ],
)
def test_a_likelihood_of_what_there_is_not_is_refused(
    arguments: Any, message: str, latent_backbone: LatentBackbone
) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood_judge(finished(latent_backbone), **arguments)


def test_answers_that_all_earn_the_same_teach_nothing_and_are_refused(
    latent_backbone: LatentBackbone,
) -> None:
    rollout = played(latent_backbone, count=8)
    rollout = replace(rollout, rewards=torch.zeros_like(rollout.rewards))
    with pytest.raises(ValueError, match="0 of 8 recorded answers earn a reward, so that nothing tells"):
        train_outcome(OutcomeModel.over(latent_backbone), rollout, FitConfig(steps=1))


class Numbered(FirstToken):
    """The same question under a number of its own."""

    def reset(self, rng: np.random.Generator) -> str:
        return f"{rng.integers(10**6)}: 8+6"


def recorded(backbone: Any, count: int = 64) -> Rollout:
    """Four answers to each problem, paid where the first token's text is long."""
    episodes = Episodes(backbone, EachRow(Numbered, 8), num_rows=8, max_tokens=3)
    seeds = list(range(count))
    problems = [seed // 4 for seed in seeds]
    return collect(episodes, InitialPolicy(), seeds=seeds, problem_seeds=problems, temperature=2.0)


@pytest.mark.parametrize("level", ["latent", "token"])
def test_an_outcome_model_learns_which_answers_are_right_and_says_so_in_a_session(
    level: str, latent_backbone: LatentBackbone, token_backbone: TokenBackbone, tmp_path: Any
) -> None:
    backbone: Any = latent_backbone if level == "latent" else token_backbone
    rollout = played(backbone, count=64)
    right = rollout.episode_rewards > 0
    assert 0 < right.sum() < len(right)
    model = OutcomeModel.over(backbone)
    assert torch.sigmoid(model(rollout)).tolist() == [0.5] * 64
    base = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    train_outcome(model, rollout, FitConfig(steps=60, batch_size=32, lr=3e-3))
    with torch.no_grad():
        odds = model(rollout)
    assert odds[right].mean() > odds[~right].mean() + 1
    assert all(base[name].equal(tensor) for name, tensor in backbone.model.state_dict().items())
    model.save(tmp_path / "outcome")
    loaded = OutcomeModel.load(tmp_path / "outcome", backbone)
    episodes = Episodes(backbone, EachRow(FirstToken, 1), num_rows=1, max_tokens=3)
    judge = loaded.judge(episodes)
    for i in range(3):
        episodes.session.load([0], [rollout.ids[i, : rollout.lengths[i]].tolist()])
        assert judge([0])[0].item() == pytest.approx(torch.sigmoid(odds[i]).item(), abs=1e-4)


def test_an_outcome_model_of_another_model_is_refused(
    latent_backbone: LatentBackbone, token_backbone: TokenBackbone, tmp_path: Any
) -> None:
    model = OutcomeModel.over(latent_backbone)
    with pytest.raises(ValueError, match="another model"):
        model.judge(finished(token_backbone))
    model.save(tmp_path / "outcome")
    with pytest.raises(ValueError, match="fingerprint"):
        OutcomeModel.load(tmp_path / "outcome", token_backbone)
    with pytest.raises(FileNotFoundError, match=r"no outcome\.json"):
        OutcomeModel.load(tmp_path, latent_backbone)
    with pytest.raises(ValueError, match="must be 'model'"):
        OutcomeModel.over(token_backbone, trunk="policy")


def test_held_out_problems_keep_the_best_outcome_model(latent_backbone: LatentBackbone) -> None:
    learned, held_out = split_problems(recorded(latent_backbone), 4)
    model = OutcomeModel.over(latent_backbone)
    config = FitConfig(steps=20, batch_size=32, lr=3e-3, check_every=5)
    records = train_outcome(model, learned, config, held_out=held_out)
    assert [record["step"] for record in records if "held_out" in record] == [5, 10, 15, 20]


def likes(letter: str, episodes: Episodes) -> Any:
    """A judge by the share of a letter."""

    def judge(rows: Sequence[int]) -> Tensor:
        return torch.tensor(
            [np.mean([action == code(letter) for action in episodes.actions(row)]) for row in rows]
        )

    return judge


def test_tries_puct_and_mcts_q_value_endings_by_the_judge_alone() -> None:
    policy = logits(a=1.0, b=1.0, c=1.0)
    for how in ("tries", "puct", "mcts-q"):
        episodes = letters_played(Words, max_tokens=3)
        judge = likes("a", episodes)
        if how == "tries":
            tries = CompleteEpisodes(episodes, [0], policy, judge=judge)
            for _ in range(60):
                tries.play()
            endings, answer = tries.endings[0], tries.answers("value")[0]
        elif how == "puct":
            evaluate = RolloutEvaluator(episodes, lambda session, rows: policy(rows), judge=judge)
            config = SearchConfig(simulations=60, rewards="estimated", answer="value")
            result = search(episodes, [0], evaluate, config)
            endings, answer = result.endings[0], result.answers[0]
        else:
            config = MCTSQConfig(rewards="estimated", stop_at_end=False)
            result = mcts_q(episodes, [0], policy, UNSURE, config, judge=judge)
            endings, answer = result.endings[0], result.answers[0]
        assert answer is not None, how
        shares = [ending.actions.count(code("a")) / len(ending.actions) for ending in endings]
        assert [ending.value for ending in endings] == pytest.approx(shares), how
        assert answer.value == max(ending.value for ending in endings), how


class Lines(Words):
    """A letter at a time, to the first c or three letters."""

    stop = ("c",)


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("by", ["judge", "q", "action values"])
def test_an_estimate_is_discounted_as_a_reward_of_the_last_action_wherever_its_ending_was_found(
    by: str, span: int
) -> None:
    """As the return of an ending whose reward is 1 is, so that equal answers have equal values."""
    policy = logits(a=1.0, b=1.0, c=1.0)
    episodes = letters_played(Lines, max_tokens=3)
    ones = lambda rows: torch.ones(len(rows), 257)  # noqa: E731
    evaluate: Any = RolloutEvaluator(
        episodes,
        lambda session, rows: policy(rows),
        discount=0.5,
        q=ones if by == "q" else None,
        judge=(lambda rows: torch.ones(len(rows))) if by == "judge" else None,
    )
    if by == "action values":
        evaluate = lambda rows: prior_evaluation(ActionScores(policy(rows), ones(rows)))  # noqa: E731
    config = SearchConfig(
        simulations=60, rewards="estimated", answer="value", discount=0.5, span=span, c_init=20.0
    )
    result = search(episodes, [0], evaluate, config, follow=policy)
    assert {len(ending.actions) for ending in result.endings[0]} >= {1, 3}
    for ending in result.endings[0]:
        assert ending.value == 0.5 ** (len(ending.actions) - 1), ending
    assert result.answers[0] is not None
    assert result.answers[0].text == "c"


def test_a_weighted_vote_adds_up_the_values_of_equal_answers() -> None:
    def ending(text: str, value: float) -> Ending:
        return Ending(text, (), value, 0.0, {})

    endings = [ending("x", 0.1), ending("x", 0.2), ending("x", 0.1), ending("y", 0.6)]
    assert vote(endings).text == "x"
    assert vote(endings, weighted=True).text == "y"
    assert vote([*endings, ending("x", 0.3)], weighted=True).text == "x"
    # Values below 0 are no weights: log-probabilities do not turn the vote around.
    assert vote([ending("x", -1.0), ending("x", -1.0), ending("y", -1.0)], weighted=True).text == "x"
    assert vote([*endings, ending("z", -9.0)], weighted=True).text == "y"


def test_a_judge_needs_estimated_rewards_and_gives_a_finite_value_for_each_row() -> None:
    episodes = letters_played(Words, max_tokens=3)
    policy = logits(a=1.0, b=1.0)
    evaluate = RolloutEvaluator(episodes, lambda session, rows: policy(rows), judge=likes("a", episodes))
    with pytest.raises(ValueError, match="needs rewards"):
        search(episodes, [0], evaluate, SearchConfig(simulations=2))
    with pytest.raises(ValueError, match="needs rewards"):
        mcts_q(episodes, [0], policy, UNSURE, MCTSQConfig(), judge=likes("a", episodes))
    with pytest.raises(ValueError, match=r"a value for each row, \[1\], got \[2\]"):
        CompleteEpisodes(episodes, [0], policy, judge=lambda rows: torch.zeros(2)).play()
    tries = CompleteEpisodes(episodes, [0], policy, judge=lambda rows: [0.5] * len(rows))  # type: ignore[arg-type,return-value]
    tries.play()
    assert tries.endings[0][0].value == 0.5
    with pytest.raises(FloatingPointError, match="judge's value in row 0 is not finite"):
        CompleteEpisodes(episodes, [0], policy, judge=lambda rows: torch.tensor([float("nan")])).play()


def test_a_solver_makes_the_judge_of_its_own_episodes() -> None:
    config = SearchConfig(simulations=4, rewards="estimated", answer="weighted")
    judge = partial(likelihood_judge, under="base")
    solver = MCTS("CoLA-Arithmetic-v0", config, judge=judge, num_trees=2, env_kwargs={"level": 1})
    result = solver.solve([0, 1])
    assert all(0 < ending.value <= 1 for endings in result.endings for ending in endings)
    with pytest.raises(ValueError, match="needs rewards"):
        MCTS("CoLA-Arithmetic-v0", SearchConfig(), judge=judge)
    with pytest.raises(TypeError, match="leave out"):
        MCTS("CoLA-Arithmetic-v0", config, judge=judge, leaves="q")
    with pytest.raises(TypeError, match=r"q= \(--q\) or by judge= \(--judge\), not both"):
        MCTS("CoLA-Arithmetic-v0", config, judge=judge, q=QFunction.over(solver.episodes.backbone))  # type: ignore[arg-type]


def test_eval_by_the_base_of_a_trained_token_agent_is_by_the_model_before_training(monkeypatch) -> None:
    agent = GRPO("CoLA-Arithmetic-Token-v0", num_envs=4, prompts=1, group_size=4, lr=0.1)
    with torch.no_grad():
        for parameter in agent.actor.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    judged = []

    def judge(episodes: Episodes, **arguments: Any) -> Any:
        judged.append(arguments["under"])
        return likelihood_judge(episodes, **arguments)

    monkeypatch.setattr(run, "likelihood_judge", judge)
    config = SearchConfig(simulations=2, rewards="estimated", answer="value", width=4)
    options: Any = {"agent": agent, "episodes": 1, "search": config}
    assert run.evaluate("CoLA-Arithmetic-Token-v0", judge="base", **options)["judge"] == "base"
    run.evaluate("CoLA-Arithmetic-Token-v0", judge="policy", **options)
    assert judged == [agent.policy.reference, agent.actor]
    agent.close()
