"""The file format of recorded episodes, and appending to such a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from cola_agents.common.files import write_whole
from cola_agents.common.provenance import provenance
from cola_envs import jsonl

#: The ``kind`` in the first line of a file.
KIND = "cola-episodes"
#: The fields of an episode: lists of numbers, one for each action (``ids``: for each token), and values.
_LISTS = {"ids": int, "positions": int, "actions": int, "log_probs": float, "rewards": float}
#: Fields of the first line that files of earlier versions lack.
_ADDED = ("prompt_format", "own_task")
#: Fields that a first line lacks where they have these values.
_LEFT_OUT = {"top_k": None, "top_p": 1.0}
#: Ranges ``[start, end]`` of tokens behind the first action that no action wrote: a task's replies. Episodes
#: without any lack the field, and so do those of files of earlier versions.
REPLIES = "replies"
_VALUES = {"terminated": bool, "seed": int, "problem_seed": int, "info": dict}


def check_header(item: Any) -> None:
    """Raise ValueError for a first line that is not the header of a recording."""
    if not isinstance(item, dict) or item.get("kind") != KIND:
        raise ValueError(f"the first line is not of kind {KIND!r}: the file holds no episodes")
    for name in ("actions", "fingerprint"):
        if not isinstance(item.get(name), str):
            raise ValueError(f"the first line lacks the episodes' {name}: {item.get(name)!r:.60}")


def check_episode(item: Any) -> None:
    """Raise ValueError for an item that is not a recorded episode, with the reason."""
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
    positions, length = item["positions"], len(item["ids"])
    if any(not low < high for low, high in pairwise([-1, *positions, length - 1])):
        raise ValueError(
            f"the episode's positions must lie before the last of its {length} tokens, in order: "
            f"{positions!r:.60}"
        )
    end, written = positions[0] + 1 if positions else 0, {position + 1 for position in positions}
    for start, stop in _ranges(item.get(REPLIES, [])):
        if not end <= start < stop <= length or not written.isdisjoint(range(start, stop)):
            raise ValueError(
                "the episode's replies must be ranges of tokens behind its first action that no action "
                f"wrote, in order: {[start, stop]}"
            )
        end = stop


def _ranges(given: Any) -> list[list[int]]:
    """``given``, if it is a list of pairs of whole numbers."""
    ranges: list[list[int]] = given if isinstance(given, list) else [[]]
    for pair in ranges:
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)):
            raise ValueError(f"the episode's replies must be a list of ranges [start, end]: {given!r:.60}")
    return ranges


def _differing(held: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which the first line of a file differs from that of a new recording."""
    return [
        name
        for name in {**new, **held}
        if (name in held or name not in _ADDED)
        and name != "provenance"
        and held.get(name, _LEFT_OUT.get(name)) != new.get(name, _LEFT_OUT.get(name))
    ]


def check_path(path: Path) -> None:
    """Raise ValueError for a name that no reader would take for a recording's, or a folder of that name."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(
            f"recorded episodes go to a file named *.jsonl or *.jsonl.gz, got {str(path)!r}: by that name "
            "they are told from plain text"
        )
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file: give another name")


def check_begun(path: Path, about: dict[str, Any], absent: Sequence[str] = ()) -> None:
    """Check some fields of a recording's first line before a model is loaded, which the others need.

    Args:
        about: the fields.
        absent: names of those that the line must not have where ``about`` has them not.

    Raises:
        ValueError: for a file that was made with other values of them, naming them.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    with suppress(StopIteration, EOFError):  # what is no recording is refused by Recording
        _, held = next(
            iter(jsonl.records(path, lambda item, line: check_header(item) if line == 1 else None))
        )
        known = {name: held[name] for name in (*about, *absent) if name in held}
        _refuse(path, known, json.loads(json.dumps(about)))


def _refuse(path: Path, held: dict[str, Any], new: dict[str, Any]) -> None:
    if differing := _differing(held, new):
        how = "; ".join(_told(name, held.get(name), new.get(name)) for name in differing)
        raise ValueError(f"{path} was made otherwise ({how}): write to another file, or remove it")


def _told(name: str, held: object, new: object) -> str:
    """The values of a setting there and here; of a dict those that differ."""
    if isinstance(held, dict) and isinstance(new, dict):
        keys = [key for key in {**new, **held} if held.get(key) != new.get(key)]
        return "; ".join(_told(f"{name}[{key!r}]", held.get(key), new.get(key)) for key in keys)
    return f"{name} is {held!r:.80} there and {new!r:.80} here"


class Recording:
    """A file of recorded episodes, new or resumed after its last whole problem.

    Nothing is written before the first :meth:`append`. It creates a file that is absent or empty, and
    truncates any other after its last whole problem; the later episodes have been played again by then.

    Args:
        path: ``.jsonl`` or ``.jsonl.gz``.
        about: the first line, without provenance.
        n: episodes of each problem.

    Attributes:
        done: number of whole problems in the file.

    Raises:
        ValueError: for a file of other settings, and for one with a damaged line before its last, naming the
            line.
    """

    def __init__(self, path: Path, about: dict[str, Any], n: int) -> None:
        self._path, self._n = path, n
        self.done = self._won = self._solved = self._failed = 0
        self._reward = 0.0
        about = json.loads(json.dumps(about))
        is_new = not path.exists() or not path.stat().st_size
        #: The first line, until it is written; None where the file has one.
        self._header = {**about, "provenance": provenance()} if is_new else None
        #: The last line of the last whole problem; None once the file was truncated after it.
        self._last: jsonl.Line | None = None if is_new else self._scan(about)

    def _scan(self, about: dict[str, Any]) -> jsonl.Line:
        """Count the file's episodes; return the last line of its last whole problem."""
        last = None
        problem: list[dict[str, Any]] = []
        lines = jsonl.records(
            self._path, lambda item, line: check_header(item) if line == 1 else check_episode(item)
        )
        for line, item in lines:
            if last is None:
                _refuse(self._path, item, about)
                last = line
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
                problem, last = [], line
        if last is None:
            raise ValueError(
                f"{self._path} does not begin with a whole line of kind {KIND!r}: it holds no episodes. "
                "Write to another file, or remove it"
            )
        return last

    def append(self, episodes: Sequence[dict[str, Any]]) -> None:
        """Append the episodes of whole problems; they are on the disk when this returns.

        Raises:
            OSError: where they cannot be written; earlier problems stay whole.
        """
        if self._header is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, jsonl.encoded(self._path, [self._header]))
            self._header = None
        if self._last is not None:
            if self._last.end is None:
                write_whole(self._path, jsonl.repacked(self._path, self._last.number))
            elif self._last.end < self._path.stat().st_size:
                jsonl.cut(self._path, self._last.end)
            self._last = None
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

        ``failed_episodes`` is the number of episodes that a failing engine or task cut short, if any.
        """
        count = self.done * self._n
        return {
            "episodes": count,
            "success": round(self._won / count, 4),
            "reward": round(self._reward / count, 4),
            "solved_by_some": round(self._solved / self.done, 4),
            **({"failed_episodes": self._failed} if self._failed else {}),
        }
