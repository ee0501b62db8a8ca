"""``cola demo``: compare latent with token RL on the bundled models."""

from __future__ import annotations

import argparse
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.model_options import add_model_options, add_prompt_settings, pop_loading
from cola_agents.commands.settings import check_out
from cola_agents.commands.tasks import TASK_HELP, add_env, named_task


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "demo", help="compare latent with token RL on the bundled models, in minutes"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("cola-demo"), help="folder for table, plot and results"
    )
    parser.add_argument("--task", default="CoLA-Thinking-v0", help=f"{TASK_HELP}; over latent actions")
    add_model_options(parser, agents=False)
    add_env(parser, old=False)
    parser.add_argument("--updates", type=int, default=50, help="GRPO updates of 128 rollouts per arm")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 0")
    parser.add_argument("--episodes", type=int, default=256, help="test episodes per evaluation")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.demo import run_demo

    if min(arguments.updates, arguments.seeds, arguments.episodes) < 1:
        raise ValueError("--updates, --seeds and --episodes must be at least 1")
    task, env_kwargs = named_task(arguments.task, arguments.env)
    add_prompt_settings(arguments, env_kwargs)
    loading = pop_loading(arguments, env_kwargs)
    check_out(arguments.out, "folder")
    run_demo(
        arguments.out,
        task=task,
        env_kwargs=env_kwargs,
        updates=arguments.updates,
        seeds=range(arguments.seeds),
        episodes=arguments.episodes,
        **loading,
    )
    return 0
