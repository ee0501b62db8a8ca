"""The folder of a comparison: what was begun, what was chosen, and the records of its runs as they come."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.compare.runs import Cell
from benchmarks.compare.tuning import Setting

#: What a comparison that goes on must have in common with what was begun.
FIXED = ("protocol", "tuning_models", "keep", "allowed", "settings")


class Journal:
    """``config.json`` and ``runs.jsonl``, a line a run.

    More seeds and more models than it was begun with are welcome, and more arms as long as no options have
    been chosen: all arms are searched alike.

    Args:
        folder: made if need be.
        config: of the comparison that begins or goes on; ``plan`` and ``models`` are compared with what is
            held.

    Raises:
        ValueError: for a folder that was begun with another plan or other models.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._runs, self._config = folder / "runs.jsonl", folder / "config.json"
        self.config = json.loads(json.dumps(config))
        if self._config.is_file():
            held = json.loads(self._config.read_text())
            _check(held, self.config, folder)
            self.config["chosen"] = held.get("chosen")
        self._records = self._read()
        self._write()

    @property
    def chosen(self) -> dict[str, Any] | None:
        """The options of each arm, once they are chosen."""
        return self.config.get("chosen")

    def choose(self, chosen: dict[str, Any]) -> None:
        """Keep the options that the search chose: from now on they are the arms'."""
        self.config["chosen"] = chosen
        self._write()

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record; it is on the disk when this returns."""
        with self._runs.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
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
        """The records by their cell; a last line that an interruption cut off is cut from the file."""
        if not self._runs.is_file():
            return {}
        *lines, rest = self._runs.read_bytes().split(b"\n")
        if rest:
            os.truncate(self._runs, sum(len(line) + 1 for line in lines))
        return {_key(record): record for record in map(json.loads, lines)}

    def _write(self) -> None:
        partial = self._config.with_suffix(".partial")
        partial.write_text(json.dumps(self.config, indent=1) + "\n")
        partial.replace(self._config)


def _key(record: dict[str, Any]) -> str:
    names = ("phase", "arm", "model_seed", "seed", "options")
    return json.dumps({name: record[name] for name in names}, sort_keys=True)


def _check(held: dict[str, Any], config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError where a comparison would go on as another one."""
    was, now = held["plan"], config["plan"]
    odd: list[tuple[str, Any, Any]] = [
        (name, was[name], now[name]) for name in FIXED if was[name] != now[name]
    ]
    count = was["tuning_models"]
    tuned = [plan["model_seeds"][:count] for plan in (was, now)]
    if tuned[0] != tuned[1]:
        odd.append(("the models that options are searched on", *tuned))
    for seed in sorted(set(held["models"]) & set(config["models"])):
        if held["models"][seed] != config["models"][seed]:
            odd.append((f"the models of seed {seed}", held["models"][seed], config["models"][seed]))
    new = sorted(set(now["arms"]) - set(held.get("chosen") or now["arms"]))
    if new:
        odd.append(("the arms, whose options are chosen,", was["arms"], now["arms"]))
    if odd:
        name, before, after = odd[0]
        raise ValueError(
            f"{folder} was begun with {name}={before} and is now to go on with {after}: use another --out, "
            "or the same arguments"
        )
