"""The criteria of the claims about comparisons.

A claim is decided by a test of its own, which no other claim's outcome changes; where it is about two figures
they are a family (Holm). The control arms are a family of their own and say what else does as well as latent
actions: they tell the cause, not the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.claims.findings import FAILS, HOLDS, NOT_HERE, OPEN, Finding, Inputs, MissingInput
from benchmarks.compare.page import interval, number
from benchmarks.compare.records import Comparison, Run
from benchmarks.compare.report import judged_record
from benchmarks.compare.summary import (
    HARMLESS,
    LABELS,
    REFERENCE,
    THRESHOLD,
    TIE,
    Judged,
    Quantity,
    change,
    damage_names,
    figure,
    horizons,
    judge,
    mean,
    nested,
    pairs,
    quantities,
    time_to,
)
from benchmarks.statistics import ratio

BASELINE = "token"
#: What a control arm that does as well as the latent arm shows.
CONTROLS = {
    "latent-sampled": "the world model's argmax is not needed",
    "token-frozen": "a small trained part on a frozen base is enough",
    "token-lora": "as few trained parameters are enough",
    "token-truncated": "cutting the tail of sampling is enough",
    "pushforward": "taking the gradient through codes rather than tokens is not needed",
    "rank": "64 actions are enough, learned or not",
    "latent-fta": "a base that was trained further under the codes is as good",
    "token-longer": "further training of the base on as many tokens is enough",
}
#: A claim about pre-trained models is left open over fewer of them.
FEWEST_MODELS = 4
MATHEMATICS = ("Arithmetic", "Math500", "GSM8K")
AGENT_TASKS = ("ALFWorld", "ScienceWorld", "Household", "TextRooms")


# ---------------------------------------------------------------- test rewards


def reward_after(tasks: Sequence[str], name: str) -> Callable[[Inputs], Finding]:
    """Latent above token in a test reward after RL, paired."""

    def decide(inputs: Inputs) -> Finding:
        comparison = inputs.comparison(tasks)
        quantity = _quantity(comparison, name)
        one = _against(comparison, quantity, BASELINE)
        bounds = one.estimate
        if one.holm_p is None or bounds.models < FEWEST_MODELS:
            verdict = OPEN
        elif bounds.low > 0:
            verdict = HOLDS
        else:
            verdict = FAILS if bounds.high < 0 or one.verdict == "equivalent" else OPEN
        common = _common(comparison.main(REFERENCE), comparison.main(BASELINE))
        means = [
            mean(nested(_of(comparison.main(arm), common), quantity.value)) for arm in (REFERENCE, BASELINE)
        ]
        ours = (
            f"{comparison.task}: codes {number(means[0])}, tokens {number(means[1])}, "
            f"difference {number(one.estimate.mean)}"
        )
        cause = _few(bounds.models) + _start(comparison, name)
        cause += controls(
            {arm: comparison.main(arm) for arm in comparison.arms()},
            quantity,
            more_is_better=True,
            effect=verdict == HOLDS,
        )
        return Finding(verdict, ours, _bounds(one), cause + _floor(comparison, name), judged_record(one))

    return decide


def _few(models: int) -> str:
    """A sentence for a claim that too few models leave open."""
    return (
        "" if models >= FEWEST_MODELS else f"Pre-trained models: {models}; a verdict takes {FEWEST_MODELS}. "
    )


def _start(comparison: Comparison, name: str) -> str:
    """A sentence on the difference before RL and the share that RL added."""
    before = Quantity(name, name, TIE, figure("before", name))
    gain = Quantity(name, name, TIE, change(name))
    parts = [
        f"{words} {interval(judged_record(_against(comparison, quantity, BASELINE)))}"
        for words, quantity in (("before RL the difference was", before), ("RL made", gain))
    ]
    return f"{parts[0][0].upper()}{parts[0][1:]}; {parts[1]} of it. "


def _floor(comparison: Comparison, name: str) -> str:
    """A sentence on the reward of the best constant code, where sampled rewards are compared."""
    rewards = comparison.floors().get("constant-code")
    if name != "reward" or not rewards:
        return ""
    return f" The best constant code earns {number(float(np.mean(list(rewards.values()))))} without RL."


# ---------------------------------------------------------------- times


def half(axis: str) -> Callable[[Inputs], Finding]:
    """Latent's time to the format reward at most half of token's."""

    def decide(inputs: Inputs) -> Finding:
        comparison = inputs.comparison(("Thinking",))
        common = _common(comparison.main(REFERENCE), comparison.main(BASELINE))
        if not common:
            raise MissingInput(
                f"runs of `{REFERENCE}` and `{BASELINE}` that share seeds on {comparison.task}"
            )
        # Of these two arms alone: no other arm's runs are to decide when a time is cut off.
        both = replace(comparison, runs=tuple(r for r in comparison.runs if r.arm in (REFERENCE, BASELINE)))
        limits, quantity = horizons(both), _quantity(both, f"time_{axis}")
        sides, late = [], []
        for arm in (REFERENCE, BASELINE):
            runs = _of(comparison.main(arm), common)
            sides.append(nested(runs, quantity.value))
            late.append(sum(time_to(run, axis, limits[axis], THRESHOLD).at is None for run in runs))
        share, low, high = ratio(*sides)
        means = [mean(side) for side in sides]
        word = {"episodes": "rollouts", "cpu_s": "CPU-seconds"}[axis]
        verdict = _ratio_verdict(low, high, len(sides[0]), late)
        return Finding(
            verdict,
            f"codes {number(means[0])}, tokens {number(means[1])} {word} (restricted means), ratio "
            f"{share:.2f}; not there in time: {late[0]} and {late[1]} of {len(common)} runs",
            f"[{low:.2f}, {high:.2f}]",
            _few(len(sides[0]))
            + controls(
                {arm: comparison.main(arm) for arm in comparison.arms()},
                quantity,
                more_is_better=False,
                effect=verdict == HOLDS,
            )
            + _floor(comparison, "reward"),
            {
                "ratio": round(share, 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "pairs": len(common),
                "censored": {REFERENCE: late[0], BASELINE: late[1]},
                "horizon": limits[axis],
            },
        )

    return decide


def _ratio_verdict(low: float, high: float, models: int, late: Sequence[int]) -> str:
    """Whether the ratio is at most half. A censored time is a lower bound: it supports one answer only.

    Latent's makes the ratio look smaller than it is, token's larger.
    """
    if models < FEWEST_MODELS:
        return OPEN
    if high <= 0.5 and not late[0]:
        return HOLDS
    if low > 0.5 and not late[1]:
        return FAILS
    return OPEN


# ---------------------------------------------------------------- what RL costs


def kept_without_kl(inputs: Inputs) -> Finding:
    """Latent RL without KL does no harm where token RL does more."""
    comparison = inputs.comparison(("Thinking",), " --frontier 0")
    runs = {arm: _without_kl(comparison, arm) for arm in comparison.arms()}
    for arm in (REFERENCE, BASELINE):
        if not runs.get(arm):
            raise MissingInput(
                f"runs of `{arm}` at KL weight 0: `python -m benchmarks compare --task {comparison.task} "
                "--frontier 0 --models MODELS --out DIR`, which adds them"
            )
    names = [name for name in ("arithmetic", "grammar") if name in damage_names(comparison.task)]
    every = {name: _quantity(comparison, f"{name}_lost") for name in names}
    losses = {name: nested(runs[REFERENCE], every[name].value) for name in names}
    beyond = {name: pairs(runs[BASELINE], runs[REFERENCE], every[name].value)[0] for name in names}
    harmless = judge({name: side for name, side in losses.items() if side}, HARMLESS["grammar"])
    more = judge({name: side for name, side in beyond.items() if side}, HARMLESS["grammar"])
    if not harmless or not more:
        raise MissingInput(f"figures of {' and '.join(names)} before and after RL at KL weight 0")
    verdicts = [one.verdict for one in harmless.values()]
    others = [one.verdict for one in more.values()]
    models = min(one.estimate.models for one in (*harmless.values(), *more.values()))
    if models < FEWEST_MODELS:
        verdict = OPEN
    elif all(one in ("equivalent", "less") for one in verdicts) and "more" in others:
        verdict = HOLDS
    elif "more" in verdicts or all(one in ("equivalent", "less") for one in others):
        verdict = FAILS
    else:
        verdict = OPEN
    parts = [
        f"{name}: codes {_lost(harmless[name].estimate.mean)} ({_HARM[harmless[name].verdict]}), tokens lost "
        f"{_more(more[name].estimate.mean)} than codes ({_WORSE[more[name].verdict]})"
        for name in harmless
        if name in more
    ]
    bounds = "; ".join(
        f"{name}: loss of codes {_bounds(harmless[name])}, of tokens beyond it {_bounds(more[name])}"
        for name in harmless
        if name in more
    )
    cause = _few(models) + " ".join(
        f"{LABELS[name].capitalize()} lost without KL. "
        + controls(runs, every[name], more_is_better=False, effect=verdict == HOLDS)
        for name in names
    )
    figures = {
        "latent_lost": {name: judged_record(one) for name, one in harmless.items()},
        "token_lost_more": {name: judged_record(one) for name, one in more.items()},
        "options": {arm: one[0].options for arm, one in runs.items() if one},
    }
    return Finding(verdict, "; ".join(parts), bounds, cause, figures)


_HARM = {"equivalent": "no harm", "less": "no harm", "more": "harm", "undecided": "undecided"}
_WORSE = {"equivalent": "equal", "less": "better", "more": "worse", "undecided": "undecided"}


def _lost(loss: float) -> str:
    """A loss in words, which below zero is a gain."""
    return f"gained {number(-loss)}" if round(loss, 3) < 0 else f"lost {number(loss)}"


def _more(difference: float) -> str:
    """How much more was lost, in words, or below zero how much less."""
    return f"{number(-difference)} less" if round(difference, 3) < 0 else f"{number(difference)} more"


def _without_kl(comparison: Comparison, arm: str) -> list[Run]:
    """The runs of an arm's setting without KL; of several, that with most runs, then highest test reward."""
    candidates = [
        runs
        for runs in comparison.settings(arm).values()
        if float(runs[0].options.get("kl_coef", 1.0)) == 0.0
    ]

    def worth(runs: list[Run]) -> tuple[int, float]:
        rewards = [reward for run in runs if (reward := run.after.get("reward")) is not None]
        return len(runs), float(np.mean(rewards)) if rewards else 0.0

    return max(candidates, key=worth, default=[])


