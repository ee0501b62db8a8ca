"""The search, exactly: visits worked by hand, the published rule as oracle, rows left as they were."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from cola_agents.search import Ending, Evaluation, SearchConfig, puct, search
from cola_agents.search.evaluators import RolloutEvaluator
from cola_agents.search.forest import Forest
from cola_agents.search.puct import merged, vote
from cola_envs import EachRow, Episodes, Turn
from cola_envs.testing import FakeBackbone

PAYS = {"a": 0.2, "b": 0.8, "c": 0.5}


class Bandit:
    """One letter, paid by what it is."""

    stop = ("a", "b", "c")

    def reset(self, rng: np.random.Generator) -> str:
        return "?"

    def step(self, text: str) -> Turn:
        return Turn(reward=PAYS.get(text[-1:], 0.0))


class Words:
    """Three letters; 1 for ``bab``, .3 for anything that begins with ``c``."""

    stop = ()

    def reset(self, rng: np.random.Generator) -> str:
        return "?"

    def step(self, text: str) -> Turn:
        return Turn(reward=1.0 if text == "bab" else 0.3 * text.startswith("c"))


def played(task: Any, num_rows: int = 1, max_tokens: int = 1) -> Episodes:
    backbone = FakeBackbone("token")
    episodes = Episodes(backbone, EachRow(task, num_rows), num_rows=num_rows, max_tokens=max_tokens)
    episodes.reset(range(num_rows), range(num_rows))
    return episodes


def code(letter: str) -> int:
    return ord(letter) + 1


def letters(priors: dict[str, float], value: float = 0.0) -> Any:
    """An evaluator with the same priors everywhere."""

    def evaluate(rows: Sequence[int], /) -> Evaluation:
        prior = np.zeros((len(rows), 257))
        for letter, weight in priors.items():
            prior[:, code(letter)] = weight
        return Evaluation(prior, np.full(len(rows), value))

    return evaluate


def by_the_book(prior: list[float], pay: list[float], simulations: int) -> list[int]:
    """MuZero's pUCT on a bandit, written from the paper's formula with scalars and loops."""
    visits, sums = [0] * len(prior), [0.0] * len(prior)
    for _ in range(simulations):
        total = 1 + sum(visits)
        scores = []
        for p, n, w in zip(prior, visits, sums, strict=True):
            c = 1.25 + math.log((1 + total + 19_652) / 19_652)
            scores.append((w / n if n else 0.0) + c * p * math.sqrt(total) / (1 + n))
        arm = scores.index(max(scores))
        visits[arm] += 1
        sums[arm] += pay[arm]
    return visits


@pytest.mark.parametrize("simulations", [1, 2, 7, 64])
def test_visits_on_a_bandit_are_the_published_rules(simulations: int) -> None:
    episodes = played(Bandit)
    priors = {"a": 0.5, "b": 0.2, "c": 0.3}
    result = search(episodes, [0], letters(priors), SearchConfig(simulations=simulations))
    arms = sorted(priors, key=lambda letter: -priors[letter])
    wanted = by_the_book([priors[arm] for arm in arms], [PAYS[arm] for arm in arms], simulations)
    assert [int(result.visits[0, code(arm)]) for arm in arms] == wanted
    assert result.visits.sum() == simulations


def test_three_simulations_worked_on_paper() -> None:
    # c = 1.25 + log((2 + N + 19652) / 19652), within .001 of 1.25. Round 1, N = 1: .625, .25, .375 -> a.
    # Round 2, N = 2, root 1.414: a .2 + 1.25*.5*1.414/2 = .642, b .354, c .530 -> a.
    # Round 3, N = 3, root 1.732: a .2 + 1.25*.5*1.732/3 = .561, b .433, c .650 -> c.
    result = search(played(Bandit), [0], letters({"a": 0.5, "b": 0.2, "c": 0.3}), SearchConfig(simulations=3))
    assert {arm: int(result.visits[0, code(arm)]) for arm in "abc"} == {"a": 2, "b": 0, "c": 1}
    assert result.values[0, code("a")] == pytest.approx(0.2)


def test_it_finds_the_line_that_pays_below_an_unlikely_first_step() -> None:
    episodes = played(Words, max_tokens=3)
    evaluate = letters({"a": 0.4, "b": 0.2, "c": 0.4})
    result = search(episodes, [0], evaluate, SearchConfig(simulations=800))
    assert result.lines[0] == tuple(map(code, "bab"))
    answer = result.answers[0]
    assert answer is not None
    assert (answer.text, answer.value, answer.reward) == ("bab", 1.0, 1.0)
    assert answer.actions == result.lines[0]


def test_trees_side_by_side_are_the_trees_alone() -> None:
    calls = []

    def evaluate(rows: Sequence[int], /) -> Evaluation:
        calls.append(len(rows))
        return letters({"a": 0.4, "b": 0.2, "c": 0.4}, value=0.1)(rows)

    config = SearchConfig(simulations=40)
    episodes = played(Words, 4, max_tokens=3)
    episodes.step([1], [code("b")])
    episodes.step([3], [code("c")])
    together = search(episodes, [0, 1, 3], evaluate, config)
    assert calls[0] == 3
    assert len(calls) <= 41
    for tree, row in enumerate([0, 1, 3]):
        alone = search(episodes, [row], letters({"a": 0.4, "b": 0.2, "c": 0.4}, value=0.1), config)
        np.testing.assert_array_equal(alone.visits[0], together.visits[tree])
        np.testing.assert_allclose(alone.values[0], together.values[tree])


def test_the_rows_are_left_as_they_were_found() -> None:
    episodes = played(Words, 2, max_tokens=3)
    episodes.step([0, 1], [code("b"), code("c")])
    before = [pickle.dumps(episodes.snapshot(row)) for row in (0, 1)]
    observation = episodes.observe([0, 1])
    search(episodes, [0, 1], letters({"a": 0.5, "b": 0.5}), SearchConfig(simulations=9))
    assert [pickle.dumps(episodes.snapshot(row)) for row in (0, 1)] == before
    np.testing.assert_array_equal(episodes.observe([0, 1]), observation)

    def broken(rows: Sequence[int], /) -> Evaluation:
        episodes.step(rows, [code("a")] * len(rows))
        raise RuntimeError("the evaluator fell over")

    with pytest.raises(RuntimeError, match="fell over"):
        search(episodes, [0, 1], broken)
    assert [pickle.dumps(episodes.snapshot(row)) for row in (0, 1)] == before


def test_an_interrupted_search_returns_what_it_found() -> None:
    calls = []

    def evaluate(rows: Sequence[int], /) -> Evaluation:
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return letters({"a": 0.2, "b": 0.2, "c": 0.6})(rows)

    result = search(played(Words, max_tokens=3), [0], evaluate, SearchConfig(simulations=500))
    assert result.interrupted
    assert 0 < result.simulations[0] < 500
    assert result.answers[0] is not None
    assert result.answers[0].value == 0.3


def test_rewards_that_must_not_be_seen_are_not() -> None:
    def evaluate(rows: Sequence[int], /) -> Evaluation:
        evaluation = letters({"a": 0.4, "b": 0.2, "c": 0.4})(rows)
        values = np.zeros_like(evaluation.prior)
        values[:, code("c")] = 0.9  # believes in what the task pays little for
        return evaluation._replace(action_values=values)

    config = SearchConfig(simulations=60, rewards="estimated", answer="value")
    result = search(played(Bandit), [0], evaluate, config)
    answer = result.answers[0]
    assert answer is not None
    assert (answer.text, answer.value, answer.reward) == ("c", 0.9, 0.5)


def test_a_spent_token_budget_ends_a_tree() -> None:
    config = SearchConfig(simulations=500, token_budget=20)
    result = search(played(Words, max_tokens=3), [0], letters({"a": 0.5, "b": 0.5}), config)
    # Every simulation adds a token until the tree's 14 nodes are all there.
    assert result.new_tokens[0] <= 20
    small = SearchConfig(simulations=500, token_budget=5)
    result = search(played(Words, max_tokens=3), [0], letters({"a": 0.5, "b": 0.5}), small)
    assert (result.new_tokens[0], result.simulations[0]) == (5, 5)


def test_early_stop_changes_no_answer() -> None:
    evaluate = letters({"a": 0.4, "b": 0.2, "c": 0.4})
    long = search(played(Bandit), [0], evaluate, SearchConfig(simulations=300))
    short = search(played(Bandit), [0], evaluate, SearchConfig(simulations=300, early_stop=True))
    assert short.simulations[0] < long.simulations[0]
    assert short.actions[0] == long.actions[0]


def test_an_edge_of_several_actions_is_continued_by_the_policy() -> None:
    episodes = played(Words, max_tokens=3)

    def follow(rows: Sequence[int]) -> np.ndarray:
        out = np.zeros((len(rows), 257))
        for i, row in enumerate(rows):
            out[i, code("b" if episodes.tokens(row)[-1] == code("a") else "a")] = 1.0
        return out

    config = SearchConfig(simulations=12, span=3)
    result = search(episodes, [0], letters({"a": 0.4, "b": 0.3, "c": 0.3}), config, follow=follow)
    assert {ending.text for ending in result.endings[0]} == {"aba", "bab", "cab"}
    with pytest.raises(ValueError, match="needs follow="):
        search(episodes, [0], letters({"a": 1.0}), config)


@pytest.mark.parametrize("how", ["action values", "state values", "rollouts"])
def test_the_estimate_of_an_ending_is_of_the_last_of_an_edges_actions(how: str) -> None:
    """A value here is the number of actions before: 3 letters are worth 2."""
    episodes = played(Words, max_tokens=3)

    def counts(rows: Sequence[int]) -> np.ndarray:
        return np.array([float(len(episodes.actions(row))) for row in rows])

    def follow(rows: Sequence[int]) -> np.ndarray:
        return np.eye(257)[[code("a")] * len(rows)]

    def evaluate(rows: Sequence[int], /) -> Evaluation:
        own, of_actions = letters({"a": 0.6, "b": 0.4})(rows), np.repeat(counts(rows)[:, None], 257, axis=1)
        return own._replace(value=counts(rows), action_values=of_actions if how == "action values" else None)

    def q(rows: Sequence[int]) -> torch.Tensor:
        return torch.from_numpy(counts(rows))[:, None].expand(-1, 257)

    rollouts = RolloutEvaluator(episodes, _flat, q=q)
    for span in (2, 5):
        config = SearchConfig(simulations=6, span=span, rewards="estimated", width=2)
        result = search(episodes, [0], rollouts if how == "rollouts" else evaluate, config, follow=follow)
        assert [ending.value for ending in result.endings[0]] == [
            len(ending.actions) - 1 for ending in result.endings[0]
        ]
        assert any(len(ending.actions) == 3 for ending in result.endings[0])


def test_early_stop_ends_by_visits_whatever_the_answer_is_chosen_by() -> None:
    evaluate = letters({"a": 0.4, "b": 0.2, "c": 0.4})
    counts = {
        answer: search(played(Bandit), [0], evaluate, SearchConfig(300, early_stop=True, answer=answer))
        for answer in ("visits", "value", "vote", "weighted")
    }
    assert {int(result.simulations[0]) for result in counts.values()} == {
        int(counts["visits"].simulations[0])
    }


def test_codes_that_say_the_same_are_one_edge() -> None:
    tokens = np.array([7, 5, 7, 5, 9])
    np.testing.assert_allclose(merged(np.array([0.1, 0.2, 0.3, 0.3, 0.1]), tokens), [0, 0, 0.4, 0.5, 0.1])
    backbone = FakeBackbone("latent", num_codes=8)
    episodes = Episodes(backbone, EachRow(Bandit, 1), num_rows=1, max_tokens=2)
    episodes.reset([0], [0])
    seen = {int(token) for token in episodes.session.outcomes([0])[0][0, :, 0]}

    def evaluate(rows: Sequence[int], /) -> Evaluation:
        return Evaluation(np.full((len(rows), 8), 1 / 8), np.zeros(len(rows)))

    forest = search(episodes, [0], evaluate, SearchConfig(simulations=8)).trees[0].forest
    assert (forest.action[0, 0] >= 0).sum() == len(seen)
    apart = search(episodes, [0], evaluate, SearchConfig(simulations=8, merge=False)).trees[0].forest
    assert (apart.action[0, 0] >= 0).sum() == 8


def test_noise_at_the_root_is_seeded_and_leaves_a_distribution() -> None:
    config = SearchConfig(simulations=1, noise=0.3)
    evaluate = letters({"a": 0.5, "b": 0.5})
    trees = [search(played(Bandit), [0], evaluate, config, seed=seed).trees[0] for seed in (0, 0, 1)]
    priors = [tree.forest.prior[0, 0] for tree in trees]
    np.testing.assert_array_equal(priors[0], priors[1])
    assert not np.array_equal(priors[0], priors[2])
    assert priors[2].sum() == pytest.approx(1.0)


def test_unvisited_edges_are_worth_nothing_or_what_their_node_is() -> None:
    forest = Forest(1, 3, 2)
    forest.add(0, None, ())
    forest.open(0, 0, np.array([4, 6]), np.array([0.5, 0.5]), 0.6)
    forest.add(0, None, (4,), 0, 0)
    forest.back_up(0, [(0, 0)], 0.2, 1.0)
    at = np.array([0]), np.array([0])
    np.testing.assert_allclose(forest.q(*at, "zero"), [[0.2, 0.0]])
    np.testing.assert_allclose(forest.q(*at, "parent"), [[0.2, 0.4]])


def test_a_span_is_discounted_by_its_length() -> None:
    forest = Forest(1, 3, 1)
    forest.add(0, None, ())
    forest.add(0, None, (1, 2, 3), 0, 0)
    forest.add(0, None, (4,), 1, 0)
    forest.reward[0, 0, 0] = 1.0
    forest.back_up(0, [(0, 0), (1, 0)], 8.0, 0.5)
    # .5 * 8 = 4 at the second edge; 1 + .125 * 4 at the first.
    assert forest.value_sum[0, 1, 0] == 4.0
    assert forest.value_sum[0, 0, 0] == 1.5


def test_a_vote_is_for_the_answer_and_not_for_the_words() -> None:
    def ending(text: str, answer: str, value: float) -> Ending:
        # "answer" alone is what some tasks call the right one, the same for every ending.
        return Ending(text, (), value, 0.0, {"given": answer, "answer": "5"})

    endings = [ending("7", "7", 0.9), ending("it is 3", "3", 0.1), ending("3!", "3", 0.4)]
    assert vote(endings).text == "3!"


def test_the_world_draws_futures_of_its_own() -> None:
    class Draws:
        stop = ()

        def reset(self, rng: np.random.Generator) -> str:
            return "?"

        def step(self, text: str) -> Turn:
            return Turn()

    def endings(seed: int) -> list[str]:
        backbone = FakeBackbone("latent", num_codes=4)
        episodes = Episodes(backbone, EachRow(Draws, 1), num_rows=1, max_tokens=6, world_temperature=1.0)
        episodes.reset([0], [0])

        def evaluate(rows: Sequence[int], /) -> Evaluation:
            return Evaluation(np.full((len(rows), 4), 0.25), np.zeros(len(rows)))

        result = search(episodes, [0], evaluate, SearchConfig(simulations=300), seed=seed)
        return sorted(ending.text for ending in result.endings[0])

    assert endings(0) == endings(0)
    assert endings(0) != endings(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"simulations": 0}, "simulations must be"),
        ({"token_budget": 0}, "token_budget must be"),
        ({"answer": "best"}, "answer must be"),
        ({"discount": 1.5}, "at most 1"),
        ({"c_init": float("nan")}, "finite"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**settings)


def test_what_cannot_be_searched_is_said() -> None:
    episodes = played(Bandit)
    with pytest.raises(ValueError, match="another codebook"):
        search(episodes, [0], lambda rows: (np.ones((len(rows), 64)) / 64, np.zeros(len(rows))))
    with pytest.raises(ValueError, match="not a finite number"):
        search(episodes, [0], letters({"a": float("nan")}))
    with pytest.raises(ValueError, match="not all 0"):
        search(episodes, [0], letters({}))

    def worth(values: np.ndarray, ending: float = 0.0) -> Any:
        ends = [Ending("a", (code("a"),), ending, 0.0, {})]
        return lambda rows: letters({"a": 1.0})(rows)._replace(action_values=values, endings=ends)

    bad = np.zeros((1, 257))
    bad[0, 7] = np.nan
    with pytest.raises(ValueError, match="value of action 7 that is not a finite number"):
        search(episodes, [0], worth(bad))
    with pytest.raises(ValueError, match="must give action values"):
        search(episodes, [0], worth(np.zeros((1, 64))))
    with pytest.raises(ValueError, match="an ending whose value"):
        search(episodes, [0], worth(np.zeros((1, 257)), np.nan))
    episodes.step([0], [code("a")])
    with pytest.raises(ResetNeeded, match="its episode is over"):
        search(episodes, [0], letters({"a": 1.0}))


def test_a_rollout_evaluator_with_a_q_function_does_not_look_at_rewards() -> None:
    def q(rows: Sequence[int]) -> torch.Tensor:
        out = torch.zeros(len(rows), 257)
        out[:, code("c")] = 0.9
        return out

    def policy(session: Any, rows: Sequence[int]) -> torch.Tensor:
        out = torch.full((len(rows), 257), -30.0)
        out[:, [code("a"), code("b"), code("c")]] = 0.0
        return out

    episodes = played(Words, max_tokens=3)
    seen = search(episodes, [0], RolloutEvaluator(episodes, policy), SearchConfig(simulations=60))
    config = SearchConfig(simulations=60, rewards="estimated", answer="value")
    judged = search(episodes, [0], RolloutEvaluator(episodes, policy, q=q), config)
    assert {ending.value for ending in seen.endings[0]} == {0.0, 0.3, 1.0}
    assert {round(ending.value, 6) for ending in judged.endings[0]} == {0.0, 0.9}
    assert judged.answers[0] is not None
    assert judged.answers[0].text.endswith("c")


def _flat(session: Any, rows: Sequence[int]) -> torch.Tensor:
    return torch.zeros(len(rows), 257)


def test_without_a_judge_a_search_that_must_not_see_rewards_is_refused() -> None:
    episodes = played(Words, max_tokens=3)
    config = SearchConfig(simulations=4, rewards="estimated")
    with pytest.raises(ValueError, match="needs a RolloutEvaluator with q="):
        search(episodes, [0], RolloutEvaluator(episodes, _flat), config)


@pytest.mark.parametrize("size", [32, 300])
def test_a_judge_of_another_codebook_is_refused(size: int) -> None:
    episodes = played(Words, max_tokens=3)
    evaluate = RolloutEvaluator(episodes, _flat, q=lambda rows: torch.zeros(len(rows), size))
    with pytest.raises(ValueError, match=f"has {size} actions and the environment has 257 or 260"):
        search(episodes, [0], evaluate, SearchConfig(simulations=4, rewards="estimated"))


def test_a_task_that_says_other_things_each_time_is_refused_before_the_search_begins() -> None:
    class Moody:
        stop = ()
        turn = 0

        def reset(self, rng: np.random.Generator) -> str:
            self.turn += 1
            return f"{self.turn}?"

        def step(self, text: str) -> Turn:
            return Turn()

    def never(rows: Sequence[int]) -> Evaluation:
        raise AssertionError("the search has begun")

    episodes = played(Moody)
    with pytest.raises(RuntimeError, match="Moody cannot be restored: its replay gave other turns"):
        search(episodes, [0], never)
    with pytest.raises(ResetNeeded):  # and no episode goes on as another
        episodes.step([0], [code("a")])


def test_where_rows_cannot_be_put_back_in_the_end_the_error_has_what_was_found() -> None:
    class Drifting:
        stop = ()
        begun = 0

        def reset(self, rng: np.random.Generator) -> str:
            self.begun += 1
            return "?" if self.begun < 6 else "!"

        def step(self, text: str) -> Turn:
            return Turn(reward=1.0)

    episodes = played(Drifting, max_tokens=3)
    with pytest.raises(RuntimeError, match="its replay gave other turns") as raised:
        search(episodes, [0], letters({"a": 1.0}), SearchConfig(simulations=50))
    assert raised.value.partial_result.simulations[0] > 0  # type: ignore[attr-defined]


def test_rows_that_there_are_not_are_named() -> None:
    with pytest.raises(ValueError, match=r"different indices from 0 to 0, got \[9\]"):
        search(played(Words), [9], letters({"a": 1.0}))


@pytest.mark.parametrize("rewards", ["environment", "estimated"])
def test_the_reward_of_an_ending_is_the_sum_of_all_that_was_paid(rewards: Any) -> None:
    class Turns:
        stop = (".",)

        def reset(self, rng: np.random.Generator) -> str:
            self.count = 0
            return "?"

        def step(self, text: str) -> Turn:
            self.count += 1
            return Turn(reward=1.0, done=self.count == 3)

    episodes = played(Turns, max_tokens=9)
    config = SearchConfig(simulations=6, rewards=rewards, answer="value", discount=0.5)
    evaluate = letters({".": 1.0}, value=0.1)
    result = search(episodes, [0], evaluate, config)
    assert {ending.reward for ending in result.endings[0]} == {3.0}
    if rewards == "environment":
        assert result.answers[0] is not None
        assert result.answers[0].value == pytest.approx(1 + 0.5 + 0.25)


def test_of_lines_with_equal_visits_and_returns_the_likeliest_is_the_answer() -> None:
    priors = {"a": 0.6, "b": 0.4}
    result = search(played(Silent), [0], letters(priors), SearchConfig(simulations=2))
    assert [int(result.visits[0, code(letter)]) for letter in "ab"] == [1, 1]
    assert result.actions.tolist() == [code("a")]


class Silent(Bandit):
    """One letter, never paid."""

    def step(self, text: str) -> Turn:
        return Turn(reward=0.0)


@pytest.mark.parametrize("unvisited", ["zero", "parent"])
@pytest.mark.parametrize("rewards", ["environment", "estimated"])
def test_edges_that_no_simulation_can_reach_take_no_room_and_change_nothing(
    unvisited: Any, rewards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = np.random.default_rng(0).dirichlet(np.full(257, 0.1), size=40)

    def run() -> Any:
        episodes = played(Words, max_tokens=3)

        def evaluate(rows: Sequence[int], /) -> Evaluation:
            prior = np.stack([weights[sum(episodes.tokens(row)) % 40] for row in rows])
            return Evaluation(prior, prior[:, code("b")], prior[:, ::-1])

        config = SearchConfig(simulations=30, unvisited=unvisited, rewards=rewards)
        return search(episodes, [0], evaluate, config)

    few = run()
    monkeypatch.setattr(puct, "Forest", lambda trees, nodes, _, width: Forest(trees, nodes, width))
    every = run()
    assert few.trees[0].forest.action.shape[2] == 30
    assert every.trees[0].forest.action.shape[2] == 257
    np.testing.assert_array_equal(few.visits, every.visits)
    np.testing.assert_array_equal(few.values, every.values)
    assert few.endings == every.endings


def test_numbers_of_numpy_are_taken_and_kept_as_pythons() -> None:
    config = SearchConfig(simulations=np.int64(8), discount=np.float32(0.5))  # type: ignore[arg-type]
    assert (type(config.simulations), type(config.discount)) == (int, float)
    assert config == SearchConfig(simulations=8, discount=0.5)


def test_an_evaluator_that_returns_something_else_is_refused_with_what_came() -> None:
    episodes = Episodes(FakeBackbone("token"), EachRow(Bandit, 1), num_rows=1, max_tokens=1)
    with pytest.raises(ResetNeeded, match="its episode has not begun: reset it"):
        search(episodes, [0], lambda rows: None)  # type: ignore[arg-type,return-value]
    episodes.reset([0], [0])
    for given in (None, (1.0,), [1.0, 2.0]):
        with pytest.raises(TypeError, match="an evaluator must return an Evaluation, or a tuple"):
            search(episodes, [0], lambda rows, given=given: given)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("discount", 1.5, "discount must be at most 1, got 1.5"),
        ("noise_share", 2.0, "noise_share must be at most 1, got 2.0"),
        ("c_base", 0.0, "c_base must be above 0, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_named_alone(option: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SearchConfig(**{option: value})  # type: ignore[arg-type]
