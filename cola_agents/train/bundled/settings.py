"""The settings of the bundled models: stages, code assignment and corpus.

This module imports neither torch nor numpy: the help of ``cola pretrain`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cola_agents.train.options import CodeConfig, StageConfig


@dataclass(frozen=True)
class CorpusConfig:
    """Shares of the corpus.

    Attributes:
        arithmetic, english, countdown, rooms: shares of the documents; the rest are word problems.
        levels: probability of each arithmetic level, level 1 first.
        styles: probability of each answer style, for arithmetic and Countdown.
        instructed: share of their prompts that have the thinking instruction.
        obeyed: share of the instructed prompts that are answered in the thinking style.
        word_levels: levels of the word problems.
        countdown_difficulties, rooms_difficulties: probability of each difficulty, 1 first.
        rooms_skilled: share of TextRooms games that follow a shortest plan; the others are random.
        rooms_slips: share of random commands in a skilled game.
        rooms_nonsense: share of random commands that need not have an effect.
    """

    arithmetic: float = 0.52
    english: float = 0.22
    countdown: float = 0.06
    rooms: float = 0.10
    levels: tuple[float, ...] = (0.8, 0.2, 0.0, 0.0, 0.0)
    styles: tuple[tuple[str, float], ...] = (
        ("direct", 0.327),
        ("preface", 0.327),
        ("steps", 0.17),
        ("words", 0.15),
        ("think", 0.026),
    )
    instructed: float = 0.5
    obeyed: float = 0.012
    word_levels: tuple[int, ...] = (1, 2)
    countdown_difficulties: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0)
    rooms_difficulties: tuple[float, ...] = (1.0, 0.0, 0.0)
    rooms_skilled: float = 0.55
    rooms_slips: float = 0.2
    rooms_nonsense: float = 0.4


@dataclass(frozen=True)
class Recipe:
    """The settings of the bundled models.

    Attributes:
        seed: of weights, data and noise.
        vocab_size: entries of the tokenizer.
        base, world, policy: the stages.
        codes, corpus: the code assignment and the composition of the corpus.
    """

    seed: int = 0
    vocab_size: int = 768
    base: StageConfig = field(default_factory=lambda: StageConfig(steps=12_000))
    world: StageConfig = field(default_factory=lambda: StageConfig(steps=5_000))
    policy: StageConfig = field(default_factory=lambda: StageConfig(steps=805))
    codes: CodeConfig = field(default_factory=CodeConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)

    @property
    def control(self) -> StageConfig:
        """The training of a control: as many tokens as ``world`` and ``policy`` read together."""
        steps = round((self.world.tokens + self.policy.tokens) / (self.base.rows * self.base.length))
        # A third of the peak rate: the schedule starts again from a trained model.
        return replace(self.base, steps=steps, lr=self.base.lr / 3)
