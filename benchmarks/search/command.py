"""``python -m benchmarks search``: accuracy against model tokens, and the speed of the engine."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS, Commands
from benchmarks.search.accuracy import GOING_ON, Point, difference, judge, lines, points, reached
from benchmarks.search.arms import (
    ARMS,
    TASKS,
    WIDTH,
    Learned,
    Player,
    Recipe,
    judges_of,
    learned,
    level_of,
    make_episodes,
    narrowed,
    player_of,
)
from benchmarks.search.engine import measure_engine
from benchmarks.search.methods import JUDGES, METHODS, SEEDLESS, Found, Stage, beam, play, read, write
from benchmarks.search.report import draw, table
from cola_agents.common.files import one_writer, write_json, write_whole
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import make_backbone
from cola_agents.search.playout import Values
from cola_envs import jsonl
from cola_envs.episodes import Episodes

SECTIONS = ("accuracy", "engine")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "search", help="tree search and its baselines at equal tokens, over codes and over tokens"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder to keep runs in, and to go on from")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["arithmetic-2", "countdown-1"])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--problems", type=int, default=128, help="of the test split")
    parser.add_argument(
        "--budgets", type=float, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="in answers' worth"
    )
    parser.add_argument("--beams", type=int, nargs="*", default=[4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the searches")
    parser.add_argument("--rows", type=int, default=32, help="problems side by side")
    parser.add_argument("--q-problems", type=int, default=Recipe.problems)
    parser.add_argument("--q-answers", type=int, default=Recipe.n)
    parser.add_argument("--q-steps", type=int, default=Recipe.steps)
    parser.add_argument("--q-held-out", type=int, default=Recipe.held_out, help="of --q-problems")
    parser.add_argument("--rl-updates", type=int, default=Recipe.updates, help="of the arms after RL")
    parser.add_argument("--engine-problems", type=int, default=32, help="that the engine is timed on")
    parser.add_argument("--searches", type=int, default=1_000, help="over which memory is watched")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, default=RESULTS / "search.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = provenance()
    if "accuracy" in arguments.sections:
        plan = Plan(
            problems=arguments.problems,
            budgets=tuple(sorted(arguments.budgets)),
            beams=tuple(arguments.beams),
            seeds=tuple(arguments.seeds),
            rows=arguments.rows,
            recipe=Recipe(
                arguments.q_problems,
                arguments.q_answers,
                arguments.q_steps,
                arguments.q_held_out,
                arguments.rl_updates,
            ),
        )
        say = partial(print, flush=True)
        results |= measure_accuracy(arguments.work, arguments.tasks, arguments.arms, plan, say)
    if "engine" in arguments.sections:
        results["engine"] = measure_engine(problems=arguments.engine_problems, searches=arguments.searches)
    write_json(arguments.out, results, indent=1)
    text = table(results)
    write_whole(arguments.out.with_suffix(".md"), text.encode())
    if "tasks" in results:
        draw(results, arguments.out.with_suffix(".png"))
    print(text)


@dataclass(frozen=True)
class Plan:
    """The amount of play.

    Attributes:
        problems: of the test split, the same for every arm and method.
        budgets: in answers' worth of tokens, rising.
        beams: widths.
        seeds: of the searches.
        rows: problems side by side.
        recipe: of the judges and of the policies after RL.
    """

    problems: int
    budgets: tuple[float, ...]
    beams: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: int
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.problems < 1 or self.rows < 1 or not (self.budgets and self.seeds and min(self.budgets) > 0):
            raise ValueError(f"problems, rows and budgets are positive, and there is a seed: got {self}")
        if any(not 1 <= width <= self.rows for width in self.beams):
            raise ValueError(f"a beam takes as many rows as it is wide: 1 to {self.rows}, got {self.beams}")


def measure_accuracy(
    work: Path, tasks: Sequence[str], arms: Sequence[str], plan: Plan, say: Callable[[str], None]
) -> dict[str, Any]:
    """Accuracy of every line at every budget, as JSON values; existing files in ``work`` are reused.

    They may be of older code: each arm's ``commits`` are those of all files that its figures use.

    Raises:
        ValueError: for a ``work`` folder of other settings.
        InUseError: where another process writes that folder.
    """
    with one_writer(work):
        return _measure_accuracy(work, tasks, arms, plan, say)


def _measure_accuracy(
    work: Path, tasks: Sequence[str], arms: Sequence[str], plan: Plan, say: Callable[[str], None]
) -> dict[str, Any]:
    commit = provenance()["commit"]
    by_task: dict[str, Any] = {}
    for task in tasks:
        players: dict[str, Player] = {}
        models: dict[str, Learned] = {}
        for arm in arms:
            folder = work / task / arm
            _same(folder, plan, arm)  # before anything is trained or read
            players[arm] = player_of(task, arm, plan.recipe, folder, say)
            models[arm] = learned(task, arm, players[arm], plan.recipe, folder, commit, say)
        unit = _unit(work / task, [own.length for own in models.values()])
        runs = {}
        for arm in arms:
            episodes = make_episodes(task, arm, players[arm].backbone, plan.rows, "test")
            budget = round(unit * plan.budgets[-1])
            judged = players[arm], models[arm]
            runs[arm] = _played(episodes, arm, *judged, work / task / arm, budget, plan, commit, say)
            episodes.close()
        budgets = [budget * unit for budget in plan.budgets]
        compared = _compared(runs, plan.beams, budgets)
        for arm in arms:
            for name, looks in models[arm].looks.items():
                compared[arm]["judges"][name]["held_out_looks"] = looks
            compared[arm]["commits"] = _commits(models[arm], runs[arm])
        by_task[task] = {"tokens_per_answer": unit, "arms": compared}
    settings = {"problems": plan.problems, "budgets": plan.budgets, "search_seeds": plan.seeds}
    return {**settings, "q": asdict(plan.recipe), "tasks": by_task}


def _unit(folder: Path, lengths: Sequence[float]) -> int:
    """The tokens of an answer, the unit of budgets: one for all arms, and kept for those that join later."""
    path = folder / "unit.json"
    if not path.exists():
        write_json(path, {"tokens": round(sum(lengths) / len(lengths))})
    return int(jsonl.read_object(path, "tokens")["tokens"])


def _same(folder: Path, plan: Plan, arm: str) -> None:
    """Write the settings of the folder's files into a new folder; refuse a folder of other settings."""
    settings = {
        "problems": plan.problems,
        "rows": plan.rows,
        "q": asdict(plan.recipe),
        "fingerprint": make_backbone(level=level_of(arm)).fingerprint,
    }
    path = folder / "settings.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    elif (held := jsonl.read_object(path)) != settings:
        raise ValueError(f"{folder} was made with {held} and not with {settings}: take another --work")


