"""``cola generate``: record several answers to each problem, with codes and rewards."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.model_options import MODEL_HELP, add_model_options
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, played_by

if TYPE_CHECKING:
    from cola_agents.model.sampling import Drawing


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("generate", help="record n answers to each problem, with codes and rewards")
    parser.add_argument("--task", help=f"{TASK_HELP}; by default the agent's")
    parser.add_argument("--out", type=Path, required=True, help=".jsonl[.gz] file to write or to continue")
    parser.add_argument(
        "--problems", type=int, default=256, help="number of problems; for a file of them --env problems=FILE"
    )
    parser.add_argument("--n", type=int, default=16, help="answers per problem")
    parser.add_argument(
        "--temperature", type=float, help="of the sampling of actions; by default the agent's, or 1"
    )
    parser.add_argument("--seed", type=int, default=0, help="problem i has seed + i")
    parser.add_argument("--num-envs", type=int, default=64, help="rows that play in parallel")
    parser.add_argument("--model", help=MODEL_HELP)
    add_agent(parser, "folder of a saved agent, instead of --model")
    parser.add_argument("--split", help="one of the task's; by default the one to train on")
    add_model_options(parser)
    add_env(parser)
    parser.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> int:
    from cola_agents.rl.generate import check_tries, first_line, generate
    from cola_agents.rl.recording import check_begun, check_path
    from cola_agents.rl.rows import check_rows
    from cola_envs.build import repeatable

    given: Drawing = {} if arguments.temperature is None else {"temperature": arguments.temperature}
    check_tries(arguments.problems, arguments.n, num_envs=arguments.num_envs, seed=arguments.seed, **given)
    check_path(arguments.out)
    task, kwargs, folder = played_by(arguments)
    policy = None
    drawing: Drawing = {}
    if folder is not None:
        kwargs = {**folder.kwargs_on(task), **kwargs}
        check_rows(task, **kwargs)
        known = first_line(task, arguments.n, arguments.seed, given, repeatable(kwargs))
        check_begun(arguments.out, known)
        agent = folder.load()
        kwargs["model"], policy, drawing = agent.backbone, agent.actor, agent.options.drawing
    drawing = {**drawing, **given}
    figures = generate(
        task,
        arguments.out,
        problems=arguments.problems,
        n=arguments.n,
        policy=policy,
        **drawing,
        seed=arguments.seed,
        num_envs=arguments.num_envs,
        watch=lambda count: print(f"{count} episodes", flush=True),
        env_kwargs=kwargs,
    )
    print(json.dumps(figures, indent=2))
    return 0
