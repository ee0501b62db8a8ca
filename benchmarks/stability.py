"""``python -m benchmarks stability``: does RL at some options fall before it rises, and over which seeds?

A run is an arm of ``benchmarks compare`` with options, ``token:lr=3e-4,warmup=10`` say. Test problems are
played before RL and every few updates, so that a fall shows that training reward alone would hide.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import Commands, add_model, held_runs, model_folder, options
from benchmarks.compare.arms import ARMS, Arm
from benchmarks.compare.runs import TEST_SEED, Protocol, make_agent
from cola_agents.commands.settings import positive, settings
from cola_agents.commands.tasks import add_env
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.rl.agent import Agent

#: RL seeds begin here: those of a comparison and of its search are others.
FIRST_SEED = 8_000
#: Figures of each update that are kept.
CURVES = ("reward", "length", "entropy", "kl", "grad_norm")


def stability(
    runs: list[str], protocol: Protocol, pretrained: Path, out: Path, *, seeds: int = 3, every: int = 10
) -> dict[str, Any]:
    """Make the runs that ``out`` does not hold yet, and write each as it ends.

    A run that diverges has ``failed``, the reason, and the figures up to there. A figure that an update has
    none of is None.

    Args:
        runs: arms with options, ``"arm:option=value,option=value"``.
        pretrained: the folder of a pre-trained seed, as ``benchmarks models`` writes it.
        every: number of updates between two looks at the test problems.

    Raises:
        ValueError: for an ``out`` that was begun with other settings.
    """
    named = {run: _arm(run) for run in runs}
    about = {
        "task": protocol.task,
        "env": protocol.env_kwargs,
        "model_seed": pretrained.name,
        "updates": protocol.updates,
        "every": every,
        "rollouts_per_update": protocol.prompts * protocol.group_size,
        "test_episodes": protocol.episodes,
    }
    known = held_runs(out, about)
    results = {**provenance(), **about, "runs": known}
    waiting = [(run, FIRST_SEED + i) for run in runs for i in range(seeds)]
    held = [(one["run"], one["seed"]) for one in known]
    for run, seed in tqdm([one for one in waiting if one not in held], unit="run"):
        arm, options = named[run]
        known.append(_one(run, seed, make_agent(arm, protocol, pretrained, seed, options), protocol, every))
        write_json(out, results, indent=1)
    return results


def _arm(run: str) -> tuple[Arm, dict[str, Any]]:
    """The arm of a run, and its options."""
    name, _, options = run.partition(":")
    if name not in ARMS:
        raise ValueError(f"unknown arm {name!r} in {run!r}: there are {', '.join(ARMS)}")
    return ARMS[name], settings([pair for pair in options.split(",") if pair], "an option of an arm")


def _one(run: str, seed: int, agent: Agent, protocol: Protocol, every: int) -> dict[str, Any]:
    started = time.process_time()
    tests: dict[int, float] = {}
    failed = {}
    try:
        tests[0] = _test(agent, protocol)
        for update in range(1, protocol.updates + 1):
            agent.update()
            if update % every == 0:
                tests[update] = _test(agent, protocol)
    except FloatingPointError as error:
        # A rate that is too high is a result; the next attempt would end alike.
        failed = {"failed": str(error)}
    finally:
        agent.close()
    return {
        "run": run,
        "seed": seed,
        **failed,
        "test": tests,
        "curves": {
            name: [round(record[name], 4) if name in record else None for record in agent.history]
            for name in CURVES
        },
        "cpu_s": round(time.process_time() - started, 1),
    }


def _test(agent: Agent, protocol: Protocol) -> float:
    rewards = agent.evaluate(protocol.episodes, seed=TEST_SEED).episode_rewards
    return round(rewards.mean().item(), 4)


def stability_table(results: dict[str, Any]) -> str:
    """Sampled test reward by update, means over the seeds with the lowest seed beside them, as Markdown.

    Where a seed had diverged, those that had not; the number of seeds says how many did.
    """
    by_run: dict[str, list[dict[str, Any]]] = {}
    for one in results["runs"]:
        by_run.setdefault(one["run"], []).append(one)
    updates = sorted({int(update) for one in results["runs"] for update in one["test"]})
    rows = []
    for run, ones in by_run.items():
        tests = [one["test"] for one in ones]
        cells = [[one[key] for one in tests for key in one if int(key) == update] for update in updates]
        diverged = sum("failed" in one for one in ones)
        seeds = f"{len(ones)}, {diverged} diverged" if diverged else str(len(ones))
        rows.append([run, seeds, *(f"{np.mean(c):.3f} ({min(c):.3f})" if c else "" for c in cells)])
    return table(["run", "seeds", *(f"after {update}" for update in updates)], rows)


def add(commands: Commands) -> None:
    parser = commands.add_parser("stability", help="test reward update by update, under given options")
    parser.add_argument("--runs", nargs="+", required=True, metavar="ARM:OPTION=VALUE,...")
    parser.add_argument("--task", default="Arithmetic", help="name of the environments: CoLA-<task>-v0")
    add_env(parser)
    add_model(parser)
    parser.add_argument("--seeds", type=positive, default=3, help="RL seeds of each run")
    parser.add_argument("--updates", type=positive, default=40)
    parser.add_argument("--prompts", type=positive, default=16)
    parser.add_argument("--group-size", type=positive, default=8)
    parser.add_argument("--episodes", type=positive, default=512, help="test problems of a look")
    parser.add_argument("--every", type=positive, default=10, help="updates between two looks")
    parser.add_argument("--out", type=Path, required=True, help="a JSON file, which goes on if it holds runs")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    played = options(arguments, "updates", "prompts", "group_size", "episodes")
    protocol = Protocol(arguments.task, settings(arguments.env, "--env"), **played)
    given = options(arguments, "runs", "out", "seeds", "every")
    results = stability(protocol=protocol, pretrained=model_folder(arguments), **given)
    print(stability_table(results))
