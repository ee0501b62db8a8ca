"""Answers to open prompts, scored by a reward model: the task of ``CoLA-Preference-v0``."""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from cola_envs import jsonl
from cola_envs.checks import check_choice, check_list, check_number, check_stop
from cola_envs.contract import checked_text, finite_number, one_each, shown
from cola_envs.fields import Info
from cola_envs.order import FiniteTask
from cola_envs.task import Turn, answered

#: A function from B prompts and B responses to B scores; higher is better.
Scorer: TypeAlias = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
#: One prompt in TEST_SHARE of a plain list is a test prompt.
TEST_SHARE = 10


class Preference(FiniteTask):
    """Answer a prompt; the reward is a scorer's score of the answer.

    **Prompt.** One of ``prompts``, unchanged.

    **Prompt formats.** Plain text: ``"Story:"``. In a chat, the user's message: ``"Story:"``.

    **Actions.** The whole response, one segment, up to the model's end-of-text token, a stop string or the
    token budget.

    **Observation.** The prompt and the agent's text; the task adds nothing.

    **Reward.** The scorer's score of prompt and response, whitened with ``whiten=`` and clamped to ``clamp``.
    All responses that end in one vector step are scored in one call.

    **Episode end.** Terminated after the segment. A response that fills the token budget is scored too,
    unless ``budget_end="truncate"``.

    **Info.** At reset and at the end ``prompt``, ``split``, and ``dataset_sha256`` and ``num_prompts`` of the
    split's prompts; at the end also ``score`` (raw), ``held_out_score`` (raw, with ``held_out=``) and
    ``success`` (whether the reward is positive, which after whitening means better than the mean).

    **Data and licence.** The user's own prompts and scorer. After the preference tasks of CoLA (arXiv
    2503.21383), whose post-training whitens and clamps rewards in this way.

    **Versions.** v0: first version.

    Args:
        num_rows: number of rows.
        prompts: a sequence of strings; the path of a JSONL file whose lines have a string ``prompt``; or a
            mapping from split (``"train"``, ``"test"``) to such a sequence. In a plain sequence or file, one
            prompt in ten is a test prompt, by the hash of its text, so that the split does not depend on the
            order.
        scorer: a callable from (prompts, responses) to scores, or the path or hub id of a Hugging Face
            sequence-classification decoder with one output (:class:`cola_agents.train.reward.RewardModel`),
            which is loaded at the first score.
        held_out: a second scorer, which is not rewarded. If the reward rises while this score falls, the
            agent is hacking the reward.
        whiten: subtract a mean and divide by a standard deviation: a pair of numbers, or True for the
            scorer's own ``mean`` and ``std`` (``cola train-reward`` writes them into the model's
            configuration). They are fixed, so that a reward does not depend on earlier scores.
        clamp: the range of the reward after whitening; None for no limit. The official code clamps to
            [-10, 10].
        split: ``"train"`` or ``"test"``.
        stop: strings that end a response, besides the model's end-of-text token.
        device: the device of a reward model that is passed by its path.
        sequential: play the split's prompts in order, for an evaluation; a problem seed is then a prompt's
            place in that order.

    Raises:
        TypeError: without prompts or scorer, or for one of the wrong type.
        ValueError: for an invalid value or an empty split. :meth:`step` raises TypeError or ValueError for
            scores that are not one finite number for each response; rows with valid scores may continue.
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
        self.stop = check_stop("stop", stop)
        self.clamp = None if clamp is None else _pair("clamp", clamp, "None or (low, high)")
        if self.clamp is not None and not self.clamp[0] < self.clamp[1]:
            raise ValueError(f"clamp must be (low, high) with low < high, got {clamp!r}")
        self.whiten = whiten if isinstance(whiten, bool) else _checked_moments(whiten)
        self.split = split
        self.prompts = _of_split(prompts, split)
        super().__init__(num_rows, len(self.prompts), sequential)
        self._score = _resolved(scorer, "scorer", device)
        self._held_out = None if held_out is None else _resolved(held_out, "held_out", device)
        self._about = {
            "split": split,
            "dataset_sha256": hashlib.sha256("\0".join(self.prompts).encode()).hexdigest(),
            "num_prompts": len(self.prompts),
        }

    def step(self, rows: Sequence[int], texts: Sequence[str]) -> list[Turn]:
        """Score the rows' responses in one call of each scorer."""
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
        reward = score
        if self.whiten is not False:
            mean, std = self._moments() if self.whiten is True else self.whiten
            reward = (score - mean) / std
        if self.clamp is not None:
            reward = min(max(reward, self.clamp[0]), self.clamp[1])
        info: Info = {"score": score, "success": reward > 0}
        if held_out is not None:
            info["held_out_score"] = held_out
        return Turn(reward=reward, info=info)

    def _moments(self) -> tuple[float, float]:
        """The scorer's own mean and standard deviation."""
        try:
            return _checked_moments((self._score.mean, self._score.std))  # type: ignore[attr-defined]
        except AttributeError as error:
            raise ValueError(
                "whiten=True takes mean and std from the scorer, and it has none: pass whiten=(mean, std)"
            ) from error

    def info(self, row: int) -> Info:
        """The row's prompt, and the hash and size of the set of prompts."""
        return {"prompt": self._prompt(row), **self._about}

    def _prompt(self, row: int) -> str:
        return self.prompts[self._index(row)]

    def _problem(self, index: int) -> tuple[str, ...]:
        return (self.prompts[index],)


