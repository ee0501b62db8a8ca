"""Thinking prompts: a reward for the form of an answer, around any one-segment task."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from cola_envs.task import Task, Turn
from cola_envs.tasks.arithmetic import KINDS, ArithmeticTask, Split

INSTRUCTION = "Use <think></think> and <answer></answer>.\n"
FORMAT = re.compile(r"\s*<think>[^<]+</think>\s*<answer>[^<]+</answer>\s*")


class ThinkingPrompt:
    r"""Ask for ``<think>...</think><answer>...</answer>`` and reward that format.

    Prompt: the instruction, then the wrapped task's own prompt.

    Reward: 1.0 if the whole segment matches, from its first to its last character,
    ``\s*<think>[^<]+</think>\s*<answer>[^<]+</answer>\s*``; else 0.0. The answer's correctness is not
    rewarded: it is reported in ``info["correct"]``.

    Episode end: that of the wrapped task (one segment).

    ``info`` at the end: the wrapped task's fields, ``format`` (bool), ``correct`` (the wrapped task's
    success), ``success`` (the same as ``format``).

    Args:
        task: a one-segment task; its ``reset`` and ``step`` are called once an episode.
        instruction: put in front of the task's prompt.

    Source: the thinking-prompt tasks of CoLA (arXiv 2503.21383). Version history: v0, first release.
    """

    def __init__(self, task: Task, instruction: str = INSTRUCTION) -> None:
        self.task = task
        self.instruction = instruction
        self.stop = task.stop

    @property
    def info(self) -> dict[str, Any]:
        return dict(getattr(self.task, "info", {}))

    def reset(self, rng: np.random.Generator) -> str:
        return self.instruction + self.task.reset(rng)

    def step(self, text: str) -> Turn:
        inner = self.task.step(text)
        matches = FORMAT.fullmatch(text) is not None
        correct = bool(inner.info.get("success", inner.reward > 0))
        info = {**inner.info, "format": matches, "correct": correct, "success": matches}
        return Turn(text=inner.text, reward=float(matches), done=inner.done, info=info)

    def close(self) -> None:
        if hasattr(self.task, "close"):
            self.task.close()


def thinking_arithmetic(
    level: int = 1, split: Split = "train", kinds: tuple[str, ...] = KINDS, instruction: str = INSTRUCTION
) -> ThinkingPrompt:
    """The task of ``CoLA-Thinking-v0``: :class:`ThinkingPrompt` around arithmetic.

    Args:
        level, split, kinds: of :class:`~cola_envs.tasks.arithmetic.ArithmeticTask`.
        instruction: put in front of each prompt.
    """
    return ThinkingPrompt(ArithmeticTask(level, split, kinds), instruction)
