"""``python -m benchmarks tasks``: how fast tasks make problems and grade answers, without any model."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks import RESULTS, Commands
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.provenance import provenance
from cola_envs.grading import grade_answers
from cola_envs.tasks import arithmetic, countdown, substitute, textrooms


def _generated(generate: Callable[[int], object], count: int) -> None:
    for seed in range(count):
        generate(seed)


def _scored(puzzles: list[countdown.Puzzle], count: int) -> None:
    for puzzle in puzzles[:count]:
        countdown.score(puzzle.answer, puzzle.numbers, puzzle.target)


def works() -> dict[str, tuple[Callable[[int], object], int]]:
    """By name: a function that does ``count`` pieces of work, and the count to measure."""
    puzzles = [countdown.generate(seed, difficulty=3) for seed in range(1000)]
    golds = [str(i) for i in range(10_000)]
    return {
        "arithmetic problems": (lambda count: list(islice(arithmetic.problems(1), count)), 2000),
        "substitute problems": (lambda count: [substitute.train_item(1, k) for k in range(count)], 10_000),
        "TextRooms games": (partial(_generated, textrooms.generate), 300),
        "Countdown puzzles": (partial(_generated, partial(countdown.generate, difficulty=3)), 500),
        "Countdown answers scored": (partial(_scored, puzzles), 1000),
        "integers graded": (lambda count: grade_answers(golds[:count], golds[:count]), 10_000),
    }


def measure(turns: int = 5) -> dict[str, float]:
    """Pieces of work per CPU-second: the median of ``turns`` runs, after one that is not counted."""
    rates: dict[str, float] = {}
    for name, (work, count) in works().items():
        spent = []
        for _ in range(turns + 1):
            start = time.process_time()
            work(count)
            spent.append(time.process_time() - start)
        rates[name] = round(count / statistics.median(spent[1:]))
    return rates


def add(commands: Commands) -> None:
    parser = commands.add_parser("tasks", help="how fast tasks make problems and grade answers")
    parser.add_argument("--turns", type=positive, default=5, help="runs, of which the median counts")
    parser.add_argument("--out", type=Path, default=RESULTS / "tasks.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    rates = measure(arguments.turns)
    results = {**provenance(), "per_cpu_second": rates}
    write_json(arguments.out, results, indent=1)
    for name, rate in rates.items():
        print(f"{name:26}{rate:>10,} a CPU-second")
