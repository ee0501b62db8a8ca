"""A comparison's report as text: sentences that its verdicts support, and a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.compare.records import PARTS
from benchmarks.compare.summary import FEWEST_MODELS, HARMLESS, LABELS, LOST, REFERENCE, WINDOW
from cola_agents.common.markdown import table

#: The quantities that the page's first part has a sentence on.
DESCRIBED = (
    "reward",
    "reward_greedy",
    "time_episodes",
    "time_cpu_s",
    "arithmetic_lost",
    "grammar_lost",
    "cross_entropy_risen",
    "token_kl",
)
HARM_DESCRIBED = ("arithmetic", "grammar", "cross_entropy")
OF_FLOOR = {"more": "above it", "less": "below it", "equivalent": "a tie", "undecided": "undecided"}
#: Files of the plots.
CURVES, DIFFERENCES, FRONTIER = "curves.png", "differences.png", "frontier.png"
AXES = {"episodes": "rollouts", "cpu_s": "CPU-s"}


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Sentences that the verdicts and counts support."""
    lines = []
    if REFERENCE not in summary["arms"]:
        lines.append(f"No main run of `{REFERENCE}` is finished, so nothing is compared.")
    lines += [
        f"**{len(reasons)} main runs of `{arm}` diverged and have no figures** ({reasons[0]}): all that is "
        "said of this arm is of the others, and too good."
        for arm, reasons in summary["diverged"].items()
    ]
    lines += [_compared(summary["differences"][name]) for name in DESCRIBED if name in summary["differences"]]
    for name, floor in summary["floors"].items():
        text = f"The floor `{name}` earns {number(floor['reward']['mean'])} of test reward without RL"
        beyond = floor["reference_beyond"]
        if beyond is not None:
            text += f"; `{REFERENCE}` less it: {interval(beyond)}, {OF_FLOOR[beyond['verdict']]}"
        lines.append(text + ".")
    words = {"equivalent": "no harm in", "less": "a gain in", "more": "harm in"}
    lines += [
        f"What runs lost of {LABELS[name]}, by arm (harmless within {HARMLESS[name]:g}): "
        f"{_grouped(summary['harm'][name], words)}."
        for name in HARM_DESCRIBED
        if name in summary["harm"]
    ]
    several = {arm: one for arm, one in summary["without_harm"].items() if one["settings"] > 1}
    if several:
        parts = [
            f"`{arm}` {one['without_harm']} of {one['settings']}"
            + (
                f", best test reward {number(one['best']['reward'])} (runs: {one['best']['runs']})"
                if one["best"]
                else ""
            )
            for arm, one in several.items()
        ]
        lines.append(
            f"Settings whose mean losses of {' and '.join(summary['kept'])} are at most "
            f"{HARMLESS['grammar']:g} (means, not tested; the best of many settings of few runs is too good "
            f"by chance): {'; '.join(parts)}."
        )
    return lines


def _compared(difference: Mapping[str, Any]) -> str:
    words = {"more": "more than", "less": "less than", "equivalent": "as much as"}
    label = difference["label"][0].upper() + difference["label"][1:]
    arms = _grouped(difference["arms"], words, with_interval=True)
    return f"{label}, `{REFERENCE}` against the others: {arms}."


def _grouped(
    judged: Mapping[str, Mapping[str, Any]], words: Mapping[str, str], *, with_interval: bool = False
) -> str:
    """The arms of each verdict, the undecided last."""
    parts = []
    for verdict, word in {**words, "undecided": "undecided for"}.items():
        arms = [
            f"`{arm}`" + (f" ({interval(one)})" if with_interval else "")
            for arm, one in judged.items()
            if one["verdict"] == verdict
        ]
        if arms:
            parts.append(f"{word} {', '.join(arms)}")
    return "; ".join(parts)


def interval(one: Mapping[str, Any]) -> str:
    """A mean and its bounds, rounded by their size; of a single run its figure alone."""
    size = max(abs(one[name]) for name in ("mean", "low", "high"))
    mean, low, high = (number(one[name], size) for name in ("mean", "low", "high"))
    return mean if one.get("runs") == 1 else f"{mean} [{low}, {high}]"


