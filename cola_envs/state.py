"""The state of one row's episode: a snapshot (:class:`State`), and the mutable form that is stepped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cola_envs.seeds import derived_seed

WORLD, PROBLEM, NEXT = 0, 1, 2  # the random streams of a seed


def next_seed(seed: int) -> int:
    """The seed, below 2**53, of the episode that follows the one with ``seed`` in the same row.

    It depends on nothing else, so that a row's later episodes depend neither on other rows nor on actions,
    and a restored row continues with the same episodes, unless the problems are played in order.
    """
    return derived_seed(seed, NEXT)


@dataclass(frozen=True)
class State:
    """A snapshot of a row, without caches. Picklable; may be restored into any number of rows.

    Attributes:
        tokens: ids of the prompt and everything since.
        prompt: the prompt's text.
        origins: for each token the index of the step that produced it, or -1 for the task's text.
        actions: the action of each step.
        prompt_length: number of the prompt's tokens.
        segment_start: index of the first token of the unfinished segment.
        segments: texts of the finished segments.
        seed: the row seed.
        problem_seed: the seed of the problem.
        world_rng: state of the sampling stream, or None if nothing has been drawn from it.
        running: whether the episode may be stepped.
        task: the task's snapshot.
        level: what the actions are, ``"latent"`` or ``"token"``; ``""`` in a state of an earlier version.
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
    level: str = ""

    @property
    def num_tokens(self) -> int:
        """The number of the agent's tokens so far, including those that end segments."""
        return len(self.origins) - self.origins.count(-1)


@dataclass(slots=True)
class Row:
    """The mutable form of :class:`State`, without the task.

    ``left`` is the number of tokens until the budget or the context is full, whichever comes first.
    """

    tokens: list[int]
    prompt: str
    seed: int
    problem_seed: int
    origins: list[int] = field(init=False)
    actions: list[int] = field(default_factory=list)
    prompt_length: int = field(init=False)
    segment_start: int = field(init=False)
    segments: list[str] = field(default_factory=list)
    rng: np.random.Generator | None = None
    running: bool = True
    left: int = 0

    def __post_init__(self) -> None:
        self.origins = [-1] * len(self.tokens)
        self.prompt_length = self.segment_start = len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """The number of the agent's tokens so far, including those that end segments."""
        return len(self.origins) - self.origins.count(-1)

    def draw(self) -> float:
        """A uniform number in [0, 1) from the row's sampling stream."""
        if self.rng is None:
            self.rng = np.random.default_rng([self.seed, WORLD])
        return self.rng.random()

    def to_state(self, task: object, level: str) -> State:
        """The row as a State, with the task's snapshot and what its actions are."""
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
            level=level,
        )

    @classmethod
    def from_state(cls, state: State, seed: int | None = None) -> Row:
        """The row of a State; ``seed`` replaces its row seed and starts a new sampling stream."""
        row = cls(list(state.tokens), state.prompt, state.seed if seed is None else seed, state.problem_seed)
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
