"""Speed of text games: the engine and the language model apart, and the engine beside ALFWorld's own.

CPU seconds throughout, of the workers for the engine and of this process for the model, so that a loaded
machine changes little; wall seconds are given beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from benchmarks import RESULTS, Commands, options
from cola_agents.common.files import write_json
from cola_agents.common.provenance import provenance
from cola_envs.engines import EnginePool, Reply
from cola_envs.household import LEVELS, TASK_TYPES, generate
from cola_envs.tasks.household import ENGINE


def measure_engines(
    *,
    rows: int = 32,
    workers: int = 2,
    level: int = 2,
    commands: int = 50,
    tokens: int = 64,
    resets: int = 1000,
    stock_commands: int = 30,
) -> dict[str, Any]:
    """Measure Household games.

    Args:
        rows: games side by side.
        workers: engine processes.
        level: of the games, except where levels are compared.
        commands: random admissible commands a row.
        tokens: steps of the bundled model a row.
        resets: games that one worker begins in the measurement of memory.
        stock_commands: commands of the comparison with ALFWorld's own stack.

    Returns:
        A JSON-ready report.
    """
    torch.set_num_threads(1)
    return {
        "engine": measure_engine(rows, workers, level, commands),
        "levels": [measure_stock(level, stock_commands) for level in LEVELS],
        "language_model": _model(rows, level, tokens),
        "memory": measure_memory(resets, level),
        "settings": {"rows": rows, "workers": workers, "level": level},
        "engines": {name: version(name) for name in ("alfworld", "textworld")},
        **provenance(),
    }


def measure_engine(rows: int, workers: int, level: int, commands: int) -> dict[str, Any]:
    """Commands a second over a pool, rows reset as their games end."""
    pool = EnginePool(ENGINE, num_rows=rows, num_workers=workers)
    everywhere = list(range(rows))
    rng = np.random.default_rng(0)
    seeds = iter(range(1_000_000))

    def games(count: int) -> list[Any]:
        return [generate(np.random.default_rng(next(seeds)), level=level).spec() for _ in range(count)]

    try:
        pool.reset(everywhere[:workers], games(workers))  # starts the workers
        before = pool.usage
        started = time.perf_counter()
        openings = pool.reset(everywhere, games(rows))
        reset_wall = time.perf_counter() - started
        after = pool.usage
        admissible = [opening.admissible for opening in openings]
        wall = 0.0
        cpu = played = restarted = 0.0
        for _ in range(commands):
            chosen = [str(rng.choice(options)) for options in admissible]
            before_step = pool.usage
            started = time.perf_counter()
            replies = pool.step(everywhere, chosen)
            wall += time.perf_counter() - started
            cpu += pool.usage.cpu - before_step.cpu
            played += rows
            for row, reply in enumerate(replies):
                if not isinstance(reply, Reply):
                    raise RuntimeError(f"row {row} was lost: {reply.cause}")
                admissible[row] = reply.admissible
                if reply.done:
                    admissible[row] = pool.reset([row], games(1))[0].admissible
                    restarted += 1
    finally:
        pool.close()
    return {
        "commands": int(played),
        "commands_per_cpu_s": round(played / cpu, 1),
        "cpu_ms_per_command": round(cpu / played * 1e3, 3),
        "commands_per_wall_s": round(played / wall, 1),
        "games_won_at_random": int(restarted),
        "cpu_ms_per_reset": round((after.cpu - before.cpu) / rows * 1e3, 1),
        "wall_s_first_reset_of_all_rows": round(reset_wall, 2),
    }


def measure_stock(level: int, commands: int) -> dict[str, Any]:
    """The same game and commands on ALFWorld's own stack and here, each in a worker of its own."""
    cpu: dict[str, list[float]] = {"stock": [], "cached": []}

    def timed(verb: str, what: Any) -> dict[str, Any]:
        answers = {}
        for name, pool in pools.items():
            before = pool.usage.cpu
            answers[name] = getattr(pool, verb)([0], [what])[0]
            cpu[name].append(pool.usage.cpu - before)
        return answers

    with TemporaryDirectory() as folder:
        pools = {
            "stock": EnginePool("benchmarks.speed.stock:StockEngine", {"data": folder}, num_rows=1),
            "cached": EnginePool(ENGINE, num_rows=1),
        }
        try:
            other = generate(np.random.default_rng(99)).spec()
            game = generate(np.random.default_rng(level), level=level, task_types=TASK_TYPES[4:5]).spec()
            for pool in pools.values():
                pool.reset([0], [other])  # starts the worker and fills its caches
            answers = timed("reset", game)
            resets = {name: times.pop() for name, times in cpu.items()}
            rng = np.random.default_rng(0)
            while len(cpu["stock"]) < commands and not getattr(answers["stock"], "done", False):
                command = str(rng.choice(answers["stock"].admissible))
                answers = timed("step", command)
                first, second = answers.values()
                if (first.text, first.admissible) != (second.text, second.admissible):
                    raise AssertionError(f"the engines differ after {command!r}: {first} and {second}")
        finally:
            for pool in pools.values():
                pool.close()
    rates = {name: len(times) / sum(times) for name, times in cpu.items()}
    return {
        "level": level,
        "commands": len(cpu["stock"]),
        "stock_commands_per_cpu_s": round(rates["stock"], 1),
        "cached_commands_per_cpu_s": round(rates["cached"], 1),
        "ratio": round(rates["cached"] / rates["stock"], 1),
        "stock_reset_cpu_s": round(resets["stock"], 3),
        "cached_reset_cpu_s": round(resets["cached"], 3),
    }


