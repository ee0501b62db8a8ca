"""Small tasks and helpers for the environment tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from packaging.version import Version

from cola_envs import EachRow, Episodes, Turn
from cola_envs.testing import FakeBackbone

#: Before 1.4, Gymnasium's RecordEpisodeStatistics counts as if every environment had next-step autoreset.
COUNTS_SAME_STEPS = Version(gym.__version__) >= Version("1.4")


class Copy:
    """One segment, ended by a full stop: write the digit of the prompt."""

    stop = (".",)

    def __init__(self) -> None:
        self.info: dict[str, Any] = {}

    def reset(self, rng: np.random.Generator) -> str:
        self.digit = str(rng.integers(10))
        self.info = {"digit": self.digit}
        return f"Write {self.digit}:"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(self.digit in text), info={"length": len(text)})


class Talk:
    """Three segments, ended by ``</s>`` or a line break; the task answers each, and draws as it goes."""

    stop = ("</s>", "\n")

    def __init__(self, turns: int = 3) -> None:
        self.turns = turns

    def reset(self, rng: np.random.Generator) -> str:
        self.rng = rng
        self.heard: list[str] = []
        return "Talk!\n"

    def step(self, text: str) -> Turn:
        self.heard.append(text)
        done = len(self.heard) == self.turns
        reply = "" if done else f"[{self.rng.integers(100)}]"
        return Turn(text=reply, reward=0.5, done=done, info={"turn": len(self.heard)})


class Counter:
    """Keeps its own snapshots, and hands out its own list: sharing it would show."""

    stop = (".",)

    def reset(self, rng: np.random.Generator) -> str:
        self.seen: list[str] = []
        return "Count:"

    def step(self, text: str) -> Turn:
        self.seen.append(text)
        return Turn(reward=float(len(self.seen)), done=len(self.seen) == 4)

    def snapshot(self) -> list[str]:
        return self.seen

    def restore(self, state: list[str]) -> None:
        self.seen = state


class First:
    """A data set of first observations; its workers have copies of the environment."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> np.ndarray:
        observation: np.ndarray = self.env.reset(seed=7)[0]
        return observation


def make(factory: Any = Copy, num_rows: int = 1, level: str = "token", **settings: Any) -> Episodes:
    """Episodes over a FakeBackbone; ``max_length`` and the like go to the backbone."""
    keys = ("max_length", "num_codes", "tokens_per_action", "hidden_size")
    backbone = FakeBackbone(level, **{key: settings.pop(key) for key in keys if key in settings})  # type: ignore[arg-type]
    settings.setdefault("max_tokens", 32)
    return Episodes(backbone, EachRow(factory, num_rows), num_rows=num_rows, **settings)


def write(episodes: Episodes, text: str, row: int = 0) -> list[Any]:
    """Write ``text`` at token level; per step what ``step`` gave for the row."""
    out = []
    for token in episodes.backbone.tokenizer.encode(text):
        observations, rewards, terminated, truncated, infos = episodes.step([row], [token])
        out.append((observations[0], float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos[0]))
    return out


def end(episodes: Episodes, row: int = 0) -> Any:
    """Take the end-of-sequence token."""
    return [part[0] for part in episodes.step([row], [episodes.backbone.tokenizer.eos_token_id])]


def play(episodes: Episodes, row: int, seed: int, actions: list[int]) -> list[Any]:
    """Tokens and ends of one row under a list of actions, from its reset on."""
    episodes.reset([row], [seed])
    out: list[Any] = [episodes.tokens(row)]
    for action in actions:
        if not episodes.running(row):
            break
        _, rewards, terminated, truncated, infos = episodes.step([row], [action])
        out.append((float(rewards[0]), bool(terminated[0]), bool(truncated[0]), infos[0]))
    return out
