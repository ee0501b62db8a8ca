"""MCTS-Q: branching where the Q-function is unsure, spans where it is sure, the official back-up."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cola_agents.search.config import SearchConfig
from cola_agents.search.mcts_q import MCTSQConfig, mcts_q
from cola_agents.train.options import FitConfig, QConfig
from cola_envs import EachRow, Episodes, Turn
from cola_envs.testing import FakeBackbone
from tests.search.test_search import Words, code, played


def logits(**weights: float) -> Any:
    def policy(rows: Sequence[int]) -> Tensor:
        out = torch.full((len(rows), 257), -30.0)
        for letter, weight in weights.items():
            out[:, code(letter)] = weight
        return out

    return policy


def constant(value: float) -> Any:
    return lambda rows: torch.full((len(rows), 257), value)


#: The Bellman error Q - .99 Q is 0 of a Q of 0, and 1 of a Q of 100.
SURE, UNSURE = constant(0.0), constant(100.0)


def test_an_unsure_step_is_an_edge_of_its_own_and_a_sure_one_lets_the_policy_run_on() -> None:
    policy = logits(a=2.0, b=1.0, c=0.0)
    config = MCTSQConfig(rounds=1, temperature=0.0)
    single = mcts_q(played(Words, max_tokens=3), [0], policy, UNSURE, config).trees[0].forest
    assert [single.lines[0][n] for n in range(1, 4)] == [(code("a"),), (code("b"),), (code("c"),)]
    spans = mcts_q(played(Words, max_tokens=3), [0], policy, SURE, config).trees[0].forest
    wanted = [tuple(map(code, word)) for word in ("aaa", "baa", "caa")]
    assert [spans.lines[0][n] for n in range(1, 4)] == wanted
    assert spans.terminal[0, 1:4].all()


def test_the_likeliest_untried_actions_become_edges_up_to_the_width() -> None:
    policy = logits(a=3.0, b=2.0, c=1.0, d=0.0)
    config = MCTSQConfig(rounds=2, root_width=3, width=2, temperature=0.0)
    forest = mcts_q(played(Words, max_tokens=3), [0], policy, UNSURE, config).trees[0].forest
    assert forest.action[0, 0, :3].tolist() == [code(letter) for letter in "abc"]
    assert forest.size[0] == 1 + 3 + 2


def test_the_back_up_is_the_official_one_by_hand() -> None:
    # Greedy play from the root says "aaa": 0. Root edges a and c; from c greedy says "caa": .3.
    # q(a) = (0 - 0) + .99 * 0; q(c) = (.3 - 0) + .99 * .3 = .597; root = mean of both.
    config = MCTSQConfig(rounds=1, root_width=2, temperature=0.0)
    result = mcts_q(played(Words, max_tokens=3), [0], logits(a=2.0, c=1.0), UNSURE, config)
    assert result.values[0, code("a")] == pytest.approx(0.0)
    assert result.values[0, code("c")] == pytest.approx(0.597)
    assert result.trees[0].forest.value[0, 0] == pytest.approx(0.597 / 2)
    assert result.visits[0, code("c")] == 1
    answer = result.answers[0]
    assert answer is not None
    assert (answer.text, answer.value) == ("caa", pytest.approx(0.3))


def test_it_finds_what_greedy_play_does_not() -> None:
    config = MCTSQConfig(rounds=40, temperature=0.0, stop_at_end=False)
    result = mcts_q(played(Words, max_tokens=3), [0], logits(a=2.0, b=1.0, c=1.5), UNSURE, config)
    answer = result.answers[0]
    assert answer is not None
    assert (answer.text, answer.reward) == ("bab", 1.0)


def test_a_tree_ends_where_an_expansion_ends_its_episode_unless_told_otherwise() -> None:
    policy = logits(a=2.0, b=1.0, c=1.5)
    for stop_at_end, more in ((True, False), (False, True)):
        config = MCTSQConfig(rounds=40, temperature=0.0, stop_at_end=stop_at_end)
        result = mcts_q(played(Words, max_tokens=3), [0], policy, UNSURE, config)
        assert bool(result.simulations[0] > 10) is more


def test_trees_side_by_side_are_the_trees_alone() -> None:
    episodes = played(Words, 3, max_tokens=3)
    episodes.step([1], [code("c")])
    policy, config = logits(a=1.0, b=1.0, c=1.0), MCTSQConfig(rounds=6, temperature=0.0)
    together = mcts_q(episodes, [0, 1], policy, UNSURE, config)
    for tree, row in enumerate([0, 1]):
        alone = mcts_q(episodes, [row], policy, UNSURE, config)
        np.testing.assert_array_equal(alone.visits[0], together.visits[tree])
        assert [e.text for e in alone.endings[0]] == [e.text for e in together.endings[tree]]


def test_without_the_tasks_rewards_the_q_function_says_what_an_end_is_worth() -> None:
    def q(rows: Sequence[int]) -> Tensor:
        out = torch.full((len(rows), 257), 100.0)
        out[:, code("c")] = 110.0
        return out

    config = MCTSQConfig(rounds=30, rewards="estimated", temperature=0.0, stop_at_end=False)
    result = mcts_q(played(Words, max_tokens=3), [0], logits(a=1.0, b=0.9, c=0.8), q, config)
    answer = result.answers[0]
    assert answer is not None
    assert answer.text.endswith("c")
    assert answer.value == 110.0


def test_rows_are_left_as_found_and_ctrl_c_keeps_what_there_is() -> None:
    episodes = played(Words, max_tokens=3)
    before = episodes.snapshot(0)
    calls = []

    def q(rows: Sequence[int]) -> Tensor:
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return UNSURE(rows)

    result = mcts_q(episodes, [0], logits(a=1.0, c=1.0), q, MCTSQConfig(rounds=50))
    assert result.interrupted
    assert result.answers[0] is not None
    assert episodes.snapshot(0) == before


def test_a_token_budget_is_kept_to_the_round() -> None:
    config = MCTSQConfig(rounds=50, token_budget=30, stop_at_end=False)
    result = mcts_q(played(Words, max_tokens=3), [0], logits(a=1.0, b=1.0, c=1.0), UNSURE, config)
    assert 30 <= result.new_tokens[0] < 30 + 5 * 4


def test_rewards_of_earlier_turns_count_in_every_return() -> None:
    class Turns:
        stop = (".",)

        def reset(self, rng: np.random.Generator) -> str:
            self.count = 0
            return "?"

        def step(self, text: str) -> Turn:
            self.count += 1
            return Turn(reward=1.0, done=self.count == 2)

    episodes = Episodes(FakeBackbone("token"), EachRow(Turns, 1), num_rows=1, max_tokens=8)
    episodes.reset([0], [0])
    policy = logits(**{".": 5.0})
    result = mcts_q(episodes, [0], policy, UNSURE, MCTSQConfig(rounds=2, root_width=1, temperature=0.0))
    assert {ending.reward for ending in result.endings[0]} == {2.0}


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"gamma": 2.0}, {"rewards": "all"}, {"token_budget": 0}])
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        MCTSQConfig(**settings)


def test_a_q_of_another_codebook_is_refused() -> None:
    with pytest.raises(ValueError, match="q must give"):
        mcts_q(played(Words), [0], logits(a=1.0), lambda rows: torch.zeros(len(rows), 64))
    with pytest.raises(FloatingPointError, match="value of action 0 in row 0 is not finite"):
        mcts_q(played(Words), [0], logits(a=1.0), constant(float("nan")))


def test_an_action_of_no_probability_is_never_tried() -> None:
    def policy(rows: Sequence[int]) -> torch.Tensor:
        scores = logits(a=1.0, b=0.5)(rows)
        return scores.masked_fill(scores < 0, -torch.inf)

    episodes = played(Words, max_tokens=3)
    result = mcts_q(episodes, [0], policy, constant(0.0), MCTSQConfig(rounds=4, stop_at_end=False))
    assert {action for ending in result.endings[0] for action in ending.actions} <= {code("a"), code("b")}
    assert np.flatnonzero(result.visits[0]).tolist() == [code("a"), code("b")]


@pytest.mark.parametrize("name", ["rounds", "width", "token_budget"])
def test_counts_are_whole_numbers(name: str) -> None:
    for value in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"{name} must be (an integer|at least 1), got {value}"):
            MCTSQConfig(**{name: value})


@pytest.mark.parametrize("kind", [SearchConfig, MCTSQConfig, FitConfig, QConfig])
def test_every_number_of_a_configuration_is_a_finite_one_and_its_refusal_names_it(kind: Any) -> None:
    fields = [field.name for field in dataclasses.fields(kind) if type(field.default) in (int, float)]
    assert len(fields) > 4
    for name in [*fields, *({"temperature", "token_budget"} & set(kind.__dataclass_fields__))]:
        for value in ("abc", True, float("nan"), float("inf"), -1):
            with pytest.raises(ValueError, match=f"{name} must be"):
                kind(**{name: value})


def test_extensions_and_rollouts_draw_as_they_are_told() -> None:
    episodes = played(Words, max_tokens=3)
    policy = logits(a=2.0, b=1.0, c=1.0)
    config = MCTSQConfig(rounds=1, root_width=1, stop_at_end=False)
    one = mcts_q(episodes, [0], policy, UNSURE, config, drawing={"top_k": 1})
    assert {ending.text for ending in one.endings[0]} == {"aaa"}
    several = mcts_q(episodes, [0], policy, UNSURE, dataclasses.replace(config, rounds=20, root_width=3))
    assert len({ending.text for ending in several.endings[0]}) > 1
    own = dataclasses.replace(config, temperature=0.0)
    assert own.drawing({"temperature": 2.0, "top_p": 0.5}) == {"temperature": 0.0, "top_p": 0.5}
