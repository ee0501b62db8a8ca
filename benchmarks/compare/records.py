"""The raw data of a comparison, read and checked: ``config.json`` and ``runs.jsonl`` of its folder."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from cola_envs import jsonl

PHASES = ("tuning", "main", "frontier", "floor")
#: What a learning curve must have, a value an update; ``episodes`` and ``cpu_s`` are cumulative.
CURVE = ("episodes", "cpu_s", "reward")
#: Fields of ``info`` whose shares are figures where the task has them, and what tables call them. ``success``
#: may need both, and then rises when the form alone is learned.
PARTS = {"format": "in the right form", "correct": "right with or without it"}


@dataclass(frozen=True)
class Run:
    """One record of ``runs.jsonl``.

    Attributes:
        phase: one of :data:`PHASES`. Runs of ``main`` have the chosen options; a ``floor`` is no run of
            RL and has ``after`` only.
        arm: its name.
        model_seed: of the pre-trained model.
        seed: of RL; 0 of a floor.
        options: of the agent.
        curve: what :data:`CURVE` names, and more; empty where none was kept.
        before, after: figures of the evaluation by name; None where a figure is undefined.
        costs: seconds of an update (``update_s``), most MiB in use in an update (``peak_mib``) and MiB of a
            save (``save_mib``); None where one is not known, and empty in records of before.
        trained_parameters: how many numbers RL changed; None where it is not said.
        fingerprint: of the model that RL began with; None where it is not said.
        commit: of the code that ran it.
        prompts_sha256: of the test problems; None where it is not said.
        probe: what side effects were measured on: by task its arguments; None where they were not measured or
            it is not said.
    """

    phase: str
    arm: str
    model_seed: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    curve: dict[str, list[float]] = field(default_factory=dict)
    before: dict[str, float | None] = field(default_factory=dict)
    after: dict[str, float | None] = field(default_factory=dict)
    costs: dict[str, float | None] = field(default_factory=dict)
    trained_parameters: int | None = None
    fingerprint: str | None = None
    commit: str | None = None
    prompts_sha256: str | None = None
    probe: dict[str, Any] | None = None

    def change(self, name: str) -> float | None:
        """The figure after RL less the figure before; None where either is undefined."""
        before, after = self.before.get(name), self.after.get(name)
        return None if before is None or after is None else after - before

    def setting(self) -> str:
        """The options as one string; see :func:`setting_of`."""
        return setting_of(self.options)


@dataclass(frozen=True)
class Comparison:
    """A comparison read from its folder.

    Attributes:
        folder: its name.
        config: ``config.json``.
        runs: of every phase, in the order of the file.
        cut: whether the last line is cut off or damaged, as an interruption leaves it; it is not among the
            runs.
        diverged: by arm the reasons why runs of the main phase have no figures.
        failed: by arm and setting, how many runs of any phase have none.
    """

    folder: str
    config: dict[str, Any]
    runs: tuple[Run, ...]
    cut: bool
    diverged: dict[str, list[str]] = field(default_factory=dict)
    failed: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return str(self.config["task"])

    def arms(self) -> tuple[str, ...]:
        """The arms of the configuration, and then others that have runs, without the floors."""
        others = sorted({run.arm for run in self.runs if run.phase != "floor"})
        return tuple(dict.fromkeys([*self.config["arms"], *others]))

    def main(self, arm: str) -> list[Run]:
        """An arm's runs of the main phase, by model and seed."""
        runs = [run for run in self.runs if run.phase == "main" and run.arm == arm]
        return sorted(runs, key=lambda run: (run.model_seed, run.seed))

    def settings(self, arm: str) -> dict[str, list[Run]]:
        """An arm's runs by their options: of the main phase where there are any, or else of the others.

        A setting's tuning runs may be why it was chosen, so its main runs replace them. Processes finish in
        any order, so that of the file is not kept.
        """
        by_setting: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.arm == arm and run.phase != "floor":
                by_setting.setdefault(run.setting(), []).append(run)
        kept = {}
        for setting in sorted(by_setting, key=lambda setting: tuple(json.loads(setting).items())):
            runs = by_setting[setting]
            main = [run for run in runs if run.phase == "main"]
            kept[setting] = sorted(main or runs, key=lambda run: (run.model_seed, run.seed))
        return kept

    def floors(self) -> dict[str, dict[int, float]]:
        """Test reward of each floor, by model seed."""
        rewards: dict[str, dict[int, float]] = {}
        for run in sorted(self.runs, key=lambda run: (run.arm, run.model_seed)):
            reward = run.after.get("reward")
            if run.phase == "floor" and reward is not None:
                rewards.setdefault(run.arm, {})[run.model_seed] = reward
        return rewards