def _commits(models: Learned, runs: dict[str, list[Found]]) -> list[str]:
    """The commits of the code behind an arm's figures, each once."""
    commits = [*models.commits, *(run.commit for of_method in runs.values() for run in of_method)]
    return sorted({commit or "unknown" for commit in commits})


def _played(
    episodes: Episodes,
    arm: str,
    player: Player,
    models: Learned,
    folder: Path,
    budget: int,
    plan: Plan,
    commit: str | None,
    say: Callable[[str], None],
) -> dict[str, list[Found]]:
    """The runs of every method, one a search seed."""
    session: Any = episodes.session
    policy: Values = session.policy if player.actor is None else player.actor.attach(session)
    values, judges = models.q.attach(session), judges_of(arm, player, models, episodes)
    if int(episodes.action_space.n) > WIDTH:
        policy, values = narrowed(policy, values, WIDTH)
    runs: dict[str, list[Found]] = {}
    beams = {f"beam-{width}": beam(width) for width in plan.beams}
    for name, method in (METHODS | beams).items():
        if any(name.endswith(f"-{judge}") and judge not in judges for judge in JUDGES):
            continue
        once = name in SEEDLESS or name in beams
        runs[name] = []
        for seed in plan.seeds[:1] if once else plan.seeds:
            path = folder / f"{name}-{budget}-{seed}.json"
            if not path.exists():
                say(f"{folder.parent.name}, {folder.name}: {name}, seed {seed}")
                stage = Stage(episodes, policy, values, WIDTH, budget, seed, judges)
                write(path, replace(play(method, stage, range(plan.problems)), commit=commit))
            runs[name].append(read(path))
    return runs


def _compared(
    runs: dict[str, dict[str, list[Found]]], beams: Sequence[int], budgets: Sequence[float]
) -> dict[str, Any]:
    known = lines(beams)
    every = {arm: points(by_method, known, budgets) for arm, by_method in runs.items()}
    results: dict[str, Any] = {}
    for arm, by_line in every.items():
        tries = {"q": "tries", **{name: f"tries-{name}" for name in JUDGES}}
        results[arm] = {
            "judges": {
                name: judge(runs[arm][method][0]) for name, method in tries.items() if method in runs[arm]
            },
            "reached": reached(runs[arm]),
            "lines": {},
        }
        for name, own in by_line.items():
            method = runs[arm][known[name].method]
            minus = {}
            if name != "greedy":
                minus["greedy"] = _less(own, by_line["greedy"])
            # The official search ends of its own accord, at fewer tokens: not what to compare with.
            if name not in ("greedy", GOING_ON) and not known[name].alone:
                minus[GOING_ON] = _less(own, by_line[GOING_ON])
            if name not in ("greedy", "majority vote") and not known[name].alone:
                minus["majority vote"] = _less(own, by_line["majority vote"])
            twin = arm.replace("latent", "token")
            if twin != arm and name in every.get(twin, {}):
                minus[twin] = _less(own, every[twin][name])
            results[arm]["lines"][name] = {
                "oracle": known[name].oracle,
                "points": [at.as_dict() for at in own],
                "forwarded_of_new": round(
                    sum(run.forwarded or 0 for run in method) / sum(run.new_tokens for run in method), 3
                ),
                "minus": minus,
            }
    return results


def _less(own: Sequence[Point], other: Sequence[Point]) -> list[dict[str, Any]]:
    """Differences at each budget, with the tokens of both; a line of one point keeps it at every budget."""
    longest = max(len(own), len(other))
    full = [list(part) * longest if len(part) == 1 else list(part) for part in (own, other)]
    return [
        {**difference(a, b), "tokens": [round(a.tokens, 2), round(b.tokens, 2)]}
        for a, b in zip(*full, strict=True)
    ]
