"""Play episodes in the terminal: type text, pick codes by the tokens that they lead to, or watch an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import environment_arguments
from cola_agents.model.sampling import Drawing, sample
from cola_agents.rl.agent import Agent
from cola_agents.rl.rollout import attach
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
    "Give a code, or a word that codes lead to (in quotes, where it is a number); an empty line takes the "
    "policy's likeliest code, +N its likeliest N times. :quit leaves, :reset starts the next episode."
)
HELP_WATCH = "An empty line has the agent play an episode. :quit leaves."
#: The largest number of codes in a line of the table.
NAMED = 12


def play(
    task: str,
    *,
    codes: bool = False,
    seed: int = 0,
    agent: Agent | None = None,
    ask: Ask = input,
    say: Say = print,
    env_kwargs: Mapping[str, Any] | None = None,
    **direct: Any,
) -> list[float]:
    """Play episodes of a task in the terminal until the player leaves.

    Args:
        task: an environment id, latent or token level.
        codes: pick codes, one a token, from a table of the next token under each; else type text, which is
            sent token by token.
        agent: plays while the user watches; with ``codes`` the user plays and sees its policy.
        seed: of the first episode; the next ones follow.
        ask, say: read a line after a prompt, and print one.
        env_kwargs: further arguments of the environment.

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
    # Typed text is a sequence of tokens: it needs the token-level twin.
    chosen = task if codes or agent or actions == "token" else twin_id(task)
    kwargs = environment_arguments(env_kwargs, direct, "play")
    if agent is not None:
        kwargs = {**agent.kwargs_on(task), **kwargs, "model": agent.backbone}
    env = gym.make(chosen, **kwargs).unwrapped
    assert isinstance(env, CoLAEnv)
    try:
        player = _Player(env, ask, say, agent, seed)
        turn = player.pick if codes else player.watch if agent else player.type
        say(HELP_CODES if codes else HELP_WATCH if agent else HELP_TEXT)
        player.start(seed)
        while player.going:
            turn()
        return player.returns
    finally:
        env.close()


class _Player:
    """A user at the terminal, and the one row that is played."""

    def __init__(self, env: CoLAEnv, ask: Ask, say: Say, agent: Agent | None, seed: int) -> None:
        self.env = env
        self.episodes: Episodes = env.episodes
        self.ask: Ask = ask
        self.say: Say = lambda text: say(shown(text))
        self.going = True
        self.returns: list[float] = []
        self._stops = tuple(self.episodes.tasks.stop)
        self._logits = attach(agent.actor if agent else None, self.episodes)
        self._drawing: Drawing = agent.options.drawing if agent else {"temperature": 1.0}
        self._draws = np.random.default_rng([seed, 5])

    def start(self, seed: int | None = None) -> None:
        _, info = self.env.reset(seed=seed)
        self._shown = self.episodes.prompt_length(0)
        self._reward = 0.0
        self.say(PROMPT.of(info))

    def type(self) -> None:
        """Ask for a line and send it, ended by a line break or, where that is no stop, by the end token."""
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
        """Show the next token under each code, and take the code that the user picks."""
        outlook = Outlook.of(self.episodes, self._prior())
        self.say(outlook.table())
        line = self._line("code> ")
        if line is None:
            return
        if line == "" or (line.startswith("+") and line[1:].isdigit()):
            for _ in range(int(line[1:] or 1)):
                if self._step(int(self._prior().argmax())):
                    return
        else:
            code = outlook.code_of(line)
            if code is None:
                self.say(
                    f"{line!r} is no code of 0 to {len(outlook.prior) - 1} and no word that one leads to. "
                )
                self.say(HELP_CODES)
                return
            if self._step(code):
                return
        self._show(own=True)

    def watch(self) -> None:
        """Have the agent play an episode, and show it."""
        if self._line("> ") is None:
            return
        ended = False
        while not ended:
            with torch.no_grad():
                u = torch.from_numpy(self._draws.random(1))
                logits = self._logits([0])
                ended = self._step(int(sample(logits, u.to(logits.device), **self._drawing)[0]))

    def _prior(self) -> np.ndarray:
        """The policy's probabilities of the actions, [A]."""
        with torch.no_grad():
            return self._logits([0])[0].float().softmax(-1).cpu().numpy()

    def _line(self, prompt: str) -> str | None:
        """The user's line, or None after a command (``:quit``, ``:reset``) or the end of the input."""
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
        """Take an action. True where it ended the episode, whose result is printed before the next starts."""
        _, reward, terminated, truncated, info = self.env.step(action)
        self._reward += reward
        if not (terminated or truncated):
            return False
        self._show(own=True)
        fields = {key: value for key, value in info.items() if key not in ("token", "action", "text")}
        self.say("\n".join(f"  {key}: {value}" for key, value in fields.items()))
        self.say(f"{'Ended' if terminated else 'Cut'} with reward {self._reward:g}.\n")
        self.returns.append(self._reward)
        self.start()
        return True

    def _show(self, own: bool) -> None:
        """Print the text since the last call: the task's, and with ``own`` the player's too."""
        tokens, origins = self.episodes.tokens(0), self.episodes.origins(0)
        fresh = [
            token
            for token, origin in zip(tokens[self._shown :], origins[self._shown :], strict=True)
            if own or origin < 0
        ]
        self._shown = len(tokens)
        if fresh:
            self.say(self.episodes.backbone.tokenizer.decode(fresh))


