"""The corpus of the bundled models: generated, seeded, and free of every test-split question.

Most documents are arithmetic answered in one of five styles and stories in checkable English; the others
are Countdown puzzles answered in the same styles, transcripts of TextRooms games, and word problems in the
form of the Math500 prompt.

The thinking style is rare on purpose, whatever was asked and whether or not the instruction stands before
it: the format reward of ``CoLA-Thinking-v0`` has something to teach. For ``CoLA-TextRooms-v0`` to have too,
most games are played at random: a clone of all players says every command and wins seldom. It could hardly
learn from its wins alone to look for what the goal names, so a few games show it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from cola_agents.train.bundled.english import story
from cola_agents.train.data.packing import Document
from cola_envs.tasks import countdown, textrooms
from cola_envs.tasks.arithmetic import Problem, generate
from cola_envs.tasks.math500 import INSTRUCTION as BOX_INSTRUCTION
from cola_envs.tasks.math500 import PROMPT
from cola_envs.tasks.substitute import train_item
from cola_envs.tasks.thinking import INSTRUCTION

#: Seeds the held-out documents: far from every seed that a training stage uses.
HELD_OUT = 7_000_000


@dataclass(frozen=True)
class CorpusConfig:
    """Shares of the corpus.

    Attributes:
        arithmetic, english, countdown, rooms: shares of the documents; what is left are word problems.
        levels: how often each arithmetic level is drawn, level 1 first.
        styles: how often each answer style is drawn, of arithmetic and Countdown.
        instructed: how many of their prompts carry the thinking instruction.
        obeyed: how many of those are answered in the thinking style; the others as if not told.
        word_levels: levels of the word problems.
        countdown_difficulties, rooms_difficulties: how often each difficulty is drawn, 1 first.
        rooms_skilled: how many TextRooms games are played by one who follows a shortest plan; the others by
            one who draws commands at random.
        rooms_slips: how many commands a skilled player draws like the other.
        rooms_nonsense: how many of the commands drawn may do nothing; the others are drawn from those that do
            something.
    """

    arithmetic: float = 0.52
    english: float = 0.27
    countdown: float = 0.04
    rooms: float = 0.08
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
    countdown_difficulties: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0)
    rooms_difficulties: tuple[float, ...] = (1.0, 0.0, 0.0)
    rooms_skilled: float = 0.2
    rooms_slips: float = 0.2
    rooms_nonsense: float = 0.4


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
    kinds = ("arithmetic", "english", "countdown", "rooms", "words")
    shares = [config.arithmetic, config.english, config.countdown, config.rooms]
    shares.append(1.0 - sum(shares))
    for number in count():
        kind = rng.choices(kinds, shares)[0]
        if kind == "arithmetic":
            yield arithmetic_document(rng, config)
        elif kind == "english":
            # A few long ones, so that positions beyond a prompt's are trained too.
            sentences = rng.randint(8, 24) if rng.random() < 0.05 else None
            opening, _, rest = story(rng, sentences).partition(" ")
            yield Document(opening, " " + rest)
        elif kind == "countdown":
            yield countdown_document(rng, config)
        elif kind == "rooms":
            yield rooms_document(rng, config)
        else:
            item = train_item(word_problems, number, levels=config.word_levels)
            yield Document(PROMPT.format(BOX_INSTRUCTION + item["problem"]), item["solution"])


def arithmetic_document(rng: random.Random, config: CorpusConfig) -> Document:
    """One arithmetic problem of the train split with an answer in a drawn style."""
    level = _drawn(rng, config.levels)
    return _answered(rng, config, generate(rng.getrandbits(61), level=level, split="train"))


def countdown_document(rng: random.Random, config: CorpusConfig) -> Document:
    """One Countdown puzzle of the train split with a right answer in a drawn style."""
    difficulty = _drawn(rng, config.countdown_difficulties)
    puzzle = countdown.generate(rng.getrandbits(60), difficulty=difficulty, split="train")
    return _answered(rng, config, puzzle)


def _drawn(rng: random.Random, weights: tuple[float, ...]) -> int:
    """A level of 1, 2, ... drawn with ``weights``."""
    return rng.choices(range(1, len(weights) + 1), weights)[0]


def _answered(rng: random.Random, config: CorpusConfig, problem: Problem | countdown.Puzzle) -> Document:
    names, weights = zip(*config.styles, strict=True)
    style = rng.choices(names, weights)[0]
    instruction = ""
    if rng.random() < config.instructed:
        instruction = INSTRUCTION
        if rng.random() < config.obeyed:
            style = "think"
    return Document(f"{instruction}Q: {problem.question}\nA:", answer_in_style(problem, style))


def answer_in_style(problem: Problem | countdown.Puzzle, style: str) -> str:
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


def rooms_document(rng: random.Random, config: CorpusConfig) -> Document:
    """A TextRooms game of the train split, mostly played by one who has no plan."""
    difficulty = _drawn(rng, config.rooms_difficulties)
    task = textrooms.TextRooms(difficulty)
    prompt = task.begin(textrooms.generate(rng.getrandbits(60), difficulty=difficulty, split="train"))
    follows = 1.0 - config.rooms_slips if rng.random() < config.rooms_skilled else 0.0
    said = []
    while True:
        plan = task.game.plan(task.state) if rng.random() < follows else None
        command = plan[0] if plan else _random_command(rng, config, task.game, task.state)
        turn = task.step(f" {command}\n")
        said.append(f" {command}\n{turn.text}")
        if turn.done:
            return Document(prompt, "".join(said))


def _random_command(
    rng: random.Random, config: CorpusConfig, game: textrooms.Game, state: textrooms.State
) -> str:
    if rng.random() < config.rooms_nonsense:
        return _nonsense(rng, game)
    return rng.choice(game.admissible(state))


def _nonsense(rng: random.Random, game: textrooms.Game) -> str:
    """A command that may or may not do something, of the goal's words, of the game's or of any."""
    named = game.goal.split()
    items, containers = rng.choice(
        (
            (
                [name for name in game.items if name in named] or [textrooms.KEY],
                [name for name in game.containers if name in named] or game.containers,
            ),
            (game.items, game.containers),
            ((*textrooms.ITEMS, textrooms.KEY), textrooms.CONTAINERS),
        )
    )
    item, container = rng.choice(items), rng.choice(containers)
    direction = rng.choice(tuple(textrooms.DIRECTIONS))
    return rng.choice((f"go {direction}", f"take {item}", f"open {container}", f"put {item} in {container}"))
