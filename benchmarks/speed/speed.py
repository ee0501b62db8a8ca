"""How fast the environments step, beside a bare loop that does the same forward passes.

(How fast tokens come without environments, beside transformers' own ways, is
:mod:`benchmarks.speed.decoding`.)

The bare loop replays the very passes that the environment made (so many rows of one token, so many of a
fresh prompt, and the world model's decode) through transformers' own ``DynamicCache``, without
episodes, rewards, ragged rows or Gymnasium. What the environment needs beyond it is its own overhead.
Both run in one process, in turn, on one thread; CPU seconds are what is compared.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.logger import Logger
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

import cola_envs  # noqa: F401 (registers the ids)
from benchmarks import RESULTS, Commands, options
from benchmarks.speed.decoding import decoding_table, measure_decoding
from benchmarks.speed.turns import PlayingTimes, in_turn, median_ratio
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.provenance import provenance
from cola_agents.decoding import kv
from cola_agents.decoding import session as session_module
from cola_agents.decoding.fused import Packed
from cola_agents.decoding.loading import make_backbone
from cola_agents.model.versions import cache_argument
from cola_agents.sb3 import SB3VecEnv, sb3_defaults

ENV_ID = "CoLA-Arithmetic-v0"
Pass = tuple[int, int]


def measure_speed(
    *,
    rows: tuple[int, ...] = (1, 8, 32, 128),
    steps: int = 400,
    repeats: int = 5,
    long_steps: int = 20_000,
    decode_tokens: int = 64,
) -> dict[str, Any]:
    """All figures, JSON-ready. Times are CPU seconds of this process on one thread, unless named wall."""
    torch.set_num_threads(1)
    return {
        **provenance(),
        "env_id": ENV_ID,
        "steps": steps,
        "repeats": repeats,
        "decoding": measure_decoding(rows=rows, tokens=decode_tokens, repeats=repeats),
        "stepping": [measure_rows(count, steps, repeats) for count in rows],
        "sb3": measure_sb3(repeats),
        "long_run": measure_long_run(long_steps),
    }


def measure_rows(num_rows: int, steps: int, repeats: int) -> dict[str, Any]:
    """Environment, bare loop and SB3's wrapper at one batch size, in turn."""
    backbone = make_backbone(level="latent")
    envs = gym.make_vec(ENV_ID, num_envs=num_rows, model=backbone, autoreset_mode="same_step")
    venv = SB3VecEnv(gym.make_vec(ENV_ID, num_envs=num_rows, model=backbone, autoreset_mode="same_step"))
    actions = np.random.default_rng(0).integers(64, size=(steps, num_rows))
    envs.reset(seed=0)
    venv.seed(0)
    venv.reset()
    passes = record_passes(lambda: _step_all(envs.step, actions))
    loop = BareLoop(backbone.model, num_rows, passes)
    contenders: dict[str, Callable[[], Any]] = {
        "env": lambda: partial(_step_all, envs.step, actions),
        "bare_loop": loop.prepared,
        "sb3_vec_env": lambda: partial(_step_all, venv.step, actions),
    }
    times = in_turn(contenders, repeats).cpu
    median = {name: statistics.median(values) for name, values in times.items()}
    return {
        "rows": num_rows,
        "steps_per_cpu_s": {name: round(steps * num_rows / value) for name, value in median.items()},
        "env_of_bare_loop": median_ratio(times["bare_loop"], times["env"]),
        "cpu_s": {name: [round(value, 4) for value in values] for name, values in times.items()},
        "forward_passes_per_step": round(len(passes) / steps, 3),
    }


