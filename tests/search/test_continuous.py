"""Trees whose rollouts are stepped together: the results are the same, and no tree waits for another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from cola_agents.search import MCTS, Evaluation, SearchConfig, SearchResult, search
from cola_agents.search.evaluators import RolloutEvaluator
from cola_envs import Turn
from tests.search.test_search import code, played

ROWS = list(range(6))


def searched(
    episodes: Any, config: SearchConfig, hide: Callable[[Any], Any], q: Any = None, seed: int = 3
) -> SearchResult:
    """A search of six problems whose evaluator is first handed to ``hide``."""
    episodes.session.forget()
    episodes.reset(ROWS, ROWS)
    evaluate = RolloutEvaluator(episodes, seed=seed, q=q)

    def follow(rows: Sequence[int]) -> np.ndarray:
        return episodes.session.policy(rows).numpy()

    return search(episodes, ROWS, hide(evaluate), config, follow=follow, seed=seed)


def called(evaluate: RolloutEvaluator) -> Callable[[Sequence[int]], Evaluation]:
    """The same evaluator as one that the search can only call."""
    return lambda rows: evaluate(rows)


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({}, {}),
        ({"span": 3}, {}),
        ({"noise": 0.3, "answer": "vote", "early_stop": True}, {}),
        ({"token_budget": 40, "discount": 0.9, "answer": "value"}, {}),
        ({"rewards": "estimated", "width": 4}, {}),
        ({}, {"world_temperature": 1.0}),
    ],
)
def test_results_are_the_same_as_when_all_rollouts_are_waited_for(
    options: dict[str, Any], make: dict[str, Any]
) -> None:
    solver = MCTS("CoLA-Arithmetic-v0", num_trees=6, env_kwargs={"level": 2, **make})
    q = solver.episodes.session.policy if options.get("rewards") else None
    config = SearchConfig(simulations=10, **options)
    on, waiting = (searched(solver.episodes, config, hide, q) for hide in (lambda e: e, called))
    for name in ("visits", "values", "simulations", "new_tokens"):
        np.testing.assert_allclose(getattr(on, name), getattr(waiting, name), atol=1e-5, err_msg=name)
    assert on.lines == waiting.lines
    assert on.forwarded == waiting.forwarded
    for mine, others in zip(on.endings, waiting.endings, strict=True):
        assert [(e.text, e.actions, e.reward, e.spent) for e in mine] == [
            (e.text, e.actions, e.reward, e.spent) for e in others
        ]
        assert [e.value for e in mine] == pytest.approx([e.value for e in others], abs=1e-5)
    solver.close()


@pytest.mark.parametrize("task", ["CoLA-Arithmetic-v0", "CoLA-TextRooms-v0"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, FloatingPointError])
def test_a_stopped_search_returns_its_result_so_far_and_restores_the_rows(
    task: str, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = MCTS(task, num_trees=4)
    episodes, rows = solver.episodes, [3, 1]
    config = SearchConfig(simulations=5)

    def begin() -> RolloutEvaluator:
        episodes.session.forget()
        episodes.reset([0, 1, 2, 3], [5, 6, 7, 8])
        return RolloutEvaluator(episodes)

    step, made, last = episodes.step, 0, 0

    def counted(*given: Any) -> Any:
        nonlocal made
        made += 1
        if made == last:
            raise stop
        return step(*given)

    monkeypatch.setattr(episodes, "step", counted)
    whole = search(episodes, rows, begin(), config)
    counts, steps = [], made
    for at in (1, 2, 3, steps // 2, steps):
        evaluate, made, last = begin(), 0, at
        before, seen = [episodes.snapshot(row) for row in range(4)], episodes.observe(range(4))
        if stop is KeyboardInterrupt:
            result = search(episodes, rows, evaluate, config)
        else:
            with pytest.raises(stop) as raised:
                search(episodes, rows, evaluate, config)
            result = raised.value.partial_result  # type: ignore[attr-defined]
        assert result.interrupted
        assert all(
            one in many for one, many in zip(result.endings, whole.endings, strict=True) for one in one
        )
        assert [episodes.snapshot(row) for row in range(4)] == before
        np.testing.assert_allclose(episodes.observe(range(4)), seen, atol=1e-4)
        counts.append(int(result.simulations.sum()))
    assert counts == sorted(counts)
    assert counts[-1] > 0
    last = 0
    apart = search(episodes, rows, called(begin()), config)
    assert whole.lines == apart.lines
    np.testing.assert_array_equal(whole.new_tokens, apart.new_tokens)
    solver.close()


class Uneven:
    """Row 0 writes twelve letters, the others one."""

    stop = (".",)

    def reset(self, rng: np.random.Generator) -> str:
        return "?"

    def step(self, text: str) -> Turn:
        return Turn(reward=0.5)


def _uneven(session: Any, rows: Sequence[int]) -> torch.Tensor:
    """Row 0 goes on to the last token; the others stop, now and then after another letter."""
    logits = torch.full((len(rows), 257), -50.0)
    for i, row in enumerate(rows):
        logits[i, code("a")] = 0.0
        logits[i, code(".")] = -50.0 if row == 0 else 1.0
    return logits


def test_no_tree_waits_for_the_longest_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(hide: Callable[[Any], Any]) -> dict[int, int]:
        """Of each row how many steps had been made when its last simulation began."""
        episodes = played(Uneven, 4, max_tokens=12)
        evaluate = hide(RolloutEvaluator(episodes, _uneven))
        last, made = {}, 0
        step = episodes.step

        def counted(rows: Sequence[int], actions: Any) -> Any:
            nonlocal made
            made += 1
            last.update(dict.fromkeys(rows, made))
            return step(rows, actions)

        monkeypatch.setattr(episodes, "step", counted)
        search(episodes, range(4), evaluate, SearchConfig(simulations=8))
        return last

    on, waiting = steps(lambda evaluate: evaluate), steps(called)
    assert on[0] == waiting[0]  # it is the longest: every step is its own
    assert all(on[row] < waiting[row] / 2 for row in (1, 2, 3))


def test_an_evaluator_made_from_the_bundled_one_is_called() -> None:
    class Halved(RolloutEvaluator):
        def __call__(self, rows: Sequence[int], /) -> Evaluation:
            evaluation = super().__call__(rows)
            return evaluation._replace(value=0.5 * evaluation.value)

    episodes = played(Uneven, 1, max_tokens=12)
    config = SearchConfig(simulations=1)
    whole = search(episodes, [0], RolloutEvaluator(episodes, _uneven), config)
    half = search(episodes, [0], Halved(episodes, _uneven), config)
    assert whole.values.max() == pytest.approx(0.5)
    assert half.values.max() == pytest.approx(0.25)
