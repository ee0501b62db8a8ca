"""The report of an evaluation: figures of its episodes as JSON, and as a table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cola_agents.evaluation.scores import Tries, scores
from cola_envs.fields import (
    DATASET,
    NUM_TOKENS,
    SUCCESS,
    TEXT,
    Info,
    failures,
    given_answer,
    identity,
    is_missing,
    mean_scores,
)
from cola_envs.jsonl import JsonObject
from cola_envs.shown import shown_line
from cola_envs.tasks.problem_set import NO_LEVEL
from cola_envs.tasks.substitute import NAME as SUBSTITUTE

#: Fields of ``info`` that problems are grouped by, where they have several values.
GROUPS = ("subject", "level", "kind", "task_type", "difficulty")
#: Fields of a report about the set of problems, and the fields of ``info`` that tasks give them in.
SET_FIELDS = {
    "dataset_sha256": ("dataset_sha256",),
    "set_hash": ("set_hash", "games_sha256"),
    "set_size": ("set_size", "games", "num_prompts"),
}
ENGINE_FIELDS = ("engine", "java")


@dataclass(frozen=True)
class Played:
    """One finished episode: the last step's ``info``, and the sum of its rewards."""

    info: Info
    reward: float


def summary(rounds: Sequence[Sequence[Played]]) -> JsonObject:
    """Figures of an evaluation, ready for JSON.

    Args:
        rounds: the episodes, a list for each round over the same problems in the same order.

    Raises:
        ValueError: if the rounds did not play the same problems: pass@k would mean nothing.
    """
    first = [episode.info for episode in rounds[0]]
    names = [identity(info) for info in first]
    for again in rounds[1:]:
        if [identity(episode.info) for episode in again] != names:
            raise ValueError(
                "the task gave other problems in a later round, and pass@k needs the same ones in each: "
                "leave samples out, or let the task's reset draw its problem from its generator alone"
            )
    every = [episode for episodes in rounds for episode in episodes]
    tries = [_tries([episodes[i].info for episodes in rounds]) for i in range(len(first))]
    datasets = Counter(DATASET.get(info, "not named by the task") for info in first)
    report: JsonObject = {
        "dataset": " + ".join(sorted(datasets)),
        **{key: value for key, value in _about(first).items() if value is not None},
        "episodes": len(every),
        "samples": len(rounds),
        "distinct_problems": len(set(names)) if any(names) else None,
        "played_sha256": hashlib.sha256("\n".join(names).encode()).hexdigest() if any(names) else None,
        **scores(tries),
        "example": TEXT.get(every[0].info, ""),
        "reward": round(float(np.mean([episode.reward for episode in every])), 4),
        "tokens_per_episode": round(float(np.mean([NUM_TOKENS.of(episode.info) for episode in every])), 2),
    }
    report |= {name: round(value, 4) for name, value in mean_scores([e.info for e in every]).items()}
    report |= failures([e.info for e in every])
    groups = {field: by for field in GROUPS if (by := _by(field, first, tries))}
    if groups:
        report["by"] = groups
    if SUBSTITUTE in datasets:
        report["warning"] = (
            "a substitute set of this project's own making was played: this is no MATH-500 result"
        )
    return report


def _tries(infos: Sequence[Info]) -> Tries:
    successes = tuple(SUCCESS.of(info) for info in infos)
    # "correct" beside "success": success depends on more than the answer.
    answers_known = any("gold" in info or "given" in info for info in infos)
    answers_known = answers_known and not any("correct" in info for info in infos)
    return Tries(successes, tuple(given_answer(info) for info in infos) if answers_known else None)


def _about(infos: Sequence[Info]) -> JsonObject:
    about = {key: _values(infos, fields) for key, fields in SET_FIELDS.items()}
    engines = {field: _values(infos, (field,)) for field in ENGINE_FIELDS}
    return {**about, "engines": {key: value for key, value in engines.items() if value is not None} or None}


def _values(infos: Sequence[Info], fields: Sequence[str]) -> object:
    """The value of the first field that any info has, or a sorted list where the infos differ."""
    for field in fields:
        values = {repr(info[field]): info[field] for info in infos if not is_missing(info.get(field))}
        if values:
            return (
                next(iter(values.values())) if len(values) == 1 else [values[key] for key in sorted(values)]
            )
    return None


def _by(field: str, infos: Sequence[Info], tries: Sequence[Tries]) -> JsonObject:
    groups: dict[str, list[Tries]] = {}
    for info, problem in zip(infos, tries, strict=True):
        groups.setdefault(_group_of(info.get(field)), []).append(problem)
    return {name: scores(groups[name]) for name in sorted(groups)} if len(groups) > 1 else {}


def _group_of(value: object) -> str:
    """The name of the group of problems with a value; one name for all that say there is none."""
    return "not told" if value in (None, "", NO_LEVEL) else str(value)


def table(report: JsonObject) -> str:
    """A report as a table for the terminal: a line for all problems and one for each group."""
    groups: dict[str, JsonObject] = report.get("by", {})
    columns = [key.removesuffix("_95") for key in report if key.endswith("_95") and key != "success_95"]
    rows = [["", "problems", *columns], _row("all", report, columns)]
    for field, by in groups.items():
        rows += [_row(f"{field} {value}", figures, columns) for value, figures in by.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]
    played = f"{report['problems']} problems"
    if isinstance(report.get("set_size"), int):
        played += f" of {report['set_size']}"
    if report.get("interrupted"):
        played += " until it was interrupted"
    title = f"{report['task']}, {report['dataset']}, split {report['split']}: {played}, {report['actions']}"
    if "prompt_format" in report:
        title += f", {report['prompt_format']} prompts"
        if report.get("shots"):
            title += f" with {report['shots']} worked examples"
    example = report.get("example")
    shown = [] if example is None else [f"one answer: {shown_line(example)}"]
    notes = [f"warning: {report['warning']}"] if "warning" in report else []
    if "failed_episodes" in report:
        notes.append(f"warning: {report['failed_episodes']} episodes were cut by a failing engine or task")
    means = [f"mean reward {report['reward']:.3f}"] if "reward" in report else []
    return "\n".join([shown_line(title), *lines, "[95 % intervals over problems]", *means, *shown, *notes])


def _row(name: str, figures: JsonObject, columns: Sequence[str]) -> list[str]:
    cells = []
    for column in columns:
        low, high = figures[f"{column}_95"]
        cells.append(f"{figures[column]:.3f} [{low:.3f}, {high:.3f}]")
    return [shown_line(name), str(figures["problems"]), *cells]
