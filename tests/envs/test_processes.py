"""Environments in other processes: what is pickled, spawned and forked plays the same episodes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from stable_baselines3.common.vec_env import SubprocVecEnv
from torch.utils.data import DataLoader

import cola_envs
from cola_agents.common import threads
from cola_agents.decoding.loading import BUNDLED
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import Copy, First

make_arithmetic = partial(gym.make, "CoLA-Arithmetic-v0", level=2, max_tokens=4)
#: Spawned processes register the ids by the module's name, and need no torch for this one.
make_fake = partial(gym.make, "cola_envs:CoLA-Text-v0", task=Copy, model=FakeBackbone(), max_tokens=4)


def played(env: Any, steps: int = 6) -> list[Any]:
    """An episode from a fixed seed: observations, rewards and texts."""
    observation, info = env.reset(seed=7)
    seen = [observation, info["prompt"]]
    for action in range(steps):
        step = env.step(np.full(env.num_envs, action) if hasattr(env, "num_envs") else action)
        seen += step[:4]
        if not hasattr(env, "num_envs") and (step[2] or step[3]):
            break
    return seen


def same(first: Any, second: Any) -> bool:
    return all(
        np.allclose(a, b, atol=1e-5) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else np.all(a == b)
        for a, b in zip(first, second, strict=True)
    )


def told(spec: Any) -> dict[str, Any]:
    """A spec's arguments; of those that equal themselves alone the type."""
    kwargs = {} if spec is None else spec.kwargs
    return {k: v if isinstance(v, str | int | list | None) else type(v).__name__ for k, v in kwargs.items()}


def stop_at(stop: str) -> Any:
    """A task that no pickle finds by its name."""
    return type("Local", (Copy,), {"stop": (stop,)})


ENVIRONMENTS: dict[str, Any] = {
    "single": make_arithmetic,
    "twin": lambda: gym.make("CoLA-Arithmetic-Token-v0", max_tokens=4),
    "limited": lambda: gym.make("CoLA-Thinking-v0", max_episode_steps=3, observation="features"),
    "wrapped": lambda: gym.wrappers.RecordEpisodeStatistics(make_arithmetic()),
    "by path": lambda: gym.make("CoLA-Arithmetic-v0", model=str(BUNDLED / "cola"), max_tokens=4),
    "fake": lambda: gym.make("CoLA-Text-v0", task=Copy, model=FakeBackbone(), render_mode="ansi"),
    "lambda": lambda: gym.make("CoLA-Text-v0", task=lambda: stop_at("a")(), model=FakeBackbone()),
    "iterator": lambda: gym.make(
        "CoLA-Preference-v0", prompts=iter("abc"), scorer=len_scores, model=FakeBackbone(), max_tokens=4
    ),
    "vector": lambda: gym.make_vec(
        "CoLA-Arithmetic-v0", num_envs=3, autoreset_mode="next_step", max_episode_steps=2, max_tokens=4
    ),
    "bare": lambda: cola_envs.CoLAEnv(builder="cola_envs.build:own_task", task=Copy, model=FakeBackbone()),
}


def len_scores(prompts: list[str], responses: list[str]) -> list[int]:
    return [len(response) for response in responses]


@pytest.mark.parametrize("kind", list(ENVIRONMENTS))
def test_a_pickled_environment_plays_the_same_episodes(kind: str) -> None:
    env = ENVIRONMENTS[kind]()
    expected = played(env)
    data = pickle.dumps(env)
    assert len(data) < 20_000, "weights that are named must not travel"
    again = pickle.loads(data)
    assert type(again) is type(env)
    assert str(again) == str(env)
    assert told(again.spec) == told(env.spec)
    with pytest.raises(ResetNeeded):  # an episode under way is not carried
        again.unwrapped.step(np.zeros(3, dtype=int) if kind == "vector" else 0)
    assert same(played(again), expected)


def test_a_vector_environment_keeps_its_own_settings() -> None:
    again = pickle.loads(pickle.dumps(ENVIRONMENTS["vector"]()))
    assert (again.num_envs, again.max_episode_steps, again.metadata["autoreset_mode"].name) == (
        3,
        2,
        "NEXT_STEP",
    )


def test_a_model_object_travels_with_its_weights(latent_backbone: Any) -> None:
    env = gym.make(
        "CoLA-Arithmetic-v0", model=latent_backbone.model, tokenizer=latent_backbone.tokenizer.source
    )
    assert same(played(pickle.loads(pickle.dumps(env))), played(env))


