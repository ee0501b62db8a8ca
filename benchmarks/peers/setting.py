"""What all contenders share: sizes, weights, problems, and a clock."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.speed.decoding import causal_lm
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.loading import load_bundled, make_backbone
from cola_agents.model.text import PlainTokenizer
from cola_agents.rl.collecting import collect
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.rollout import Rollout
from cola_envs.state import PROBLEM
from cola_envs.task import EachRow
from cola_envs.tasks.arithmetic import ArithmeticTask

#: Environment ids by level, of one task.
ENV_IDS = {"latent": "CoLA-Arithmetic-v0", "token": "CoLA-Arithmetic-Token-v0"}


@dataclass(frozen=True)
class PeerSetting:
    """Sizes and settings, the same for all contenders.

    Attributes:
        prompts, group_size: of a GRPO iteration; as many rows play as there are answers.
        tokens: of every answer: nothing ends one sooner.
        lr: Adam's; small, so that what is timed does not change while it is.
        kl_coef: weight of the KL to the initial policy.
        clip: clipping range of ratios and of values.
        betas: Adam's.
        max_grad_norm: gradients are clipped to it.

    Raises:
        ValueError: for sizes that no group can be made of.
    """

    prompts: int = 4
    group_size: int = 8
    tokens: int = 48
    lr: float = 1e-6
    kl_coef: float = 0.01
    clip: float = 0.2
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.group_size < 2 or self.tokens < 1:
            raise ValueError(f"prompts >= 1, group_size >= 2 and tokens >= 1 are needed, got {self}")

    @property
    def rows(self) -> int:
        """Answers of an iteration."""
        return self.prompts * self.group_size

    def problems(self, turn: int) -> np.ndarray:
        """Problem seeds of a turn's answers, a group's beside each other, [rows]."""
        first = turn * self.prompts
        return np.arange(first, first + self.prompts).repeat(self.group_size)


class EndlessTokenizer(PlainTokenizer):
    """A tokenizer whose end-of-sequence token is never drawn: every answer uses its whole budget."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.eos_token_id, self.end_ids = None, frozenset()
        self._unwritten = tokenizer.eos_token_id

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, without the token that would end it elsewhere."""
        return self.spell([token for token in ids if token != self._unwritten])


class Weights:
    """One latent-action model, and its base as a language model: the weights of every contender.

    Args:
        model: a :class:`~cola_agents.model.modeling.CoLAForCausalLM`; None for the bundled one.
        tokenizer: its Hugging Face tokenizer; None for the bundled one's.

    Raises:
        ValueError: where the model has more embeddings than the tokenizer has entries: ours never draw the
            ids in between, and a peer would.
    """

    def __init__(self, model: Any = None, tokenizer: Any = None) -> None:
        bundled: Any = make_backbone(level="latent").tokenizer
        self.source: Any = tokenizer or bundled.source
        own = model if model is not None else load_bundled("cola").requires_grad_(False)
        if len(self.source) != own.config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.source)} entries and the model {own.config.vocab_size} "
                "embeddings: a peer would draw ids that ours never draw; compare over a model of the "
                "tokenizer's own size"
            )
        self.whole = causal_lm(own)
        endless = EndlessTokenizer(self.source)
        self.backbones: dict[str, LatentBackbone | TokenBackbone] = {
            "latent": LatentBackbone(own, endless),
            "token": TokenBackbone(self.whole, endless),
        }


class Clock:
    """CPU and wall seconds by name, one entry per measurement."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop the measurements so far, after a warm-up."""
        self.cpu: dict[str, list[float]] = defaultdict(list)
        self.wall: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        started, began = time.process_time(), time.perf_counter()
        yield
        self.cpu[name].append(time.process_time() - started)
        self.wall[name].append(time.perf_counter() - began)

    def seconds(self) -> dict[str, Any]:
        """Median CPU and wall seconds by name, and every measurement's CPU seconds."""
        return {
            name: {
                "cpu_s": round(statistics.median(times), 5),
                **({"wall_s": round(statistics.median(self.wall[name]), 5)} if name in self.wall else {}),
                "all_cpu_s": [round(value, 5) for value in times],
            }
            for name, times in self.cpu.items()
        }


