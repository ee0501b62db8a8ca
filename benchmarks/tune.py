"""The grid behind ``cola demo``: both arms over the same learning rates and KL weights.

Tuning seeds are not the demo's, so that the demo's curves are not the ones it was tuned on.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import Commands, held_runs
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.evaluation.demo import Arm, run_arm

ENVS = {"latent": "CoLA-Thinking-v0", "token": "CoLA-Thinking-Token-v0"}
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
KL_WEIGHTS = (0.01, 0.1, 0.3)
TUNING_SEEDS = (100, 101)


def tune(
    out: Path,
    *,
    updates: int = 50,
    episodes: int = 256,
    learning_rates: tuple[float, ...] = LEARNING_RATES,
    kl_weights: tuple[float, ...] = KL_WEIGHTS,
    seeds: tuple[int, ...] = TUNING_SEEDS,
) -> dict[str, Any]:
    """Run what ``out`` does not hold yet, and write each run as it ends; either arm has the same grid.

    A run that diverges has ``failed``, the reason, in place of figures.

    Raises:
        ValueError: for an ``out`` that was begun with other settings.
    """
    about = {"updates": updates, "episodes": episodes}
    known = held_runs(out, about)
    results = {**provenance(), **about, "runs": known}
    done = [(run["arm"], run["options"]["lr"], run["options"]["kl_coef"], run["seed"]) for run in known]
    for run in product(ENVS, learning_rates, kl_weights, seeds):
        if run in done:
            continue
        name, lr, kl, seed = run
        arm = Arm(name, ENVS[name], {"lr": lr, "kl_coef": kl})
        try:
            figures = run_arm(arm, updates=updates, seed=seed, episodes=episodes)
            del figures["history"]
        except FloatingPointError as error:
            # A rate that is too high is a result; the next attempt would end alike.
            figures = {"arm": name, "options": arm.options, "seed": seed, "failed": str(error)}
        known.append(figures)
        write_json(out, results, indent=1)
    return results


def tuning_table(results: dict[str, Any]) -> str:
    """One row per configuration, means over the seeds that did not diverge, as Markdown."""
    head = ["arm", "lr", "KL", "rollouts to .9", "format", "arithmetic", "grammar", "held-out CE", "CPU-s"]
    rows = []
    configurations: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in results["runs"]:
        key = (run["arm"], run["options"]["lr"], run["options"]["kl_coef"])
        configurations.setdefault(key, []).append(run)
    for (arm, lr, kl), runs in configurations.items():
        reached = ", ".join(
            "diverged" if "failed" in run else str(run["rollouts_to_threshold"] or "never") for run in runs
        )
        runs = [run for run in runs if "failed" not in run]
        if not runs:
            rows.append([arm, f"{lr:g}", f"{kl:g}", reached, *[""] * 5])
            continue
        means = [
            f"{_mean(runs, 'before', measure):.3f} → {_mean(runs, 'after', measure):.3f}"
            for measure in ("format", "arithmetic", "grammar", "cross_entropy")
        ]
        seconds = sum(run["train_cpu_s"] for run in runs) / len(runs)
        rows.append([arm, f"{lr:g}", f"{kl:g}", reached, *means, f"{seconds:.0f}"])
    return table(head, rows)


def _mean(runs: list[dict[str, Any]], when: str, measure: str) -> float:
    return sum(run[when][measure] for run in runs) / len(runs)


def add(commands: Commands) -> None:
    parser = commands.add_parser("tune", help="the grid over learning rate and KL behind `cola demo`")
    parser.add_argument("--updates", type=positive, default=50)
    parser.add_argument("--episodes", type=positive, default=256)
    parser.add_argument("--lr", type=float, nargs="+", default=list(LEARNING_RATES))
    parser.add_argument("--kl", type=float, nargs="+", default=list(KL_WEIGHTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(TUNING_SEEDS))
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="a JSON file, which goes on if it holds runs of the same settings",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    results = tune(
        arguments.out,
        updates=arguments.updates,
        episodes=arguments.episodes,
        learning_rates=tuple(arguments.lr),
        kl_weights=tuple(arguments.kl),
        seeds=tuple(arguments.seeds),
    )
    print(tuning_table(results))
