"""Run a comparison: search options, run every arm, measure floors; resumes after an interruption."""

from __future__ import annotations

import argparse
import hashlib
import math
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import Commands
from benchmarks.compare.arms import ARMS
from benchmarks.compare.journal import Journal, held_models
from benchmarks.compare.runs import FLOORS, Cell, Protocol, probe_of, run
from benchmarks.compare.summary import LOST, TRAINED
from benchmarks.compare.tuning import (
    GRID,
    Score,
    Setting,
    best,
    edges,
    first_settings,
    next_setting,
    scored,
)
from benchmarks.statistics import area_under_curve
from cola_agents.commands.settings import positive, settings
from cola_agents.commands.tasks import add_env
from cola_agents.common.files import one_writer
from cola_agents.common.provenance import provenance
from cola_agents.train.bundled.recipe import CONTROLS, VARIANTS

#: First RL seed of the search: the runs that are reported have others.
TUNING_SEED = 9_000
SEEDS_OF_A_MODEL = 100
#: Models that options are searched on by default, if there are as many.
TUNING_MODELS = 2


@dataclass(frozen=True)
class Plan:
    """What a comparison consists of.

    Attributes:
        protocol: of every run.
        arms: names.
        model_seeds: of the pre-trained models, each a folder of that name.
        seeds: RL seeds over each model.
        tuning_models: how many of the models options are searched on, a run each.
        keep: what a setting must not lose in the search, one of ``benchmarks.compare.summary.LOST``; None for
            nothing. It must be no figure that the task itself is paid for.
        allowed: by how much it may fall.
        settings: how many an arm is given, at most; where an edge still wins then, it is said.
        given: by arm, a setting that is not searched for.
        candidates: by arm, the settings that the search tries, in place of a grid that grows; as many for
            each arm whose setting is not given. One that is named twice is tried once.
        floors: policies that do not read the text, of :data:`~benchmarks.compare.runs.FLOORS`.

    Raises:
        ValueError: for an unknown arm, floor or figure to keep, a figure that is not measured, a number
            out of range, or arms with unequal numbers of candidates.
    """

    protocol: Protocol
    arms: tuple[str, ...]
    model_seeds: tuple[int, ...]
    seeds: int
    tuning_models: int
    keep: str | None
    allowed: float
    settings: int = 12
    given: Mapping[str, Setting] = field(default_factory=dict)
    candidates: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    floors: tuple[str, ...] = FLOORS

    def __post_init__(self) -> None:
        lists = {"arms": self.arms, "model seeds": self.model_seeds, "floors": self.floors}
        for name, values in lists.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} are given twice: {', '.join(map(str, values))}")
        unknown = sorted(set(self.arms) - set(ARMS))
        if unknown:
            raise ValueError(f"unknown arm {unknown[0]!r}: there are {', '.join(ARMS)}")
        strange = sorted(set(self.floors) - set(FLOORS))
        if strange:
            raise ValueError(f"unknown floor {strange[0]!r}: there are {', '.join(FLOORS)}")
        idle = sorted({*self.given, *self.candidates} - set(self.arms))
        if idle:
            raise ValueError(f"options are given for {idle[0]!r}, which is none of the arms {self.arms}")
        if self.candidates:
            distinct = {arm: tuple(dict.fromkeys(tried)) for arm, tried in self.candidates.items()}
            object.__setattr__(self, "candidates", distinct)
            self._check_candidates()
        if self.keep is not None and self.protocol.task_only:
            raise ValueError(f"{self.keep} is not measured where the task alone is: keep 'nothing'")
        if self.keep is not None and self.keep not in LOST:
            raise ValueError(f"a search can keep {', '.join(LOST)} or 'nothing', got {self.keep!r}")
        if self.keep in TRAINED.get(self.protocol.task, ()):
            raise ValueError(
                f"CoLA-{self.protocol.task}-v0 itself is paid for {self.keep}: choose another figure to "
                "keep, 'grammar' say, or 'nothing'"
            )
        if self.seeds < 1 or not 1 <= self.tuning_models <= len(self.model_seeds):
            raise ValueError(
                f"at least one seed and one tuning model of the {len(self.model_seeds)} are needed, got "
                f"seeds={self.seeds}, tuning_models={self.tuning_models}"
            )
        if self.settings < GRID:
            raise ValueError(f"a search begins with a grid of {GRID} settings an arm, got {self.settings}")
        if self.seeds > SEEDS_OF_A_MODEL or not 0 <= min(self.model_seeds) <= max(self.model_seeds) < 70:
            raise ValueError(
                f"a model of seed m has RL seeds from {SEEDS_OF_A_MODEL} m on, other benchmarks those from "
                f"7,000 on: model seeds go from 0 to 69, with up to {SEEDS_OF_A_MODEL} seeds each, got "
                f"model seeds {list(self.model_seeds)} and {self.seeds} seeds"
            )

    def _check_candidates(self) -> None:
        both = sorted(set(self.given) & set(self.candidates))
        if both:
            raise ValueError(f"{both[0]} has a setting that is given, and candidates too: leave one out")
        counts = {arm: len(self.candidates.get(arm, ())) for arm in self.arms if arm not in self.given}
        if min(counts.values()) < 2 or len(set(counts.values())) > 1:
            raise ValueError(
                "every arm is searched among as many different candidates, two at least, got "
                + ", ".join(f"{arm}: {count}" for arm, count in counts.items())
            )


