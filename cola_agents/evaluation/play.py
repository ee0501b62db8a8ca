"""Playing an episode by hand: by typing, or by picking codes and seeing what each would say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

import cola_envs  # noqa: F401 (registers the ids)
from cola_envs.build import twin_id
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.fields import PROMPT
from cola_envs.shown import shown
from cola_envs.text import end_ids

Ask = Callable[[str], str]
Say = Callable[[str], None]

HELP_TEXT = "Type what to say. :quit leaves, :reset starts the next episode."
HELP_CODES = (
    "Give a code; an empty line takes the policy's likeliest, +N its likeliest N times. "
    ":quit leaves, :reset starts the next episode."
)
COLUMNS = 4


def play(
    task: str, *, codes: bool = False, seed: int = 0, ask: Ask = input, say: Say = print, **env_kwargs: Any
) -> list[float]:
    """Play episodes of a task in the terminal until the player leaves.

    Args:
        task: an environment id, latent or token level.
        codes: pick codes, one a token, with a table of what each would say next; else type text, which is
            sent token by token.
        seed: of the first episode; the next ones follow.
        ask, say: read a line after a prompt, and print one.
        env_kwargs: as for ``gym.make``.

    Returns:
        The sum of rewards of each finished episode.

    Raises:
        ValueError: for an id that is not one of the CoLA environments, or codes of a token-level one.
    """
    actions = gym.spec(task).kwargs.get("actions")
    if actions is None:
        raise ValueError(f"{task} is not one of the CoLA environments")
    if codes and actions != "latent":
        raise ValueError(f"{task} takes token ids: there are no codes to pick; use the id without -Token")
    # Typed text is a sequence of tokens, whatever an agent would act with.
    chosen = task if codes or actions == "token" else twin_id(task)
    env = gym.make(chosen, **env_kwargs).unwrapped
    assert isinstance(env, CoLAEnv)
    try:
        player = _Player(env, ask, say)
        turn = player.pick if codes else player.type
        say(HELP_CODES if codes else HELP_TEXT)
        player.start(seed)
        while player.going:
            turn()
        return player.returns
    finally:
        env.close()


class _Player:
    """One person at one row."""

    def __init__(self, env: CoLAEnv, ask: Ask, say: Say) -> None:
        self.env = env
        self.episodes: Episodes = env.episodes
        self.ask: Ask = ask
        self.say: Say = lambda text: say(shown(text))
        self.going = True
        self.returns: list[float] = []
        self._stops = tuple(self.episodes.tasks.stop)

    def start(self, seed: int | None = None) -> None:
        _, info = self.env.reset(seed=seed)
        self._shown = self.episodes.prompt_length(0)
        self._reward = 0.0
        self.say(PROMPT.of(info))

    def type(self) -> None:
        """Ask for a line and send it; a task that knows no line break is sent the end-of-text token."""
        line = self._line("> ")
        if line is None:
            return
        encode, end = self.episodes.backbone.tokenizer.encode, self.episodes.backbone.tokenizer.eos_token_id
        ids = encode(line + "\n") if "\n" in self._stops else encode(line)
        if "\n" not in self._stops and end is not None and not line.endswith(self._stops or ("\0",)):
            ids.append(end)
        for token in ids:
            if self._step(token):
                return
        self._show(own=False)

    def pick(self) -> None:
        """Show what each code would say, and take the one that is asked for."""
        self.say(code_table(self.episodes))
        line = self._line("code> ")
        if line is None:
            return
        likeliest = line == "" or line.startswith("+")
        try:
            number = int(line.removeprefix("+")) if line else 1
        except ValueError:
            self.say(f"{line!r} is no code. {HELP_CODES}")
            return
        if not likeliest and not 0 <= number < int(self.episodes.action_space.n):
            self.say(f"codes are 0 to {int(self.episodes.action_space.n) - 1}, got {number}")
            return
        for _ in range(number if likeliest else 1):
            action = int(self.episodes.session.prior([0])[0].argmax()) if likeliest else number
            if self._step(action):
                return
        self._show(own=True)

    def _line(self, prompt: str) -> str | None:
        """A line of the player's, or None where it was an order or the end of the input."""
        try:
            line = self.ask(prompt)
        except (EOFError, KeyboardInterrupt):
            self.going = False
            return None
        if line.strip() == ":quit":
            self.going = False
            return None
        if line.strip() == ":reset":
            self.start()
            return None
        return line

    def _step(self, action: int) -> bool:
        """Take an action; whether it ended the episode, which is then told and followed by the next."""
        _, reward, terminated, truncated, info = self.env.step(action)
        self._reward += reward
        if not (terminated or truncated):
            return False
        self._show(own=True)
        told = {key: value for key, value in info.items() if key not in ("token", "action", "text")}
        self.say("\n".join(f"  {key}: {value}" for key, value in told.items()))
        self.say(f"{'Ended' if terminated else 'Cut'} with reward {self._reward:g}.\n")
        self.returns.append(self._reward)
        self.start()
        return True

    def _show(self, own: bool) -> None:
        """Print what has been said since the last time: the task's text, and with ``own`` the player's."""
        tokens, origins = self.episodes.tokens(0), self.episodes.origins(0)
        fresh = [
            token
            for token, origin in zip(tokens[self._shown :], origins[self._shown :], strict=True)
            if own or origin < 0
        ]
        self._shown = len(tokens)
        if fresh:
            self.say(self.episodes.backbone.tokenizer.decode(fresh))


def code_table(episodes: Episodes, row: int = 0) -> str:
    """What each code would say next in a row: code, token, its probability, and the policy's of the code.

    The codes stand in columns, the policy's likeliest first.
    """
    ids, log_probs = episodes.session.outcomes([row])
    prior = np.exp(episodes.session.prior([row])[0])
    decode, ends = episodes.backbone.tokenizer.decode, end_ids(episodes.backbone.tokenizer)
    cells = []
    for code in np.argsort(-prior, kind="stable").tolist():
        token = int(ids[0, code, 0])
        text = "<end>" if token in ends else repr(decode([token]))
        cells.append(f"{code:>3} {text:<12.12} {np.exp(log_probs[0, code, 0]):4.2f}  pi {prior[code]:4.2f}")
    rows = -(-len(cells) // COLUMNS)
    return "\n".join(" | ".join(cells[i::rows]) for i in range(rows))
