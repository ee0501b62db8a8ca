"""A step of a vector environment is one forward pass: rows that are reset share it with those that go on."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import InvalidAction, ResetNeeded

from cola_agents.decoding import session as session_module
from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.session import Rows
from cola_agents.sb3 import SB3VecEnv
from cola_envs import Turn
from tests.test_sb3 import LATENT, TOKEN, Numbered

ROWS, STEPS = 5, 24


class Long(Numbered):
    """Episodes of different lengths: most stop at a token that is often drawn, the others at the budget."""

    stop = ("e",)


def make(backbone: Any, mode: str = "same_step", **settings: Any) -> Any:
    settings = {"task": Long, "max_tokens": 5, "model": backbone, **settings}
    env_id = TOKEN if backbone.level == "token" else LATENT
    return gym.make_vec(env_id, num_envs=ROWS, autoreset_mode=mode, **settings)


def actions_of(envs: Any) -> list[np.ndarray]:
    allowed = np.flatnonzero(envs.unwrapped.episodes.action_mask)
    return list(np.random.default_rng(3).choice(allowed, size=(STEPS, ROWS)))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The numbers of new tokens of the rows of every pass of the base."""
    pytest.importorskip("numba")
    made: list[list[int]] = []
    run = session_module.run_rows

    def counted(stack: Any, kv: Any, chunk: Any, **inputs: Any) -> Any:
        if "input_ids" in inputs:
            made.append(list(chunk.widths))
        return run(stack, kv, chunk, **inputs)

    monkeypatch.setattr(session_module, "run_rows", counted)
    return made


@pytest.fixture(params=["latent", "token"])
def backbone(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_backbone")


@pytest.mark.parametrize("observation", ["hidden", "features", "tokens"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_step_is_one_pass(backbone: Any, mode: str, observation: str, passes: list) -> None:
    envs = make(backbone, mode, observation=observation)
    envs.reset(seed=0)
    passes.clear()
    for actions in actions_of(envs):
        envs.step(actions)
    assert len(passes) == STEPS
    assert any(min(widths) == 1 < max(widths) for widths in passes), "prompts ran beside single tokens"


def test_a_step_of_sb3_is_one_pass(latent_backbone: Any, passes: list) -> None:
    venv = SB3VecEnv(make(latent_backbone, observation="features"))
    venv.seed(0)
    venv.reset()
    passes.clear()
    ended = 0
    for actions in actions_of(venv.env):
        ended += int(venv.step(actions)[2].sum())
    assert len(passes) == STEPS
    assert ended > ROWS


@pytest.mark.parametrize("observation", ["hidden", "features"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_sharing_passes_changes_no_step(
    backbone: Any, mode: str, observation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"observation": observation, "prior_coef": 0.1, "world_temperature": 0.7}
    shared, apart = (make(backbone, mode, **settings) for _ in range(2))
    starts = [envs.reset(seed=0)[0] for envs in (shared, apart)]
    np.testing.assert_allclose(*starts, atol=1e-5)
    ended = 0
    for actions in actions_of(shared):
        ours = shared.step(actions)
        with monkeypatch.context() as patched:
            patched.setattr(Rows, "deferred", lambda self: nullcontext())
            theirs = apart.step(actions)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
        np.testing.assert_allclose(ours[1], theirs[1], atol=1e-4)
        for mine, other in zip(ours[2:4], theirs[2:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        ended += int((ours[2] | ours[3]).sum())
        assert ours[4].keys() == theirs[4].keys()
        for row in np.flatnonzero(ours[4].get("_final_obs", [])):
            np.testing.assert_allclose(ours[4]["final_obs"][row], theirs[4]["final_obs"][row], atol=1e-4)
    episodes = [envs.unwrapped.episodes for envs in (shared, apart)]
    for row in range(ROWS):
        assert episodes[0].tokens(row) == episodes[1].tokens(row)
    assert ended > ROWS


def test_after_a_refused_action_the_rows_go_on(latent_backbone: Any) -> None:
    envs = make(latent_backbone)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction):
        envs.step(np.full(ROWS, 10_000))
    envs.step(np.zeros(ROWS, dtype=np.int64))


class Breaks(Long):
    """Its second prompt fails."""

    def reset(self, rng: np.random.Generator) -> str:
        self.starts = getattr(self, "starts", 0) + 1
        if self.starts == 2:
            raise KeyError("no second prompt")
        return super().reset(rng)

    def step(self, text: str) -> Turn:
        return Turn(reward=0.0)


def test_where_a_reset_fails_the_rows_that_stepped_go_on(latent_backbone: Any) -> None:
    envs = make(latent_backbone, task=Breaks, max_tokens=3)
    episodes = envs.unwrapped.episodes
    envs.reset(seed=0)
    for actions in actions_of(envs)[:-1]:
        if int(min(map(episodes.num_steps, range(ROWS)))) == 2:
            break
        envs.step(actions)
    with pytest.raises(KeyError, match="no second prompt"):
        envs.step(actions)
    running = [row for row in range(ROWS) if episodes.running(row)]
    for row in running:
        assert list(episodes.session.tokens[row]) == episodes.tokens(row)
        episodes.step([row], [1])
    for row in set(range(ROWS)) - set(running):
        with pytest.raises(ResetNeeded):
            episodes.step([row], [1])


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_state_that_is_not_finite_names_row_and_step_and_ends_the_pass(
    tiny_cola: Any, tiny_tokenizer: Any, mode: str
) -> None:
    model = copy.deepcopy(tiny_cola)
    envs = make(LatentBackbone(model, tiny_tokenizer), mode, max_tokens=2)
    envs.reset(seed=0)
    actions = actions_of(envs)
    envs.step(actions[0])
    if mode == "next_step":
        envs.step(actions[1])
    with torch.no_grad():
        model.base.embed_tokens.weight.fill_(float("nan"))
    # Where all rows end in this step, their last tokens are in the pass of the next prompts.
    where = r"\(at step \d of row \d\)" if mode == "next_step" else "of the text that it held before"
    with pytest.raises(FloatingPointError, match=rf"row \d+ is not finite .*{where}$"):
        envs.step(actions[2])
    episodes = envs.unwrapped.episodes
    assert not any(episodes.running(row) for row in range(ROWS))
