"""A task of the user's own is built for the rows that play it, and for no check before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cola_agents import GRPO
from cola_agents.rl.rows import check_rows
from cola_envs import Turn
from cola_envs.task import EachRow
from cola_envs.tasks import household


class Own:
    """Says how often it was made and closed."""

    made, closed = 0, 0

    def __init__(self) -> None:
        type(self).made += 1

    def reset(self, rng: np.random.Generator) -> str:
        assert not type(self).closed
        return f"Word {rng.integers(9)}:"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text)), done=True)

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture(autouse=True)
def unused() -> None:
    Own.made = Own.closed = 0


def for_two_rows(num_rows: int) -> EachRow:
    assert num_rows == 2
    return EachRow(Own, num_rows)


@pytest.mark.parametrize("kind", ["class", "batch of two rows", "shared objects"])
def test_an_agent_builds_it_for_its_rows_alone(kind: str) -> None:
    shared = iter([Own(), Own()]) if kind == "shared objects" else None
    task: Any = {"class": Own, "batch of two rows": for_two_rows}.get(kind, lambda: next(shared))
    agent = GRPO(
        "CoLA-Text-v0", num_envs=2, prompts=1, group_size=2, env_kwargs={"task": task, "max_tokens": 3}
    )
    assert (Own.made, Own.closed) == (2, 0)
    agent.update()
    agent.close()
    assert (Own.made, Own.closed) == (2, 2)


def test_its_settings_are_checked_all_the_same() -> None:
    with pytest.raises(TypeError, match="tsk"):
        check_rows("CoLA-Text-v0", tsk=Own)
    with pytest.raises(ValueError, match="no splits"):
        check_rows("CoLA-Text-v0", task=Own, split="test")
    with pytest.raises(ValueError, match="max_tokens"):
        check_rows("CoLA-Text-v0", task=Own, max_tokens=0)
    assert check_rows("CoLA-Text-v0", task=Own) is None
    assert Own.made == 0


def test_engines_are_started_for_the_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(household, "EnginePool", lambda *_, **__: pytest.fail("engines were started"))
    assert check_rows("CoLA-Household-v0", max_commands=5) is None
    with pytest.raises(TypeError, match="max_comands"):
        check_rows("CoLA-Household-v0", max_comands=5)
