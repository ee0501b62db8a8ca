"""``cola train``: train an agent on a task; ``cola resume`` continues the run."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.model_options import add_model_options, add_prompt_settings, pop_loading
from cola_agents.commands.settings import settings as parsed
from cola_agents.commands.settings import whole_number
from cola_agents.commands.tasks import (
    ALGO_HELP,
    ALGORITHMS,
    TASK_HELP,
    add_env,
    algorithm_class,
    algorithm_name,
    named_task,
)
from cola_agents.common.files import SETTINGS, first_process, one_writer, write_whole
from cola_agents.common.interrupts import exit_status
from cola_agents.common.sealed import DamagedError, sealed, unsealed

if TYPE_CHECKING:
    from cola_agents.rl.agent import Agent
    from cola_agents.rl.rollout import Rollout
    from cola_envs.jsonl import JsonObject


#: Bytes that the periodic saves of a run may add up to by default.
MOST_BYTES = 2_000_000_000


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    text = "train an agent on a task by reinforcement learning; resumable"
    parser = commands.add_parser("train", help=text, add_help=False)
    parser.add_argument(
        "-h", "--help", action=_Help, help="show this message; after --algo NAME, with its options"
    )
    parser.add_argument("--task", required=True, help=TASK_HELP)
    parser.add_argument(
        "--algo",
        "--algorithm",
        required=True,
        type=algorithm_name,
        help=f"{', '.join(ALGORITHMS)}, {ALGO_HELP}; add --help to list its options",
    )
    parser.add_argument(
        "--timesteps",
        type=whole_number,
        required=True,
        help="actions to take over all rows; the last update is completed, so a few more are taken",
    )
    parser.add_argument("--out", type=Path, required=True, help="new folder for the agent and its logs")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of the algorithm; `cola train --algo NAME --help` lists them",
    )
    add_env(parser, old=False)
    parser.add_argument("--model", help="folder or hub id; by default the bundled model")
    parser.add_argument("--tokenizer", help="folder or hub id; by default the model's")
    parser.add_argument("--num-envs", type=int, default=32, help="rows that play in parallel")
    parser.add_argument("--seed", type=int, default=0, help="seed of problems, draws and minibatches")
    add_model_options(parser, agents=False)
    parser.add_argument(
        "--save-every",
        type=whole_number,
        help="timesteps between saves; by default 1/20 of all, or more where saves are large: so many that "
        "they add up to about 2 GB, and at least two",
    )
    parser.add_argument(
        "--log", default="stdout,csv,json", help="any of stdout,log,csv,json,tensorboard,wandb"
    )
    parser.add_argument("--log-interval", type=int, default=5, help="updates between log records")
    parser.add_argument("--episodes", type=int, default=256, help="episodes of the final evaluation")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, and nothing logged to stdout")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    for name in ("timesteps", "log_interval", "episodes"):
        if (count := getattr(arguments, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {count}")
    if arguments.save_every is not None and arguments.save_every < 1:
        raise ValueError(f"--save-every must be at least 1, got {arguments.save_every}")
    from cola_agents.rl.logs import check_formats
    from cola_agents.rl.saving import is_free

    formats = [name for name in arguments.log.split(",") if name]
    check_formats(formats)
    cls = algorithm_class(arguments.algo)
    settings = {
        "timesteps": arguments.timesteps,
        "save_every": arguments.save_every,
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
    """Create the agent, save it untrained, and train it."""
    out: Path = arguments.out
    task, env_kwargs = named_task(arguments.task, arguments.env)
    add_prompt_settings(arguments, env_kwargs)
    loading = pop_loading(arguments, env_kwargs)
    options = parsed(arguments.set, "--set")
    _check_options(cls, options, arguments)
    agent = cls(
        task,
        num_envs=arguments.num_envs,
        seed=arguments.seed,
        model=arguments.model,
        tokenizer=arguments.tokenizer,
        env_kwargs=env_kwargs,
        **loading,
        **options,
    )
    if settings["save_every"] is None:
        saves = min(20, max(2, MOST_BYTES // agent.save_bytes()))
        settings["save_every"] = max(1, settings["timesteps"] // saves)
    write_settings(out, settings)  # first: a folder with an agent must be a run that can be resumed
    agent.save(out)
    return go_on(agent, out, settings, algo=arguments.algo, quiet=arguments.quiet)


def _check_options(cls: type[Agent], options: JsonObject, arguments: argparse.Namespace) -> None:
    """Raise ValueError for an argument of the agent that is no option of its algorithm."""
    own = {field.name for field in dataclasses.fields(cls.options_class)}
    others = set(inspect.signature(cls).parameters) - own
    for name in options:
        if name in others:
            flag = f": give --{name.replace('_', '-')}" if hasattr(arguments, name) else ""
            raise ValueError(f"--set {name}=...: {name} is no option of an algorithm{flag}")


def writing(out: Path) -> AbstractContextManager[None]:
    """Lock the run's folder within the block, in rank 0 of several processes, which alone writes."""
    return one_writer(out) if first_process() else nullcontext()


def write_settings(out: Path, settings: JsonObject) -> None:
    """Write :data:`SETTINGS`."""
    if first_process():
        write_whole(out / SETTINGS, sealed(settings))


