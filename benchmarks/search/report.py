"""The search benchmark's report: a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.statistics import interval_text
from cola_agents.common import markdown


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts = ["# Search at equal numbers of model tokens", "", f"`{results['command']}`", ""]
    parts += _commits(results)
    for task, figures in results.get("tasks", {}).items():
        parts += _task(task, figures, results)
    if "engine" in results:
        parts += _engine(results["engine"])
    return "\n".join(parts) + "\n"


def _commits(results: dict[str, Any]) -> list[str]:
    arms = [arm for figures in results.get("tasks", {}).values() for arm in figures["arms"].values()]
    kept = sorted({commit for arm in arms for commit in arm["commits"]})
    if not kept or kept == [results["commit"]]:
        return []
    return [f"The figures rest on records made at commit {', '.join(kept)}.", ""]


def _task(task: str, figures: dict[str, Any], results: dict[str, Any]) -> list[str]:
    budgets = results["budgets"]
    unit = figures["tokens_per_answer"]
    lines = [
        f"## {task}: {results['problems']} test problems, an answer is {unit:g} tokens",
        "",
        "Accuracy with its 95 % interval over problems; a budget counts answers' worth of tokens.",
        "",
    ]
    for arm, result in figures["arms"].items():
        judged = [
            [name, str(figures["auc"]), str(figures["auc_within"]), best_look(figures)]
            for name, figures in result["judges"].items()
        ]
        lines += [
            f"### {arm}",
            "",
            markdown.table(["judge of tries", "AUC", "AUC within a problem", "its weights"], judged),
            "",
            f"Some ending of some method is right in {result['reached']:.3f} of the problems.",
            "",
        ]
        rows = []
        for name, line in result["lines"].items():
            cells = [interval_text(point["accuracy"]) for point in line["points"]]
            cells += [""] * (len(budgets) - len(cells))
            last = line["points"][-1]
            spent = [f"{last['tokens']:.0f}", f"{last['cpu_s']:.3f}", f"{line['forwarded_of_new']:.2f}"]
            rows.append([name, *cells, *spent])
        head = ["", *(f"{budget:g}" for budget in budgets), "tokens", "CPU-s", "forwarded/new"]
        lines += [markdown.table(head, rows), "", *_differences(result, budgets), ""]
    return lines


def best_look(judged: dict[str, Any]) -> str:
    """How a judge's weights were chosen; empty for one that learns nothing."""
    looks = judged.get("held_out_looks")
    if not looks:
        return ""
    step = max(looks, key=lambda step: looks[step])
    return (
        f"chosen at step {step} by {looks[step]:.3f} on held-out training problems, the best of "
        f"{len(looks)} looks"
    )


def _differences(result: dict[str, Any], budgets: list[float]) -> list[str]:
    others = sorted({other for line in result["lines"].values() for other in line["minus"]})
    rows = [
        [name, *(_bold(line["minus"][other][-1]) if other in line["minus"] else "" for other in others)]
        for name, line in result["lines"].items()
    ]
    return [
        f"Paired differences at the largest budget ({budgets[-1]:g}), where the interval excludes 0 in bold, "
        "and the model tokens a problem of both:",
        "",
        markdown.table(["", *(f"minus {other}" for other in others)], rows),
        "",
        "Tokens are equal only where both sides spend the budget. MCTS-Q ends of its own accord, as "
        "officially, and greedy play and a beam cost what they cost: a difference from or of these is "
        "one at the two numbers of tokens that stand with it.",
    ]


def _bold(value: dict[str, Any]) -> str:
    text = f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"
    own, other = value["tokens"]
    marked = f"**{text}**" if value["low"] > 0 or value["high"] < 0 else text
    return f"{marked} ({own:.0f}, {other:.0f})"


def _engine(engine: dict[str, Any]) -> list[str]:
    rates, again, memory = engine["simulations_per_cpu_s"], engine["forwarded_of_new"], engine["memory"]
    shown = {
        f"{engine['trees']} trees, simulations per CPU-s": f"{rates['together']:.0f}",
        "one tree": f"{rates['alone']:.0f}",
        "ratio": f"{engine['together_of_alone']:.2f}",
        "forwarded/new": f"{again['together']:.2f}",
        f"resident MiB over {memory['searches']} searches": ", ".join(
            f"{size:.0f} after {number}" for number, size in memory["resident_mib"].items()
        ),
    }
    return ["## The engine", "", markdown.table(list(shown), [list(shown.values())]), ""]


def draw(results: dict[str, Any], path: Path) -> None:
    """Accuracy against tokens and against CPU seconds: a row a task and arm, bounds dashed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    panels = [
        (task, arm, result)
        for task, figures in results["tasks"].items()
        for arm, result in figures["arms"].items()
    ]
    names = list(dict.fromkeys(name for _, _, result in panels for name in result["lines"]))
    colours = {name: colormaps["tab20"](i % 20) for i, name in enumerate(names)}
    figure = Figure(figsize=(12, 3.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False, sharey="row")
    for row, (task, arm, result) in zip(axes, panels, strict=True):
        for axis, key, label in zip(row, ("tokens", "cpu_s"), ("model tokens", "CPU seconds"), strict=True):
            for name, line in result["lines"].items():
                x = [point[key] for point in line["points"]]
                y = [point["accuracy"]["mean"] for point in line["points"]]
                low = [point["accuracy"]["low"] for point in line["points"]]
                high = [point["accuracy"]["high"] for point in line["points"]]
                style = "--" if line["oracle"] else "-"
                axis.plot(x, y, style, color=colours[name], marker="o", markersize=3, label=name)
                if not line["oracle"]:
                    axis.fill_between(x, low, high, color=colours[name], alpha=0.08, linewidth=0)
            axis.set(xscale="log", title=f"{task}, {arm}", xlabel=f"{label} per problem", ylim=(0, 1))
        row[0].set_ylabel("accuracy")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    figure.savefig(path, dpi=110)
