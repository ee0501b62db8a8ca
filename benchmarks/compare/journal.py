"""The folder of a comparison: its configuration, the chosen options, and the records of its runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.compare.runs import Cell, Protocol, former_probe_of
from benchmarks.compare.tuning import Setting
from cola_agents.common.files import write_json
from cola_envs import jsonl

CONFIG = "config.json"
#: What tells a run from the others.
KEY = ("phase", "arm", "model_seed", "seed", "options")
#: What a comparison that goes on must have in common with what was begun.
FIXED = ("protocol", "tuning_models", "keep", "allowed", "settings")


class Journal:
    """``config.json`` and ``runs.jsonl`` of a comparison, one line per run.

    More seeds, models and arms than it was begun with are welcome; with fewer, those that are left out stay
    in the configuration.

    Args:
        folder: made if need be.
        config: of the comparison that begins or goes on; ``plan``, ``models`` and ``probe`` are compared with
            what is held.

    Raises:
        ValueError: for a folder that was begun with another plan or other models, or whose side effects were
            measured on other tasks, and for a damaged record that others follow, naming its line. A last one
            that is damaged is cut off, and its run is made again.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._runs, self._config = folder / "runs.jsonl", folder / CONFIG
        self.config = json.loads(json.dumps(config))
        if self._config.is_file():
            held = jsonl.read_object(self._config, "plan", "models")
            _check_held(held, self._config)
            _check(held, self.config, folder)
            _check_probe(held, self.config, folder)
            self.config["chosen"] = held.get("chosen")
            _keep(self.config, held)
        self._records = self._read()
        self._write()

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The options of each arm, once they are chosen."""
        return self.config.get("chosen")

    def choose(self, chosen: dict[str, Any]) -> None:
        """Write the options that the search chose for each arm."""
        self.config["chosen"] = chosen
        self._write()

    def add(self, record: dict[str, Any]) -> None:
        """Append a record; it is on the disk when this returns."""
        jsonl.append(self._runs, [record])
        self._records[_key(record)] = record

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a cell."""
        return self._records.get(_key(cell.key()))

    def tried(self, arm: str, setting: Setting) -> list[dict[str, Any]]:
        """The records of an arm's search at a setting."""
        options = {"lr": setting[0], "kl_coef": setting[1]}
        return [
            record
            for record in self._records.values()
            if record["phase"] == "tuning" and record["arm"] == arm and record["options"] == options
        ]

    def _read(self) -> dict[str, dict[str, Any]]:
        """The records by their cell; a last line that is cut off or damaged is cut from the file."""
        if not self._runs.is_file():
            return {}
        records, end = {}, 0
        for line, record in jsonl.records(self._runs, _check_record):
            records[_key(record)] = record
            end = line.end or end
        if end < self._runs.stat().st_size:
            jsonl.cut(self._runs, end)
        return records

    def _write(self) -> None:
        write_json(self._config, self.config, indent=1)


def held_models(folder: Path) -> dict[str, dict[str, str]]:
    """By seed and name, the digests of the models that a comparison's folder was begun with."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    held = jsonl.read_object(path, "plan", "models")
    _check_held(held, path)
    models: dict[str, dict[str, str]] = held["models"]
    return models


def _keep(config: dict[str, Any], held: dict[str, Any]) -> None:
    """Keep the arms, models and seeds that a folder was begun with."""
    for name in ("arms", "model_seeds", "seeds", "arms_are", "models"):
        before, now = held.get(name), config.get(name)
        if isinstance(before, list) and isinstance(now, list):
            config[name] = [*before, *(one for one in now if one not in before)]
        elif isinstance(before, dict) and isinstance(now, dict):
            config[name] = {**before, **now}
    for seed, models in held["models"].items():
        config["models"][seed] = {**models, **config["models"][seed]}
    plan, was = config["plan"], held["plan"]
    for name in ("arms", "model_seeds"):
        plan[name] = [*was[name], *(one for one in plan[name] if one not in was[name])]
    plan["seeds"] = max(plan["seeds"], was.get("seeds", 0))


def _check_record(record: Any, line: int) -> None:
    """Raise ValueError for a value that is not the record of a run."""
    missing = [name for name in KEY if not isinstance(record, dict) or name not in record]
    if missing:
        raise ValueError(f"the record of a run has {', '.join(missing)}: {record!r:.60}")


def _key(record: dict[str, Any]) -> str:
    return json.dumps({name: record[name] for name in KEY}, sort_keys=True)


def _check_held(held: dict[str, Any], path: Path) -> None:
    """Raise ValueError for a configuration without the settings that a comparison started with."""
    plan, names = held["plan"], {*FIXED, "model_seeds", "arms"}
    if not (isinstance(plan, dict) and plan.keys() >= names and isinstance(held["models"], dict)):
        raise ValueError(
            f"{path} is damaged: its plan has {', '.join(sorted(names))}, and its models are named"
        )


def _check(held: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a comparison would resume with other settings."""
    was, now = dict(held["plan"]), config["plan"]
    # A setting that is younger than the folder had its default.
    was["protocol"] = {**json.loads(json.dumps(asdict(Protocol(config["task"])))), **was["protocol"]}
    # The parts of a gradient step change rounding alone: what ran out of memory goes on in smaller ones.
    was["protocol"]["micro_batch"] = now["protocol"]["micro_batch"]
    odd: list[tuple[str, Any, Any]] = [
        (name, was[name], now[name]) for name in FIXED if was[name] != now[name]
    ]
    count = was["tuning_models"]
    tuned = [plan["model_seeds"][:count] for plan in (was, now)]
    if tuned[0] != tuned[1]:
        odd.append(("the models that options are searched on", *tuned))
    for seed in sorted(set(held["models"]) & set(config["models"])):
        before, after = held["models"][seed], config["models"][seed]
        for kind in sorted(set(before) & set(after)):
            if before[kind] != after[kind]:
                odd.append((f"the model {seed}/{kind}", before[kind], after[kind]))
    if odd:
        name, before, after = odd[0]
        raise ValueError(
            f"{folder} was begun with {name}={before} and is now to go on with {after}: use another --out, "
            "or the same arguments"
        )


def _check_probe(held: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where held runs' side effects were measured on other tasks than new ones would be."""
    plan, now, told = config["plan"], config["probe"], "probe" in held
    was = held["probe"] if told else json.loads(json.dumps(former_probe_of(Protocol(**plan["protocol"]))))
    if was == now:
        return
    before, after = (json.dumps(probe, sort_keys=True) for probe in (was, now))
    where = "" if told else f", as far as {folder / CONFIG} tells, which has no 'probe'"
    known = "" if told else f'. If they are known to be measured as now, add "probe": {after} to it'
    raise ValueError(
        f"{folder} cannot go on: the side effects of its runs were measured on {before}{where}, and those of "
        f"new ones would be measured on {after}. Run all arms under another --out; "
        f"`python -m benchmarks report` still reads this one{known}"
    )
