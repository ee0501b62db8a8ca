"""Worked examples in front of a prompt ("shots"): how they are given, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cola_envs.checks import check_list
from cola_envs.contract import checked_text
from cola_envs.jsonl import read
from cola_envs.task import Exchange, HasExamples, WorkedExample

#: How worked examples are given (:func:`read_shots`).
Shots = int | str | Path | Sequence[WorkedExample]
#: A worked example as it is read: a text of the task and the answer to it, as often as the task goes on.
Shot = list[Exchange]
#: The random stream that worked examples are drawn from.
_STREAM = 4
_FORM = "a number, (prompt, answer) pairs or a file"
_LINE = "an object with the keys prompt and answer, or messages (of user and assistant in turn)"


def read_shots(shots: Shots, task: object = None) -> list[Shot]:
    """Worked examples, from a number, a list or a JSON-lines file.

    A number takes the first examples of the task's own train split; they are the same in every episode.
    An element of a list is a pair (prompt, answer); or, for a task of several turns, a list of pairs: the
    prompt and the first answer, then each later text of the task and the answer to it. A line of a file is an
    object with the keys ``prompt`` and ``answer``; or ``messages``, objects with ``role`` (``"user"`` for the
    task and ``"assistant"`` for the answer, in turn) and ``content``.

    Args:
        shots: the examples.
        task: the task, whose ``worked_example`` is called for a number.

    Raises:
        FileNotFoundError: a path without a file.
        TypeError, ValueError: an example that is not of this form; names its place.
    """
    if isinstance(shots, (int, np.integer)):
        if isinstance(shots, bool) or shots < 0:
            raise ValueError(
                f"shots must be a number from 0 on, (prompt, answer) pairs or a file, got {shots}"
            )
        return _own_examples(int(shots), task)
    given: list[tuple[str, object]]
    if isinstance(shots, (str, Path)):
        if not Path(shots).is_file():
            raise FileNotFoundError(
                f"shots={str(shots)!r} is no file; pass a JSON-lines file, a number or (prompt, answer) pairs"
            )
        given = [(where, _of_line(row, where)) for where, row in read(Path(shots))]
        if not given:
            raise ValueError(f"{shots} holds no worked examples: a line each, {_LINE}")
    else:
        given = [(f"shots[{i}]", shot) for i, shot in enumerate(check_list("shots", shots, _FORM))]
    return [checked_shot(shot, where) for where, shot in given]


def as_lists(shots: Sequence[Shot]) -> list[list[Any]]:
    """Worked examples as :func:`read_shots` takes them, in lists, as JSON gives them back."""
    return [list(shot[0]) if len(shot) == 1 else [list(exchange) for exchange in shot] for shot in shots]


def _own_examples(count: int, task: object) -> list[Shot]:
    try:
        if not isinstance(task, HasExamples):
            raise ValueError(f"{type(task).__name__} has no worked examples")
        examples = [task.worked_example(np.random.default_rng([_STREAM, i])) for i in range(count)]
    except ValueError as error:
        raise ValueError(
            f"shots={count}: {error}; pass (prompt, answer) pairs or a file instead of a number"
        ) from error
    return [checked_shot(example, f"{type(task).__name__}'s worked example") for example in examples]


def _is_exchange(value: object) -> bool:
    return (
        isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(text, str) for text in value)
    )


def checked_shot(shot: object, where: str) -> Shot:
    """A worked example as a list of exchanges, each with a text of the task and an answer.

    Raises:
        TypeError: for something other than a pair of texts or a list of such pairs; names ``where``.
        ValueError: for an empty prompt, or a text with a lone surrogate.
    """
    exchanges = [shot] if _is_exchange(shot) else shot
    if not (isinstance(exchanges, (tuple, list)) and exchanges and all(map(_is_exchange, exchanges))):
        raise TypeError(
            f"{where} must be a pair of texts (prompt, answer), or a list of such pairs for several turns, "
            f"got {shot!r:.80}"
        )
    if not exchanges[0][0]:
        raise ValueError(f"{where} has an empty prompt")
    return [
        (checked_text(text, f"a text of {where}"), checked_text(answer, f"a text of {where}"))
        for text, answer in exchanges
    ]


def _of_line(row: object, where: str) -> object:
    """The worked example in a line's object; what is none as it is, for the error."""
    if not isinstance(row, dict):
        return row
    if "messages" not in row:
        missing = [key for key in ("prompt", "answer") if key not in row]
        if missing:
            raise ValueError(
                f"{where} has no key {' and no key '.join(missing)}, only {', '.join(row) or 'none'}: "
                f"a worked example is {_LINE}"
            )
        return row["prompt"], row["answer"]
    if "prompt" in row or "answer" in row:
        raise ValueError(f"{where} has messages beside prompt or answer: a worked example is {_LINE}")
    messages = row["messages"]
    parts = [
        (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        for message in (messages if isinstance(messages, list) else [])
    ]
    roles = [role for role, _ in parts]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise ValueError(
            f"{where}: messages must be of user and assistant in turn, the user first, the assistant last, "
            f"got the roles {roles!r:.80}; a system text is given as system="
        )
    texts = [content for _, content in parts]
    return list(zip(texts[::2], texts[1::2], strict=True))
