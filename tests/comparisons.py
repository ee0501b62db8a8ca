"""Comparisons for tests: of the smallest runs, and synthetic ones, whose effects are known, for reports."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.runs import Protocol

#: A protocol of the smallest runs, over :func:`tests.tiny.write_models`.
SMALL = Protocol(
    "Thinking",
    {"max_tokens": 8},
    updates=2,
    prompts=2,
    group_size=2,
    episodes=4,
    arithmetic_episodes=4,
    hard_problems=1,
    kl_episodes=2,
)
UPDATES, ROLLOUTS = 40, 64
#: An arm unless said otherwise: figures after RL, the rollouts at which its reward rises, seconds an update.
NEUTRAL: dict[str, Any] = {
    "reward": 0.8,
    "reward_greedy": 0.85,
    "pass@1": 0.8,
    "pass@4": 0.9,
    "arithmetic": 0.5,
    "arithmetic_greedy": 0.6,
    "grammar": 0.95,
    "distinct_2": 0.05,
    "cross_entropy": 0.7,
    "token_kl": 1.0,
    "rise": 800.0,
    "seconds": 0.4,
}
BEFORE = {
    **{name: NEUTRAL[name] for name in ("arithmetic", "arithmetic_greedy", "grammar", "distinct_2")},
    "reward": 0.1,
    "reward_greedy": 0.1,
    "pass@1": 0.1,
    "pass@4": 0.3,
    "cross_entropy": 0.7,
    "token_kl": 0.0,
}
OPTIONS = {"lr": 0.003, "kl_coef": 0.1}


def record(
    arm: str,
    model_seed: int,
    seed: int,
    *,
    phase: str = "main",
    options: Mapping[str, float] | None = None,
    noise: float = 0.01,
    **figures: Any,
) -> dict[str, Any]:
    """One run. What a model and a seed share is the same in every arm; ``noise`` is each run's own."""
    truth = {**NEUTRAL, **figures}
    shared = np.random.default_rng([model_seed, seed]).normal(scale=0.05)
    own = np.random.default_rng([model_seed, seed, *arm.encode(), *phase.encode()])
    after = {
        name: None if truth[name] is None else float(truth[name] + shared + own.normal(scale=noise))
        for name in BEFORE
    }
    before = {
        name: None if truth[name] is None else value + (shared if name != "reward" else 0.0)
        for name, value in BEFORE.items()
    }
    episodes = np.arange(1, UPDATES + 1) * ROLLOUTS
    rise = truth["rise"] * (1 + 2 * shared + own.normal(scale=noise))
    return {
        "phase": phase,
        "task": "Thinking",
        "arm": arm,
        "model_seed": model_seed,
        "seed": seed,
        "options": dict(OPTIONS if options is None else options),
        "trained_parameters": 118_000,
        "fingerprint": f"model {model_seed}",
        "curve": {
            "episodes": episodes.tolist(),
            "actions": (20 * episodes).tolist(),
            "cpu_s": (truth["seconds"] * np.arange(1, UPDATES + 1)).tolist(),
            "reward": (1 / (1 + np.exp((rise - episodes) / 60))).tolist(),
        },
        "before": before,
        "after": after,
        "cpu_s": float(truth["seconds"] * UPDATES),
    }


def main_runs(
    arms: Mapping[str, Mapping[str, Any]], models: Iterable[int] = range(5), seeds: Iterable[int] = range(4)
) -> list[dict[str, Any]]:
    """Runs of the main phase of each arm, with its own figures."""
    models, seeds = list(models), list(seeds)
    return [
        record(arm, model, 100 * model + seed, **figures)
        for arm, figures in arms.items()
        for model in models
        for seed in seeds
    ]


def floors(reward: float, models: Iterable[int] = range(5)) -> list[dict[str, Any]]:
    return [
        {
            "phase": "floor",
            "arm": "constant-code",
            "model_seed": model,
            "seed": 0,
            "after": {"reward": reward},
        }
        for model in models
    ]


def write(folder: Path, records: Iterable[dict[str, Any]], *, task: str = "Thinking", **config: Any) -> Path:
    """A comparison's folder with these records."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{**one, "task": task} for one in records]
    settings = {
        "command": "python -m benchmarks compare",
        "commit": "abc1234",
        "task": task,
        "arms": list(dict.fromkeys(one["arm"] for one in records if one["phase"] != "floor")),
        "seeds": [0, 1, 2, 3],
        "model_seeds": [0, 1, 2, 3, 4],
        "updates": UPDATES,
        "rollouts_per_update": ROLLOUTS,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "runs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return folder