def number(value: float, size: float | None = None) -> str:
    """A number with three places below 2, and fewer for a larger one (or a larger ``size``)."""
    size = abs(value) if size is None else size
    places = 3 if size < 2 else 2 if size < 20 else 1 if size < 200 else 0
    # Adding 0.0 takes the sign from what was rounded to zero.
    return f"{round(value, places) + 0.0:,.{places}f}"


def settings(options: Mapping[str, Any]) -> str:
    """Options in a table's cell."""
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in options.items()
    )


def page(summary: Mapping[str, Any], *, plots: Sequence[str] = ()) -> str:
    """The report as Markdown, the same for the same runs; ``plots`` lie beside it."""
    blocks = [f"# `CoLA-{summary['task']}-v0`: latent against token actions", _provenance(summary["config"])]
    blocks += ["## What the figures support", bullets(summary["says"])]
    gaps = _missing(summary)
    if gaps:
        blocks += ["## What is missing", bullets(gaps)]
    if summary["arms"]:
        blocks += ["## Test reward", _reward(summary), "## Learning", _learning(summary)]
        blocks += _plot(CURVES, plots, "Mean training reward with its 95 % band")
        if any(one["figures"].keys() & LABELS.keys() for one in summary["arms"].values()):
            blocks += ["## What RL cost", _cost(summary)]
        if any(one["costs"] for one in summary["arms"].values()):
            blocks += ["## What a run took", _costs(summary)]
    if summary["differences"]:
        blocks += [f"## Paired differences: `{REFERENCE}` less each arm", _differences(summary)]
        blocks += _plot(DIFFERENCES, plots, "Paired differences with 95 % intervals")
    if summary["frontier"]:
        blocks += ["## Reward against damage over every setting", _frontier(summary)]
        blocks += _plot(FRONTIER, plots, "Test reward against what was lost, a point a setting")
    blocks += ["## How to read it", _method(summary)]
    return "\n\n".join(blocks) + "\n"


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _provenance(config: Mapping[str, Any]) -> str:
    hardware = config.get("hardware") or {}
    known = [
        ("command", f"`{config['command']}`" if config.get("command") else None),
        ("commits", ", ".join(config["commits"]) if config.get("commits") else config.get("commit")),
        ("CPU", hardware.get("cpu")),
        ("threads", hardware.get("threads")),
        ("GPU", hardware.get("gpu")),
        ("updates", config.get("updates")),
        ("rollouts an update", config.get("rollouts_per_update")),
        ("model seeds", ", ".join(map(str, config["model_seeds"]))),
        ("RL seeds over each", len(config["seeds"])),
        ("options", _rule(config.get("plan") or {}, config.get("chosen") or {})),
        ("search", _searched(config.get("chosen") or {})),
        ("options that were given and not searched for", _given(config.get("chosen") or {})),
    ]
    return "; ".join(f"{name}: {value}" for name, value in known if value is not None) + "."


def _rule(plan: Mapping[str, Any], chosen: Mapping[str, Any]) -> str | None:
    """How the options were chosen; None where the configuration does not say, or where all were given."""
    if "keep" not in plan or (chosen and not any(one["settings"] for one in chosen.values())):
        return None
    models = ", ".join(map(str, plan["model_seeds"][: plan["tuning_models"]]))
    updates = plan.get("protocol", {}).get("tuning_updates")
    runs = f"runs of {updates} updates on other RL seeds" if updates else "other RL seeds"
    rule = f"searched on {runs} over model {models} for the largest area under the training curve"
    if not plan["keep"]:
        return rule
    return (
        f"{rule} among those that lose at most {plan['allowed']:g} of {plan['keep']}, by the same test of it "
        "as below"
    )


def _searched(chosen: Mapping[str, Any]) -> str | None:
    """The extent of the search for options; None without a search."""
    most = max((one["settings"] for one in chosen.values()), default=0)
    if not most:
        return None
    text = f"{most} settings an arm"
    open_ends = [f"`{arm}` ({', '.join(one['edges'])})" for arm, one in chosen.items() if one["edges"]]
    harmful = [f"`{arm}`" for arm, one in chosen.items() if one["harmless"] is False]
    if open_ends:
        text += f", an edge still winning for {', '.join(open_ends)}"
    return text + (f", none that keeps what it should for {', '.join(harmful)}" if harmful else "")


