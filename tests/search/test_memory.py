"""A search leaves nothing behind: neither objects nor memory, however many there were."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pytest

from cola_agents.search import MCTSQConfig, SearchConfig, mcts_q, search
from cola_agents.search.baselines import CompleteEpisodes, beam_search
from cola_envs.episodes import Episodes
from tests.search.test_mcts_q import UNSURE, logits
from tests.search.test_search import Words, letters, played

POLICY = logits(a=1.0, b=0.9, c=0.8)
PLAYERS: dict[str, Callable[[Episodes], object]] = {
    "puct": lambda episodes: search(
        episodes, [0, 1], letters({"a": 0.4, "b": 0.3, "c": 0.3}), SearchConfig(simulations=5)
    ),
    "mcts-q": lambda episodes: mcts_q(episodes, [0, 1], POLICY, UNSURE, MCTSQConfig(rounds=1, root_width=2)),
    "tries": lambda episodes: CompleteEpisodes(episodes, [0, 1], POLICY).play(),
    "beam": lambda episodes: beam_search(episodes, [0, 1], POLICY),
}


@pytest.mark.parametrize("name", list(PLAYERS))
def test_sixty_searches_hold_no_more_than_twenty(name: str) -> None:
    episodes = played(Words, 2, max_tokens=3)
    run = PLAYERS[name]

    def held(searches: int) -> tuple[int, int]:
        for _ in range(searches):
            run(episodes)
        gc.collect()
        return len(gc.get_objects()), tracemalloc.get_traced_memory()[0]

    held(5)  # what is made once: caches, tables, compiled patterns
    tracemalloc.start()
    try:
        objects, size = held(15)
        more_objects, more_size = held(40)
    finally:
        tracemalloc.stop()
    # Of forty searches, not one object each.
    assert more_objects - objects < 40
    assert more_size - size < 16 * 1024
