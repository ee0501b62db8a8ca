"""``cola play``: an episode by hand."""

from __future__ import annotations

import argparse

from cola_agents.commands import Commands
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, load_playing, named_task, task_of_agent


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "play", help="play a task yourself: type text, or pick codes and see what each would say"
    )
    parser.add_argument("task", nargs="?", help=f"{TASK_HELP}; an agent's own where not given")
    parser.add_argument("--codes", action="store_true", help="pick codes, one a token")
    parser.add_argument("--model", help="folder or hub id; the bundled model without it")
    add_agent(parser, "folder of a saved agent: watch it play; with --codes its policy")
    parser.add_argument("--split", help="one of the task's; the one to train on where not given")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    add_env(parser)
    parser.set_defaults(run=_play)


def _play(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.play import play

    task, kwargs = named_task(task_of_agent(arguments.task, arguments.agent), arguments.env)
    kwargs |= {key: value for key in ("model", "split") if (value := getattr(arguments, key)) is not None}
    agent = None
    if arguments.agent is not None:
        if arguments.model is not None:
            raise ValueError("give --model or --agent, not both: an agent knows its model")
        agent = load_playing(arguments.agent, kwargs, arguments.algo)
    returns = play(task, codes=arguments.codes, seed=arguments.seed, agent=agent, env_kwargs=kwargs)
    if returns:
        print(f"{len(returns)} episodes, mean reward {sum(returns) / len(returns):g}.")
    return 0
