"""Thinking prompts, rewards for the format and the answer of a response: the task of ``CoLA-Thinking-v0``."""

from __future__ import annotations

import re

import numpy as np

from cola_envs.checks import check_number, check_stop
from cola_envs.contract import checked_text, checked_turn
from cola_envs.fields import Info
from cola_envs.grading.extract import extract_boxed
from cola_envs.shots import checked_shot
from cola_envs.task import Task, Turn
from cola_envs.tasks.arithmetic import KINDS, ArithmeticTask, Split

INSTRUCTION = "Use <think></think> and <answer></answer>.\n"
FORMAT = re.compile(r"\s*<think>[^<]+</think>\s*<answer>[^<]+</answer>\s*")


class ThinkingPrompt:
    r"""Ask for ``<think>...</think><answer>...</answer>``; reward the format and the correct answer.

    **Prompt.** ``Use <think></think> and <answer></answer>.`` on a line, then the wrapped task's prompt.

    **Prompt formats.** Plain text: ``"Use <think></think> and <answer></answer>.\nQ: 4-1+5-8=?\nA:"``. In
    a chat, the user's message: ``"Use <think></think> and <answer></answer>.\nQ: 4-1+5-8=?"``. Both with a
    problem of ``CoLA-Thinking-v0``.

    **Actions.** The whole answer, one segment, up to the model's end-of-text token, a stop string of the
    wrapped task or the token budget.

    **Observation.** The prompt and the agent's text; the task adds only the wrapped task's text, if any.

    **Reward.** ``format_weight`` if the whole segment matches
    ``\s*<think>[^<]+</think>\s*<answer>[^<]+</answer>\s*``, plus ``answer_weight`` if the wrapped task counts
    the answer as correct, with or without the format. By default ``CoLA-Thinking-v0`` rewards the format
    alone (1.0 and 0.0) and ``CoLA-Countdown-v0`` both (0.1 and 0.9); ``info["correct"]`` reports the answer
    in either. The wrapped task grades the text behind ``</think>`` where an ``<answer>`` follows, so that a
    box in the thoughts is no answer; else the whole segment.

    **Episode end.** That of the wrapped task, after the segment.

    **Info.** The wrapped task's fields; at the end also ``format`` (bool), ``correct`` (the wrapped task's
    success) and ``success`` (whether every part with a weight above 0 was earned).

    **Data and licence.** Those of the wrapped task. After CoLA's thinking-prompt tasks (arXiv 2503.21383).

    **Versions.** v0: first version.

    Args:
        task: a task that ends after one segment; its ``reset`` and ``step`` are called once in each episode.
        instruction: text in front of the task's prompt.
        format_weight: reward for the format, >= 0.
        answer_weight: reward for the correct answer, >= 0.

    Raises:
        TypeError: for a weight that is no number, or an instruction that is no text.
        ValueError: for a weight that is negative or not finite, or if both are 0; in ``step``, if the wrapped
            task goes on after it.
    """

    def __init__(
        self,
        task: Task,
        instruction: str = INSTRUCTION,
        format_weight: float = 1.0,
        answer_weight: float = 0.0,
    ) -> None:
        self.format_weight = check_number("format_weight", format_weight, 0.0)
        self.answer_weight = check_number("answer_weight", answer_weight, 0.0)
        if self.format_weight == self.answer_weight == 0.0:
            raise ValueError("format_weight and answer_weight are both 0; set one above 0")
        self.task = task
        self.instruction = checked_text(instruction, "instruction")
        self.stop = check_stop("task.stop", getattr(task, "stop", ()))
        self.plain_frame: tuple[str, str] = ("", getattr(task, "plain_frame", ("", ""))[1])

    @property
    def info(self) -> Info:
        return dict(getattr(self.task, "info", {}))

    def reset(self, rng: np.random.Generator) -> str:
        return self.instruction + checked_text(self.task.reset(rng), "the wrapped task's prompt")

    def worked_example(self, rng: np.random.Generator) -> tuple[str, str]:
        """An example of the wrapped task with its answer in the format, and without a box in the thoughts.

        Raises:
            TypeError, ValueError: for a wrapped task without worked examples of one turn.
        """
        make = getattr(self.task, "worked_example", None)
        if make is None:
            raise ValueError(f"{type(self.task).__name__} has no worked examples")
        example = checked_shot(make(rng), f"{type(self.task).__name__}'s worked example")
        if len(example) > 1:
            raise ValueError(f"{type(self.task).__name__} has worked examples of several turns")
        ((prompt, answer),) = example
        thoughts, boxed = answer.strip(), extract_boxed(answer)
        final = thoughts if boxed is None else boxed
        thoughts = thoughts.replace(f"\\boxed{{{boxed}}}", final)
        return self.instruction + prompt, f"<think>{thoughts}</think><answer>{final}</answer>"

    def step(self, text: str) -> Turn:
        inner = checked_turn(self.task.step(_without_thoughts(text)), "the wrapped task")
        if not (inner.done or inner.truncated):
            raise ValueError(
                f"ThinkingPrompt pays for one answer: wrap a task that ends after one segment; "
                f"{type(self.task).__name__} goes on after it (Turn.done=False)"
            )
        matches = FORMAT.fullmatch(text) is not None
        correct = bool(inner.info.get("success", inner.reward > 0))
        success = (matches or not self.format_weight) and (correct or not self.answer_weight)
        info = {**inner.info, "format": matches, "correct": correct, "success": success}
        reward = self.format_weight * matches + self.answer_weight * correct
        return Turn(inner.text, reward, inner.done, inner.truncated, info)

    def close(self) -> None:
        if hasattr(self.task, "close"):
            self.task.close()


def _without_thoughts(text: str) -> str:
    """The text behind the last ``</think>`` before the last ``<answer>``; all of it without these two."""
    end = text.rfind("</think>", 0, max(text.rfind("<answer>"), 0))
    return text if end < 0 else text[end + len("</think>") :]


def thinking_arithmetic(
    level: int = 1,
    split: Split = "train",
    kinds: tuple[str, ...] = KINDS,
    instruction: str = INSTRUCTION,
    format_weight: float = 1.0,
    answer_weight: float = 0.0,
) -> ThinkingPrompt:
    """Do arithmetic in the form ``<think>...</think><answer>...</answer>``; by default the form is rewarded.

    It is a :class:`ThinkingPrompt` around :class:`~cola_envs.tasks.arithmetic.ArithmeticTask`.

    Args:
        level, split, kinds: of the wrapped task, :class:`~cola_envs.tasks.arithmetic.ArithmeticTask`.
        instruction: text in front of each prompt.
        format_weight, answer_weight: rewards for the format and for the correct answer.
    """
    return ThinkingPrompt(ArithmeticTask(level, split, kinds), instruction, format_weight, answer_weight)