def _model(rows: int, level: int, tokens: int) -> dict[str, Any]:
    """The whole environment on the bundled model under random codes: this process is the model's side."""
    envs: Any = gym.make_vec(
        "CoLA-Household-v0", num_envs=rows, level=level, max_tokens=512, autoreset_mode="same_step"
    )
    try:
        envs.reset(seed=0)
        pool: EnginePool = envs.unwrapped.episodes.tasks.pool
        actions = np.random.default_rng(0).integers(envs.single_action_space.n, size=(tokens, rows))
        before = pool.usage
        started, started_wall = time.process_time(), time.perf_counter()
        for step in actions:
            envs.step(step)
        cpu, wall = time.process_time() - started, time.perf_counter() - started_wall
        used = pool.usage.cpu - before.cpu
        calls = pool.usage.calls - before.calls
    finally:
        envs.close()
    return {
        "tokens": tokens * rows,
        "cpu_ms_per_token": round(cpu / (tokens * rows) * 1e3, 3),
        "engine_cpu_ms_per_token": round(used / (tokens * rows) * 1e3, 3),
        "commands_sent": calls,
        "tokens_per_wall_s": round(tokens * rows / wall, 1),
    }


def measure_memory(resets: int, level: int, parts: int = 5) -> dict[str, Any]:
    """Resident memory of one worker that begins one game after another, in two rows."""
    pool = EnginePool(ENGINE, num_rows=2, num_workers=1)
    sizes, cost = [], []
    try:
        for part in range(parts):
            before = pool.usage
            for number in range(resets // parts):
                game = generate(np.random.default_rng(part * resets + number), level=level)
                pool.reset([number % 2], [game.spec()])
                pool.step([number % 2], [game.walkthrough[0]])
            sizes.append(round(_resident_mib(pool.pids[0]), 1))
            cost.append(round((pool.usage.cpu - before.cpu) / (resets // parts) * 1e3, 1))
    finally:
        pool.close()
    return {
        "resets": resets // parts * parts,
        "worker_resident_mib": sizes,
        "cpu_ms_per_reset": cost,
        "median_cpu_ms_per_reset": statistics.median(cost),
    }


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def add(commands: Commands) -> None:
    parser = commands.add_parser("engines", help="the Household engine: commands, memory, stock beside ours")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--level", type=int, default=2)
    parser.add_argument("--commands", type=int, default=50, help="commands that each row sends")
    parser.add_argument("--tokens", type=int, default=64, help="tokens that each row decodes")
    parser.add_argument("--resets", type=int, default=1000)
    parser.add_argument("--stock-commands", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "engines.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    names = ("rows", "workers", "level", "commands", "tokens", "resets", "stock_commands")
    results = measure_engines(**options(arguments, *names))
    write_json(arguments.out, results, indent=1)
    print(json.dumps(results, indent=1))
