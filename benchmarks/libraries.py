"""``python -m benchmarks libraries``: other RL libraries on one environment, through the examples.

Each example of ``examples/libraries`` trains once; steps per CPU-second count playing and learning, without
imports. Libraries that do not install beside one another are measured from environments of their own: a run
replaces its own entries in the file that it writes and keeps the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import RESULTS, Commands
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance

EXAMPLES = Path(__file__).parents[1] / "examples" / "libraries"
#: Of each run: its example, further arguments, and the distributions whose versions matter.
RUNS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "ppo_sb3": ("sb3_algorithms", {"algorithm": "ppo"}, ()),
    "dqn_sb3": ("sb3_algorithms", {"algorithm": "dqn"}, ()),
    "maskable_ppo": ("sb3_algorithms", {"algorithm": "maskable_ppo"}, ("sb3-contrib",)),
    "recurrent_ppo": ("sb3_algorithms", {"algorithm": "recurrent_ppo"}, ("sb3-contrib",)),
    "trpo": ("sb3_algorithms", {"algorithm": "trpo"}, ("sb3-contrib",)),
    "qr_dqn": ("sb3_algorithms", {"algorithm": "qr_dqn"}, ("sb3-contrib",)),
    "ppo_cleanrl": ("ppo_cleanrl", {}, ()),
    "dqn_cleanrl": ("dqn_cleanrl", {}, ()),
    "ppo_tianshou": ("ppo_tianshou", {}, ("tianshou",)),
    "ppo_torchrl": ("ppo_torchrl", {}, ("torchrl", "tensordict")),
    "ppo_skrl": ("ppo_skrl", {}, ("skrl",)),
    "ppo_rllib": ("ppo_rllib", {}, ("ray",)),
    "offline_minari": ("offline_minari", {}, ("minari",)),
}


def load(name: str) -> ModuleType:
    """The example of ``examples/libraries`` with that name, as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measure(name: str, timesteps: int, num_envs: int, seed: int) -> dict[str, Any]:
    """One run: reward of the last episodes, steps per CPU-second of this process, versions."""
    example, arguments, distributions = RUNS[name]
    module = load(example)
    torch.set_num_threads(1)
    cpu, wall = time.process_time(), time.perf_counter()
    reward = module.main(timesteps, num_envs=num_envs, seed=seed, **arguments)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    where = provenance()
    where["packages"] |= {distribution: version(distribution) for distribution in distributions}
    return {
        "timesteps": timesteps,
        "num_envs": num_envs,
        "seed": seed,
        "mean_reward_of_last_episodes": round(reward, 4),
        "steps_per_cpu_s": round(timesteps / cpu, 1),
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        **where,
    }


def add(commands: Commands) -> None:
    parser = commands.add_parser("libraries", help="other RL libraries on CoLA-Thinking-v0")
    parser.add_argument(
        "--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="RUN", help=", ".join(RUNS)
    )
    parser.add_argument("--timesteps", type=positive, default=100_000)
    parser.add_argument("--num-envs", type=positive, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "libraries.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    for name in arguments.only:
        result = measure(name, arguments.timesteps, arguments.num_envs, arguments.seed)
        results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        write_json(arguments.out, {**results, name: result}, indent=1)
    results = json.loads(arguments.out.read_text())
    columns = ("mean_reward_of_last_episodes", "steps_per_cpu_s", "timesteps")
    rows = [[name, *(result[key] for key in columns)] for name, result in results.items()]
    print(table(["run", *columns], rows))