class TurnGRPO(GRPO):
    """The bundled GRPO, playing the problems of one turn after another, with its playing timed.

    Args:
        level: ``"latent"`` or ``"token"``.
        clock: gets ``"{level} rollout"`` and ``"{level} iteration"``.
    """

    def __init__(self, level: str, setting: PeerSetting, weights: Weights, clock: Clock) -> None:
        super().__init__(
            ENV_IDS[level],
            num_envs=setting.rows,
            model=weights.backbones[level],
            env_kwargs={"max_tokens": setting.tokens},
            prompts=setting.prompts,
            group_size=setting.group_size,
            lr=setting.lr,
            clip=setting.clip,
            kl_coef=setting.kl_coef,
            kl_estimator="k3",
            max_grad_norm=setting.max_grad_norm,
        )
        self._setting, self._clock, self._level = setting, clock, level
        #: The episodes of the last iteration.
        self.played: Rollout | None = None

    def draw_seeds(self, num_problems: int, group_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        problems = self._setting.problems(self.num_updates)
        return np.arange(len(problems)) + self.num_updates * len(problems), problems

    def play(self, seeds: np.ndarray, problem_seeds: np.ndarray, *, greedy: bool = False) -> Rollout:
        with self._clock.time(f"{self._level} rollout"):
            self.played = super().play(seeds, problem_seeds, greedy=greedy)
        return self.played

    def iterate(self) -> None:
        """One whole iteration: play, reward, KL, one gradient step."""
        with self._clock.time(f"{self._level} iteration"):
            self.update()


class TurnPPO(PPO):
    """The bundled PPO over given episodes; the KL is subtracted from their rewards."""

    def __init__(
        self,
        level: str,
        setting: PeerSetting,
        weights: Weights,
        *,
        passes: int,
        minibatch: int,
        **options: Any,
    ) -> None:
        super().__init__(
            ENV_IDS[level],
            num_envs=setting.rows,
            model=weights.backbones[level],
            env_kwargs={"max_tokens": setting.tokens},
            episodes=setting.rows,
            epochs=passes,
            minibatch=minibatch,
            lr=setting.lr,
            clip=setting.clip,
            value_clip=setting.clip,
            kl_coef=setting.kl_coef,
            kl_in="reward",
            max_grad_norm=setting.max_grad_norm,
            **options,
        )
        self._setting = setting

    def first_turn(self) -> Rollout:
        """The episodes of the first turn."""
        problems = self._setting.problems(0)
        return collect(self.episodes, self.actor, seeds=range(len(problems)), problem_seeds=problems.tolist())

    def once(self, rollout: Rollout) -> None:
        """A whole update from episodes: KL, values, advantages, and every gradient step."""
        self.train_on(self.batch_of(rollout))


class TaskRewards:
    """The task's own rewards as a reward function of TRL's: prompts and answers in, rewards out.

    Args:
        setting: gives the number of rows.
        decode: ids to text, as the environments decode.
    """

    __name__ = "task_rewards"

    def __init__(self, setting: PeerSetting, decode: Any) -> None:
        self.tasks = EachRow(ArithmeticTask, setting.rows)
        self._decode = decode
        #: Answers of the last call as ids, and their rewards.
        self.completions: list[list[int]] = []
        self.rewards: list[float] = []

    def prompts_of(self, problems: Any) -> list[str]:
        """The prompts of problem seeds, [rows]."""
        rngs = [np.random.default_rng([int(seed), PROBLEM]) for seed in problems]
        return self.tasks.reset(range(len(rngs)), rngs)

    def __call__(
        self, prompts: list[str], completion_ids: list[list[int]], problem: list[int], **_: Any
    ) -> list[float]:
        if self.prompts_of(problem) != list(prompts):
            raise RuntimeError("the peer's prompts are not those of the problems that came with them")
        turns = self.tasks.step(range(len(prompts)), [self._decode(list(ids)) for ids in completion_ids])
        self.completions = [list(ids) for ids in completion_ids]
        self.rewards = [turn.reward for turn in turns]
        return self.rewards
