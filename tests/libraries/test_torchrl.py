"""TorchRL's GymWrapper around the batched environment, with autoreset disabled."""

from __future__ import annotations

import numpy as np
import pytest

from tests.libraries import alone, make

pytest.importorskip("torchrl", reason="in the extra 'libraries'")
from tensordict.nn import TensorDictModule
from torchrl.envs import GymWrapper, RewardSum, TransformedEnv
from torchrl.objectives.value import GAE


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


def test_a_truncated_episode_is_worth_the_value_of_the_state_that_it_ended_in() -> None:
    env = GymWrapper(make(3, "disabled", budget_end="truncate"), categorical_action_encoding=True)
    start = env.reset(seed=5)
    batch = env.rollout(20, auto_reset=False, tensordict=start, break_when_any_done=False)
    first = TensorDictModule(
        lambda states: states[..., :1], in_keys=["observation"], out_keys=["state_value"]
    )
    GAE(gamma=1.0, lmbda=1.0, value_network=first)(batch)
    cut = 0
    for row in range(3):
        end = int(batch["next", "done"][row].flatten().int().argmax()) + 1
        settings = {"budget_end": "truncate"}
        observations, rewards, _, truncated = alone(5 + row, batch["action"][row, :end], **settings)
        wanted = sum(rewards) + truncated * observations[-1][0]
        assert float(batch["value_target"][row, 0]) == pytest.approx(float(wanted), abs=1e-5)
        cut += truncated
    assert cut


def test_torchrl_itself_refuses_a_next_step_autoreset() -> None:
    with pytest.raises(RuntimeError, match="auto-reset mode"):
        GymWrapper(make(2, "next_step"))
