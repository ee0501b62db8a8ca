"""The corpus of the bundled models: generated, seeded, and free of every test-split question.

Half the documents are arithmetic answered in one of five styles, a third are stories in checkable
English, and the rest are word problems in the form of the Math500 prompt. The thinking style is rare
on purpose: the format reward of ``CoLA-Thinking-v0`` has something to teach.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from cola_agents.train.data import Document
from cola_agents.train.english import story
from cola_envs.tasks.arithmetic import Problem, generate
from cola_envs.tasks.math500 import INSTRUCTION as BOX_INSTRUCTION
from cola_envs.tasks.math500 import PROMPT
from cola_envs.tasks.substitute import train_item
from cola_envs.tasks.thinking import INSTRUCTION


@dataclass(frozen=True)
class CorpusConfig:
    """Shares of the corpus.

    Attributes:
        arithmetic, english: shares of the documents; what is left are word problems.
        levels: how often each arithmetic level is drawn, level 1 first.
        styles: how often each answer style is drawn.
        instructed: how many arithmetic prompts carry the thinking instruction.
        obeyed: how many of those are answered in the thinking style; the others as if not told.
        word_levels: levels of the word problems.
    """

    arithmetic: float = 0.55
    english: float = 0.33
    levels: tuple[float, ...] = (0.8, 0.2, 0.0, 0.0, 0.0)
    styles: tuple[tuple[str, float], ...] = (
        ("direct", 0.325),
        ("preface", 0.325),
        ("steps", 0.17),
        ("words", 0.15),
        ("think", 0.03),
    )
    instructed: float = 0.5
    obeyed: float = 0.012
    word_levels: tuple[int, ...] = (1, 2)


_VERBS = {
    "+": "add {b} to {a} to get {c}",
    "-": "take {b} from {a} to get {c}",
    "*": "multiply {a} by {b} to get {c}",
    "/": "divide {a} by {b} to get {c}",
}


def documents(seed: int, config: CorpusConfig | None = None) -> Iterator[Document]:
    """An endless stream of documents; the same seed gives the same stream."""
    config = config or CorpusConfig()
    rng = random.Random(seed)
    word_problems = rng.getrandbits(40)
    for number in count():
        share = rng.random()
        if share < config.arithmetic:
            yield arithmetic_document(rng, config)
        elif share < config.arithmetic + config.english:
            # A few long ones, so that positions beyond a prompt's are trained too.
            sentences = rng.randint(8, 24) if rng.random() < 0.05 else None
            opening, _, rest = story(rng, sentences).partition(" ")
            yield Document(opening, " " + rest)
        else:
            item = train_item(word_problems, number, levels=config.word_levels)
            yield Document(PROMPT.format(BOX_INSTRUCTION + item["problem"]), item["solution"])


def arithmetic_document(rng: random.Random, config: CorpusConfig) -> Document:
    """One arithmetic problem of the train split with an answer in a drawn style."""
    level = rng.choices(range(1, len(config.levels) + 1), config.levels)[0]
    problem = generate(rng.getrandbits(61), level=level, split="train")
    names, weights = zip(*config.styles, strict=True)
    style = rng.choices(names, weights)[0]
    instruction = ""
    if rng.random() < config.instructed:
        instruction = INSTRUCTION
        if rng.random() < config.obeyed:
            style = "think"
    return Document(f"{instruction}Q: {problem.question}\nA:", answer_in_style(problem, style))


def answer_in_style(problem: Problem, style: str) -> str:
    """The right answer to a problem, worked out in one of the corpus' five styles.

    Raises:
        ValueError: for an unknown style.
    """
    box = f"\\boxed{{{problem.answer}}}"
    worked = ", ".join(f"{expression}={value}" for expression, value in problem.steps)
    if style == "direct":
        return f" {box}"
    if style == "preface":
        return f" The answer is {box}."
    if style == "steps":
        return f" {worked}, so {box}."
    if style == "words":
        told = [_in_words(expression, value) for expression, value in problem.steps]
        return f" First {'. Then '.join(told)}. The answer is {box}."
    if style == "think":
        return f"<think>{worked}</think><answer>{problem.answer}</answer>"
    raise ValueError(f"style {style!r} is not one of direct, preface, steps, words, think")


def _in_words(expression: str, value: int) -> str:
    # The operator is the first sign after the first digit: a leading minus belongs to the number.
    at = next(i for i, char in enumerate(expression) if i and char in "+-*/")
    left, operator, right = expression[:at], expression[at], expression[at + 1 :]
    return _VERBS[operator].format(a=left, b=right.removeprefix("+"), c=value)
