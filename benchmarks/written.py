"""``python -m benchmarks written``: how many answers to arithmetic are written in steps, by policy.

What a policy earns in ``CoLA-Arithmetic-v0`` depends on whether it makes the model write the calculation in
front of the answer. Policies that do not look at the text are measured beside the cloned one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS, Commands
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import make_backbone
from cola_agents.evaluation.demo import FixedCodes, best_constant_code, constant_codes
from cola_agents.rl.collecting import AnyPolicy, InitialPolicy, collect
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import make_rows
from cola_envs.fields import TEXT

TASK = "CoLA-Arithmetic-v0"
ROWS = 64


def in_steps(text: str) -> bool:
    """Whether an answer has a calculation in front of its box."""
    return "=" in text.partition("\\boxed")[0]


def shares(rollout: Rollout) -> dict[str, Any]:
    """The share of answers in steps, and the mean reward of all answers, of those, and of the others.

    Of no answers the mean is None.
    """
    steps = torch.tensor([in_steps(TEXT.of(info)) for info in rollout.infos])
    rewards = rollout.episode_rewards
    return {
        "in_steps": _mean(steps.float()),
        "reward": _mean(rewards),
        "reward_in_steps": _mean(rewards[steps]),
        "reward_of_others": _mean(rewards[~steps]),
    }


def _mean(values: Tensor) -> float | None:
    return round(values.float().mean().item(), 4) if len(values) else None


def measure(model: str | None, *, level: int, episodes: int, seed: int = 10_000) -> dict[str, Any]:
    """:func:`shares` of each policy on the same test problems.

    Args:
        model: a latent-action model; None for the bundled one.
        level: of the problems.
        episodes: the number of problems.
        seed: of the first problem, and of the draws.
    """
    backbone = make_backbone(model, level="latent")
    num_codes = int(backbone.action_space.n)
    with closing(make_rows(TASK, num_codes, model=backbone, level=level)) as train:

        def play(logits: Tensor, problems: Sequence[int]) -> Rollout:
            seeds = range(len(problems))
            return collect(train.episodes, FixedCodes(logits), seeds=seeds, problem_seeds=problems)

        best = best_constant_code(num_codes, play)
    same = constant_codes(num_codes)[best].expand(ROWS, -1)
    policies: dict[str, tuple[AnyPolicy, float]] = {
        "one constant code": (FixedCodes(same), 1.0),
        "random codes": (FixedCodes(torch.zeros(ROWS, num_codes)), 1.0),
        "cloned policy, sampled": (InitialPolicy(), 1.0),
        "cloned policy, greedy": (InitialPolicy(), 0.0),
    }
    seeds = range(seed, seed + episodes)
    with closing(make_rows(TASK, ROWS, model=backbone, level=level, split="test")) as test:
        found = {
            name: shares(collect(test.episodes, policy, seeds=seeds, temperature=temperature))
            for name, (policy, temperature) in policies.items()
        }
    return {
        "task": TASK,
        "level": level,
        "problems": episodes,
        "seed": seed,
        "fingerprint": backbone.fingerprint,
        "constant_code": best,
        "policies": found,
    }


def written_table(policies: dict[str, dict[str, Any]]) -> str:
    """The shares as a Markdown table."""
    rows = [
        [name, *("" if value is None else f"{value:.3f}" for value in found.values())]
        for name, found in policies.items()
    ]
    return table(["policy", "answers in steps", "reward", "reward of those", "of the others"], rows)


def add(commands: Commands) -> None:
    parser = commands.add_parser("written", help="how many answers to arithmetic are written in steps")
    parser.add_argument("--model", help="folder of a latent-action model; by default the bundled one")
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--episodes", type=positive, default=1024, help="number of problems")
    parser.add_argument("--seed", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS / "written.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    found = measure(arguments.model, level=arguments.level, episodes=arguments.episodes, seed=arguments.seed)
    write_json(arguments.out, {**found, **provenance()}, indent=1)
    print(written_table(found["policies"]))
