"""The corpus of the bundled models: generated from a seed, without any question of a test split.

Most documents are arithmetic problems answered in one of five styles, and stories in English whose grammar
can be checked; the others are Countdown puzzles answered in the same styles, transcripts of TextRooms games,
and word problems in the format of the Math500 prompt.

The thinking style is rare on purpose, with or without the instruction, so that a policy can still learn from
the format reward of ``CoLA-Thinking-v0``. For the same reason many TextRooms games are played at random: a
policy cloned from them gives every command and does not always win. The others follow a plan.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

from cola_agents.train.bundled.english import story
from cola_agents.train.bundled.settings import CorpusConfig
from cola_agents.train.data.documents import Document
from cola_envs.tasks import countdown, textrooms
from cola_envs.tasks.arithmetic import Problem, generate
from cola_envs.tasks.math500 import INSTRUCTION as BOX_INSTRUCTION
from cola_envs.tasks.math500 import PROMPT
from cola_envs.tasks.substitute import train_item
from cola_envs.tasks.thinking import INSTRUCTION

#: Seeds the held-out documents: far from every seed that a training stage uses.
HELD_OUT = 7_000_000


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
            # A few long stories, so that later positions are trained too.
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
    """An arithmetic problem of the train split with an answer in a random style."""
    level = _drawn(rng, config.levels)
    return _answer(rng, config, generate(rng.getrandbits(61), level=level, split="train"))


def countdown_document(rng: random.Random, config: CorpusConfig) -> Document:
    """A Countdown puzzle of the train split with a right answer in a random style."""
    difficulty = _drawn(rng, config.countdown_difficulties)
    puzzle = countdown.generate(rng.getrandbits(60), difficulty=difficulty, split="train")
    return _answer(rng, config, puzzle)


def _drawn(rng: random.Random, weights: tuple[float, ...]) -> int:
    """A level of 1, 2, ... drawn with ``weights``."""
    return rng.choices(range(1, len(weights) + 1), weights)[0]


def _answer(rng: random.Random, config: CorpusConfig, problem: Problem | countdown.Puzzle) -> Document:
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
        sentences = [_in_words(expression, value) for expression, value in problem.steps]
        return f" First {'. Then '.join(sentences)}. The answer is {box}."
    if style == "think":
        return f"<think>{worked}</think><answer>{problem.answer}</answer>"
    raise ValueError(f"style {style!r} is not one of direct, preface, steps, words, think")


def _in_words(expression: str, value: int) -> str:
    # The operator is the first sign after the first digit: a leading minus belongs to the number.
    at = next(i for i, char in enumerate(expression) if i and char in "+-*/")
    left, operator, right = expression[:at], expression[at], expression[at + 1 :]
    return _VERBS[operator].format(a=left, b=right.removeprefix("+"), c=value)


def rooms_document(rng: random.Random, config: CorpusConfig) -> Document:
    """A TextRooms game of the train split, played by a plan or at random."""
    difficulty = _drawn(rng, config.rooms_difficulties)
    task = textrooms.TextRooms(difficulty)
    prompt = task.begin(textrooms.generate(rng.getrandbits(60), difficulty=difficulty, split="train"))
    follows = 1.0 - config.rooms_slips if rng.random() < config.rooms_skilled else 0.0
    transcript = []
    while True:
        plan = task.game.plan(task.state) if rng.random() < follows else None
        command = plan[0] if plan else _random_command(rng, config, task.game, task.state)
        turn = task.step(f" {command}\n")
        transcript.append(f" {command}\n{turn.text}")
        if turn.done:
            return Document(prompt, "".join(transcript))


def _random_command(
    rng: random.Random, config: CorpusConfig, game: textrooms.Game, state: textrooms.State
) -> str:
    if rng.random() < config.rooms_nonsense:
        return _nonsense(rng, game)
    return rng.choice(game.admissible(state))


def _nonsense(rng: random.Random, game: textrooms.Game) -> str:
    """A random command, with or without effect, of the goal's items, the game's items or any items."""
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
