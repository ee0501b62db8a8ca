"""``python -m benchmarks memory``: the planned GPU memory of training at 8B; nothing is run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, Commands, options
from benchmarks.speed.shapes import SHAPES
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.rl.memory import memory_plan

#: One GPU's share: 128 episodes of 1,024 tokens, 64 at a time, a prompt of 200 tokens.
WORK: dict[str, int] = {
    "rows": 64,
    "episodes": 128,
    "length": 1024,
    "prompt": 200,
    "minibatch": 64,
    "micro_batch": 1,
}
ARMS: dict[str, dict[str, Any]] = {
    "latent": {"level": "latent"},
    "latent, LoRA 16": {"level": "latent", "lora_rank": 16},
    "token, LoRA 16": {"level": "token", "lora_rank": 16},
    "token, all weights": {"level": "token"},
}


def plans(work: dict[str, int] | None = None) -> dict[str, dict[str, float]]:
    """The plan of every arm at the shapes of Llama-3.1-8B in bfloat16, in GiB."""
    config = SHAPES["8b"].config()
    return {name: memory_plan(config, **{**arm, **(work or WORK)}) for name, arm in ARMS.items()}


def plan_table(plans_by_arm: dict[str, dict[str, float]]) -> str:
    """One row per part, one column per arm, in GiB, as Markdown."""
    rows = [
        [part.replace("_", " "), *(f"{plan[part]:.2f}" for plan in plans_by_arm.values())]
        for part in next(iter(plans_by_arm.values()))
    ]
    return table(["GiB", *plans_by_arm], rows, numbers=True)


def add(commands: Commands) -> None:
    parser = commands.add_parser("memory", help="what learning at 8B takes of a GPU, as planned")
    for name, value in WORK.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--out", type=Path, default=RESULTS / "memory.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    work = options(arguments, *WORK)
    by_arm = plans(work)
    rounded = {arm: {part: round(gib, 3) for part, gib in plan.items()} for arm, plan in by_arm.items()}
    results = {**provenance(), "work": work, "plans_gib": rounded}
    write_json(arguments.out, results, indent=1)
    print(plan_table(by_arm))
