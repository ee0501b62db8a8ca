"""The criteria of the claims about diversity, time and search."""

from __future__ import annotations

from benchmarks.claims.findings import FAILS, HOLDS, OPEN, Finding, Inputs, MissingInput
from benchmarks.compare.page import interval, number
from benchmarks.compare.summary import mean, nested

#: Of the search benchmark: its mathematics and its line that is the paper's.
SEARCHED, SEARCH = "arithmetic-2", "MCTS-Q"
#: Share of grammatical texts at which diversity is compared, and the arms that are.
VALIDITY = 0.9
LATENT_TEXTS, SAMPLED_TEXTS = "latent, argmax world", "latent, sampled world"


def time_per_update(inputs: Inputs) -> Finding:
    """A latent update in at most half of the token level's own."""
    updates = inputs.result("peers")["updates"]
    ratios = {"PPO": updates["token_of_latent"]}
    ratios |= {f"GRPO, {one['episodes']} episodes": one["token_of_latent"] for one in updates.get("grpo", ())}
    # Token over latent, turn by turn: 2 is half the time.
    if all(ratio["low"] >= 2 for ratio in ratios.values()):
        verdict = HOLDS
    elif all(ratio["high"] < 2 for ratio in ratios.values()):
        verdict = FAILS
    else:
        verdict = OPEN
    ours = "; ".join(
        f"{name}: {1 / ratio['median']:.2f} of the token level's" for name, ratio in ratios.items()
    )
    bounds = "least to most of the turns: " + "; ".join(
        f"[{1 / ratio['high']:.2f}, {1 / ratio['low']:.2f}]" for ratio in ratios.values()
    )
    return Finding(verdict, ours, bounds, _iterations(inputs), {"token_of_latent": ratios})


def _iterations(inputs: Inputs) -> str:
    """A sentence on the CPU seconds of a whole iteration, playing included, of each arm."""
    if "Thinking" not in inputs.comparisons:
        return ""
    comparison = inputs.comparisons["Thinking"]
    seconds = {
        arm: nested(runs, lambda run: run.curve["cpu_s"][-1] / len(run.curve["cpu_s"]))
        for arm in comparison.arms()
        if (runs := comparison.main(arm))
    }
    words = [f"`{arm}` {number(mean(side))}" for arm, side in seconds.items()]
    return f"CPU-seconds of a whole iteration in the comparison, playing included: {', '.join(words)}."


def search_above_greedy(inputs: Inputs) -> Finding:
    """MCTS-Q over codes above the same policy's greedy answers."""
    results = inputs.result("search")
    arms = results.get("tasks", {}).get(SEARCHED, {}).get("arms", {})
    if SEARCH not in arms.get("latent", {}).get("lines", {}):
        raise MissingInput(
            f"{SEARCH} over codes on {SEARCHED}: `python -m benchmarks search --work DIR --tasks {SEARCHED}`"
        )
    lines = arms["latent"]["lines"]
    line = lines[SEARCH]
    apart = line["minus"]["greedy"][-1]
    verdict = HOLDS if apart["low"] > 0 else FAILS if apart["high"] < 0 else OPEN
    accuracy, greedy = (one["points"][-1]["accuracy"]["mean"] for one in (line, lines["greedy"]))
    # A budget is a limit: MCTS-Q as official stops before it.
    spent = {name: f"{one['points'][-1]['tokens']:.0f}" for name, one in lines.items()}
    ours = (
        f"{SEARCHED}: {number(accuracy)} against {number(greedy)} at a budget of {results['budgets'][-1]:g} "
        f"answers' worth of tokens ({spent[SEARCH]} spent on a problem, {spent['greedy']} by greedy play), "
        f"difference {number(apart['mean'])}"
    )
    others = [
        f"`{other}` {interval(one[-1])}" for other, one in line["minus"].items() if other.startswith("token")
    ]
    tries = [
        f"{name} {interval(lines[name]['minus']['greedy'][-1])} ({spent[name]} tokens)"
        for name in ("best of n", "majority vote")
        if name in lines
    ]
    cause = "The policy is the cloned one, before RL."
    if others:
        cause += f" Difference from the same search over tokens: {'; '.join(others)}."
    if tries:
        cause += f" Without a search, the difference from greedy at the same budget: {'; '.join(tries)}."
    return Finding(verdict, ours, interval(apart).partition(" ")[2], cause, {"minus": line["minus"]})


def semantic_diversity(inputs: Inputs) -> Finding:
    """Latent more diverse than token at one share of grammatical texts."""
    results = inputs.result("diversity")
    matched = next((one for one in results["matched"] if one["validity"] == VALIDITY), None)
    if matched is None:
        raise MissingInput(
            f"diversity at a validity of {VALIDITY:g}: `python -m benchmarks diversity --validities "
            f"{VALIDITY:g}`"
        )
    figures = matched["arms"].get(LATENT_TEXTS)
    official = "; ".join(
        f"{arm['name']} {point['quality_diversity']:.2f}"
        for arm in results["arms"]
        for point in arm["points"]
        if point["temperature"] == 1.0 and point["quality_diversity"] is not None
    )
    cause = f"1 / mean similarity at temperature 1, grammatical or not: {official}." if official else ""
    if figures is None or "difference" not in figures:
        text = f"at no temperature of some arm are {100 * VALIDITY:g} % of the texts grammatical"
        return Finding(OPEN, text, "", cause)
    apart = figures["difference"]["diversity"]
    sampled = matched["arms"].get(SAMPLED_TEXTS)
    if sampled is not None and "difference" in sampled:
        told = interval(sampled["difference"]["diversity"])
        cause = f"With the world model sampled: {told}, codes minus tokens. {cause}"
    if figures["difference"]["reached"] < 0.95:
        verdict = OPEN
    else:
        verdict = HOLDS if apart["low"] > 0 else FAILS if apart["high"] < 0 else OPEN
    tokens = matched["arms"][matched["reference"]]
    ours = (
        f"1 - similarity where {100 * VALIDITY:g} % of the texts are grammatical: codes "
        f"{number(figures['diversity']['mean'])}, tokens {number(tokens['diversity']['mean'])}, difference "
        f"{number(apart['mean'])}; distinct-2: difference {interval(figures['difference']['distinct_2'])}"
    )
    return Finding(verdict, ours, interval(apart).partition(" ")[2], cause, {"matched": matched})
