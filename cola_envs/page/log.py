"""Record an episode for a page: its text in pieces, and at each step the tokens of the possible actions.

Shapes: A actions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from cola_envs.backbone import Tokenizer
from cola_envs.checks import Actions
from cola_envs.episodes import Episodes
from cola_envs.fields import SUCCESS, Info
from cola_envs.jsonl import JsonObject
from cola_envs.page.pieces import pieces, span_texts, token_text
from cola_envs.shown import shown

#: Actions in a step's table: all codes of the usual codebook, or the most probable tokens of a vocabulary.
ROWS = 64
DIGITS = 5  # decimal places of the probabilities in a table


class Words:
    """The token texts of a page, each once; tables refer to them by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text; a new text is added."""
        text = shown(text)
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]

    def token(self, tokenizer: Tokenizer, token: int) -> int:
        """The number of a token's text."""
        return self.number(token_text(tokenizer, token))


class EpisodeLog:
    """Records the episode of one row: call :meth:`look` before each step and :meth:`paid` after it.

    Args:
        episodes, row: the row that plays the episode.
        words: the page's token texts.
        prior: whether to record the session's initial policy; False if its weights have been trained since.
    """

    def __init__(self, episodes: Episodes, row: int, words: Words, *, prior: bool = True) -> None:
        self.words = words
        self._episodes, self._row, self._prior = episodes, row, prior
        self._span = int(getattr(episodes.session, "draws", 1))
        self.begin()

    def begin(self) -> None:
        """Start a new record, after the row's reset."""
        self._steps: list[JsonObject] = []
        self._end: Info = {}
        self._ended: str | None = None
        self._origin = self._seeds()

    def rewound(self) -> None:
        """Adapt the record to a restored row; the record of the same episode's earlier steps is kept."""
        actions = self._episodes.actions(self._row)
        steps = self._steps[: len(actions)]
        same = self._origin == self._seeds() and [step["action"] for step in steps] == actions
        self.begin()
        self._steps = steps if same else [{"action": action} for action in actions]

    def look(self, action: Any, policy: np.ndarray | None = None) -> None:
        """Record the tokens that the actions would give, before ``action`` is taken.

        Args:
            policy: log-probabilities [A] of the acting policy, if known.

        Raises:
            gymnasium.error.InvalidAction: as a step with this action would.
        """
        actions: Actions = [action]
        (taken,) = self._episodes.check_actions(actions, 1)
        session, row = self._episodes.session, [self._row]
        prior = session.prior(row)[0] if self._prior or policy is None else None
        ranked = prior if policy is None else policy
        assert ranked is not None
        order = np.argsort(-ranked, kind="stable")[:ROWS].tolist()
        order = [code for code in order if ranked[code] > -math.inf]
        order += [] if taken in order else [taken]
        ids, log_probs = session.outcomes(row, order)
        if self._span > 1:
            numbers = [self.words.number(text) for text in span_texts(self._episodes, self._row, order)]
        else:
            tokenizer = self._episodes.backbone.tokenizer
            numbers = [self.words.token(tokenizer, token) for token in ids[0, :, 0].tolist()]
        table: JsonObject = {
            "codes": order,
            "tokens": numbers,
            "token_p": _probabilities(log_probs[0, :, 0]),
        }
        if policy is not None:
            table["policy"] = _probabilities(policy[order])
        if prior is not None and self._prior:
            table["prior"] = _probabilities(prior[order])
        self._steps.append({"action": taken, "table": table})

    def note(self, **figures: Any) -> None:
        """Add figures to the record of the last step."""
        self._steps[-1].update(figures)

    def paid(self, reward: float, terminated: bool, truncated: bool, info: Info) -> None:
        """Record the result of the step."""
        self.note(reward=float(reward))
        if terminated or truncated:
            self._ended, self._end = ("terminated" if terminated else "truncated"), info

    @property
    def steps(self) -> list[JsonObject]:
        """The records of the steps, in order."""
        return self._steps

    def as_dict(self, name: str, **about: Any) -> JsonObject:
        """The record as JSON for a page.

        Args:
            name: the episode's name on the page.
            about: further fields.
        """
        episodes, row = self._episodes, self._row
        prompt = {"text": shown(episodes.prompt(row)), "steps": []}
        cut = [{"text": shown(piece.text), "steps": list(piece.steps)} for piece in pieces(episodes, row)]
        return {
            "name": shown(name),
            "level": episodes.backbone.level,
            "span": self._span,
            "num_actions": int(episodes.action_space.n),
            "world_temperature": episodes.world_temperature,
            # As text, because JavaScript's numbers hold only 53 bits.
            "seed": str(episodes.seed(row)),
            "problem_seed": str(episodes.problem_seed(row)),
            "ended": self._ended,
            "success": self._end.get(SUCCESS.name),
            "info": plain(self._end),
            "pieces": [prompt, *cut],
            "steps": self._steps,
            **about,
        }

    def _seeds(self) -> tuple[int | None, int | None]:
        seed = self._episodes.seed(self._row)
        return seed, None if seed is None else self._episodes.problem_seed(self._row)


#: Fields of ``info`` that are shown elsewhere on the page, or not useful.
_LEFT_OUT = ("token", "tokens", "action", "prompt", "text", "success")


def plain(info: Info) -> dict[str, str]:
    """The fields of an ``info`` that a page shows, as texts of at most 300 characters."""
    return {
        shown(str(name)): shown(f"{value:.6g}" if isinstance(value, float) else str(value))[:300]
        for name, value in info.items()
        if name not in _LEFT_OUT and isinstance(value, (str, int, float, bool, np.number, np.bool_))
    }


def _probabilities(log_probs: np.ndarray) -> list[float]:
    rounded: list[float] = np.exp(np.asarray(log_probs, dtype=np.float64)).round(DIGITS).tolist()
    return rounded
