"""The fields of ``info`` that others than the task read: their names, their types, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

#: What is told beside an observation and a reward: fields by name, most of them a task's own.
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
            KeyError: an ``info`` without the field.
            TypeError: a value of another type.
        """
        value = info[self.name]
        if not isinstance(value, self.kind):
            raise TypeError(f"info[{self.name!r}] must be a {self.kind.__name__}, got {value!r:.80}")
        return value

    def get(self, info: Mapping[str, object], default: T) -> T:
        """The field's value, or ``default`` in an ``info`` without it."""
        return self.of(info) if self.name in info else default


#: Of every step: the first id that the action gave, all of them where there are several, and the action.
TOKEN, TOKENS, ACTION = Field("token", int), Field("tokens", tuple), Field("action", int)
#: At reset: the prompt's text, as the task gave it.
PROMPT = Field("prompt", str)
#: At the end: all that the agent wrote, whether the task was solved, and how many tokens were written.
TEXT, SUCCESS, NUM_TOKENS = Field("text", str), Field("success", bool), Field("num_tokens", int)
#: Where the task or its engine failed: the cause, on one line.
ERROR = Field("error", str)
#: A problem set's name and part, of tasks that have one; ``""`` for a part that is not known.
DATASET, SPLIT = Field("dataset", str), Field("split", str)
#: Fields that an episode writes itself.
OWN = (TOKEN, TOKENS, ACTION, PROMPT, TEXT, SUCCESS, NUM_TOKENS, ERROR)

#: Fields of ``info`` that tell problems apart.
IDENTITY = ("unique_id", "game_id", "game", "question", "task_type", "variation", "goal", "prompt")

#: Raw scores of a preference task: the rewarded one, and the one that shows whether it is being hacked.
SCORES = ("score", "held_out_score")


def mean_scores(infos: Sequence[Info]) -> dict[str, float]:
    """Means of a preference task's raw scores, where the infos have any: rewarded and held out."""
    return {
        name: float(np.mean(np.array([info[name] for info in infos if name in info])))
        for name in SCORES
        if any(name in info for info in infos)
    }


def failures(infos: Sequence[Info]) -> dict[str, int]:
    """How many episodes a failing engine or task cut, as ``failed_episodes``; empty where none was."""
    failed = sum(ERROR.name in info for info in infos)
    return {"failed_episodes": failed} if failed else {}


def identity(info: Info) -> str:
    """What tells an episode's problem apart from others; empty where the task says nothing of it."""
    return "|".join(f"{field}={info[field]!r}" for field in IDENTITY if field in info)


def given_answer(info: Info) -> str | None:
    """The agent's own answer in a task's ``info``: ``answer`` beside ``gold``, or else ``given``."""
    answer = info.get("answer") if "gold" in info else info.get("given")
    return None if untold(answer) else str(answer)


def untold(value: object) -> bool:
    """Whether a field of ``info`` says that there is nothing to tell: fields of text do so by ``""``."""
    return value is None or value == ""