def _described(
    plan: Plan, models: Path, held: Mapping[str, Mapping[str, str]] = MappingProxyType({})
) -> dict[str, Any]:
    """``config.json`` of a comparison; ``held`` are the digests of models that may be gone."""
    return {
        **provenance(),
        "task": plan.protocol.task,
        "arms": list(plan.arms),
        "seeds": [seed_of(0, i) for i in range(plan.seeds)],
        "model_seeds": list(plan.model_seeds),
        "updates": plan.protocol.updates,
        "rollouts_per_update": plan.protocol.prompts * plan.protocol.group_size,
        "arms_are": {name: ARMS[name].says for name in plan.arms},
        "models": {
            str(seed): {kind: _digest(models, seed, kind, held) for kind in _kinds(plan)}
            for seed in plan.model_seeds
        },
        "plan": asdict(plan),
        "probe": probe_of(plan.protocol),
    }


def _kinds(plan: Plan) -> list[str]:
    """Names of the models of a seed that a comparison uses; the floors are played on the codes."""
    return sorted({ARMS[arm].model for arm in (*plan.arms, "latent")})


def _digest(models: Path, seed: int, kind: str, held: Mapping[str, Mapping[str, str]]) -> str:
    """sha256 of a model's weights, of several files of their digests; of one that is gone as it is held.

    Raises:
        FileNotFoundError: for a model that is neither there nor held.
    """
    paths, known = _weights(models, seed, kind), held.get(str(seed), {})
    if not paths and kind in known:
        return known[kind]
    _check_there(models, seed, kind)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_there(models: Path, seed: int, kind: str) -> None:
    """Raise FileNotFoundError for a model that is not there."""
    if not _weights(models, seed, kind):
        more = " --controls" if kind in CONTROLS else ""
        if kind in VARIANTS:
            more = f" --variants {kind}"
        raise FileNotFoundError(
            f"{models} has no model {seed}/{kind}: `python -m benchmarks models --seeds {seed}{more}` "
            "makes it, or put a model of your own there"
        )


def _weights(models: Path, seed: int, kind: str) -> list[Path]:
    return sorted((models / str(seed) / kind).glob("*.safetensors"))


def seed_of(model_seed: int, number: int) -> int:
    """The RL seed of a model's ``number``-th run: other models meet other problems."""
    return SEEDS_OF_A_MODEL * model_seed + number


def campaign(plan: Plan, models: Path, out: Path, *, jobs: int = 1, frontier: Sequence[float] = ()) -> None:
    """Search options, run every arm, and measure the floors.

    Args:
        models: a folder with a folder for each pre-training seed (``benchmarks models``). A seed whose runs
            are all recorded needs none.
        out: where records go; one that holds some goes on.
        jobs: processes, each on one thread.
        frontier: weights of the KL at which every arm is run besides, one seed a model.

    Raises:
        FileNotFoundError: for a model that is not there.
        InUseError: where another process goes on with the folder, named; nothing was changed.
        ValueError: for a folder of another comparison, and for weights that are negative.
    """
    frontier = list(dict.fromkeys(frontier))
    if any(not 0 <= kl < math.inf for kl in frontier):
        raise ValueError(f"the weights of a frontier's KL must be at least 0, got {frontier}")
    with one_writer(out):
        _campaign(plan, models, out, jobs, frontier)


