"""The search's speed, the tokens that it computes twice, and its memory over time."""

from __future__ import annotations

import gc
import os
import resource
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed.turns import in_turn, median_ratio
from cola_agents.search import MCTS, SearchConfig

TASK = "CoLA-Arithmetic-v0"


def measure_engine(
    *, trees: int = 16, problems: int = 32, simulations: int = 32, repeats: int = 3, searches: int = 1_000
) -> dict[str, Any]:
    """Simulations a CPU second with many trees and with one, tokens computed again, memory.

    Args:
        trees: side by side, against one at a time.
        problems: that both search.
        repeats: the median of them counts.
        searches: over which memory is watched, with 4 simulations each.
    """
    solvers = {
        name: MCTS(TASK, SearchConfig(simulations=simulations), num_trees=count, env_kwargs={"level": 2})
        for name, count in (("together", trees), ("alone", 1))
    }
    contenders: dict[str, Any] = {
        name: partial(partial, solver.solve, range(problems)) for name, solver in solvers.items()
    }
    times = in_turn(contenders, repeats)
    results = times.outputs
    rates = {
        name: [int(results[name].simulations.sum()) / seconds for seconds in times.cpu[name]]
        for name in solvers
    }
    return {
        "task": TASK,
        "trees": trees,
        "simulations_per_cpu_s": {name: round(statistics.median(rates[name]), 1) for name in rates},
        "together_of_alone": median_ratio(rates["together"], rates["alone"], 2),
        "forwarded_of_new": {
            name: round(results[name].forwarded / int(results[name].new_tokens.sum()), 3) for name in results
        },
        "memory": measure_memory(searches),
    }


def measure_memory(searches: int) -> dict[str, Any]:
    """Resident memory after a tenth of the searches and after all of them, in MiB."""
    solver = MCTS(TASK, SearchConfig(simulations=4), num_trees=1, env_kwargs={"level": 2})
    seen = {}
    for number in range(1, searches + 1):
        solver.solve([number])
        if number in (max(1, searches // 10), searches):
            gc.collect()
            seen[number] = round(resident_mib(), 1)
    return {"searches": searches, "resident_mib": {str(number): size for number, size in seen.items()}}


def resident_mib() -> float:
    """Resident memory of this process now; its peak where the system reports no current value."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
