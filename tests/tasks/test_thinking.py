"""The format reward: what earns it and what does not."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from cola_envs import Turn
from cola_envs.tasks.arithmetic import ArithmeticTask
from cola_envs.tasks.countdown import thinking_countdown
from cola_envs.tasks.textrooms import TextRooms
from cola_envs.tasks.thinking import FORMAT, INSTRUCTION, ThinkingPrompt, thinking_arithmetic


def started(**arithmetic: Any) -> ThinkingPrompt:
    task = thinking_arithmetic(**arithmetic)
    task.reset(np.random.default_rng(0))
    return task


@pytest.mark.parametrize(
    "text",
    [
        "<think>1+2=3</think><answer>3</answer>",
        "  <think>a</think>\n\n<answer>b</answer>\n",
        "<think>\nmany\nlines > here\n</think> <answer> 3 </answer>",
        "<think>\\boxed{3}</think><answer>x</answer>",
    ],
)
def test_the_format_is_paid(text):
    turn = started().step(text)
    assert turn.reward == 1.0
    assert turn.info["format"] is turn.info["success"] is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "<think></think><answer>3</answer>",
        "<think>a</think><answer></answer>",
        "<think>a</think>",
        "<answer>3</answer>",
        "<answer>3</answer><think>a</think>",
        "x<think>a</think><answer>3</answer>",
        "<think>a</think>x<answer>3</answer>",
        "<think>a</think><answer>3</answer>x",
        "<think>a</think><answer>3</answer><answer>3</answer>",
        "<think>a<think>b</think></think><answer>3</answer>",
        "<think>a</think><answer>3",
        "<think>a</think><answer>3</answer",
        "<THINK>a</THINK><ANSWER>3</ANSWER>",
        "<think>a < b</think><answer>3</answer>",
        "< think>a</think><answer>3</answer>",
    ],
)
def test_anything_else_is_not(text):
    turn = started().step(text)
    assert turn.reward == 0.0
    assert turn.info["format"] is turn.info["success"] is False


def test_the_answers_correctness_is_reported_and_not_paid():
    task = started()
    answer = task.info["answer"]
    right = task.step(f"<think>a</think><answer>{answer}</answer>")
    wrong = task.step(f"<think>a</think><answer>{answer + 1}</answer>")
    assert right.reward == wrong.reward == 1.0
    assert right.info["correct"] is True
    assert wrong.info["correct"] is False
    assert (right.info["given"], wrong.info["given"]) == (str(answer), str(answer + 1))
    plain = task.step(f" \\boxed{{{answer}}}")
    assert (plain.reward, plain.info["correct"], plain.info["success"]) == (0.0, True, False)


def test_weights_say_what_format_and_answer_pay():
    answer = started().info["answer"]
    texts = {
        "both": f"<think>a</think><answer>{answer}</answer>",
        "format": f"<think>a</think><answer>{answer + 1}</answer>",
        "answer": f" \\boxed{{{answer}}}",
        "none": "x",
    }
    expected: dict[tuple[float, float], dict[str, tuple[float, bool]]] = {
        (1.0, 0.0): {
            "both": (1.0, True),
            "format": (1.0, True),
            "answer": (0.0, False),
            "none": (0.0, False),
        },
        (0.0, 2.0): {
            "both": (2.0, True),
            "format": (0.0, False),
            "answer": (2.0, True),
            "none": (0.0, False),
        },
        (0.25, 0.5): {
            "both": (0.75, True),
            "format": (0.25, False),
            "answer": (0.5, False),
            "none": (0.0, False),
        },
    }
    for (form, right), rewards in expected.items():
        task = started(format_weight=form, answer_weight=right)
        for name, text in texts.items():
            turn = task.step(text)
            assert (turn.reward, turn.info["success"]) == rewards[name], (form, right, name)
            assert turn.info["format"] is (name in ("both", "format"))
            assert turn.info["correct"] is (name in ("both", "answer"))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.1, 0.9)])
def test_the_answer_is_graded_and_not_a_box_in_the_thoughts(weights):
    task = started(format_weight=weights[0], answer_weight=weights[1])
    right = task.info["answer"]
    wrong = right + 69
    for text, form, correct in (
        (f"<think>maybe \\boxed{{{wrong}}}, no</think><answer>{right}</answer>", True, True),
        (f"<think>\\boxed{{{right}}}</think><answer>no idea</answer>", True, False),
        (f"<think>\\boxed{{{right}}}</think><answer>{wrong}</answer>", True, False),
        (f"<think>\\boxed{{{wrong}}}</think><answer>\\boxed{{{right}}}</answer>", True, True),
        (f"<think>a < b: \\boxed{{{right}}}</think><answer>{wrong}</answer>", False, False),
        (f"<think>\\boxed{{{wrong}}}</think>\n<answer>{right}</answer> it is", False, True),
        (f"<think>\\boxed{{{right}}}</think><answer>", False, False),
        # Without an answer in the format, the wrapped task grades all.
        (f"<think>so \\boxed{{{right}}}</think>", False, True),
        (f"<answer>{right}</answer><think>hm</think>", False, True),
    ):
        turn = task.step(text)
        assert (turn.info["format"], turn.info["correct"]) == (form, correct), text
        assert turn.reward == weights[0] * form + weights[1] * correct, text


def test_a_worked_example_is_in_the_format_without_a_box_and_earns_everything():
    for seed in range(20):
        for task in (thinking_arithmetic(answer_weight=1.0), thinking_countdown()):
            prompt, answer = task.worked_example(np.random.default_rng(seed))
            task.reset(np.random.default_rng(seed))
            assert prompt == task.reset(np.random.default_rng(seed))
            assert "boxed" not in answer
            turn = task.step(answer)
            assert turn.info["format"] is turn.info["success"] is True, answer


def test_worked_examples_that_are_not_of_one_turn_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="TextRooms has worked examples of several turns"):
        ThinkingPrompt(TextRooms()).worked_example(rng)

    class Own(ArithmeticTask):
        def worked_example(self, rng: Any) -> Any:
            return self.example

    for example in (None, 3, ("p", 1)):
        Own.example = example
        with pytest.raises(TypeError, match="Own's worked example must be a pair of texts"):
            ThinkingPrompt(Own()).worked_example(rng)
    Own.example = [("p", "a")]
    assert ThinkingPrompt(Own()).worked_example(rng)[1] == "<think>a</think><answer>a</answer>"


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"format_weight": -0.1}, "format_weight must be a finite number, 0 or above, got -0.1"),
        ({"answer_weight": float("nan")}, "answer_weight must be a finite number"),
        ({"format_weight": 0.0}, "are both 0; set one above 0"),
        ({"format_weight": "1"}, "format_weight must be a number, got '1'"),
        ({"answer_weight": None}, "answer_weight must be a number, got None"),
        ({"answer_weight": 10**400}, "answer_weight must be a finite number"),
    ],
)
def test_bad_weights_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        thinking_arithmetic(**weights)


@pytest.mark.parametrize("instruction", [None, 5, b"Think!"])
def test_an_instruction_that_is_no_text_is_refused_before_any_reset(instruction):
    with pytest.raises(TypeError, match="instruction must be a str, got"):
        thinking_arithmetic(instruction=instruction)


def test_the_prompt_is_the_instruction_and_the_tasks_own():
    inner = ArithmeticTask(level=3, split="test", kinds=("sum",))
    prompt = inner.reset(np.random.default_rng(4))
    wrapped = thinking_arithmetic(level=3, split="test", kinds=("sum",))
    assert wrapped.reset(np.random.default_rng(4)) == INSTRUCTION + prompt
    assert wrapped.info == inner.info
    assert wrapped.info["split"] == "test"
    own = thinking_arithmetic(instruction="Think!\n")
    assert own.reset(np.random.default_rng(4)).startswith("Think!\nQ: ")
    with pytest.raises(TypeError, match="depth"):
        thinking_arithmetic(depth=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"level must be .* got 9"):
        thinking_arithmetic(level=9)


def test_any_task_may_be_wrapped():
    class Other:
        stop = ("\n",)

        def reset(self, rng: np.random.Generator) -> str:
            return "Say something."

        def step(self, text: str) -> Turn:
            return Turn(text="Thanks.", reward=0.7, info={"heard": text})

    task = ThinkingPrompt(Other())
    assert task.stop == ("\n",)
    assert task.info == {}
    assert task.reset(np.random.default_rng(0)) == INSTRUCTION + "Say something."
    turn = task.step("<think>a</think><answer>b</answer>")
    assert (turn.text, turn.reward, turn.done) == ("Thanks.", 1.0, True)
    assert turn.info["heard"] == "<answer>b</answer>"
    assert turn.info["correct"] is True, "without a word on success, a positive reward is one"


def test_a_task_of_several_segments_is_refused():
    task = ThinkingPrompt(TextRooms())
    task.reset(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"wrap a task that ends after one segment; TextRooms goes on"):
        task.step("<think>a</think><answer>b</answer>\n")


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 40_000,
        "<think>" + "a" * 300_000,
        " " * 300_000,
        "<think>a</think>" + " " * 300_000,
        "</think><answer>" * 40_000,
    ],
)
def test_hostile_text_is_read_in_linear_time(text):
    start = time.process_time()
    assert FORMAT.fullmatch(text) is None
    started().step(text)
    assert time.process_time() - start < 1.0


def test_the_regex_in_the_docstring_is_the_one_in_use():
    assert FORMAT.pattern in (ThinkingPrompt.__doc__ or "")


def test_an_episode_that_the_wrapped_task_cuts_is_cut() -> None:
    class Cut:
        stop: tuple[str, ...] = ()

        def reset(self, rng: np.random.Generator) -> str:
            return "?"

        def step(self, text: str) -> Turn:
            return Turn(done=False, truncated=True)

    turn = ThinkingPrompt(Cut()).step("x")
    assert (turn.done, turn.truncated) == (False, True)


def test_a_task_without_stop_strings_is_wrapped() -> None:
    class Plain:
        def reset(self, rng: np.random.Generator) -> str:
            return "?"

        def step(self, text: str) -> Turn:
            return Turn()

    assert ThinkingPrompt(Plain()).stop == ()  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"task\.stop must be a tuple of non-empty strings, got 'x'"):
        ThinkingPrompt(type("Bad", (Plain,), {"stop": "x"})())