def _campaign(plan: Plan, models: Path, out: Path, jobs: int, frontier: Sequence[float]) -> None:
    journal = Journal(out, _described(plan, models, held_models(out)))
    # A pre-trained model's floors come first: over a small one they are seconds.
    floors = [Cell("floor", name, seed, 0) for name in plan.floors for seed in plan.model_seeds]
    with _Workers(plan.protocol, models, journal, jobs) as workers:
        workers.do("floors", floors)
        held = _with_given(plan, journal.chosen or {})
        new = [arm for arm in plan.arms if arm not in held]
        if new:
            # An arm that joins a comparison is searched as much as the others were.
            count = max((one["settings"] for one in held.values()), default=0) or None
            if plan.candidates and count not in (None, len(plan.candidates[new[0]])):
                raise ValueError(
                    f"{new[0]} has {len(plan.candidates[new[0]])} candidates, and the arms of {out} were "
                    f"searched among {count} settings: give it as many"
                )
            held |= _search(plan, new, count, journal, workers)
        journal.choose(held)
        chosen: dict[str, Setting] = {}
        for arm in plan.arms:
            one = (journal.chosen or {})[arm]
            chosen[arm] = (one["lr"], one["kl_coef"])
            note = "".join(f"; the edge of {axis} still wins" for axis in one["edges"])
            where = f"of {one['settings']} settings" if one["settings"] else "as given"
            print(f"{arm}: lr {one['lr']:g}, KL {one['kl_coef']:g} {where}{note}")
        main = [
            Cell("main", arm, model, seed_of(model, i), _options(chosen[arm]))
            for i in range(plan.seeds)
            for model in plan.model_seeds
            for arm in plan.arms
        ]
        workers.do("runs", main)
        edge = [
            Cell("frontier", arm, model, seed_of(model, 0), _options((chosen[arm][0], kl)))
            for kl in frontier
            for model in plan.model_seeds
            for arm in plan.arms
            if kl != chosen[arm][1]
        ]
        workers.do("frontier", edge)


