"""``python -m benchmarks sb3``: SB3's algorithms with plain networks, over codes, spans and tokens.

A run is an algorithm of ``examples/libraries/sb3_algorithms.py`` over an arm of ``benchmarks compare``: codes
of one token, codes that last several, or tokens. Its networks start at random. Every run may write as many
tokens, so that codes of four tokens take a fourth of the steps.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from benchmarks import Commands, add_model, held_runs, model_folder, options
from benchmarks.compare.arms import ARMS, Arm
from benchmarks.compare.runs import TEST_SEED, splits
from benchmarks.libraries import load
from cola_agents import SB3VecEnv
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance

ALGORITHMS = ("ppo", "dqn", "qr_dqn")
#: First seed of the runs.
FIRST_SEED = 7_000
#: Points of a learning curve.
POINTS = 10


class _Episodes(BaseCallback):
    """Keeps the reward of each training episode, and the step at which it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self.ended.append((self.num_timesteps, float(info["episode"]["r"])))
        return True


def plain_networks(
    tasks: list[str],
    arms: list[str],
    algorithms: list[str],
    pretrained: Path,
    out: Path,
    *,
    seeds: int = 2,
    tokens: int = 200_000,
    num_envs: int = 32,
    episodes: int = 256,
) -> dict[str, Any]:
    """Make the runs that ``out`` does not hold yet, and write each as it ends.

    Args:
        pretrained: the folder of a pre-trained seed, as ``benchmarks models`` writes it.
        tokens: that a run may write while it learns.
        episodes: test problems, played once with the likeliest action.

    Raises:
        ValueError: for an ``out`` that was begun with other settings.
    """
    about = {
        "model_seed": pretrained.name,
        "tokens": tokens,
        "num_envs": num_envs,
        "test_episodes": episodes,
    }
    known = held_runs(out, about)
    results = {**provenance(), **about, "runs": known}
    held = {(one["task"], one["arm"], one["algorithm"], one["seed"]) for one in known}
    every = product(tasks, arms, algorithms, range(FIRST_SEED, FIRST_SEED + seeds))
    for task, arm, algorithm, seed in tqdm([one for one in every if one not in held], unit="run"):
        one = {"task": task, "arm": arm, "algorithm": algorithm, "seed": seed}
        figures = _figures(task, ARMS[arm], algorithm, seed, pretrained, tokens, num_envs, episodes)
        known.append({**one, **figures})
        write_json(out, results, indent=1)
    return results


def _figures(
    task: str,
    arm: Arm,
    algorithm: str,
    seed: int,
    pretrained: Path,
    tokens: int,
    num_envs: int,
    episodes: int,
) -> dict[str, Any]:
    model, env_id = arm.backbone(pretrained), arm.env_id(task)
    steps = tokens // int(getattr(model.model.config, "span", 1))
    envs = SB3VecEnv(env_id, num_envs, env_kwargs={"model": model, **arm.env_kwargs})
    agent = load("sb3_algorithms").make(algorithm, envs, seed, steps)
    done, started = _Episodes(), time.process_time()
    agent.learn(steps, callback=done)
    spent = time.process_time() - started
    envs.close()
    ends, rewards = np.array([end for end, _ in done.ended]), np.array([reward for _, reward in done.ended])
    part = np.minimum(ends * POINTS // (steps + 1), POINTS - 1)
    curve = [round(float(rewards[part == i].mean()), 4) if (part == i).any() else None for i in range(POINTS)]
    _, split = splits(env_id)
    tested = SB3VecEnv(env_id, episodes, env_kwargs={"model": model, "split": split, **arm.env_kwargs})
    figures = {
        "steps": steps,
        "episodes": len(rewards),
        "curve": curve,
        "test_reward": round(_test_reward(agent, tested), 4),
        "cpu_s": round(spent, 1),
    }
    tested.close()
    return figures


def _test_reward(agent: Any, envs: SB3VecEnv) -> float:
    """The mean reward of each row's first episode, with the likeliest action."""
    envs.seed(TEST_SEED)
    observations: Any = envs.reset()
    first = np.full(envs.num_envs, np.nan)
    while np.isnan(first).any():
        actions, _ = agent.predict(observations, deterministic=True)
        observations, _, dones, infos = envs.step(actions)
        for row in np.flatnonzero(dones & np.isnan(first)):
            first[row] = infos[row]["episode"]["r"]
    return float(first.mean())


def networks_table(results: dict[str, Any]) -> str:
    """Test reward, and training reward of the first and the last tenth, means over the seeds, as Markdown."""
    by_run: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in results["runs"]:
        by_run.setdefault((one["task"], one["arm"], one["algorithm"]), []).append(one)

    def mean(numbers: list[float | None]) -> str:
        known = [number for number in numbers if number is not None]
        return f"{np.mean(known):.3f}" if known else ""

    rows = [
        [
            *run,
            str(len(ones)),
            mean([one["curve"][0] for one in ones]),
            mean([one["curve"][-1] for one in ones]),
            f"{mean([one['test_reward'] for one in ones])} ({min(one['test_reward'] for one in ones):.3f})",
            mean([one["cpu_s"] for one in ones]),
        ]
        for run, ones in by_run.items()
    ]
    head = ["task", "arm", "algorithm", "seeds", "first tenth", "last tenth", "test (lowest)", "CPU-s"]
    return table(head, rows)


def add(commands: Commands) -> None:
    parser = commands.add_parser("sb3", help="SB3's algorithms with plain networks over codes, spans, tokens")
    add_model(parser)
    parser.add_argument("--tasks", nargs="+", default=["TextRooms", "Countdown"], metavar="TASK")
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=list(ARMS),
        default=["latent", "latent-span-4", "latent-span-8", "token"],
        metavar="ARM",
    )
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=list(ALGORITHMS))
    parser.add_argument("--seeds", type=positive, default=2)
    parser.add_argument("--tokens", type=positive, default=200_000, help="that each run may write")
    parser.add_argument("--num-envs", type=positive, default=32)
    parser.add_argument("--episodes", type=positive, default=256, help="test problems")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file, which goes on if it holds runs")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    names = ("tasks", "arms", "algorithms", "out", "seeds", "tokens", "num_envs", "episodes")
    results = plain_networks(pretrained=model_folder(arguments), **options(arguments, *names))
    print(networks_table(results))