def agent_tasks(inputs: Inputs) -> Finding:
    """Latent above token on a text game, where there is a comparison on one."""
    if not any(task in inputs.comparisons for task in AGENT_TASKS):
        return Finding(
            NOT_HERE,
            "the bundled models cannot play the engines' games; TextRooms would be a stand-in",
        )
    return reward_after(AGENT_TASKS, "reward")(inputs)


# ---------------------------------------------------------------- shared


def controls(
    runs: Mapping[str, Sequence[Run]], quantity: Quantity, *, more_is_better: bool, effect: bool
) -> str:
    """A sentence that compares the control arms with the latent one.

    Where there is an ``effect`` to explain, the arms that do as well as the latent one give its cause.
    """
    family = {}
    for arm in CONTROLS:
        differences, _ = pairs(runs.get(REFERENCE, ()), runs.get(arm, ()), quantity.value)
        if differences:
            family[arm] = differences
    judged = judge(family, quantity.margin)
    better, worse = ("more", "less") if more_is_better else ("less", "more")
    groups = {
        "as good as latent": ("equivalent", effect),
        "better than latent": (worse, effect),
        "worse than latent": (better, False),
        "undecided": ("undecided", False),
    }
    parts = []
    for words, (verdict, tells) in groups.items():
        arms = [
            f"`{arm}` ({CONTROLS[arm]})" if tells else f"`{arm}`"
            for arm, one in judged.items()
            if one.verdict == verdict
        ]
        if arms:
            parts.append(f"{words}: {', '.join(arms)}")
    absent = [f"`{arm}`" for arm in CONTROLS if arm not in judged]
    if absent:
        parts.append(f"not run: {', '.join(absent)}")
    return f"Control arms: {'; '.join(parts)}."


def _quantity(comparison: Comparison, name: str) -> Quantity:
    return next(one for one in quantities(comparison, THRESHOLD) if one.name == name)


def _against(comparison: Comparison, quantity: Quantity, arm: str) -> Judged:
    """The latent arm less another, a family of its own."""
    differences, _ = pairs(comparison.main(REFERENCE), comparison.main(arm), quantity.value)
    if not differences:
        raise MissingInput(
            f"{quantity.label} of runs of `{REFERENCE}` and `{arm}` that share seeds on {comparison.task}"
        )
    return judge({arm: differences}, quantity.margin)[arm]


def _common(first: Sequence[Run], second: Sequence[Run]) -> set[tuple[int, int]]:
    """The model and RL seeds that both arms have."""
    return {(run.model_seed, run.seed) for run in first} & {(run.model_seed, run.seed) for run in second}


def _of(runs: Sequence[Run], common: set[tuple[int, int]]) -> list[Run]:
    return [run for run in runs if (run.model_seed, run.seed) in common]


def _bounds(one: Judged) -> str:
    return interval(judged_record(one)).partition(" ")[2]