def _with_given(plan: Plan, held: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are held, and those that are given.

    Raises:
        ValueError: for an arm that began with another setting.
    """
    chosen = dict(held)
    for arm, setting in plan.given.items():
        one: dict[str, Any] = {**dict(_options(setting)), "harmless": None, "settings": 0, "edges": []}
        before = chosen.setdefault(arm, one)
        if (before["lr"], before["kl_coef"]) != setting:
            raise ValueError(
                f"{arm} began with lr {before['lr']:g} and KL {before['kl_coef']:g}, and is given {setting}: "
                "use another --out"
            )
    return chosen


def _options(setting: Setting) -> tuple[tuple[str, float], ...]:
    return (("lr", setting[0]), ("kl_coef", setting[1]))


def _search(
    plan: Plan, arms: Sequence[str], count: int | None, journal: Journal, workers: _Workers
) -> dict[str, Any]:
    """Return each arm's best setting, the number of settings tried, and the axes whose edge won.

    Args:
        arms: that have no options yet.
        count: settings that an arm is given; None for as many as the plan allows while an edge wins. Of
            candidates all are tried, and no other.
    """
    wanted = {arm: [*plan.candidates.get(arm, first_settings(ARMS[arm].lrs))] for arm in arms}
    while True:
        cells = [
            Cell("tuning", arm, model, TUNING_SEED + i, _options(setting))
            for arm, tries in wanted.items()
            for setting in tries
            for i, model in enumerate(plan.model_seeds[: plan.tuning_models])
        ]
        workers.do("search", cells)
        scores = {
            arm: {setting: _score(plan, journal.tried(arm, setting)) for setting in tries}
            for arm, tries in wanted.items()
        }
        tried = len(next(iter(wanted.values())))
        if plan.candidates:
            enough = True
        elif count is None:
            enough = tried >= plan.settings or not any(map(edges, scores.values()))
        else:
            enough = tried >= count
        if enough:
            return {
                arm: {
                    **dict(_options(best(own))),
                    "harmless": own[best(own)].harmless,
                    "settings": tried,
                    "edges": [axis for axis in edges(own) if _varies(own, axis)],
                }
                for arm, own in scores.items()
            }
        for arm, tries in wanted.items():
            tries.append(next_setting(scores[arm]))


def _varies(settings: Iterable[Setting], axis: str) -> bool:
    """Whether settings differ on an axis: candidates of one KL say nothing of its edge."""
    return len({dict(_options(setting))[axis] for setting in settings}) > 1


def _score(plan: Plan, runs: Sequence[dict[str, Any]]) -> Score:
    """The score of a setting by its runs; the lowest possible where a run diverged."""
    if any("failed" in run for run in runs):
        return Score(False, -math.inf)
    horizon = runs[0]["curve"]["episodes"][-1]
    areas = [area_under_curve(run["curve"]["episodes"], run["curve"]["reward"], horizon) for run in runs]
    lost = None
    if plan.keep:
        lost = float(np.mean([run["before"][plan.keep] - run["after"][plan.keep] for run in runs]))
    return scored(float(np.mean(areas)), lost, plan.allowed)


def _begin() -> None:
    """Prepare a worker process: one thread; it ends with its parent process."""
    torch.set_num_threads(1)

    def end() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    # A pool's processes wait for work for ever where the one that hands it out was killed.
    threading.Thread(target=end, daemon=True).start()


class _Workers:
    """Worker processes that run cells; each record is written as soon as it arrives.

    Args:
        jobs: processes, each on one thread; 1 for this one alone.
    """

    def __init__(self, protocol: Protocol, models: Path, journal: Journal, jobs: int) -> None:
        if jobs < 1:
            raise ValueError(f"at least one job is needed, got {jobs}")
        self._protocol, self._models, self._journal = protocol, models, journal
        self._pool: ProcessPoolExecutor | None = None
        self._threads = torch.get_num_threads()
        if jobs > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(jobs, context, _begin)

    def __enter__(self) -> _Workers:
        if self._pool is None:
            torch.set_num_threads(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        torch.set_num_threads(self._threads)
        if self._pool is not None:
            if kind is not None:  # nobody is there to keep what they are at
                for process in multiprocessing.active_children():
                    process.terminate()
            self._pool.shutdown(cancel_futures=True)

    def do(self, name: str, cells: Sequence[Cell]) -> None:
        """Run the cells that have no record yet."""
        waiting = [cell for cell in cells if self._journal.get(cell) is None]
        for cell in waiting:
            arm = "latent" if cell.phase == "floor" else cell.arm
            _check_there(self._models, cell.model_seed, ARMS[arm].model)
        if not waiting:
            return
        for record in tqdm(self._records_of(waiting), total=len(waiting), desc=name, unit="run"):
            self._journal.add(record)

    def _records_of(self, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
        """Yield the records of the cells as they finish."""
        if self._pool is None:
            yield from (run(cell, self._protocol, self._models) for cell in cells)
        else:
            futures = [self._pool.submit(run, cell, self._protocol, self._models) for cell in cells]
            yield from (future.result() for future in as_completed(futures))


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare", help="latent against token actions, with controls, over many seeds"
    )
    parser.add_argument("--task", default="Thinking", help="name of the environments: CoLA-<task>-v0")
    add_env(parser)
    parser.add_argument("--models", type=Path, required=True, help="a folder that `benchmarks models` wrote")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=[name for name, arm in ARMS.items() if arm.model in ("cola", "base", "rank")],
        choices=list(ARMS),
        metavar="ARM",
        help="all but those on the models of `benchmarks models --controls` and `--variants`, unless given",
    )
    parser.add_argument("--model-seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--seeds", type=positive, default=4, help="RL seeds over each model")
    parser.add_argument(
        "--tuning-models",
        type=int,
        help=f"how many models options are searched on (default: {TUNING_MODELS}, or all if there are fewer)",
    )
    parser.add_argument("--updates", type=positive, default=32)
    parser.add_argument("--prompts", type=positive, default=8)
    parser.add_argument("--group-size", type=positive, default=8)
    parser.add_argument("--warmup", type=int, default=10, help="gradient steps, of every arm")
    parser.add_argument(
        "--micro-batch",
        type=positive,
        help="episodes that a gradient step differentiates at once, where memory is short (default: all)",
    )
    parser.add_argument("--episodes", type=positive, default=256, help="test problems of an evaluation")
    parser.add_argument(
        "--kl-episodes", type=int, default=64, help="of these, whose KL is measured in token space; 0: none"
    )
    parser.add_argument(
        "--task-only", action="store_true", help="measure the task alone: for a model that is not bundled"
    )
    parser.add_argument(
        "--floors",
        nargs="*",
        default=list(FLOORS),
        choices=FLOORS,
        metavar="FLOOR",
        help=f"of {' and '.join(FLOORS)}: the second plays every code, which takes long on a large model",
    )
    parser.add_argument("--device", help="of the models: cpu, cuda")
    parser.add_argument("--dtype", default="float32", help="of the models: float32, bfloat16")
    parser.add_argument(
        "--given",
        nargs="+",
        default=[],
        metavar="ARM:lr=RATE,kl_coef=WEIGHT",
        help="options of an arm that are not searched for",
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        default=[],
        metavar="ARM:lr=RATE,kl_coef=WEIGHT",
        help="the options that the search tries, several times for each arm; in place of a grid that grows",
    )
    parser.add_argument(
        "--tuning-updates", type=positive, help="updates of a run of the search (default: as --updates)"
    )
    parser.add_argument(
        "--keep",
        help="what the search must not lose: a figure (arithmetic, unless --task-only), or 'nothing'",
    )
    parser.add_argument("--allowed", type=float, default=0.02, help="by how much it may fall")
    parser.add_argument("--settings", type=int, default=12, help="that the search tries for an arm, at most")
    parser.add_argument(
        "--frontier", type=float, nargs="*", default=[], help="weights of the KL to run besides"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, of one thread each")
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder, which goes on if it was interrupted"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    from benchmarks.compare.report import write_report

    tuning_models = arguments.tuning_models
    if tuning_models is None:
        tuning_models = min(TUNING_MODELS, len(arguments.model_seeds))
    keep = arguments.keep or ("nothing" if arguments.task_only else "arithmetic")
    plan = Plan(
        protocol=Protocol(
            task=arguments.task,
            env_kwargs=settings(arguments.env, "--env"),
            updates=arguments.updates,
            prompts=arguments.prompts,
            group_size=arguments.group_size,
            warmup=arguments.warmup,
            micro_batch=arguments.micro_batch,
            episodes=arguments.episodes,
            kl_episodes=arguments.kl_episodes,
            task_only=arguments.task_only,
            device=arguments.device,
            dtype=arguments.dtype,
            tuning_updates=arguments.tuning_updates,
        ),
        arms=tuple(arguments.arms),
        model_seeds=tuple(arguments.model_seeds),
        seeds=arguments.seeds,
        tuning_models=tuning_models,
        keep=None if keep == "nothing" else keep,
        allowed=arguments.allowed,
        settings=arguments.settings,
        given=_alone(map(_given, arguments.given)),
        candidates=_together(map(_given, arguments.candidates)),
        floors=tuple(arguments.floors),
    )
    campaign(plan, arguments.models, arguments.out, jobs=arguments.jobs, frontier=arguments.frontier)
    print(write_report(arguments.out))


def _given(text: str) -> tuple[str, Setting]:
    """The arm and the setting of an argument of ``--given``.

    Raises:
        ValueError: for options other than the two.
    """
    arm, _, options = text.partition(":")
    given = settings([pair for pair in options.split(",") if pair], "--given")
    if given.keys() != {"lr", "kl_coef"} or not all(isinstance(v, int | float) for v in given.values()):
        raise ValueError(f"options are written ARM:lr=RATE,kl_coef=WEIGHT, got {text!r}")
    return arm, (float(given["lr"]), float(given["kl_coef"]))


def _together(settings: Iterable[tuple[str, Setting]]) -> dict[str, tuple[Setting, ...]]:
    """The settings of each arm."""
    of_arms: dict[str, tuple[Setting, ...]] = {}
    for arm, setting in settings:
        of_arms[arm] = (*of_arms.get(arm, ()), setting)
    return of_arms


def _alone(settings: Iterable[tuple[str, Setting]]) -> dict[str, Setting]:
    """The setting of each arm.

    Raises:
        ValueError: for an arm with two.
    """
    of_arms = _together(settings)
    twice = [arm for arm, several in of_arms.items() if len(several) > 1]
    if twice:
        raise ValueError(f"--given names {twice[0]} twice; settings to search among go to --candidates")
    return {arm: one for arm, (one,) in of_arms.items()}
