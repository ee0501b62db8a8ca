"""A row of an episode: frozen for keeping (:class:`State`), mutable for stepping (:class:`Row`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cola_envs.seeds import derived_seed

WORLD, PROBLEM, NEXT = 0, 1, 2  # the streams that a row's seed is split into


def next_seed(seed: int) -> int:
    """The seed of the episode that follows the one with ``seed`` in the same row, below 2**53.

    A pure function, so that a row's later episodes depend on neither its neighbours nor its actions,
    and a restored row goes on as the original would have.
    """
    return derived_seed(seed, NEXT)


@dataclass(frozen=True)
class State:
    """A row at a point in time, without any cache. Picklable; may be restored into any number of rows.

    Attributes:
        tokens: ids of the prompt and everything since.
        prompt: the prompt's text, as the task gave it.
        origins: per token the index of the step that produced it, or -1 for the prompt and task text.
        actions: the action of each step.
        prompt_length: how many of ``tokens`` are the prompt.
        segment_start: index of the first token of the unfinished segment.
        segments: texts of the finished segments.
        seed: the row seed.
        problem_seed: the seed that the problem was drawn with.
        world_rng: state of the sampling stream, or None if nothing has been drawn from it.
        running: whether the episode may be stepped.
        task: the task's own snapshot.
    """

    tokens: tuple[int, ...]
    prompt: str
    origins: tuple[int, ...]
    actions: tuple[int, ...]
    prompt_length: int
    segment_start: int
    segments: tuple[str, ...]
    seed: int
    problem_seed: int
    world_rng: Mapping[str, object] | None
    running: bool
    task: object

    @property
    def num_tokens(self) -> int:
        """The agent's tokens so far, those that end segments included."""
        return len(self.origins) - self.origins.count(-1)


class Row:
    """The mutable twin of :class:`State`, less the task.

    ``left`` counts the tokens until the budget or the context is spent, whichever comes first.
    """

    __slots__ = (
        "actions",
        "left",
        "origins",
        "problem_seed",
        "prompt",
        "prompt_length",
        "rng",
        "running",
        "seed",
        "segment_start",
        "segments",
        "tokens",
    )

    def __init__(self, tokens: list[int], prompt: str, seed: int, problem_seed: int) -> None:
        self.tokens = tokens
        self.prompt = prompt
        self.origins = [-1] * len(tokens)
        self.actions: list[int] = []
        self.prompt_length = self.segment_start = len(tokens)
        self.segments: list[str] = []
        self.seed = seed
        self.problem_seed = problem_seed
        self.rng: np.random.Generator | None = None
        self.running = True
        self.left = 0

    @property
    def num_tokens(self) -> int:
        """The agent's tokens so far, those that end segments included."""
        return len(self.origins) - self.origins.count(-1)

    def draw(self) -> float:
        """A uniform in [0, 1) from the row's own sampling stream."""
        if self.rng is None:
            self.rng = np.random.default_rng([self.seed, WORLD])
        return self.rng.random()

    def frozen(self, task: object) -> State:
        return State(
            tokens=tuple(self.tokens),
            prompt=self.prompt,
            origins=tuple(self.origins),
            actions=tuple(self.actions),
            prompt_length=self.prompt_length,
            segment_start=self.segment_start,
            segments=tuple(self.segments),
            seed=self.seed,
            problem_seed=self.problem_seed,
            world_rng=None if self.rng is None else self.rng.bit_generator.state,
            running=self.running,
            task=task,
        )

    @classmethod
    def thawed(cls, state: State, seed: int | None = None) -> Row:
        """A row in ``state``; with ``seed`` its sampling and its later episodes come from a new stream."""
        own = state.seed if seed is None else seed
        row = cls(list(state.tokens), state.prompt, own, state.problem_seed)
        row.origins = list(state.origins)
        row.actions = list(state.actions)
        row.prompt_length = state.prompt_length
        row.segment_start = state.segment_start
        row.segments = list(state.segments)
        row.running = state.running
        if seed is None and state.world_rng is not None:
            row.rng = np.random.default_rng()
            row.rng.bit_generator.state = state.world_rng
        return row