@dataclass(frozen=True)
class Outlook:
    """The likeliest next token under each code.

    Attributes:
        words: its text, A of them.
        prior: the policy's probability of each code, [A].
        certain: the world model's probability of that token under the code, [A].
    """

    words: list[str]
    prior: np.ndarray
    certain: np.ndarray

    @classmethod
    def of(cls, episodes: Episodes, prior: np.ndarray, row: int = 0) -> Outlook:
        """The outlook of a row; ``prior`` are a policy's probabilities [A]."""
        ids, log_probs = episodes.session.outcomes([row])
        decode, ends = episodes.backbone.tokenizer.decode, end_ids(episodes.backbone.tokenizer)
        tokens = ids[0, :, 0].tolist()
        words = ["<end>" if token in ends else decode([token]) for token in tokens]
        return cls(words, prior, np.exp(log_probs[0, :, 0]))

    def groups(self) -> dict[str, list[int]]:
        """Word -> its codes, the likeliest first; words by the total probability of their codes."""
        groups: dict[str, list[int]] = {}
        for code in np.argsort(-self.prior, kind="stable").tolist():
            groups.setdefault(self.words[code], []).append(code)
        return dict(sorted(groups.items(), key=lambda item: -self.prior[item[1]].sum()))

    def code_of(self, given: str) -> int | None:
        """The code that a number or a word names, of a word's codes the likeliest; None for neither."""
        given = given.strip()
        if given.isdigit() and int(given) < len(self.words):
            return int(given)
        word = given[1:-1] if len(given) > 1 and given[0] == given[-1] and given[0] in "'\"" else given
        for wanted in (word, f" {word}"):
            codes = self.groups().get(wanted)
            if codes:
                return codes[0]
        return None

    def table(self) -> str:
        """A line for each word: its probability under the policy, under the world model, and its codes."""
        lines = []
        for word, codes in self.groups().items():
            named = " ".join(map(str, codes[:NAMED]))
            more = f" and {len(codes) - NAMED} more" if len(codes) > NAMED else ""
            text = word if word == "<end>" else repr(word)
            lines.append(
                f"{text:<14.14} policy {self.prior[codes].sum():4.2f}  world {self.certain[codes[0]]:4.2f}  "
                f"codes {named}{more}"
            )
        return "\n".join(lines)


def code_table(episodes: Episodes, row: int = 0) -> str:
    """:meth:`Outlook.table` of a row, under the model's own policy."""
    return Outlook.of(episodes, np.exp(episodes.session.prior([row])[0]), row).table()