def _of_split(prompts: object, split: str) -> list[str]:
    if isinstance(prompts, Mapping):
        if split not in prompts:
            raise ValueError(
                f"prompts has the splits {', '.join(map(str, prompts))}, and not split={split!r}"
            )
        chosen = _checked_prompts(prompts[split])
    else:
        check_choice("split", split, ("train", "test"))
        every = _from_file(Path(prompts)) if isinstance(prompts, str | Path) else _checked_prompts(prompts)
        hashes = [hashlib.sha256(prompt.encode()).digest() for prompt in every]
        tests = [int.from_bytes(digest[:8]) % TEST_SHARE == 0 for digest in hashes]
        chosen = [
            prompt for prompt, is_test in zip(every, tests, strict=True) if is_test == (split == "test")
        ]
        if not every:
            raise ValueError("prompts is empty: pass at least one prompt")
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
        checked_text(prompt, f"prompts[{index}]")
    return list(prompts)


def _from_file(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"prompts={str(path)!r} is no file; pass a JSONL file or a list of strings")
    prompts = []
    for where, item in jsonl.read(path):
        prompt = item.get("prompt") if isinstance(item, dict) else None
        if not (isinstance(prompt, str) and prompt):
            raise ValueError(f'{where}: not {{"prompt": "..."}} with a non-empty string: {item!r:.80}')
        checked_text(prompt, f"{where}: the prompt")
        prompts.append(prompt)
    return prompts


def _resolved(scorer: object, name: str, device: str | None) -> Scorer:
    if isinstance(scorer, str | Path):
        # Imported only when needed: cola_envs imports neither torch nor transformers.
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
    """The score of each response, or an exception for a score that is not a finite number."""
    returned = one_each(scorer(list(prompts), list(texts)), rows, f"what {name}= returns")
    scores: list[float | Exception] = []
    for score, row, prompt, text in zip(returned, rows, prompts, texts, strict=True):
        place = f"the score that {name}= gives in row {row} to {shown(text)} after the prompt {shown(prompt)}"
        try:
            scores.append(finite_number(score, place))
        except (TypeError, ValueError) as error:
            scores.append(error)
    return scores


def _checked_moments(moments: object) -> tuple[float, float]:
    mean, std = _pair("whiten", moments, "True, False or (mean, std)")
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"whiten=(mean, std) needs finite numbers and std > 0, got {moments!r}")
    return mean, std


def _pair(name: str, values: object, form: str) -> tuple[float, float]:
    """Two numbers, perhaps infinite, of the argument ``name``, whose ``form`` an error tells."""
    pair = check_list(name, values, form)
    if len(pair) != 2:
        raise ValueError(f"{name} must be {form}, got {values!r:.80}")
    first, second = (v if v in (-math.inf, math.inf) else check_number(name, v) for v in pair)
    return float(first), float(second)