def _step_all(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> None:
    for row in actions:
        step(row)


def record_passes(run: Callable[[], None]) -> list[Pass]:
    """The (rows, tokens a row) of every forward pass of the base that ``run`` makes.

    Single tokens and prompts that run packed in one pass are two here: transformers would pad them.
    """
    passes: list[Pass] = []

    def recording(
        stack: PreTrainedModel, rows: kv.KVRows, chunk: kv.Chunk | Packed, **inputs: torch.Tensor
    ) -> torch.Tensor:
        longer = [width for width in chunk.widths if width > 1]
        if len(longer) < len(chunk.widths):
            passes.append((len(chunk.widths) - len(longer), 1))
        if longer:
            passes.append((len(longer), max(longer)))
        return kv.run_rows(stack, rows, chunk, **inputs)

    with mock.patch.object(session_module, "run_rows", recording):
        run()
    return passes


class BareLoop:
    """The recorded passes through the plain model and transformers' cache.

    Full batches of one token run on a cache that starts at a prompt's length and grows by one a pass,
    renewed when it has grown by an episode's usual length; every other pass is a prefill on its own.
    """

    def __init__(
        self, model: Any, num_rows: int, passes: list[Pass], prompt: int = 14, episode: int = 20
    ) -> None:
        self.model = model
        self.num_rows = num_rows
        self.passes = passes
        self.prompt = prompt
        self.episode = episode
        self.codes = torch.randint(64, (num_rows,), generator=torch.Generator().manual_seed(0))

    def prepared(self) -> Callable[[], None]:
        """A run whose rows hold their prompts already, as the environment's do."""
        return partial(self.run, *self._fresh(self.num_rows, self.prompt))

    @torch.no_grad()
    def run(self, cache: DynamicCache, h: torch.Tensor) -> None:
        """All passes, from the cache of the rows' prompts and the states of their last tokens."""
        grown = 0
        for rows, width in self.passes:
            if (rows, width) == (self.num_rows, 1):
                token = self.model.world(h, self.codes).argmax(-1)
                h = self.model.base(
                    token[:, None], use_cache=True, **cache_argument(cache)
                ).last_hidden_state[:, -1]
                grown += 1
                if grown == self.episode:
                    cache.crop(-self.episode)
                    grown = 0
            else:
                self._fresh(rows, width)

    @torch.no_grad()
    def _fresh(self, rows: int, width: int) -> tuple[DynamicCache, torch.Tensor]:
        cache = DynamicCache()
        ids = torch.zeros(rows, width, dtype=torch.long)
        return cache, self.model.base(ids, use_cache=True, **cache_argument(cache)).last_hidden_state[:, -1]


def measure_sb3(repeats: int, num_envs: int = 32) -> dict[str, Any]:
    """SB3's PPO: its ``collect_rollouts`` beside plain stepping, and its update, apart."""
    venv = SB3VecEnv(ENV_ID, num_envs=num_envs)
    agent = sb3.PPO("MlpPolicy", venv, seed=0, **sb3_defaults("ppo", venv))
    agent.set_logger(Logger(folder=None, output_formats=[]))
    steps = agent.n_steps
    envs = gym.make_vec(ENV_ID, num_envs=num_envs, autoreset_mode="same_step")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(64, size=(steps, num_envs))
    plain, collecting, updating = [], [], []
    for turn in range(repeats + 1):
        started = time.process_time()
        _step_all(envs.step, actions)
        stepped = time.process_time() - started
        phases = PlayingTimes(time.process_time)
        started = time.process_time()
        agent.learn(steps * num_envs, callback=phases, reset_num_timesteps=False)
        whole = time.process_time() - started
        if turn:
            plain.append(stepped)
            collecting.append(sum(phases.seconds))
            updating.append(whole - sum(phases.seconds))
    return {
        "num_envs": num_envs,
        "n_steps": steps,
        "collect_steps_per_cpu_s": round(steps * num_envs / statistics.median(collecting)),
        "collect_of_plain_stepping": median_ratio(plain, collecting),
        "update_cpu_s": round(statistics.median(updating), 3),
        "collect_cpu_s": round(statistics.median(collecting), 3),
    }


def measure_long_run(steps: int, num_rows: int = 32, parts: int = 10) -> dict[str, Any]:
    """Cost per step and peak memory over a long run, part by part: both should be flat."""
    envs = gym.make_vec(ENV_ID, num_envs=num_rows, autoreset_mode="same_step")
    envs.reset(seed=0)
    stream = np.random.default_rng(0)
    cost, memory = [], []
    for _ in range(parts):
        actions = stream.integers(64, size=(steps // parts, num_rows))
        started = time.process_time()
        _step_all(envs.step, actions)
        cost.append(round((time.process_time() - started) / len(actions) * 1e3, 3))
        memory.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))
    return {"rows": num_rows, "steps": steps, "cpu_ms_per_step": cost, "peak_memory_mib": memory}


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "speed", help="decoding beside transformers' own, and environment steps beside a bare loop"
    )
    parser.add_argument("--rows", type=positive, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--steps", type=positive, default=400)
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--long-steps", type=positive, default=20_000)
    parser.add_argument("--decode-tokens", type=positive, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    names = ("rows", "steps", "repeats", "long_steps", "decode_tokens")
    results = measure_speed(**options(arguments, *names))
    write_json(arguments.out, results, indent=1)
    print(json.dumps(results, indent=1))
    print(decoding_table(results["decoding"]))
