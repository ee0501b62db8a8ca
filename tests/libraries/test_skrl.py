"""skrl's trainers over the batched environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.libraries import alone, make

pytest.importorskip("skrl", reason="in the extra 'libraries'")
from cola_agents.adaptors.skrl import BatchedWrapper


def test_every_step_of_a_row_acts_in_its_episode() -> None:
    env = BatchedWrapper(make(3, "same_step"))
    env._seed = 7  # skrl's own, which its set_seed sets
    now, _ = env.reset()
    codes = torch.from_numpy(np.random.default_rng(0).integers(8, size=(3, 40, 1)))
    seen: list[Any] = []
    for step in range(40):
        following, reward, terminated, truncated, _ = env.step(codes[:, step])
        seen.append((now, reward, terminated | truncated))
        now = following
    states, rewards, dones = (torch.stack(parts, 1) for parts in zip(*seen, strict=True))
    for row in range(3):
        end = int(dones[row].flatten().int().argmax()) + 1
        observations, wanted, *_ = alone(7 + row, codes[row, :end].flatten())
        np.testing.assert_array_equal(states[row, :end], observations[:-1])
        np.testing.assert_allclose(rewards[row, :end].flatten(), wanted)
        if end < 40:  # and the next one begins in the very next state
            assert not np.array_equal(states[row, end], observations[-1])


@pytest.mark.parametrize("mode", ["next_step", "disabled"])
def test_another_autoreset_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="same_step"):
        BatchedWrapper(make(2, mode))


def test_one_row_is_refused() -> None:
    with pytest.raises(ValueError, match="one row"):
        BatchedWrapper(make(1, "same_step"))


def test_it_renders_where_a_render_mode_says_so() -> None:
    assert BatchedWrapper(make(2, "same_step")).render() is None
    env = BatchedWrapper(make(2, "same_step", render_mode="ansi"))
    env.reset()
    assert [text.startswith("Write") for text in env.render()] == [True, True]
