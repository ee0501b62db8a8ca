"""Fields of ``info`` that others than the task read: what they mean, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Fields of ``info`` that tell problems apart.
IDENTITY = ("unique_id", "game_id", "game", "question", "task_type", "variation", "goal", "prompt")


#: Raw scores of a preference task: the rewarded one, and the one that shows whether it is being hacked.
SCORES = ("score", "held_out_score")


def mean_scores(infos: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of a preference task's raw scores, where the infos have any: rewarded and held out."""
    return {
        name: float(np.mean([info[name] for info in infos if name in info]))
        for name in SCORES
        if any(name in info for info in infos)
    }


def failures(infos: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many episodes a failing engine or task cut, as ``failed_episodes``; empty where none was."""
    failed = sum("error" in info for info in infos)
    return {"failed_episodes": failed} if failed else {}


def identity(info: dict[str, Any]) -> str:
    """What tells an episode's problem apart from others; empty where the task says nothing of it."""
    return "|".join(f"{field}={info[field]!r}" for field in IDENTITY if field in info)


def given_answer(info: dict[str, Any]) -> str | None:
    """The agent's own answer in a task's ``info``: ``answer`` beside ``gold``, or else ``given``."""
    answer = info.get("answer") if "gold" in info else info.get("given")
    return None if _untold(answer) else str(answer)


def _untold(value: Any) -> bool:
    """Whether a field of ``info`` says that there is nothing to tell: fields of text do so by ``""``."""
    return value is None or value == ""
