"""What a task may answer: the rest is refused, or cuts its row, and names row, problem, field and value."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded

from cola_envs import EachRow, Episodes, TaskBatch, Turn
from cola_envs.contract import LONGEST_ERROR, failed_turn, finite_number, one_line
from cola_envs.tasks.thinking import ThinkingPrompt
from cola_envs.testing import FakeBackbone
from tests.envs.tiny import Copy, make, write


def answering(answer: Any) -> type[Copy]:
    """A task whose ``step`` returns ``answer``, or raises it."""

    class Answers(Copy):
        def step(self, text: str) -> Turn:
            if isinstance(answer, Exception):
                raise answer
            return answer

    return Answers


BAD = [
    (None, TypeError, "must return a cola_envs.Turn, got None"),
    (1.0, TypeError, "must return a cola_envs.Turn"),
    ((Turn(), {}), TypeError, "must return a cola_envs.Turn"),
    (Turn(reward=None), TypeError, "Turn.reward in row 1 .* got None"),  # type: ignore[arg-type]
    (Turn(reward="1.0"), TypeError, "Turn.reward in row 1 .* got '1.0'"),  # type: ignore[arg-type]
    (Turn(reward=[1.0]), TypeError, "Turn.reward"),  # type: ignore[arg-type]
    (Turn(reward=np.ones(1)), TypeError, "Turn.reward"),  # type: ignore[arg-type]
    (Turn(reward=1j), TypeError, "Turn.reward"),  # type: ignore[arg-type]
    (Turn(reward=np.timedelta64(1, "s")), TypeError, "Turn.reward"),  # type: ignore[arg-type]
    (Turn(reward=float("nan")), ValueError, "Turn.reward in row 1 .* got nan"),
    (Turn(reward=np.float32("-inf")), ValueError, "Turn.reward"),  # type: ignore[arg-type]
    (Turn(reward=10**400), ValueError, "Turn.reward"),
    (Turn(done="no"), TypeError, "Turn.done in row 1 .* got 'no'"),  # type: ignore[arg-type]
    (Turn(done=None), TypeError, "Turn.done"),  # type: ignore[arg-type]
    (Turn(done=1), TypeError, "Turn.done"),  # type: ignore[arg-type]
    (Turn(truncated="False"), TypeError, "Turn.truncated"),  # type: ignore[arg-type]
    (Turn(text=None), TypeError, "Turn.text in row 1 .* got None"),  # type: ignore[arg-type]
    (Turn(text=b"bytes"), TypeError, "Turn.text"),  # type: ignore[arg-type]
    (Turn(text="\ud800"), ValueError, "Turn.text .* not Unicode"),
    (Turn(info=None), TypeError, "Turn.info in row 1 .* got None"),  # type: ignore[arg-type]
    (Turn(info=[("a", 1)]), TypeError, "Turn.info"),  # type: ignore[arg-type]
    (Turn(info={1: "a"}), TypeError, "Turn.info .* strings as keys, got 1"),  # type: ignore[dict-item]
    (Turn(info={"success": "no"}), TypeError, r"Turn.info\['success'\] in row 1 .* got 'no'"),
    (Turn(done=False, info={"text": "a"}), ValueError, "Turn.info in row 1 .* a field 'text'"),
    (Turn(info={"num_tokens": 3}), ValueError, "a field 'num_tokens', which the episode writes itself"),
]


@pytest.mark.parametrize(("answer", "error", "message"), BAD)
def test_what_a_task_may_not_answer_is_refused_with_row_problem_field_and_value(
    answer: Any, error: type[Exception], message: str
) -> None:
    episodes = make(answering(answer), num_rows=2)
    episodes.reset([0, 1], [0, 1], [5, 7])
    with pytest.raises(error, match=message) as raised:
        write(episodes, ".", row=1)
    assert "row 1 (problem seed 7)" in str(raised.value)
    with pytest.raises(ResetNeeded):
        write(episodes, "a", row=1)
    write(episodes, "a", row=0)


@pytest.mark.parametrize("answer", [case[0] for case in BAD] + [ZeroDivisionError("no\x1b[2J\nway")])
def test_a_failing_row_is_cut_and_the_others_go_on(answer: Any) -> None:
    class Second(Copy):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            self.fails = Second.made == 1
            Second.made += 1

        def step(self, text: str) -> Turn:
            return answering(answer).step(self, text) if self.fails else Turn(reward=1.0)  # type: ignore[arg-type]

    episodes = Episodes(
        FakeBackbone("token"), EachRow(Second, 3), num_rows=3, max_tokens=9, on_task_error="truncate"
    )
    episodes.reset([0, 1, 2], [0, 1, 2])
    (stop,) = episodes.backbone.tokenizer.encode(".")
    _, rewards, terminated, truncated, infos = episodes.step([0, 1, 2], [stop] * 3)
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert terminated.tolist() == [True, False, True]
    assert truncated.tolist() == [False, True, False]
    assert ["error" in info for info in infos] == [False, True, False]
    assert infos[1]["error"].isprintable()
    assert (infos[1]["success"], infos[1]["text"], infos[1]["num_tokens"]) == (False, ".", 1)
    assert "digit" in infos[1]  # the problem's fields are there all the same
    with pytest.raises(ResetNeeded):
        episodes.step([1], [stop])
    state = episodes.snapshot(1)
    episodes.reset([1], [3])
    episodes.restore([1], [state])
    assert not episodes.running(1)


def test_a_raised_error_is_the_tasks_own_and_says_where() -> None:
    episodes = make(answering(KeyError("gone")), num_rows=2)
    episodes.reset([0, 1], [0, 1])
    with pytest.raises(KeyError, match="gone") as raised:
        write(episodes, ".", row=1)
    assert raised.value.__notes__ == ["raised by the task of row 1 (problem seed 1)"]


class Together:
    """A batch whose one call covers its rows."""

    stop = (".",)

    def __init__(self, answer: Any, prompts: Any = None) -> None:
        self.answer, self.prompts = answer, prompts

    def reset(self, rows: Any, rngs: Any) -> Any:
        return ["go"] * len(rows) if self.prompts is None else self.prompts

    def step(self, rows: Any, texts: Any) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def info(self, row: int) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "answer", [OSError("no service"), None, [Turn()], 3, Turn(), [Turn(), Turn(), Turn()]]
)
def test_what_fails_for_a_whole_call_cuts_all_of_its_rows(answer: Any) -> None:
    def episodes(on_task_error: Any) -> Episodes:
        tasks: Any = Together(answer)
        made = Episodes(FakeBackbone("token"), tasks, num_rows=3, max_tokens=9, on_task_error=on_task_error)
        made.reset([0, 1, 2], [0, 1, 2])
        return made

    heard = episodes("raise")
    stop, letter = heard.backbone.tokenizer.encode(".a")
    with pytest.raises((OSError, TypeError, ValueError)) as raised:
        heard.step([0, 1, 2], [stop, letter, stop])
    where = str(raised.value) + "".join(raised.value.__notes__)
    assert "row 0 (problem seed 0), row 2 (problem seed 2)" in where
    _, _, terminated, truncated, infos = episodes("truncate").step([0, 1, 2], [stop, letter, stop])
    assert not terminated.any()
    assert truncated.tolist() == [True, False, True]
    assert ["error" in info for info in infos] == [True, False, True]


@pytest.mark.parametrize("prompts", ["ab", None, ["one"], 3, ["a", None], ["a", b"b"], ["a", "\udc00"]])
@pytest.mark.parametrize("on_task_error", ["raise", "truncate"])
def test_prompts_that_are_no_texts_are_refused_always(prompts: Any, on_task_error: Any) -> None:
    tasks: Any = Together(None, prompts=prompts if prompts is not None else 0)
    episodes = Episodes(FakeBackbone(), tasks, num_rows=2, max_tokens=9, on_task_error=on_task_error)
    with pytest.raises((TypeError, ValueError), match=r"rows 0, 1|row 1 \(problem seed 4\)"):
        episodes.reset([0, 1], [3, 4])


@pytest.mark.parametrize("info", [None, [1], {1: 2}, "a", {"success": "maybe"}])
def test_fields_that_are_no_dict_are_refused_at_reset(info: Any) -> None:
    class Odd(Copy):
        def reset(self, rng: np.random.Generator) -> str:
            prompt = super().reset(rng)
            self.info = info
            return prompt

    episodes = make(Odd)
    episodes.reset([0], [4])
    with pytest.raises(TypeError, match=r"task.info.* in row 0 \(problem seed 4\)"):
        episodes.reset_infos([0])


def test_fields_that_fail_at_the_end_cut_no_other_row() -> None:
    class Odd(Copy):
        def step(self, text: str) -> Turn:
            self.info = None  # type: ignore[assignment]
            return Turn(reward=1.0)

    episodes = make(Odd, on_task_error="truncate")
    episodes.reset([0], [0])
    assert "task.info" in write(episodes, ".")[-1][4]["error"]
    episodes = make(Odd)
    episodes.reset([0], [0])
    with pytest.raises(TypeError, match=r"task\.info"):
        write(episodes, ".")


@pytest.mark.parametrize(
    "number",
    [
        2,
        2.0,
        Fraction(4, 2),
        np.float16(2),
        np.int64(2),
        np.array(2),
        np.array(2.0),
        torch.tensor(2.0),
        torch.tensor(2),
    ],
)
def test_numbers_of_every_kind_are_rewards(number: Any) -> None:
    assert finite_number(number, "it") == 2.0
    assert type(finite_number(number, "it")) is float


@pytest.mark.parametrize("truth", [True, np.True_])
def test_truths_are_truths(truth: Any) -> None:
    episodes = make(answering(Turn(reward=truth, done=truth, info={"success": truth})))
    episodes.reset([0], [0])
    _, reward, terminated, _, info = write(episodes, ".")[-1]
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert type(info["success"]) is bool


def test_an_error_is_told_in_one_printable_line_of_bounded_length() -> None:
    assert one_line(ValueError("a\nb\x1b[31m\x07\u202e")) == "ValueError: a\\nb\\x1b[31m\\x07\\u202e"
    assert one_line(KeyError()) == "KeyError: "
    assert len(one_line(ValueError("x" * 10**6))) == len(one_line(ValueError("\x07" * 400))) == LONGEST_ERROR
    turn = failed_turn(ValueError("x"))
    assert (turn.reward, turn.done, turn.truncated) == (0.0, False, True)


@pytest.mark.parametrize(
    ("answer", "message"), [(None, "wrapped task"), (Turn(info={"success": "no"}), "success")]
)
def test_a_wrapped_task_keeps_the_contract_too(answer: Any, message: str) -> None:
    task = ThinkingPrompt(answering(answer)())
    task.reset(np.random.default_rng(0))
    with pytest.raises(TypeError, match=message):
        task.step("x")


class Batch(TaskBatch):
    """Answers every row with an exception, in the list of turns."""

    stop = (".",)

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def reset(self, rows: Sequence[int], rngs: Sequence[np.random.Generator]) -> list[str]:
        return ["Story:"] * len(rows)

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Any]:
        return [Turn(reward=1.0) if row == 0 else KeyError("gone") for row in rows]

    def info(self, row: int) -> dict[str, object]:
        return {}


def test_an_exception_among_the_turns_is_raised_or_cuts_its_row_as_asked() -> None:
    for way in ("raise", "truncate"):
        backbone = FakeBackbone("token")
        episodes = Episodes(backbone, Batch(2), num_rows=2, max_tokens=9, on_task_error=way)  # type: ignore[arg-type]
        episodes.reset([0, 1], [0, 1])
        (stop,) = backbone.tokenizer.encode(".")
        if way == "raise":
            with pytest.raises(KeyError, match="gone") as raised:
                episodes.step([0, 1], [stop] * 2)
            assert raised.value.__notes__ == ["returned by task.step for row 1 (problem seed 1)"]
        else:
            _, rewards, _, truncated, infos = episodes.step([0, 1], [stop] * 2)
            assert (rewards.tolist(), truncated.tolist()) == ([1.0, 0.0], [False, True])
            assert infos[1]["error"] == "KeyError: 'gone'"


def test_an_error_of_a_reset_names_the_first_rows_and_their_problems() -> None:
    class Broken(Copy):
        def reset(self, rng: np.random.Generator) -> str:
            raise KeyError("gone")

    episodes = make(Broken, num_rows=6)
    with pytest.raises(KeyError) as raised:
        episodes.reset([0, 1], [5, 6])
    assert raised.value.__notes__ == [
        "raised by task.reset for row 0 (problem seed 5), row 1 (problem seed 6)"
    ]
    with pytest.raises(KeyError) as raised:
        episodes.reset(range(6), range(6))
    assert raised.value.__notes__[0].endswith("row 3 (problem seed 3) and 2 other rows")