def read(folder: Path) -> Comparison:
    """Read a comparison.

    Raises:
        FileNotFoundError: without ``config.json`` or ``runs.jsonl``.
        ValueError: for a line before the last that is no record, a figure that is not finite, a run that is
            there twice, several tasks, sets of test problems or probes, or an arm with two settings in the
            main phase.
    """
    folder = Path(folder)
    for name in ("config.json", "runs.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}, so it is no comparison's folder: `python -m benchmarks compare` "
                "makes one"
            )
    config = jsonl.read_object(folder / "config.json")
    for name in ("task", "arms", "seeds", "model_seeds"):
        if name not in config:
            raise ValueError(f"{folder.name}/config.json has no {name!r}")
    path = folder / "runs.jsonl"
    records = list(jsonl.records(path, _check_record))
    end = records[-1][0].end if records else 0
    runs = tuple(_runs(records, str(config["task"])))
    _check(runs)
    config["commits"] = list(dict.fromkeys(run.commit for run in runs if run.commit))
    diverged: dict[str, list[str]] = {}
    failed: Counter[tuple[str, str]] = Counter()
    for _, record in records:
        if "failed" in record:
            arm = str(record.get("arm"))
            failed[arm, setting_of(record.get("options") or {})] += 1
            if record.get("phase") == "main":
                diverged.setdefault(arm, []).append(str(record["failed"]))
    cut = path.stat().st_size != end
    return Comparison(folder.resolve().name, config, runs, cut, diverged, failed)


def setting_of(options: Mapping[str, Any]) -> str:
    """Options as one string, the same for the same options."""
    return json.dumps(options, sort_keys=True)


def _check_record(record: Any, line: int) -> None:
    if not isinstance(record, dict):
        raise ValueError(f"a record is an object, got {record!r:.60}")


def _runs(records: list[tuple[jsonl.Line, dict[str, Any]]], task: str) -> Iterator[Run]:
    names = set(Run.__dataclass_fields__)
    for line, record in records:
        where = f"line {line.number} of runs.jsonl"
        if "failed" in record:
            continue  # it diverged and has no figures
        missing = [name for name in ("phase", "arm", "model_seed", "after") if name not in record]
        if missing:
            raise ValueError(f"{where} has no {', '.join(missing)}")
        if record["phase"] not in PHASES:
            raise ValueError(f"{where}: phase {record['phase']!r} is none of {', '.join(PHASES)}")
        if record.get("task", task) != task:
            raise ValueError(f"{where} is of task {record['task']!r}, the configuration of {task!r}")
        run = Run(**{name: value for name, value in record.items() if name in names and value is not None})
        _check_run(run, where)
        yield run


def _check_run(run: Run, where: str) -> None:
    for when in ("before", "after"):
        for name, value in getattr(run, when).items():
            if isinstance(value, int | float) and not math.isfinite(value):
                raise ValueError(
                    f"{where}: {name} {when} RL is {value}; write null where a figure is undefined"
                )
    if run.curve:
        absent = [name for name in CURVE if not run.curve.get(name)]
        if absent:
            raise ValueError(f"{where}: its curve has no {', '.join(absent)}")
        x, y = run.curve["episodes"], run.curve["reward"]
        if {len(x), len(y), len(run.curve["cpu_s"])} != {len(x)}:
            raise ValueError(f"{where}: the columns of its curve differ in length")
        if not all(map(math.isfinite, y)):
            raise ValueError(f"{where}: a reward of its curve is not finite")
        for name in ("episodes", "cpu_s"):
            if any(right <= left for left, right in pairwise(run.curve[name])):
                raise ValueError(f"{where}: {name} of its curve do not rise; cumulative numbers are meant")
    elif run.phase == "main":
        raise ValueError(f"{where}: a run of the main phase needs its curve")


def _check(runs: tuple[Run, ...]) -> None:
    seen: set[tuple[Any, ...]] = set()
    chosen: dict[str, str] = {}
    over: dict[tuple[str, int], str | None] = {}
    prompts = {run.prompts_sha256 for run in runs if run.prompts_sha256 is not None}
    if len(prompts) > 1:
        raise ValueError(f"the runs were tested on {len(prompts)} sets of problems: they cannot be compared")
    probes = {json.dumps(run.probe, sort_keys=True) for run in runs if run.probe is not None}
    if len(probes) > 1:
        raise ValueError(
            f"the side effects of the runs were measured on different tasks, {' and '.join(sorted(probes))}: "
            "they cannot be compared. Put the runs of each into a folder of their own"
        )
    for run in runs:
        if over.setdefault((run.arm, run.model_seed), run.fingerprint) != run.fingerprint:
            raise ValueError(f"arm {run.arm} has runs over two different models of seed {run.model_seed}")
        key = (run.phase, run.arm, run.model_seed, run.seed, run.setting())
        if key in seen:
            raise ValueError(
                f"runs.jsonl has this run twice: {run.phase} {run.arm}, model {run.model_seed}, "
                f"seed {run.seed}, {run.setting()}"
            )
        seen.add(key)
        if run.phase == "main" and chosen.setdefault(run.arm, run.setting()) != run.setting():
            raise ValueError(
                f"arm {run.arm} has two settings in the main phase, {chosen[run.arm]} and {run.setting()}"
            )