def read_settings(out: Path) -> JsonObject:
    """What :func:`write_settings` wrote.

    Raises:
        DamagedError: a ValueError, for any other content.
    """
    hint = "the agent beside it can be loaded: cola_agents.evaluation.run.load_agent"
    try:
        settings = unsealed(out / SETTINGS)
    except DamagedError as error:
        raise DamagedError(f"{error}; {hint}") from error
    formats = settings.get("log")
    numbers = [settings.get(name) for name in ("timesteps", "save_every", "log_interval", "episodes")]
    if not isinstance(formats, list) or not all(type(number) is int and number > 0 for number in numbers):
        raise DamagedError(f"{out / SETTINGS} is damaged, or not what `cola train` writes; {hint}")
    return settings


def go_on(agent: Agent, out: Path, settings: JsonObject, *, algo: str | None, quiet: bool) -> int:
    """Learn until ``settings["timesteps"]``, then evaluate on test problems and print the result.

    Args:
        algo: the value of ``--algo``, for the commands that are printed.

    Returns:
        the exit status: 130 after Ctrl-C and 143 after SIGTERM, with the agent saved; 1 for a loss that is
        not finite.
    """
    from stable_baselines3.common.logger import Logger

    from cola_agents.rl.logs import make_logger
    from cola_envs.shown import shown

    custom = {"--task": agent.env_kwargs.get("task"), "--algo": algo if algo and ":" in algo else None}
    flags = "".join(f"{flag} {name} " for flag, name in custom.items() if isinstance(name, str))
    learns = agent.num_timesteps < settings["timesteps"]
    alone = first_process()  # of several processes, that which writes and prints
    formats = [name for name in settings["log"] if learns and not (quiet and name == "stdout")]
    logger = make_logger(out / "logs", formats) if alone else Logger(None, [])
    agent.set_logger(logger)
    try:
        before = agent.evaluate(1) if learns else None
        if learns and alone:
            print(f"Learning until {settings['timesteps']} timesteps, update by update.", file=sys.stderr)
        if learns:
            agent.learn(
                settings["timesteps"] - agent.num_timesteps,
                log_interval=settings["log_interval"],
                progress_bar=not quiet,
                save_every=settings["save_every"],
                save_to=out,
            )
        after = agent.evaluate(settings["episodes"])
    except KeyboardInterrupt as stopped:
        command = f"`cola resume {flags}{out}`"
        print(f"stopped at {agent.num_timesteps} timesteps; continue with {command}", file=sys.stderr)
        return exit_status(stopped)
    except FloatingPointError as error:
        print(f"cola: {shown(str(error))}; the last whole agent is in {out}", file=sys.stderr)
        return 1
    finally:
        logger.close()
        agent.close()
    if alone:
        _report(agent, before, after)
        print(f"The agent is in {out}: `cola eval {flags}--agent {out}`.")
    return 0


def _report(agent: Agent, before: Rollout | None, after: Rollout) -> None:
    """Print one answer before and after training, and the scores on test problems."""
    from cola_agents.evaluation.scores import wilson
    from cola_envs.fields import SPLIT, SUCCESS, TEXT
    from cola_envs.shown import shown_line

    if before is not None:
        print(f"One answer before: {shown_line(TEXT.of(before.infos[0]))}")
        print(f"The same after:    {shown_line(TEXT.of(after.infos[0]))}")
    successes = sum(SUCCESS.of(info) for info in after.infos)
    low, high = wilson(successes, len(after))
    split = SPLIT.get(after.infos[0], "")
    print(
        f"{agent.env_id},{f' split {split},' if split else ''} {len(after)} episodes: "
        f"success {successes / len(after):.3f} (95 %: {low:.3f} to {high:.3f}), "
        f"reward {after.episode_rewards.mean().item():.3f}, after {agent.num_timesteps} timesteps"
    )


class _Help(argparse.Action):
    """``--help``, which also lists the options of an algorithm that ``--algo`` named before it."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(
            option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        if namespace.algo is not None:  # only then, since the options' classes import torch
            try:
                parser.epilog = f"{algorithm_options(namespace.algo)}\n\n{parser.epilog}"
            except (ImportError, TypeError) as error:
                parser.error(str(error))
        parser.print_help()
        parser.exit()


def algorithm_options(algo: str) -> str:
    """The options of an algorithm with their types, defaults and meanings, for a terminal.

    Meanings are read from the ``Attributes`` of the options class and of its bases.
    """
    cls = algorithm_class(algo)
    meanings: dict[str, str] = {}
    for base in reversed(cls.options_class.__mro__):
        section = (inspect.getdoc(base) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
        for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n     .*)*)", section, re.MULTILINE):
            text = re.sub(r":\w+:`|`+", "", " ".join(text.split()))
            meanings |= dict.fromkeys(names.split(", "), text)
    lines = [f"options of {cls.__name__}, each as --set OPTION=VALUE:"]
    fields = dataclasses.fields(cls.options_class)
    for meaning, group in itertools.groupby(fields, key=lambda field: meanings.get(field.name, "")):
        lines += [f"  {field.name}: {field.type} = {field.default!r}" for field in group]
        lines += textwrap.wrap(meaning, 104, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)
