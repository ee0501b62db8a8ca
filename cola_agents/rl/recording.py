"""The file of a recording: what an episode in it is, and how it is gone on with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cola_agents.common.files import write_whole
from cola_agents.common.provenance import provenance
from cola_envs import jsonl

#: Of the first line of a file, which says what the others are.
KIND = "cola-episodes"
#: What an episode holds: lists of such numbers, an entry an action but for ``ids``, and single values.
_LISTS = {"ids": int, "positions": int, "actions": int, "log_probs": float, "rewards": float}
_VALUES = {"terminated": bool, "seed": int, "problem_seed": int, "info": dict}


def check_header(item: Any) -> None:
    """Raise ValueError for a first line that does not say that episodes follow."""
    if not isinstance(item, dict) or item.get("kind") != KIND:
        raise ValueError(f"the first line is not of kind {KIND!r}: the file holds no episodes")
    for name in ("actions", "fingerprint"):
        if not isinstance(item.get(name), str):
            raise ValueError(f"the first line does not say the episodes' {name}: {item.get(name)!r:.60}")


def check_episode(item: Any) -> None:
    """Raise ValueError for what is no recorded episode, saying why."""
    if not isinstance(item, dict):
        raise ValueError(f"an episode is an object, got {item!r:.60}")
    for name, kind in {**dict.fromkeys(_LISTS, list), **_VALUES}.items():
        if type(item.get(name)) is not kind:
            raise ValueError(f"the episode's {name} must be of type {kind.__name__}: {item.get(name)!r:.60}")
    for name, kind in _LISTS.items():
        if not all(type(entry) is int or type(entry) is kind for entry in item[name]):
            raise ValueError(f"the episode's {name} must be of type {kind.__name__}: {item[name]!r:.60}")
    if len({len(item[name]) for name in _LISTS if name != "ids"}) > 1:
        raise ValueError("the episode's positions, actions, log_probs and rewards differ in number")


def _check(item: Any, line: int) -> None:
    if line == 1:
        check_header(item)
    else:
        check_episode(item)


class Recording:
    """A file of episodes, begun, or gone on with behind its last whole problem.

    A file that is there is left as it is until :meth:`append` is called. Only then what follows the last
    whole problem is cut off; it has been played again by then.

    Args:
        path: ``.jsonl`` or ``.jsonl.gz``; where it is absent or empty, it is made, with its first line.
        about: the first line, but for where it was made.
        n: episodes of each problem.

    Attributes:
        done: problems that are whole in the file.

    Raises:
        ValueError: for a file that was made otherwise, and for one with a damaged line before its last,
            naming the line.
    """

    def __init__(self, path: Path, about: dict[str, Any], n: int) -> None:
        self._path, self._n = path, n
        self.done = self._won = self._solved = self._failed = 0
        self._reward = 0.0
        if not path.exists() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, jsonl.encoded(path, [{**about, "provenance": provenance()}]))
        #: The last line that is kept, until what follows it was cut off.
        self._kept: jsonl.Line | None = self._scanned(json.loads(json.dumps(about)))

    def _scanned(self, about: dict[str, Any]) -> jsonl.Line:
        """Count what the file holds; returns the last line of its last whole problem."""
        kept = None
        problem: list[dict[str, Any]] = []
        for line, item in jsonl.records(self._path, _check):
            if kept is None:
                differing = [key for key in about if item.get(key) != about[key]]
                if differing:
                    raise ValueError(
                        f"{self._path} was made otherwise ({', '.join(differing)} differ): write to another "
                        "file, or remove it"
                    )
                kept = line
                continue
            if problem and item["problem_seed"] != problem[0]["problem_seed"]:
                raise ValueError(
                    f"{self._path}, line {line.number}: an episode of problem {item['problem_seed']} among "
                    f"the {self._n} of problem {problem[0]['problem_seed']}: lines are missing. Nothing was "
                    "changed"
                )
            problem.append(item)
            if len(problem) == self._n:
                self._count(problem)
                problem, kept = [], line
        if kept is None:
            raise ValueError(
                f"{self._path} does not begin with a whole line of kind {KIND!r}: it holds no episodes. "
                "Write to another file, or remove it"
            )
        return kept

    def append(self, episodes: Sequence[dict[str, Any]]) -> None:
        """Append the episodes of whole problems; they are on the disk when this returns.

        Raises:
            OSError: where they cannot be written; what was whole before still is.
        """
        if self._kept is not None:
            if self._kept.end is None:
                write_whole(self._path, jsonl.repacked(self._path, self._kept.number))
            elif self._kept.end < self._path.stat().st_size:
                jsonl.cut(self._path, self._kept.end)
            self._kept = None
        jsonl.append(self._path, episodes)
        for at in range(0, len(episodes), self._n):
            self._count(episodes[at : at + self._n])

    def _count(self, problem: Sequence[dict[str, Any]]) -> None:
        won = sum(bool(episode["info"].get("success")) for episode in problem)
        self.done += 1
        self._won += won
        self._solved += won > 0
        self._failed += sum("error" in episode["info"] for episode in problem)
        self._reward += sum(sum(episode["rewards"]) for episode in problem)

    def figures(self) -> dict[str, Any]:
        """Number of episodes, share of successes, mean reward, share of problems that some episode solved.

        ``failed_episodes`` says how many a failing engine or task cut, where one was.
        """
        count = self.done * self._n
        return {
            "episodes": count,
            "success": round(self._won / count, 4),
            "reward": round(self._reward / count, 4),
            "solved_by_some": round(self._solved / self.done, 4),
            **({"failed_episodes": self._failed} if self._failed else {}),
        }
