"""The fields of ``info`` that code outside the tasks reads: their names, types and meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

#: Gymnasium's ``info``: fields by name, most of them specific to a task.
Info = dict[str, object]
T = TypeVar("T")


@dataclass(frozen=True)
class Field(Generic[T]):
    """A field of ``info``, of one type in every episode."""

    name: str
    kind: type[T]

    def of(self, info: Mapping[str, object]) -> T:
        """The field's value.

        Raises:
            KeyError: for an ``info`` without the field.
            TypeError: for a value of another type.
        """
        value = info[self.name]
        if not isinstance(value, self.kind):
            raise TypeError(f"info[{self.name!r}] must be a {self.kind.__name__}, got {value!r:.80}")
        return value

    def get(self, info: Mapping[str, object], default: T) -> T:
        """The field's value, or ``default`` in an ``info`` without it."""
        return self.of(info) if self.name in info else default


#: At every step: the first token id of the action, all ids where there are several, and the action.
TOKEN, TOKENS, ACTION = Field("token", int), Field("tokens", tuple), Field("action", int)
#: At reset: the task's prompt, and the format that the model reads it in (``"plain"`` or ``"chat"``).
PROMPT, PROMPT_FORMAT = Field("prompt", str), Field("prompt_format", str)
#: At the end: the agent's text, whether the task was solved, and the number of the agent's tokens.
TEXT, SUCCESS, NUM_TOKENS = Field("text", str), Field("success", bool), Field("num_tokens", int)
#: Where the task or its engine failed: the cause, on one line.
ERROR = Field("error", str)
#: Name and split of a problem set; ``""`` for an unknown split.
DATASET, SPLIT = Field("dataset", str), Field("split", str)
#: The fields that an episode adds to those of its task.
OWN = (TOKEN, TOKENS, ACTION, PROMPT, PROMPT_FORMAT, TEXT, SUCCESS, NUM_TOKENS, ERROR)
#: The names of those among them that a task must not use. It may tell its prompt again at the end.
EPISODES = tuple(field.name for field in OWN if field not in (PROMPT, SUCCESS, ERROR))

#: Fields of ``info`` that identify a problem.
IDENTITY = ("unique_id", "game_id", "game", "question", "task_type", "variation", "goal", "prompt")

#: Raw scores of a preference task: the rewarded one, and the held-out one, which shows reward hacking.
SCORES = ("score", "held_out_score")


def mean_scores(infos: Sequence[Info]) -> dict[str, float]:
    """The means of a preference task's raw scores over the infos that have them, by name."""
    return {
        name: float(np.mean(np.array([info[name] for info in infos if name in info])))
        for name in SCORES
        if any(name in info for info in infos)
    }


def failures(infos: Sequence[Info]) -> dict[str, int]:
    """The number of episodes with an ``error``, as ``{"failed_episodes": n}``; empty for none."""
    failed = sum(ERROR.name in info for info in infos)
    return {"failed_episodes": failed} if failed else {}


def identity(info: Info) -> str:
    """A text that identifies an episode's problem; empty if ``info`` has none of :data:`IDENTITY`."""
    return "|".join(f"{field}={info[field]!r}" for field in IDENTITY if field in info)


def given_answer(info: Info) -> str | None:
    """The agent's answer in a task's ``info``: ``answer`` if there is also ``gold``, else ``given``."""
    answer = info.get("answer") if "gold" in info else info.get("given")
    return None if is_missing(answer) else str(answer)


def is_missing(value: object) -> bool:
    """Whether a field of ``info`` is empty: None, or ``""`` for a text."""
    return value is None or value == ""
