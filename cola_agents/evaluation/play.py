"""Playing an episode by hand: by typing, or by picking codes and seeing what each would say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import environment_arguments
from cola_agents.evaluation.run import AgentFolder, loaded
from cola_agents.model.sampling import Drawing, sample
from cola_agents.rl.agent import Agent
from cola_agents.rl.collecting import Act, attach
from cola_envs.build import check_environment, spec_of, twin_id
from cola_envs.checks import check_count
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.fields import PROMPT
from cola_envs.page.pieces import span_texts
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
#: Codes that a line of the table names, at most.
NAMED = 12


def play(
    task: str,
    *,
    codes: bool = False,
    seed: int = 0,
    agent: Agent | AgentFolder | None = None,
    ask: Ask | None = None,
    say: Say = print,
    env_kwargs: Mapping[str, Any] | None = None,
    **direct: Any,
) -> list[float]:
    """Play episodes of a task in the terminal until the player leaves.

    Args:
        task: an environment id, latent or token level.
        codes: pick codes, from a table of what each would say next; else type text, which is sent token by
            token.
        agent: plays in place of the player, who watches; with ``codes`` its policy is the one that is shown.
        seed: of the first episode; the next ones follow.
        ask: reads a line after a prompt; None for ``input``.
        say: prints a line.
        env_kwargs: further arguments of the environment.
        direct: arguments of the environment, deprecated: give them in ``env_kwargs``.

    Returns:
        The sum of rewards of each finished episode.

    Raises:
        ValueError: for an id that is not one of the CoLA environments, codes of a token-level one, or a
            negative seed.
    """
    seed = check_count("seed", seed, 0)
    env, playing = make_playable(task, codes, agent, environment_arguments(env_kwargs, direct, "play"))
    try:
        player = _Player(env, ask or input, say, playing, seed)
        turn = player.pick if codes else player.watch if playing else player.type
        say(HELP_CODES if codes else HELP_WATCH if playing else HELP_TEXT)
        player.start(seed)
        while player.going:
            turn()
        return player.returns
    finally:
        env.close()


def make_playable(
    task: str,
    codes: bool,
    agent: Agent | AgentFolder | None,
    kwargs: Mapping[str, Any],
    render_mode: str | None = None,
) -> tuple[CoLAEnv, Agent | None]:
    """The environment that a person plays: over tokens where text is typed, else as the id says.

    Returns:
        The environment, and the agent; its folder is loaded when the other arguments were checked.

    Raises:
        ValueError: for an id that is not one of the CoLA environments, or codes of a token-level one.
    """
    actions = spec_of(task).kwargs.get("actions")
    if actions is None:
        raise ValueError(f"{task} is not one of the CoLA environments")
    if codes and actions != "latent":
        raise ValueError(f"{task} takes token ids: there are no codes to pick; use the id without -Token")
    # Typed text is a sequence of tokens, whatever an agent would act with.
    chosen = task if codes or agent or actions == "token" else twin_id(task)
    playing = None
    if agent is not None:
        kwargs = {**agent.kwargs_on(task), **kwargs}
        check_environment(task, **kwargs)
        playing = loaded(agent)
        kwargs["model"] = playing.backbone
    env = gym.make(chosen, render_mode=render_mode, **kwargs).unwrapped
    assert isinstance(env, CoLAEnv)
    return env, playing


@torch.no_grad()
def probabilities(logits: Act) -> np.ndarray:
    """A policy's probabilities of the actions in the first row, [A]."""
    prior: np.ndarray = logits([0])[0].float().softmax(-1).cpu().numpy()
    return prior


def typed_ids(episodes: Episodes, line: str) -> list[int]:
    """A typed line as token ids, with what sends it: a line break, or else the end-of-text token."""
    tokenizer, stops = episodes.backbone.tokenizer, tuple(episodes.tasks.stop)
    if "\n" in stops:
        return list(tokenizer.encode(line + "\n"))
    ids = list(tokenizer.encode(line))
    if tokenizer.eos_token_id is not None and not line.endswith(stops or ("\0",)):
        ids.append(tokenizer.eos_token_id)
    return ids


