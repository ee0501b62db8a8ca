"""``python -m benchmarks``: run a benchmark and keep its results."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym

from benchmarks import libraries, models, plain_networks, readouts, real, stability, written
from benchmarks.claims import paper
from benchmarks.compare import campaign, report
from benchmarks.credit import credit, diversity
from benchmarks.peers import report as peers
from benchmarks.search import command as search
from benchmarks.speed import engines, growth, iterations, memory, shapes, speed, stages
from cola_agents.common.interrupts import exit_status, sigterm_as_interrupt
from cola_envs.shown import shown

#: Each adds its parser, in the order of the help text.
MODULES = (
    speed,
    peers,
    libraries,
    plain_networks,
    growth,
    shapes,
    iterations,
    stages,
    memory,
    engines,
    models,
    real,
    readouts,
    campaign,
    report,
    stability,
    search,
    credit,
    diversity,
    written,
    paper,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 130 after Ctrl-C, 143 after SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="benchmark")
    for module in MODULES:
        module.add(commands)
    arguments = parser.parse_args(argv)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_as_interrupt():
            arguments.run(arguments)
    except KeyboardInterrupt as stopped:
        print("benchmarks: stopped", file=sys.stderr)
        return exit_status(stopped)
    except (ValueError, TypeError, FloatingPointError, OSError, ImportError, gym.error.Error) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(
            f"benchmarks: {shown(str(error))} [{Path(place.filename).name}:{place.lineno}]", file=sys.stderr
        )
        return 2
    print(f"Wrote {arguments.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
