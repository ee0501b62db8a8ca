"""``cola play``: play episodes by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cola_agents.commands import Commands
from cola_agents.commands.model_options import MODEL_HELP, add_model_options
from cola_agents.commands.tasks import TASK_HELP, add_agent, add_env, played_by

if TYPE_CHECKING:
    from cola_agents.evaluation.run import AgentFolder


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "play", help="play a task yourself: type text, or choose codes and see the token of each"
    )
    parser.add_argument("task", nargs="?", help=f"{TASK_HELP}; by default the agent's")
    parser.add_argument(
        "--codes", action="store_true", help="choose codes, from a table of what each would say next"
    )
    parser.add_argument("--model", help=MODEL_HELP)
    add_agent(parser, "folder of a saved agent to watch; with --codes, show its policy")
    parser.add_argument(
        "--browser", action="store_true", help="play on a local page that shows continuations and steps back"
    )
    parser.add_argument("--split", help="one of the task's; by default the one to train on")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    add_model_options(parser)
    add_env(parser)
    parser.set_defaults(run=_play)


def _serve(
    task: str, arguments: argparse.Namespace, agent: AgentFolder | None, kwargs: dict[str, Any]
) -> int:
    import webbrowser

    from cola_agents.evaluation.play import make_playable
    from cola_agents.evaluation.play_page import Game, PlayServer

    env, playing = make_playable(task, arguments.codes, agent, kwargs, render_mode="html")
    with PlayServer(Game(env, playing.actor if playing else None, seed=arguments.seed), task) as server:
        print(f"Play at {server.address}\nPress Ctrl-C to end. Only this machine can open the address.")
        webbrowser.open(server.address)
        server.serve_forever()
    return 0


def _play(arguments: argparse.Namespace) -> int:
    from cola_agents.evaluation.play import play
    from cola_envs.checks import check_count

    check_count("seed", arguments.seed, 0)
    task, kwargs, agent = played_by(arguments)
    if arguments.browser:
        return _serve(task, arguments, agent, kwargs)
    returns = play(task, codes=arguments.codes, seed=arguments.seed, agent=agent, env_kwargs=kwargs)
    if returns:
        print(f"{len(returns)} episodes, mean reward {sum(returns) / len(returns):g}.")
    return 0