def _given(chosen: Mapping[str, Any]) -> str | None:
    """The arms that were not searched; None where all were."""
    return ", ".join(f"`{arm}`" for arm, one in chosen.items() if not one["settings"]) or None


def _missing(summary: Mapping[str, Any]) -> list[str]:
    gaps = [
        f"`{arm}`: {count['missing']} of {count['asked']} main runs."
        for arm, count in summary["missing"].items()
    ]
    if summary["cut"]:
        gaps.append(
            "The last line of `runs.jsonl` is cut off, as an interruption leaves it; it was left out."
        )
    unpaired = {
        arm: max(
            one["arms"][arm]["unpaired"] for one in summary["differences"].values() if arm in one["arms"]
        )
        for arm in summary["arms"]
        if any(arm in one["arms"] for one in summary["differences"].values())
    }
    gaps += [
        f"`{arm}` and `{REFERENCE}`: up to {count} runs have no partner of the same seeds, or no figure, and "
        "count in no difference."
        for arm, count in unpaired.items()
        if count
    ]
    return gaps


def _plot(name: str, plots: Sequence[str], words: str) -> list[str]:
    return [f"![{words}]({name})"] if name in plots else []


def _reward(summary: Mapping[str, Any]) -> str:
    passes = sorted(
        {name for arm in summary["arms"].values() for name in arm["figures"] if name.startswith("pass@")},
        key=lambda name: int(name.removeprefix("pass@")),
    )
    parts = [name for name in PARTS if any(name in arm["figures"] for arm in summary["arms"].values())]
    more = [*parts, *passes]
    labels = [*(f"{PARTS[name]}, sampled" for name in parts), *passes]
    head = ["arm", "runs (models)", "trained", "options", "sampled", "greedy", *labels]
    rows = []
    for arm, one in summary["arms"].items():
        names = ("reward", "reward_greedy", *more)
        cells = [_before_after(one["figures"].get(name)) for name in names]
        sizes = " to ".join(
            f"{size:,}" for size in sorted({*one["trained_parameters"][:1], *one["trained_parameters"][-1:]})
        )
        rows.append([f"`{arm}`", f"{one['runs']} ({one['models']})", sizes, settings(one["options"]), *cells])
    for name, floor in summary["floors"].items():
        count = f"floor ({floor['reward']['models']})"
        rows.append([f"`{name}`", count, "", "", interval(floor["reward"]), "", *("" for _ in more)])
    return table(head, rows)


