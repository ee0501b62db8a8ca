"""The baselines: what one try, several tries and a beam give, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from torch import Tensor

from cola_agents.search.baselines import CompleteEpisodes, beam_search
from tests.search.test_mcts_q import logits
from tests.search.test_search import Words, code, played


def test_the_first_try_is_greedy_and_best_of_n_and_vote_choose_among_all() -> None:
    episodes = played(Words, 2, max_tokens=3)
    policy = logits(a=2.0, b=1.9, c=1.8)
    tries = CompleteEpisodes(episodes, [0, 1], policy)
    tries.play(temperature=0.0)
    assert [ending.text for ending in tries.answers("first")] == ["aaa", "aaa"]
    for _ in range(30):
        tries.play()
    assert min(ending.value for ending in tries.answers("value")) >= 0.3
    texts = [ending.text for ending in tries.endings[0]]
    assert len(set(texts)) > 5
    assert tries.endings[0] != tries.endings[1]
    counts = {text: texts.count(text) for text in texts}
    assert counts[tries.answers("vote")[0].text] == max(counts.values())
    np.testing.assert_array_equal(tries.new_tokens, [31 * 3, 31 * 3])


def test_with_a_q_function_the_rewards_are_not_looked_at() -> None:
    def q(rows: Sequence[int]) -> Tensor:
        out = torch.zeros(len(rows), 257)
        out[:, code("a")] = 5.0
        return out

    tries = CompleteEpisodes(played(Words, max_tokens=3), [0], logits(a=1.0, b=1.0, c=1.0), q)
    for _ in range(20):
        tries.play()
    assert tries.answers("value")[0].text.endswith("a")
    assert tries.answers("value")[0].value == 5.0


def test_rows_are_left_as_they_were_found() -> None:
    episodes = played(Words, 3, max_tokens=3)
    episodes.step([0, 1, 2], [code("a")] * 3)
    before = [episodes.snapshot(row) for row in range(3)]
    CompleteEpisodes(episodes, [0, 2], logits(a=1.0)).play()
    beam_search(episodes, [1, 2], logits(a=1.0, b=0.9))
    assert [episodes.snapshot(row) for row in range(3)] == before


def test_a_beam_finds_the_likeliest_line_that_greedy_misses() -> None:
    episodes = played(Words, 4, max_tokens=3)

    def policy(rows: Sequence[int]) -> Tensor:
        out = torch.full((len(rows), 257), -30.0)
        for i, row in enumerate(rows):
            written = episodes.tokens(row)[1:]
            if not written:
                out[i, code("a")], out[i, code("b")] = np.log(0.6), np.log(0.4)
            elif written[0] == code("a"):  # .6 is spread over many letters from here on
                out[i, [code(letter) for letter in "pqrstuvw"]] = np.log(0.125)
            else:
                out[i, code("a" if len(written) == 1 else "b")] = 0.0
        return out

    greedy, _ = beam_search(episodes, [0], policy)
    assert greedy[0].text.startswith("a")
    endings, tokens = beam_search(episodes, [0, 1, 2, 3], policy)
    assert endings[0].text == "bab"
    assert endings[0].value == pytest.approx(np.log(0.4), abs=1e-6)
    assert tokens <= 4 * 3
    assert [e.value for e in endings] == sorted((e.value for e in endings), reverse=True)


def test_an_episode_that_is_over_is_refused() -> None:
    episodes = played(Words, max_tokens=1)
    episodes.step([0], [code("a")])
    with pytest.raises(ResetNeeded, match="is over"):
        CompleteEpisodes(episodes, [0], logits(a=1.0))
    with pytest.raises(ResetNeeded, match="is over"):
        beam_search(episodes, [0], logits(a=1.0))


def test_a_q_function_or_a_policy_that_is_not_finite_does_not_win() -> None:
    def spoilt(value: float, row: int = 1) -> Any:
        def values(rows: Sequence[int]) -> Tensor:
            out = logits(a=1.0, b=1.0)(rows)
            out[list(rows).index(row), code("a")] = value
            return out

        return values

    for value in (float("nan"), float("inf")):
        judged = CompleteEpisodes(played(Words, 2, max_tokens=3), [0, 1], logits(a=1.0), spoilt(value))
        with pytest.raises(FloatingPointError, match=rf"value of action {code('a')} in row 1 is not finite"):
            judged.play()
        drawn = CompleteEpisodes(played(Words, 2, max_tokens=3), [0, 1], spoilt(value))
        with pytest.raises(FloatingPointError, match=rf"logit of action {code('a')} in row 1 is not finite"):
            drawn.play()
        with pytest.raises(FloatingPointError, match=rf"logit of action {code('a')} in row 0"):
            beam_search(played(Words, 2, max_tokens=3), [0, 1], spoilt(value, row=0))
    with pytest.raises(FloatingPointError, match=r"value of action .* is not finite"):
        CompleteEpisodes(played(Words, 2, max_tokens=3), [0, 1], logits(a=1.0), spoilt(-float("inf"))).play()


def test_a_logit_of_minus_infinity_is_an_action_that_is_never_drawn() -> None:
    def only(letters: str) -> Any:
        def policy(rows: Sequence[int]) -> Tensor:
            out = torch.full((len(rows), 257), -float("inf"))
            out[:, [code(letter) for letter in letters]] = 0.0
            return out

        return policy

    tries = CompleteEpisodes(played(Words, 1, max_tokens=3), [0], only("ab"))
    for _ in range(20):
        tries.play()
    assert set("".join(ending.text for ending in tries.endings[0])) == {"a", "b"}
    with pytest.raises(FloatingPointError, match="row 0 is not finite"):
        CompleteEpisodes(played(Words, 1, max_tokens=3), [0], only("")).play()
