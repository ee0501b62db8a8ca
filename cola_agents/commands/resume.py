"""``cola resume``: continue a run of ``cola train`` exactly from its last save.

A run that has reached its number of timesteps is only evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cola_agents.commands import Commands
from cola_agents.commands.settings import whole_number
from cola_agents.commands.tasks import OWN_ALGO_HELP, algorithm_name, load_playing, own_task
from cola_agents.commands.train import go_on, read_settings, write_settings, writing
from cola_agents.common.files import SETTINGS


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("resume", help="continue a run of `cola train` exactly")
    parser.add_argument("run_folder", metavar="run", type=Path, help="its --out folder")
    parser.add_argument("--task", help="module:Class, if the task is your own")
    parser.add_argument("--model", help="folder or hub id of its model, if that was moved")
    parser.add_argument(
        "--algo", "--algorithm", type=algorithm_name, help=f"if the algorithm is your own: {OWN_ALGO_HELP}"
    )
    parser.add_argument(
        "--timesteps", type=whole_number, help="a new total, counted from the start of the run"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and nothing logged to stdout")
    parser.set_defaults(run=_resume)


def _resume(arguments: argparse.Namespace) -> int:
    out: Path = arguments.run_folder
    if not (out / SETTINGS).is_file():
        hint = ""
        if out.is_dir():
            from cola_agents.rl.saving import holds_agent

            if holds_agent(out):
                hint = f"; cola_agents.evaluation.run.load_agent({str(out)!r}) loads the agent in it"
        raise FileNotFoundError(f"{out} holds no run of `cola train`: there is no {SETTINGS} in it{hint}")
    with writing(out):
        settings = read_settings(out)
        moved = {} if arguments.model is None else {"model": arguments.model}
        agent = load_playing(out, own_task(arguments.task, "a run"), arguments.algo, **moved)
        if arguments.timesteps is not None:
            if agent.num_timesteps >= arguments.timesteps:
                agent.close()
                raise ValueError(
                    f"{out} has taken {agent.num_timesteps} of {arguments.timesteps} timesteps: give "
                    "--timesteps a larger total, or leave it out to evaluate"
                )
            settings["timesteps"] = arguments.timesteps
            write_settings(out, settings)
        return go_on(agent, out, settings, algo=arguments.algo, quiet=arguments.quiet)
