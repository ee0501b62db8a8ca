"""Gymnasium's vector wrappers are exact over these environments, under each autoreset mode that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, NormalizeObservation, RecordEpisodeStatistics

import cola_envs  # noqa: F401 (registers the ids)
from cola_envs.testing import FakeBackbone
from cola_envs.wrappers import NumericInfo
from tests.envs.tiny import COUNTS_SAME_STEPS, Copy

MODES = list(AutoresetMode)


def make(mode: AutoresetMode) -> Any:
    return gym.make_vec(
        "CoLA-Text-v0", num_envs=3, task=Copy, model=FakeBackbone(), max_tokens=5, autoreset_mode=mode
    )


def play(env: Any, mode: AutoresetMode, see: Callable[..., None], steps: int = 40) -> None:
    """The same codes under each mode, rows that ended reset by hand where nobody else does."""
    env.reset(seed=0)
    codes, done = np.random.default_rng(0), np.zeros(3, dtype=bool)
    for _ in range(steps):
        if mode is AutoresetMode.DISABLED and done.any():
            env.reset(options={"reset_mask": done})
        observations, rewards, terminated, truncated, infos = env.step(codes.integers(8, size=3))
        done = np.asarray(terminated | truncated)
        see(observations, rewards, done, infos)


@pytest.mark.parametrize("mode", MODES)
def test_episode_statistics_are_those_that_are_added_up_by_hand(mode: AutoresetMode) -> None:
    if mode is AutoresetMode.SAME_STEP and not COUNTS_SAME_STEPS:
        pytest.skip(f"Gymnasium {gym.__version__} counts as if it were next-step autoreset")
    totals, lengths = np.zeros(3), np.zeros(3, dtype=int)
    fresh = np.zeros(3, dtype=bool)
    told = 0

    def see(observations: Any, rewards: Any, done: Any, infos: Any) -> None:
        nonlocal told, fresh
        live = ~fresh if mode is AutoresetMode.NEXT_STEP else np.ones(3, dtype=bool)
        totals[live] += rewards[live]
        lengths[live] += 1
        ended = done & live
        if ended.any():
            np.testing.assert_allclose(infos["episode"]["r"][ended], totals[ended])
            assert infos["episode"]["l"][ended].tolist() == lengths[ended].tolist()
            told += int(ended.sum())
        totals[ended], lengths[ended] = 0.0, 0
        fresh = done.copy()

    play(RecordEpisodeStatistics(make(mode)), mode, see)
    assert told > 10


@pytest.mark.parametrize("mode", MODES)
def test_a_list_of_infos_has_each_rows_own(mode: AutoresetMode) -> None:
    ended = []

    def see(observations: Any, rewards: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        assert len(infos) == 3
        for row in np.flatnonzero(done):
            last = infos[row]["final_info"] if mode is AutoresetMode.SAME_STEP else infos[row]
            ended.append(last["num_tokens"])

    play(DictInfoToList(make(mode)), mode, see)
    assert len(ended) > 10
    assert set(ended) <= set(range(1, 6))


def test_observations_are_normalised_by_the_moments_of_what_was_seen() -> None:
    seen: list[np.ndarray] = []
    plain: list[np.ndarray] = []
    mode = AutoresetMode.NEXT_STEP
    play(NormalizeObservation(make(mode)), mode, lambda observations, *_: seen.append(observations))
    play(make(mode), mode, lambda observations, *_: plain.append(observations))
    every = np.concatenate([make(mode).reset(seed=0)[0], *plain])
    wanted = (plain[-1] - every.mean(0)) / np.sqrt(every.var(0) + 1e-8)
    np.testing.assert_allclose(seen[-1], wanted, atol=1e-2)


@pytest.mark.parametrize("mode", MODES)
def test_numeric_infos_hold_numbers_alone_and_become_tensors(mode: AutoresetMode) -> None:
    found: set[str] = set()

    def see(observations: Any, rewards: Any, done: Any, infos: dict[str, Any]) -> None:
        for key, value in infos.items():
            parts = value.values() if isinstance(value, dict) else [value]
            assert all(part.dtype.kind in "biuf" for part in parts if isinstance(part, np.ndarray)), key
            found.add(key)
        if mode is AutoresetMode.SAME_STEP and done.any():
            assert infos["final_obs"].shape == observations.shape

    play(NumericInfo(make(mode)), mode, see)
    assert "token" in found
    assert not found & {"text", "prompt"}
    pytest.importorskip("array_api_compat", reason="Gymnasium's array conversion needs it")
    import torch
    from gymnasium.wrappers.vector import NumpyToTorch

    env = NumpyToTorch(NumericInfo(make(mode)))
    env.reset(seed=0)
    for _ in range(1 if mode is AutoresetMode.DISABLED else 12):
        observations, *_, infos = env.step(torch.zeros(3, dtype=torch.int64))
    assert isinstance(observations, torch.Tensor)
    assert any(isinstance(value, torch.Tensor) for value in infos.values())