class _Player:
    """One person at one row."""

    def __init__(self, env: CoLAEnv, ask: Ask, say: Say, agent: Agent | None, seed: int) -> None:
        self.env = env
        self.episodes: Episodes = env.episodes
        self.ask: Ask = ask
        self.say: Say = lambda text: say(shown(text))
        self.going = True
        self.returns: list[float] = []
        self._logits = attach(agent.actor if agent else None, self.episodes)
        self._drawing: Drawing = agent.options.drawing if agent else {"temperature": 1.0}
        self._draws = np.random.default_rng([seed, 5])

    def start(self, seed: int | None = None) -> None:
        _, info = self.env.reset(seed=seed)
        self._shown = self.episodes.prompt_length(0)
        self._reward = 0.0
        self.say(PROMPT.of(info))

    def type(self) -> None:
        """Ask for a line and send it."""
        line = self._line("> ")
        if line is None:
            return
        for token in typed_ids(self.episodes, line):
            if self._step(token):
                return
        self._show(own=False)

    def pick(self) -> None:
        """Show what each code would say, and take the one that is asked for."""
        outlook = Outlook.of(self.episodes, self._prior())
        self.say(outlook.table())
        line = self._line("code> ")
        if line is None:
            return
        if line == "" or (line.startswith("+") and line[1:].isdecimal()):
            for _ in range(int(line[1:] or 1)):
                if self._step(int(self._prior().argmax())):
                    return
        else:
            code = outlook.code_of(line)
            if code is None or not self.episodes.action_mask[code]:
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
        return probabilities(self._logits)

    def _line(self, prompt: str) -> str | None:
        """A line of the player's, or None where it was an order or the end of the input."""
        try:
            line = self.ask(prompt)
        except (EOFError, KeyboardInterrupt):
            self.say("")  # the prompt stands on a line of its own
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


@dataclass(frozen=True)
class Outlook:
    """What each code would say next.

    Attributes:
        words: the text of each code's likeliest token, or tokens where it writes several, A of them.
        prior: the policy's probability of each code, [A].
        certain: the world model's probability of that token, the first of several, under the code, [A].
    """

    words: list[str]
    prior: np.ndarray
    certain: np.ndarray

    @classmethod
    def of(cls, episodes: Episodes, prior: np.ndarray) -> Outlook:
        """What is seen in the first row, under a policy's probabilities [A]."""
        ids, log_probs = episodes.session.outcomes([0])
        decode, ends = episodes.backbone.tokenizer.decode, end_ids(episodes.backbone.tokenizer)
        tokens = ids[0, :, 0].tolist()
        if getattr(episodes.session, "draws", 1) > 1:
            words = span_texts(episodes, 0, range(len(tokens)))
        else:
            words = ["<end>" if token in ends else decode([token]) for token in tokens]
        return cls(words, prior, np.exp(log_probs[0, :, 0]))

    def groups(self) -> dict[str, list[int]]:
        """The codes that lead to each word, likeliest first; words by what their codes have together."""
        found: dict[str, list[int]] = {}
        for code in np.argsort(-self.prior, kind="stable").tolist():
            found.setdefault(self.words[code], []).append(code)
        return dict(sorted(found.items(), key=lambda item: -self.prior[item[1]].sum()))

    def code_of(self, given: str) -> int | None:
        """The code that a player means by a number or a word; of a word's codes the likeliest."""
        given = given.strip()
        if given.isdecimal() and int(given) < len(self.words):
            return int(given)
        word = given[1:-1] if len(given) > 1 and given[0] == given[-1] and given[0] in "'\"" else given
        for wanted in (word, f" {word}"):
            codes = self.groups().get(wanted)
            if codes:
                return codes[0]
        return None

    def table(self) -> str:
        """A line a word: the policy's probability of it, the world model's under the first code, and them."""
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
