"""``cola train``: a bundled agent learns a task; ``cola resume`` goes on with what it wrote."""

from __future__ import annotations

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.settings import settings as parsed
from cola_agents.commands.settings import whole
from cola_agents.commands.tasks import TASK_HELP, add_env, named_task
from cola_agents.common.files import SETTINGS, first_process, one_writer, write_whole
from cola_agents.common.interrupts import exit_status
from cola_agents.common.sealed import DamagedError, sealed, unsealed

if TYPE_CHECKING:
    from cola_agents.rl.agent import Agent
    from cola_envs.jsonl import JsonObject

ALGORITHMS = ("grpo", "ppo", "remax", "rloo")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("train", help="learn a task by reinforcement; resumable, with logs")
    parser.add_argument("--task", required=True, help=TASK_HELP)
    parser.add_argument("--algo", required=True, type=str.lower, choices=ALGORITHMS)
    parser.add_argument(
        "--timesteps",
        type=whole,
        required=True,
        help="actions to take over all rows; the update that gets there is finished, which is a few more",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for the agent and its logs")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="an option of the algorithm"
    )
    add_env(parser, old=False)
    parser.add_argument("--model", help="folder or hub id; the bundled model without it")
    parser.add_argument("--tokenizer", help="folder or hub id, where the model's own is not beside it")
    parser.add_argument("--num-envs", type=int, default=32, help="rows that play side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="e.g. cuda; where the model is without it")
    parser.add_argument("--dtype", default="float32", help="e.g. bfloat16")
    parser.add_argument("--save-every", type=whole, help="timesteps between two saves; a twentieth of all")
    parser.add_argument("--log", default="stdout,csv,json", help="of stdout,log,csv,json,tensorboard,wandb")
    parser.add_argument("--log-interval", type=int, default=5, help="updates between two log records")
    parser.add_argument("--episodes", type=int, default=256, help="of the evaluation at the end")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and nothing logged to stdout")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    if min(arguments.timesteps, arguments.log_interval, arguments.episodes) < 1:
        raise ValueError("--timesteps, --log-interval and --episodes must be at least 1")
    save_every = max(1, arguments.timesteps // 20) if arguments.save_every is None else arguments.save_every
    if save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {save_every}")
    from cola_agents.rl.logs import check_formats
    from cola_agents.rl.registry import AGENTS
    from cola_agents.rl.saving import is_free

    formats = [name for name in arguments.log.split(",") if name]
    check_formats(formats)
    cls = next(agent for name, agent in AGENTS.items() if name.lower() == arguments.algo)
    settings = {
        "timesteps": arguments.timesteps,
        "save_every": save_every,
        "log": formats,
        "log_interval": arguments.log_interval,
        "episodes": arguments.episodes,
    }
    out: Path = arguments.out
    with writing(out):
        if first_process() and not is_free(out):
            raise FileExistsError(
                f"{out} is not empty: give another --out, or go on with `cola resume {out}`"
            )
        return _begin(cls, arguments, settings)


def _begin(cls: type[Agent], arguments: argparse.Namespace, settings: JsonObject) -> int:
    """Make the agent, save it as it begins, and have it learn."""

    out: Path = arguments.out
    task, env_kwargs = named_task(arguments.task, arguments.env)
    agent = cls(
        task,
        num_envs=arguments.num_envs,
        seed=arguments.seed,
        model=arguments.model,
        tokenizer=arguments.tokenizer,
        device=arguments.device,
        dtype=arguments.dtype,
        env_kwargs=env_kwargs,
        **parsed(arguments.set, "--set"),
    )
    write_settings(out, settings)  # first: a folder with an agent in it is a run that can be resumed
    agent.save(out)
    return go_on(agent, out, settings, quiet=arguments.quiet)


def writing(out: Path) -> AbstractContextManager[None]:
    """A block in which this run alone writes its folder. Of several processes the first one writes."""
    return one_writer(out) if first_process() else nullcontext()


def write_settings(out: Path, settings: JsonObject) -> None:
    """Write :data:`SETTINGS`."""
    if first_process():
        write_whole(out / SETTINGS, sealed(settings))


def read_settings(out: Path) -> JsonObject:
    """What :func:`write_settings` wrote.

    Raises:
        DamagedError: a ValueError, where that is not what is there.
    """
    beside = "the agent beside it can be loaded: cola_agents.evaluation.run.load_agent"
    try:
        settings = unsealed(out / SETTINGS)
    except DamagedError as error:
        raise DamagedError(f"{error}; {beside}") from error
    formats = settings.get("log")
    numbers = [settings.get(name) for name in ("timesteps", "save_every", "log_interval", "episodes")]
    if not isinstance(formats, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise DamagedError(f"{out / SETTINGS} is damaged, or not what `cola train` writes; {beside}")
    return settings


def go_on(agent: Agent, out: Path, settings: JsonObject, *, quiet: bool) -> int:
    """Learn until ``settings["timesteps"]``, then play test problems and print one line of it.

    Returns:
        the exit status: 130 after Ctrl-C and 143 after SIGTERM, with the agent saved; 1 where the loss was
        not finite.
    """
    from cola_agents.evaluation.scores import wilson
    from cola_agents.rl.logs import make_logger
    from cola_envs.fields import SPLIT, SUCCESS, TEXT
    from cola_envs.shown import shown, shown_line

    learns = agent.num_timesteps < settings["timesteps"]
    formats = [name for name in settings["log"] if learns and not (quiet and name == "stdout")]
    logger = make_logger(out / "logs", formats)
    agent.set_logger(logger)
    try:
        if learns:
            before = agent.evaluate(1)
            print(f"Learning until {settings['timesteps']} timesteps, update by update.", file=sys.stderr)
            agent.learn(
                settings["timesteps"] - agent.num_timesteps,
                log_interval=settings["log_interval"],
                progress_bar=not quiet,
                save_every=settings["save_every"],
                save_to=out,
            )
        rollout = agent.evaluate(settings["episodes"])
    except KeyboardInterrupt as stopped:
        print(f"stopped at {agent.num_timesteps} timesteps; `cola resume {out}` goes on", file=sys.stderr)
        return exit_status(stopped)
    except FloatingPointError as error:
        print(f"cola: {shown(str(error))}; the last whole agent is in {out}", file=sys.stderr)
        return 1
    finally:
        logger.close()
        agent.close()
    if learns:
        print(f"One answer before: {shown_line(TEXT.of(before.infos[0]))}")
        print(f"The same after:    {shown_line(TEXT.of(rollout.infos[0]))}")
    won = sum(SUCCESS.of(info) for info in rollout.infos)
    low, high = wilson(won, len(rollout))
    print(
        f"{agent.env_id}, split {SPLIT.get(rollout.infos[0], 'not named')}, {len(rollout)} episodes: "
        f"success {won / len(rollout):.3f} (95 %: {low:.3f} to {high:.3f}), "
        f"reward {rollout.episode_rewards.mean().item():.3f}, after {agent.num_timesteps} timesteps"
    )
    own = agent.env_kwargs.get("task")
    named = f"--task {own} " if isinstance(own, str) else ""
    print(f"The agent is in {out}: `cola eval {named}--agent {out}`.")
    return 0