def test_an_argument_that_cannot_be_pickled_is_named() -> None:
    scorer = partial(len_scores, lock=threading.Lock())
    env = gym.make("CoLA-Preference-v0", prompts=list("abc"), scorer=scorer, model=FakeBackbone())
    with pytest.raises(pickle.PicklingError, match=r"scorer=.*cannot be pickled.*lock"):
        pickle.dumps(env)


def test_spawned_environments_of_gymnasium_sb3_and_torch_work() -> None:
    env = make_fake()
    env.reset(seed=0)
    env.step(0)
    expected = env.reset(seed=7)[0]
    loaded = DataLoader(First(env), num_workers=1, multiprocessing_context="spawn")  # type: ignore[arg-type]
    assert np.array_equal(next(iter(loaded))[0], expected)
    spawned = gym.vector.AsyncVectorEnv([make_fake], context="spawn")
    try:
        assert np.array_equal(spawned.reset(seed=[7])[0][0], expected)
    finally:
        spawned.close()
    subprocesses = SubprocVecEnv([make_fake], start_method="forkserver")
    try:
        subprocesses.seed(7)
        assert np.array_equal(subprocesses.reset()[0], expected)
        assert subprocesses.get_attr("spec")[0].kwargs["max_tokens"] == 4
    finally:
        subprocesses.close()


FORKED = """
import torch, gymnasium as gym, cola_envs

def make():
    return gym.make("CoLA-Arithmetic-v0")

def make_on_one_thread():
    torch.set_num_threads(1)
    return make()

def play(make):
    envs = gym.vector.AsyncVectorEnv([make], context="fork")
    envs.reset(seed=[0])
    envs.step([0])
    envs.close()

env = make()
for threads in (1, 2):
    torch.set_num_threads(threads)
    env.reset(seed=0)
    env.step(0)
    torch.randn(600, 600) @ torch.randn(600, 600)
    if threads == 1:
        play(make)
        print("played after one thread")
play(make_on_one_thread)
torch.set_num_threads(2)  # Gymnasium makes one environment here, too
print("played on one thread")
play(make)
"""


def test_a_fork_after_a_pass_on_several_threads_is_an_error_and_no_hang() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout == "played after one thread\nplayed on one thread\n", done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: this process was forked")
    assert 'context="spawn"' in last


FORKED_SMALL = """
import os, signal, sys
import numpy as np, torch
from cola_agents.common import threads
from cola_agents.decoding.backbones import LatentBackbone
from tests import tiny

threads.SMALL = int(sys.argv[1])
torch.set_num_threads(2)
backbone = LatentBackbone(tiny.make_cola(), tiny.make_tokenizer())

def play():
    session = backbone.session(8)
    session.load(range(8), [[5 + i % 50 for i in range(40)]] * 8)
    session.extend([0, 3, 5], [[7]] * 3)
    tokens = session.decode(range(8), np.arange(8)).tokens
    seen = session.hidden([1, 2]), session.features([1, 2]), session.prior(range(8))
    return [ids.tolist() for ids in tokens], [array.tolist() for array in seen]

expected = play()
torch.randn(300, 300) @ torch.randn(300, 300)  # a user's own work, on all threads
if os.fork() == 0:
    signal.alarm(30)  # a child that waits for ever ends
    try:
        print("the same" if play() == expected else "something else", torch.get_num_threads(), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print("parent", torch.get_num_threads())
"""


@pytest.mark.parametrize("small", [True, False])
def test_a_forked_child_of_a_process_with_threads_plays_a_small_model_alone_and_refuses_a_large_one(
    small: bool,
) -> None:
    """Several rows: then the states are written by an operation that takes all threads that it is left."""
    variables = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", FORKED_SMALL, str(threads.SMALL if small else 1)],
        env={**variables, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    child, parent = done.stdout.splitlines()
    assert child == "the same 1" if small else child.startswith("this process was forked from"), done.stderr
    assert parent == "parent 2"


def test_a_pass_is_remembered_for_the_thread_and_process_that_made_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(threads, "_pool", threading.local())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    threads.check_fork()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    threads.check_fork()  # the parent computed on one thread alone
    threads.check_fork()
    monkeypatch.setattr(os, "getpid", lambda: 2)
    with pytest.raises(RuntimeError, match="forked from process 1"):
        threads.check_fork()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    threads.check_fork()
