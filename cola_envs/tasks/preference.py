"""Preference: answers to open prompts, scored by a model of what people prefer."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from cola_envs import jsonl
from cola_envs.contract import finite_number, one_each, shown
from cola_envs.fields import Info
from cola_envs.order import Order, draw
from cola_envs.task import Turn, answered

#: Prompts and responses, one each a row, to as many scores: higher is better.
Scorer: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
#: One prompt in so many of a plain list is a test prompt.
TEST_SHARE = 10


class Preference:
    """Answer a prompt; the reward is a scorer's opinion of the answer.

    Prompt: one of ``prompts``, as it stands.

    Actions: the whole response, up to the end-of-sequence token, a stop string or the token budget.

    Reward: the scorer's score of (prompt, response), whitened if asked and clamped to ``clamp``. All
    responses that end in one vector step are scored in one call.

    Episode end: one segment.

    ``info`` at the end: ``prompt``, ``score`` (raw), ``held_out_score`` (raw; where there is a second
    scorer), ``success`` (whether the reward is positive: after whitening, better than the mean),
    ``dataset_sha256`` and ``num_prompts`` of the split's prompts, ``split``.

    Args:
        num_rows: how many rows there are.
        prompts: a sequence of strings; a path of a JSONL file whose lines have a string ``prompt``; or a
            mapping from split to such a sequence. Of a plain sequence or file one prompt in ten is a test
            prompt, chosen by the hash of its text, so that a split does not depend on the order.
        scorer: a callable from (prompts, responses) to scores, or the path or hub id of a Hugging Face
            sequence-classification decoder with one output (:class:`cola_agents.train.reward.RewardModel`),
            which is loaded at the first score.
        held_out: a second scorer, never rewarded. A reward that rises while this score falls has been
            hacked.
        whiten: subtract a mean and divide by a standard deviation: a pair of numbers, or True for the
            scorer's own ``mean`` and ``std`` (`cola train-reward` writes them into the model's
            configuration). Fixed numbers, so that a reward does not depend on what was scored before.
        clamp: the range of the reward after whitening; None for no limit. The official code clamps to
            [-10, 10].
        split: ``"train"`` or ``"test"``.
        stop: strings that end a response, besides the end-of-sequence token.
        device: where a reward model that is named by its path runs.
        sequential: play the split's prompts in turn: what an evaluation does. A problem seed, where one is
            given, is a prompt's place in that order (:class:`~cola_envs.order.Order`).

    Raises:
        TypeError: without prompts or scorer, or of the wrong kind.
        ValueError: for a bad value or an empty split. :meth:`step` raises TypeError or ValueError for scores
            that are not one finite number a response; where single ones are bad, the other rows may go on.

    Data: the caller's own. Source: the preference tasks of CoLA (arXiv 2503.21383), whose post-training
    clamps and whitens rewards in this way. Version history: v0, first release.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        prompts: Sequence[str] | str | Path | Mapping[str, Sequence[str]] | None = None,
        scorer: Scorer | str | Path | None = None,
        held_out: Scorer | str | Path | None = None,
        whiten: bool | tuple[float, float] = False,
        clamp: tuple[float, float] | None = (-10.0, 10.0),
        split: Literal["train", "test"] = "train",
        stop: tuple[str, ...] = (),
        device: str | None = None,
        sequential: bool = False,
    ) -> None:
        if prompts is None or scorer is None:
            missing = "prompts" if prompts is None else "scorer"
            raise TypeError(
                f"CoLA-Preference needs {missing}=: gym.make(id, prompts=['Tell me ...', ...], scorer=f) "
                "with f(prompts, responses) -> scores, or the path of a reward model as scorer"
            )
        if isinstance(stop, str) or not all(isinstance(end, str) and end for end in stop):
            raise TypeError(f"stop must be a tuple of non-empty strings, got {stop!r}")
        if clamp is not None and not clamp[0] < clamp[1]:
            raise ValueError(f"clamp must be (low, high) with low < high, got {clamp!r}")
        self.stop = tuple(stop)
        self.split = split
        self.prompts = _of_split(prompts, split)
        self.num_problems = len(self.prompts)
        self.clamp = clamp
        self._score = _resolved(scorer, "scorer", device)
        self._held_out = None if held_out is None else _resolved(held_out, "held_out", device)
        self.whiten = whiten
        if not isinstance(whiten, bool):
            _checked_moments(whiten)
        self._about = {
            "split": split,
            "dataset_sha256": hashlib.sha256("\0".join(self.prompts).encode()).hexdigest(),
            "num_prompts": len(self.prompts),
        }
        self.order = Order(self.num_problems) if sequential else None
        self._index: list[int | None] = [None] * num_rows

    def reset(
        self,
        rows: Sequence[int],
        rngs: Sequence[np.random.Generator],
        problem_seeds: Sequence[int] | None = None,
    ) -> list[str]:
        """Draw a prompt for each row from its own generator, or by its seed in order."""
        seeds: Sequence[int | None] = problem_seeds or [None] * len(rows)
        for row, rng, seed in zip(rows, rngs, seeds, strict=True):
            self._index[row] = draw(self.num_problems, self.order, rng, seed)
        return [self._prompt(row) for row in rows]

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Score the rows' responses, all at once."""
        prompts = [self._prompt(row) for row in rows]
        scores = _scores(self._score, "scorer", rows, prompts, texts)
        if self._held_out is None:
            return answered([self._answer(score) for score in scores])
        others = _scores(self._held_out, "held_out", rows, prompts, texts)
        return answered([self._answer(*pair) for pair in zip(scores, others, strict=True)])

    def _answer(
        self, score: float | Exception, held_out: float | Exception | None = None
    ) -> Turn | Exception:
        if isinstance(score, Exception):
            return score
        if isinstance(held_out, Exception):
            return held_out
        reward = self._reward(score)
        info: Info = {"score": score, "success": reward > 0}
        if held_out is not None:
            info["held_out_score"] = held_out
        return Turn(reward=reward, info=info)

    def _reward(self, score: float) -> float:
        if self.whiten is not False:
            mean, std = self._moments() if self.whiten is True else self.whiten
            score = (score - mean) / std
        return score if self.clamp is None else min(max(score, self.clamp[0]), self.clamp[1])

    def _moments(self) -> tuple[float, float]:
        try:
            return _checked_moments((self._score.mean, self._score.std))  # type: ignore[attr-defined]
        except AttributeError as error:
            raise ValueError(
                "whiten=True takes mean and std from the scorer, and it has none: pass whiten=(mean, std)"
            ) from error

    def info(self, row: int) -> Info:
        """The row's prompt, and hash and size of the set of prompts."""
        return {"prompt": self._prompt(row), **self._about}

    def snapshot(self, row: int) -> object:
        """The index of the row's prompt, its whole state."""
        return self._index[row]

    def restore(self, row: int, state: object) -> None:
        """Restore a row to the prompt that :meth:`snapshot` returned."""
        if state is not None and not (isinstance(state, int) and 0 <= state < self.num_problems):
            raise ValueError(f"state {state!r} names none of {self.num_problems} prompts")
        self._index[row] = state

    def close(self) -> None:
        """Do nothing: a scorer belongs to the caller."""

    def _prompt(self, row: int) -> str:
        index = self._index[row]
        if index is None:
            raise RuntimeError(f"row {row} has no prompt yet; reset it first")
        return self.prompts[index]


