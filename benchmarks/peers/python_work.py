"""Python work of a step of ``collect``: calls counted, and time outside the model, by number of rows.

Calls are those that the interpreter reports: to functions of Python and of C, but not to methods that
Cython made (a row's draw from its generator). Two runs of different lengths over the same problems are
subtracted, so that resets drop out and what is left is of the steps alone; of grading the share that
grows with the length of an answer is left.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from benchmarks.peers.setting import ENV_IDS, Weights
from cola_agents.decoding.backbones import LatentSession, TokenSession
from cola_agents.rl import collecting
from cola_agents.rl.collecting import InitialPolicy, collect
from cola_agents.rl.rows import make_rows

#: Calls that are named: those of at least so many a row and step.
LEAST_NAMED = 0.05
#: What the session does for the model, whose time is not the loop's own. ``compute`` is the base's pass,
#: which others of these may call.
_MODEL = ("policy", "decode", "extend", "compute")


def measure_python_work(
    weights: Weights,
    *,
    rows: tuple[int, int] = (32, 128),
    tokens: tuple[int, int] = (16, 48),
    repeats: int = 5,
) -> dict[str, Any]:
    """Measure both levels at both numbers of rows.

    Args:
        rows: fewer and more.
        tokens: of the two runs that are subtracted.
        repeats: of the timing; calls are counted once.

    Raises:
        ValueError: where either pair does not rise.
    """
    if not 0 < rows[0] < rows[1] or not 0 < tokens[0] < tokens[1]:
        raise ValueError(f"rows {rows} and tokens {tokens} must be two rising numbers each")
    by_level = {}
    for level in ("latent", "token"):
        calls = [calls_per_step(level, weights, count, tokens) for count in rows]
        spent = [_seconds_per_step(level, weights, count, tokens, repeats) for count in rows]
        by_level[level] = _figures(rows, calls, spent)
    return {"rows": list(rows), "tokens": list(tokens), **by_level}


def _figures(
    rows: tuple[int, int], calls: list[Counter[str]], spent: list[dict[str, float]]
) -> dict[str, Any]:
    totals = [sum(counted.values()) for counted in calls]
    slopes = {name: (calls[1][name] - calls[0][name]) / (rows[1] - rows[0]) for name in calls[0] | calls[1]}
    growing = sorted(((slope, name) for name, slope in slopes.items() if slope >= LEAST_NAMED), reverse=True)
    slope = sum(slopes.values())
    return {
        "calls_per_step": [round(total, 2) for total in totals],
        "calls_per_row_and_step": [
            round(total / count, 3) for total, count in zip(totals, rows, strict=True)
        ],
        "calls_that_each_row_adds": round(slope, 3),
        "calls_whatever_the_rows": round(totals[0] - slope * rows[0], 2),
        "added_by": {name: round(value, 3) for value, name in growing},
        "cpu_us_per_step": [
            {name: round(1e6 * value, 1) for name, value in times.items()} for times in spent
        ],
        "loop_us_per_row_and_step": [
            round(1e6 * times["loop"] / count, 3) for times, count in zip(spent, rows, strict=True)
        ],
        "loop_share": [round(times["loop"] / times["all"], 3) for times in spent],
    }


def _episodes(level: str, weights: Weights, rows: int, tokens: int) -> Any:
    return make_rows(ENV_IDS[level], rows, model=weights.backbones[level], max_tokens=tokens).episodes


def _plays(level: str, weights: Weights, rows: int, tokens: tuple[int, int]) -> list[Callable[[], Any]]:
    """A short and a long collection over the same seeds, each played once to warm up."""
    held = [_episodes(level, weights, rows, count) for count in tokens]
    plays: list[Callable[[], Any]] = [partial(collect, e, InitialPolicy(), seeds=range(rows)) for e in held]
    for play in plays:
        play()
    return plays


def calls_per_step(level: str, weights: Weights, rows: int, tokens: tuple[int, int]) -> Counter[str]:
    """Calls per function in one step of so many rows."""
    short, long = (count_calls(play) for play in _plays(level, weights, rows, tokens))
    steps = tokens[1] - tokens[0]
    names = long | short
    return Counter({name: (long[name] - short[name]) / steps for name in names})


def count_calls(run: Callable[[], Any]) -> Counter[str]:
    """Count the calls of each Python or C function during ``run``."""
    python: Counter[Any] = Counter()
    compiled: Counter[Any] = Counter()

    def see(frame: FrameType, event: str, given: Any) -> None:
        if event == "call":
            python[frame.f_code] += 1
        elif event == "c_call":
            compiled[frame.f_code, getattr(given, "__qualname__", repr(type(given)))] += 1

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        run()
    finally:
        sys.setprofile(before)
    counted: Counter[str] = Counter()
    for code, count in python.items():
        counted[_named(code)] += count
    for (code, callee), count in compiled.items():
        counted[f"{callee} in {_named(code)}"] += count
    return counted


def _named(code: Any) -> str:
    """A function's module file and name, without the folders of this machine."""
    parts = code.co_filename.replace("\\", "/").split("/")
    return f"{'/'.join(parts[-2:])}:{code.co_qualname}"


def _seconds_per_step(
    level: str, weights: Weights, rows: int, tokens: tuple[int, int], repeats: int
) -> dict[str, float]:
    """CPU seconds of a step: in all, in the model's session, in the sampler, and what is left to the loop."""
    plays = _plays(level, weights, rows, tokens)
    runs = [[_timed(play) for play in plays] for _ in range(repeats)]
    steps = tokens[1] - tokens[0]
    parts = {
        name: statistics.median((long[name] - short[name]) / steps for short, long in runs)
        for name in ("all", "session", "sampler")
    }
    return {**parts, "loop": parts["all"] - parts["session"] - parts["sampler"]}


def _timed(play: Callable[[], Any]) -> dict[str, float]:
    """CPU seconds of one collection: in all, in the session's methods, in the sampler."""
    spent = {"session": 0.0, "sampler": 0.0}
    inside: list[str] = []

    def timing(inner: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if inside:  # the one that called it is timed
                return inner(*args, **kwargs)
            inside.append(name)
            started = time.process_time()
            try:
                return inner(*args, **kwargs)
            finally:
                spent[name] += time.process_time() - started
                inside.pop()

        return timed

    owners: list[tuple[Any, str, str]] = [(collecting, "sample", "sampler")]
    for session in (LatentSession, TokenSession):
        owners += [(session, method, "session") for method in _MODEL]
    held = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in owners]
    try:
        for owner, name, part in owners:
            setattr(owner, name, timing(getattr(owner, name), part))
        started = time.process_time()
        play()
        return {"all": time.process_time() - started, **spent}
    finally:
        for owner, name, own in held:
            if own is None:  # it was inherited
                delattr(owner, name)
            else:
                setattr(owner, name, own)