def _before_after(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    return (f"{number(figure['before']['mean'])} → " if "before" in figure else "") + interval(
        figure["after"]
    )


def _learning(summary: Mapping[str, Any]) -> str:
    head = ["arm"]
    for word in AXES.values():
        head += [
            f"mean training reward over {word}",
            f"{word} to {summary['threshold']:g}: median",
            "there",
            "restricted mean",
        ]
    rows = []
    for arm, one in summary["arms"].items():
        row = [f"`{arm}`"]
        for axis in AXES:
            times, own = one["times"][axis], one["quantities"]
            median = times["median"]
            row += [
                interval(own[f"area_{axis}"]),
                f"not in {number(times['horizon'])}" if median is None else number(median),
                f"{times['reached']} of {times['runs']}",
                interval(own[f"time_{axis}"]),
            ]
        rows.append(row)
    return table(head, rows)


def _cost(summary: Mapping[str, Any]) -> str:
    names = [name for name in LABELS if any(name in one["figures"] for one in summary["arms"].values())]
    rows = []
    for arm, one in summary["arms"].items():
        row = [f"`{arm}`"]
        for name in names:
            judged = summary["harm"].get(name, {}).get(arm)
            words = {
                "equivalent": ", no harm",
                "more": ", **harm**",
                "less": ", a gain",
                "undecided": ", undecided",
            }
            row.append(
                _before_after(one["figures"].get(name)) + ("" if judged is None else words[judged["verdict"]])
            )
        rows.append(row)
    return table(["arm", *(LABELS[name] for name in names)], rows)


def _costs(summary: Mapping[str, Any]) -> str:
    columns = {
        "update_s": "seconds an update",
        "peak_mib": "most MiB in updates",
        "save_mib": "MiB of a save",
    }
    rows = [
        [
            f"`{arm}`",
            *(number(cost) if (cost := one["costs"].get(name)) is not None else "" for name in columns),
        ]
        for arm, one in summary["arms"].items()
    ]
    note = (
        "Medians over runs. Wall time, of a machine that other runs may have shared; memory of the whole "
        "process, or of tensors on a GPU."
    )
    return table(["arm", *columns.values()], rows) + "\n\n" + note


def _differences(summary: Mapping[str, Any]) -> str:
    rows = []
    for one in summary["differences"].values():
        label = f"{one['label']} (tie within {one['margin']:,.3g})"
        for arm, judged in one["arms"].items():
            p = "" if judged["holm_p"] is None else f"{judged['holm_p']:.4f}"
            models = f"{judged['agreeing']} of {judged['models']}"
            rows.append(
                [label, f"`{arm}`", interval(judged), p, judged["verdict"], str(judged["runs"]), models]
            )
            label = ""
    head = ["quantity", "arm", "difference", "Holm p", "verdict", "pairs", "models of that sign"]
    return table(head, rows)


def _frontier(summary: Mapping[str, Any]) -> str:
    """The chosen settings and those on a frontier of the leading losses; the JSON has all."""
    leading = {*summary["kept"], "token_kl"}
    every = [(arm, point) for arm, points in summary["frontier"].items() for point in points]
    shown = [
        (arm, point)
        for arm, point in every
        if "main" in point["phases"] or leading & set(point["frontier_of"])
    ]
    names = [name for name in LABELS if any(point.get(name) is not None for _, point in shown)]
    rows = []
    for arm, point in shown:
        cells = [
            "" if point[name] is None else number(point[name]) + "*" * (name in point["frontier_of"])
            for name in names
        ]
        reward = "" if point["reward"] is None else number(point["reward"])
        runs = f"{point['runs']} ({', '.join(point['phases'])})"
        if point.get("diverged"):
            runs += f", {point['diverged']} diverged"
        rows.append([f"`{arm}`", settings(point["options"]), runs, reward, *cells])
    head = ["arm", "options", "runs", "test reward"]
    for name in names:
        head.append(LABELS[name] + (" lost" if name in LOST else " risen" if name == "cross_entropy" else ""))
    note = f"Means over runs; {len(shown)} of {len(every)} settings: the chosen ones"
    measured = [label for name, label in LABELS.items() if name in leading and name in names]
    if measured:
        note += f", and those on a frontier of {'; '.join(measured)}"
    note += ". *: no other setting of the arm has as much reward for as little of it."
    return table(head, rows) + "\n\n" + note


def _method(summary: Mapping[str, Any]) -> str:
    models = max((one["models"] for one in summary["arms"].values()), default=0)
    few = ""
    if models == 1:
        few = " There is one pre-trained model: intervals are over RL seeds, and say nothing of other models."
    harmless = ", ".join(f"{HARMLESS[name]:g} ({LABELS[name]})" for name in summary["harm"])
    return (
        "Figures are means of the models' means, before → after RL, with 95 % intervals. Intervals and tests "
        "are Student's, over the models' means (where these are all equal, with the standard error that the "
        "scatter of the runs gives); of few models they may reach beyond 0 and 1."
        f"{few} The last column of the differences counts the models whose own mean has the sign of the "
        "whole. Differences are between runs of one "
        "model and one RL seed, which faced the same problems in the same order. Holm's correction runs over "
        "the arms of a quantity. `more` and `less` need a corrected p below .05; `equivalent` needs the 90 % "
        "interval within the tie's margin (two one-sided tests, not corrected for their number), which a "
        f"difference that is real and small also has. With fewer than {FEWEST_MODELS} models nothing is "
        "tested. "
        f"The time to a training reward of {summary['threshold']:g} ends at the first {WINDOW} updates in a "
        "row whose mean is at least that; a run may fall below it later. Times are censored at what every "
        "run had, and in the restricted mean a run that did not get there counts as that much. Their medians "
        "are Kaplan-Meier's: of an even number of runs the lower one of the middle two. Greedy is compared "
        "with greedy, sampled with sampled."
        + (f" Harm is tested on each arm's own runs, within {harmless}." if harmless else "")
    )
