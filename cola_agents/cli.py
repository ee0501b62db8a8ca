"""The ``cola`` command."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

from cola_agents.commands import (
    convert,
    data,
    demo,
    evaluate,
    generate,
    inspect,
    look,
    play,
    pretrain,
    resume,
    tasks_list,
    train,
    train_reward,
)
from cola_agents.commands.completion import Completion
from cola_agents.commands.helps import add_defaults_and_example, add_descriptions
from cola_agents.common.interrupts import Terminated, exit_status, sigterm_as_interrupt

COMMANDS = (
    demo,
    tasks_list,
    play,
    train,
    resume,
    evaluate,
    generate,
    pretrain,
    train_reward,
    inspect,
    look,
    data,
    convert,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 130 after Ctrl-C, 143 after SIGTERM."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        with sigterm_as_interrupt() as received, _escaped_warnings():
            if arguments.threads is not None:
                from cola_agents.common.threads import set_threads

                set_threads(arguments.threads)
            status: int = arguments.run(arguments)
            # An interrupted search returns what it has, and does not tell which signal stopped it.
            interrupted = status == exit_status(KeyboardInterrupt())
            return exit_status(Terminated()) if interrupted and received else status
    except KeyboardInterrupt as stopped:
        print("cola: stopped", file=sys.stderr)
        return exit_status(stopped)
    except _reported() as error:
        from cola_envs.shown import shown

        print(f"cola: {shown(str(error))}", file=sys.stderr)
        return 2


def _reported() -> tuple[type[Exception], ...]:
    """Errors that are printed without a traceback; Gymnasium's only where a command has imported it."""
    gymnasium = sys.modules.get("gymnasium")
    own = () if gymnasium is None else (gymnasium.error.Error,)
    return (ValueError, TypeError, ArithmeticError, OSError, ImportError, *own)


@contextmanager
def _escaped_warnings() -> Iterator[None]:
    """Escape control characters in warnings, which may quote the text of a model or of a problem."""
    plain = warnings.formatwarning

    def escaped(*args: Any, **kwargs: Any) -> str:
        from cola_envs.shown import shown

        return shown(plain(*args, **kwargs))

    warnings.formatwarning = escaped
    try:
        yield
    finally:
        warnings.formatwarning = plain


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``cola`` with all of its commands."""
    parser = argparse.ArgumentParser(
        prog="cola", description="Reinforcement learning of language models over latent actions."
    )
    parser.add_argument("--version", action="version", version=f"cola-rl {version('cola-rl')}")
    parser.add_argument("--completion", action=Completion, help="print a shell's completion script for cola")
    parser.set_defaults(run=None, threads=None)
    commands = parser.add_subparsers(metavar="command")
    for command in COMMANDS:
        command.add(commands)
    add_descriptions(parser)
    for own in leaf_parsers(parser):
        add_defaults_and_example(own)
        own.add_argument(
            "--threads", type=int, help="of torch; one for small models on a CPU where it is not given"
        )
    return parser


def leaf_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the commands, and of a command's own subcommands."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for own in action.choices.values():
            yield from leaf_parsers(own)


if __name__ == "__main__":
    sys.exit(main())
