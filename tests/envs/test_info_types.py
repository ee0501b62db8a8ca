"""A field of info has one type in every episode of a task: Gymnasium's vector environments need it."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import cola_envs  # noqa: F401 (registers the ids)
from cola_envs.testing import FakeBackbone
from cola_envs.testing.kinds import InfoKinds
from tests.envs.tiny import Talk

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("CoLA-"))
ROWS, STEPS = 8, 500
#: Every single environment of these starts an engine of its own, which takes seconds.
ENGINES, ENGINE_ROWS, ENGINE_STEPS = ("ALFWorld", "Household", "ScienceWorld"), 2, 50
#: What an agent might write: answers that are read and that are not, commands that do something and nothing.
TEXTS = (
    r"\boxed{7}",
    r"\boxed{}",
    r"\boxed{1/2}",
    "<answer>3</answer>",
    "<answer>1+2</answer>",
    "x",
    "",
    "look\n",
)
PROBLEMS = [
    {"problem": "1+1?", "answer": "2", "level": 3, "subject": "Algebra", "unique_id": "a"},
    {"problem": "3+4?", "answer": "7"},
]
SETTINGS: dict[str, dict[str, Any]] = {
    "Math500": {"problems": PROBLEMS},
    "GSM8K": {"problems": [{"question": "1+1?", "answer": "#### 2"}]},
    "Preference": {
        "prompts": ["a", "b"],
        "scorer": lambda p, r: [len(x) for x in r],
        "held_out": lambda p, r: [0.5] * len(r),
    },
    "Text": {"task": Talk},
    "ALFWorld": {"num_workers": 1},
    "Household": {"num_workers": 1, "level": 1},
    "ScienceWorld": {"num_workers": 1},
}


def settings(env_id: str) -> dict[str, Any]:
    level: Any = "token" if "-Token-" in env_id else "latent"
    own = SETTINGS.get(env_id.split("-")[1], {})
    return {"model": FakeBackbone(level, max_length=4096), "max_tokens": 24, **own}


class Watched(gym.Wrapper):  # type: ignore[type-arg]
    """Shows every info to one judge of types."""

    def __init__(self, env: Any, kinds: InfoKinds) -> None:
        super().__init__(env)
        self.kinds = kinds

    def reset(self, **options: Any) -> Any:
        observation, info = self.env.reset(**options)
        self.kinds.see(info)
        return observation, info

    def step(self, action: Any) -> Any:
        step = self.env.step(action)
        self.kinds.see(step[4])
        return step


def writers(num_actions: int) -> list[Any]:
    """Per row a stream of actions: at token level texts and end-of-text tokens, else codes."""

    def written(row: int) -> Any:
        rng = np.random.default_rng(row)
        while True:
            if num_actions < 64:
                yield int(rng.integers(num_actions))
            else:
                yield from (byte + 1 for byte in str(rng.choice(TEXTS)).encode())
                yield 0

    return [written(row) for row in range(ROWS)]


def rows(env_id: str) -> int:
    return ENGINE_ROWS if env_id.split("-")[1] in ENGINES else ROWS


def play(envs: Any) -> int:
    """Step a vector environment; how many episodes ended."""
    try:
        envs.reset(seed=0)
        actions = writers(int(envs.single_action_space.n))[: envs.num_envs]
        ended = 0
        for _ in range(STEPS if envs.num_envs == ROWS else ENGINE_STEPS):
            _, _, terminated, truncated, _ = envs.step(np.array([next(stream) for stream in actions]))
            ended += int((terminated | truncated).sum())
        return ended
    finally:
        envs.close()


@pytest.fixture(params=IDS)
def env_id(request: pytest.FixtureRequest) -> str:
    env_id: str = request.param
    try:
        gym.make(env_id, **settings(env_id)).close()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        pytest.skip(str(error))
    return env_id


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_single_environments_play_side_by_side(env_id: str, mode: AutoresetMode) -> None:
    kinds = InfoKinds()
    make = lambda: Watched(gym.make(env_id, **settings(env_id)), kinds)  # noqa: E731
    assert play(SyncVectorEnv([make] * rows(env_id), autoreset_mode=mode)) > 0


def test_single_environments_play_in_processes(env_id: str) -> None:
    make = partial(gym.make, env_id, **settings(env_id))
    assert play(AsyncVectorEnv([make] * rows(env_id))) > 0


def test_rows_play_in_one_environment(env_id: str) -> None:
    assert play(gym.make_vec(env_id, num_envs=rows(env_id), **settings(env_id))) > 0


@pytest.mark.parametrize("name", ["Arithmetic", "Countdown", "Thinking", "Math500"])
def test_answers_that_are_missing_are_empty_texts(name: str) -> None:
    field = {"Countdown": "expression", "Math500": "answer"}.get(name, "given")
    env_id = f"CoLA-{name}-Token-v0"
    env = gym.make(env_id, **settings(env_id))
    seen = {}
    for text in (r"\boxed{7}", "nothing"):
        env.reset(seed=0)
        for byte in text.encode():
            env.step(byte + 1)
        seen[text] = env.step(0)[4][field]
    assert seen == {r"\boxed{7}": "7", "nothing": ""}
