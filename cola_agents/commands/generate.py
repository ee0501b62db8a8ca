"""``cola generate``: several answers to each problem, with codes and rewards."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.settings import add_set, settings


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("generate", help="record n answers to each problem, with codes and rewards")
    parser.add_argument("--task", required=True, help="environment id, e.g. CoLA-Arithmetic-v0")
    parser.add_argument("--out", type=Path, required=True, help=".jsonl[.gz] to write, or to go on with")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--n", type=int, default=16, help="answers to each problem")
    parser.add_argument("--temperature", type=float, default=1.0, help="at which actions are drawn")
    parser.add_argument("--seed", type=int, default=0, help="problem i is drawn with seed + i")
    parser.add_argument("--num-envs", type=int, default=64, help="rows that play side by side")
    parser.add_argument("--model", help="folder or hub id; the bundled model without it")
    parser.add_argument("--agent", type=Path, help="folder of a saved agent, in place of --model")
    parser.add_argument("--split", help="one of the task's; the one to train on where not given")
    add_set(parser)
    parser.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    from cola_agents.rl.generate import generate

    kwargs = settings(arguments.set)
    kwargs |= {key: value for key in ("model", "split") if (value := getattr(arguments, key)) is not None}
    policy = None
    if arguments.agent is not None:
        from cola_agents.evaluation.run import load_agent

        if arguments.model is not None:
            raise ValueError("give --model or --agent, not both: an agent knows its model")
        agent = load_agent(arguments.agent)
        kwargs["model"], policy = agent.backbone, agent.actor
    figures = generate(
        arguments.task,
        arguments.out,
        problems=arguments.problems,
        n=arguments.n,
        policy=policy,
        temperature=arguments.temperature,
        seed=arguments.seed,
        num_envs=arguments.num_envs,
        watch=lambda count: print(f"{count} episodes", flush=True),
        **kwargs,
    )
    print(json.dumps(figures, indent=2))
    return 0
