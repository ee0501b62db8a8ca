"""The environment of tensors is the environment of arrays, and its observations stay on the device."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction, ResetNeeded

from cola_agents import make_tensor_vec
from cola_envs.testing import FakeBackbone
from tests.decoding.fixed_memory import backbone_of
from tests.decoding.test_graphs import Reads, reads  # noqa: F401 (a fixture)
from tests.decoding.test_shared_passes import LATENT, ROWS, TOKEN, Long, actions_of


def pair(kind: str, fixed: bool, **settings: Any) -> tuple[Any, Any]:
    env_id = TOKEN if kind == "token" else LATENT
    settings = {"task": Long, "max_tokens": 5, "model": backbone_of(kind, fixed), **settings}
    return gym.make_vec(env_id, num_envs=ROWS, **settings), make_tensor_vec(env_id, ROWS, **settings)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
@pytest.mark.parametrize(
    ("kind", "observation"), [("state", "hidden"), ("state", "features"), ("token", "hidden")]
)
def test_tensors_are_the_arrays(kind: str, observation: str, mode: str, fixed: bool) -> None:
    arrays, tensors = pair(kind, fixed, autoreset_mode=mode, observation=observation)
    starts = arrays.reset(seed=0)[0], tensors.reset(seed=0)[0]
    np.testing.assert_allclose(*starts, atol=1e-4)
    kept = []
    for actions in actions_of(arrays):
        expected, got = arrays.step(actions), tensors.step(torch.from_numpy(actions))
        assert [part.dtype for part in got[:4]] == [torch.float32, torch.float32, torch.bool, torch.bool]
        for one, other in zip(expected[:4], got[:4], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        kept.append((got[0], got[0].clone()))
        assert expected[4].keys() == got[4].keys()
        for row in np.flatnonzero(expected[4].get("_final_obs", [])):
            final = got[4]["final_obs"][row]
            assert isinstance(final, torch.Tensor)
            np.testing.assert_allclose(expected[4]["final_obs"][row], final, atol=1e-4)
    assert all(torch.equal(*pair) for pair in kept), "no later step writes to an observation"


def test_rows_are_reset_by_a_mask_where_autoreset_is_disabled() -> None:
    _, envs = pair("state", False, autoreset_mode="disabled", max_tokens=2)
    envs.reset(seed=0)
    envs.step(torch.zeros(ROWS, dtype=torch.long))
    _, _, terminated, truncated, _ = envs.step(torch.zeros(ROWS, dtype=torch.long))
    done = terminated | truncated
    assert done.any()
    with pytest.raises(ResetNeeded):
        envs.step(torch.zeros(ROWS, dtype=torch.long))
    envs.reset(options={"reset_mask": done})
    envs.reset(options={"reset_mask": done.numpy()})


@pytest.mark.parametrize("mode", ["next_step", "same_step", "disabled"])
def test_no_episode_follows_one_that_a_tasks_error_stopped(mode: str) -> None:
    class Failing(Long):
        def step(self, text: str) -> Any:
            raise RuntimeError("the grader is gone")

    _, envs = pair("state", False, autoreset_mode=mode, max_tokens=1, task=Failing)
    envs.reset(seed=0)
    actions = torch.zeros(ROWS, dtype=torch.long)
    with pytest.raises(RuntimeError, match="the grader is gone"):
        envs.step(actions)
    with pytest.raises(ResetNeeded):
        envs.step(actions)


@pytest.mark.parametrize("observation", ["hidden", "features"])
def test_a_step_waits_once_and_no_observation_comes_to_the_host(observation: str, reads: Reads) -> None:  # noqa: F811
    _, envs = pair("state", True, autoreset_mode="next_step", observation=observation, max_tokens=9)
    envs.reset(seed=0)
    steady, over = [], False
    for actions in actions_of(envs):
        taken = torch.from_numpy(actions)
        reads.copies, reads.other = 0, []
        _, _, terminated, truncated, _ = envs.step(taken)
        counted = reads.copies, list(reads.other)
        if not over:
            steady.append(counted)
        over = bool((terminated | truncated).any())
    assert len(steady) >= 5
    assert all(count == (1, []) for count in steady), steady
    assert not envs.episodes.session._seen.any()


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    "actions",
    [
        torch.full((ROWS,), 10_000),
        torch.full((ROWS,), -1),
        torch.zeros(ROWS),
        torch.zeros(ROWS + 1, dtype=torch.long),
    ],
    ids=["too large", "negative", "floats", "too many"],
)
def test_actions_that_are_none_are_refused_and_nothing_changes(actions: torch.Tensor, fixed: bool) -> None:
    arrays, envs = pair("state", fixed)
    for each in (arrays, envs):
        each.reset(seed=0)
    with pytest.raises(InvalidAction):
        envs.step(actions)
    for taken in actions_of(arrays)[:4]:
        np.testing.assert_allclose(arrays.step(taken)[0], envs.step(torch.from_numpy(taken))[0], atol=1e-4)


def test_what_has_no_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match="tensors need a session of this package"):
        make_tensor_vec(LATENT, 2, task=Long, model=FakeBackbone("latent"))
    with pytest.raises(TypeError, match='observation="tokens"'):
        make_tensor_vec(LATENT, 2, task=Long, model=backbone_of("state", False), observation="tokens")
    with pytest.raises(TypeError, match="not one of the CoLA environments"):
        make_tensor_vec("CartPole-v1", 2)


def test_ids_with_a_module_and_specs_are_taken_and_the_spec_stays_as_it_was() -> None:
    spec = gym.spec(LATENT)
    for env_id in (f"cola_envs:{LATENT}", spec):
        envs = make_tensor_vec(env_id, 2, task=Long, model=backbone_of("state", False))
        assert envs.num_envs == 2
    assert spec.vector_entry_point == "cola_envs.vector:CoLAVectorEnv"
    with pytest.raises(TypeError, match="options must be a dict such as"):
        envs.reset(options=[1])  # type: ignore[arg-type]


def test_a_restored_state_is_observed_as_a_tensor() -> None:
    envs = make_tensor_vec(LATENT, 2, task=Long, model=backbone_of("state", False))
    first, _ = envs.reset(seed=0)
    states = envs.snapshot()
    envs.step(torch.tensor([1, 2]))
    restored = envs.restore(states[::-1])
    assert isinstance(restored, torch.Tensor)
    torch.testing.assert_close(restored, first.flip(0))
    torch.testing.assert_close(envs.restore(states[:1], rows=[1]), first[:1])


def test_what_names_no_environment_is_refused() -> None:
    with pytest.raises(TypeError, match="takes an environment id or its spec, got None"):
        make_tensor_vec(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="vectorization_mode"):
        make_tensor_vec(LATENT, 2, vectorization_mode="sync")
