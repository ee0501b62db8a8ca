"""TorchRL's GymWrapper around the batched environment, with autoreset disabled."""

from __future__ import annotations

import numpy as np
import pytest

from tests.libraries import alone, make

pytest.importorskip("torchrl", reason="in the extra 'libraries'")
from torchrl.envs import GymWrapper, RewardSum, TransformedEnv


def test_a_row_goes_on_with_a_new_episode_after_each_end() -> None:
    env = TransformedEnv(GymWrapper(make(3, "disabled"), categorical_action_encoding=True), RewardSum())
    env.set_seed(0)
    batch = env.rollout(40, break_when_any_done=False)
    for row in range(3):
        end = int(batch["next", "done"][row].flatten().int().argmax()) + 1
        episode = batch[row, :end]
        np.testing.assert_array_equal(episode["next", "observation"][:-1], episode["observation"][1:])
        assert episode["next", "episode_reward"][-1] == episode["next", "reward"].sum()
    ended = batch["next", "done"].squeeze(-1)
    assert int(ended.sum()) > 10
    after = ended[:, :-1]  # the step behind an end begins anew, and acts
    first = batch["observation"][:, 1:][after]
    last = batch["next", "observation"][:, :-1][after]
    assert not (first == last).all(-1).any()


def test_rows_that_are_seeded_are_the_single_environments() -> None:
    env = GymWrapper(make(2, "disabled"), categorical_action_encoding=True)
    start = env.reset(seed=5)
    batch = env.rollout(5, auto_reset=False, tensordict=start, break_when_any_done=True)
    for row in range(2):
        observations, rewards, *_ = alone(5 + row, batch["action"][row])
        np.testing.assert_array_equal(batch["observation"][row], observations[:-1])
        np.testing.assert_allclose(batch["next", "reward"][row].flatten(), rewards)


def test_torchrl_itself_refuses_a_next_step_autoreset() -> None:
    with pytest.raises(RuntimeError, match="auto-reset mode"):
        GymWrapper(make(2, "next_step"))