def _of_split(prompts: object, split: str) -> list[str]:
    if isinstance(prompts, Mapping):
        if split not in prompts:
            raise ValueError(f"prompts has the splits {', '.join(map(str, prompts))}, and split is {split!r}")
        chosen = _checked_prompts(prompts[split])
    else:
        every = _from_file(Path(prompts)) if isinstance(prompts, str | Path) else _checked_prompts(prompts)
        chosen = [prompt for prompt in every if _is_test(prompt) == (split == "test")]
    if not chosen:
        raise ValueError(
            f"no prompt is left for split {split!r}; one in {TEST_SHARE} of a plain list is a test prompt: "
            "pass more, or a mapping {'train': [...], 'test': [...]}"
        )
    return chosen


def _checked_prompts(prompts: object) -> list[str]:
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
        raise TypeError(f"prompts must be a sequence of strings, got {type(prompts).__name__}")
    for index, prompt in enumerate(prompts):
        if not (isinstance(prompt, str) and prompt):
            raise TypeError(f"prompts[{index}] must be a non-empty string, got {prompt!r:.80}")
    return list(prompts)


def _from_file(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"prompts={str(path)!r} is no file; pass a JSONL file, or a list of strings")
    prompts = []
    for where, item in jsonl.read(path):
        prompt = item.get("prompt") if isinstance(item, dict) else None
        if not (isinstance(prompt, str) and prompt):
            raise ValueError(f'{where}: not {{"prompt": "..."}} with a non-empty string: {item!r:.80}')
        prompts.append(prompt)
    return prompts


def _is_test(prompt: str) -> bool:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % TEST_SHARE == 0


def _resolved(scorer: object, name: str, device: str | None) -> Scorer:
    if isinstance(scorer, str | Path):
        # Imported here, because cola_envs imports neither torch nor transformers.
        model: Scorer = importlib.import_module("cola_agents.train.reward").RewardModel(scorer, device=device)
        return model
    if not callable(scorer):
        raise TypeError(
            f"{name} must be a callable (prompts, responses) -> scores or the path of a reward model, "
            f"got {scorer!r:.80}"
        )
    return scorer


def _scores(
    scorer: Scorer, name: str, rows: Sequence[int], prompts: Sequence[str], texts: Sequence[str]
) -> list[float | Exception]:
    """For each response its score, or an exception for a score that is not a finite number."""
    returned = one_each(scorer(list(prompts), list(texts)), rows, f"what {name}= returns")
    scores: list[float | Exception] = []
    for score, row, prompt, text in zip(returned, rows, prompts, texts, strict=True):
        what = f"the score that {name}= gives in row {row} to {shown(text)} after the prompt {shown(prompt)}"
        try:
            scores.append(finite_number(score, what))
        except (TypeError, ValueError) as error:
            scores.append(error)
    return scores


def _checked_moments(moments: Iterable[float]) -> tuple[float, float]:
    try:
        mean, std = (float(number) for number in moments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"whiten must be True, False or (mean, std), got {moments!r}") from error
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"whiten=(mean, std) needs finite numbers and std > 0, got {moments!r}")
    return mean, std
