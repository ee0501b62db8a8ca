"""The plots of a comparison: learning curves, paired differences, and reward against damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.compare.page import AXES
from benchmarks.compare.records import Comparison, Run
from benchmarks.compare.summary import HARMLESS, LABELS, REFERENCE, horizons
from benchmarks.statistics import interval

#: Colour, marker and line of each arm. The colours are those of Okabe and Ito (2008), which people with any
#: common colour blindness tell apart, without their yellow; markers and lines differ besides.
STYLES = {
    "latent": ("#0072B2", "o", "-"),
    "latent-sampled": ("#56B4E9", "s", "--"),
    "token": ("#D55E00", "^", "-"),
    "token-frozen": ("#E69F00", "v", "--"),
    "token-lora": ("#CC79A7", "D", "-."),
    "token-truncated": ("#000000", "X", ":"),
    "pushforward": ("#009E73", "P", "-."),
    "rank": ("#7F7F7F", "*", "--"),
    "latent-16": ("#009E73", "1", "--"),
    "latent-256": ("#009E73", "2", ":"),
    "latent-span-4": ("#0072B2", "4", "--"),
    "latent-span-8": ("#0072B2", "H", "-."),
    "latent-span-unsure": ("#56B4E9", "p", "-"),
    "latent-fta": ("#0072B2", "<", ":"),
    "token-longer": ("#D55E00", ">", ":"),
}
#: For arms of other names, in their order.
OTHERS = ("h", "+", "3", "x", "d")
POINTS = 60
#: Quantities of the forest plot.
FOREST = (
    "reward",
    "reward_greedy",
    "time_episodes",
    "time_cpu_s",
    "arithmetic_lost",
    "grammar_lost",
    "cross_entropy_risen",
    "token_kl",
)
MORE_IS_BETTER = ("reward", "reward_greedy")
DPI = 130


def styles(arms: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and line of each arm: its own of :data:`STYLES`, or grey with a marker of its own."""
    others = [arm for arm in arms if arm not in STYLES]
    return {
        arm: STYLES[arm] if arm in STYLES else ("#4D4D4D", OTHERS[others.index(arm) % len(OTHERS)], ":")
        for arm in arms
    }


def band(runs: Sequence[Run], axis: str, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean training reward and its 95 % bounds at each x of the grid."""
    heights = np.stack([np.interp(grid, run.curve[axis], run.curve["reward"]) for run in runs])
    models = sorted({run.model_seed for run in runs})
    members = {model: [i for i, run in enumerate(runs) if run.model_seed == model] for model in models}
    bounds = [interval({m: column[rows] for m, rows in members.items()}) for column in heights.T]
    centre = np.mean([heights[rows].mean(0) for rows in members.values()], axis=0)
    low, high = np.clip(np.transpose(bounds), heights.min(), max(1.0, heights.max()))
    return centre, low, high


def draw_curves(comparison: Comparison, path: Path, *, threshold: float) -> bool:
    """Mean training reward of each arm over rollouts and over CPU-seconds; False without main runs."""
    limits = horizons(comparison)
    if not limits:
        return False
    figure = _figure(11, 4.6)
    axes = figure.subplots(1, 2, sharey=True)
    arms = [arm for arm in comparison.arms() if comparison.main(arm)]
    looks = styles(arms)
    for plot, (axis, word) in zip(axes, AXES.items(), strict=True):
        for arm in arms:
            runs = comparison.main(arm)
            # Before its first update a run has no mean reward to draw.
            begin = max(run.curve[axis][0] for run in runs)
            end = min(run.curve[axis][-1] for run in runs)
            grid = np.linspace(min(begin, end), end, POINTS)
            centre, low, high = band(runs, axis, grid)
            colour, _, line = looks[arm]
            plot.plot(grid, centre, color=colour, linestyle=line, linewidth=1.8, label=arm)
            plot.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        plot.axhline(threshold, color="#4D4D4D", linewidth=0.8, linestyle=":")
        plot.axvline(limits[axis], color="#4D4D4D", linewidth=0.8, linestyle=":")
        plot.set(xlabel="CPU-seconds" if axis == "cpu_s" else word, xlim=(0, None))
    for arm, rewards in comparison.floors().items():
        for plot in axes:
            plot.axhline(np.mean(list(rewards.values())), color="#B0B0B0", linewidth=1.0)
        axes[1].annotate(
            arm,
            (1.0, float(np.mean(list(rewards.values())))),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=8,
            color="#4D4D4D",
        )
    axes[0].set_ylabel("training reward")
    figure.suptitle(f"CoLA-{comparison.task}-v0: means and 95 % bands", fontsize=11)
    _legend(figure, axes[0])
    return _save(figure, axes, path)


def draw_differences(summary: Mapping[str, Any], path: Path) -> bool:
    """Draw a forest plot of the reference minus each arm, one panel per quantity; False without pairs.

    A filled marker is a verdict, a hollow one is undecided; the grey stretch is a tie.
    """
    names = [name for name in FOREST if name in summary["differences"]]
    if not names:
        return False
    arms = [arm for arm in summary["arms"] if arm != REFERENCE]
    looks = styles(list(summary["arms"]))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(2.5 * columns + 1.0, rows * (1.1 + 0.25 * len(arms)))
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel, name in zip(panels.flat, names, strict=False):
        one = summary["differences"][name]
        panel.axvspan(-one["margin"], one["margin"], color="#E5E5E5", zorder=0)
        panel.axvline(0, color="#4D4D4D", linewidth=0.8)
        for place, arm in enumerate(arms):
            judged = one["arms"].get(arm)
            if judged is None:
                continue
            colour, marker, _ = looks[arm]
            panel.plot([judged["low"], judged["high"]], [place, place], color=colour, linewidth=2)
            face = "white" if judged["verdict"] == "undecided" else colour
            panel.plot(judged["mean"], place, marker=marker, color=colour, markerfacecolor=face, markersize=7)
        panel.set_title(one["label"], fontsize=9)
        panel.set_yticks(range(len(arms)), arms)
        panel.set_ylim(len(arms) - 0.5, -0.5)
        panel.locator_params(axis="x", nbins=4)
        side = f"{REFERENCE} better →" if name in MORE_IS_BETTER else f"← {REFERENCE} better"
        panel.set_xlabel(side, fontsize=8, color="#4D4D4D")
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    figure.suptitle(
        f"CoLA-{summary['task']}-v0: {REFERENCE} less each arm, 95 % intervals "
        "(hollow: undecided; grey: a tie)",
        fontsize=10,
    )
    return _save(figure, panels.flat, path)


def draw_frontier(summary: Mapping[str, Any], path: Path) -> bool:
    """Plot test reward against each loss and token KL, one point per setting; False without points.

    The points that no other setting of their arm dominates are joined; the chosen settings are larger.
    """
    shown = ("arithmetic", "grammar", "cross_entropy", "token_kl")
    names = [
        name
        for name in shown
        if any(
            point.get(name) is not None and point["reward"] is not None
            for points in summary["frontier"].values()
            for point in points
        )
    ]
    if not names:
        return False
    looks = styles(list(summary["frontier"]))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(4.8 * columns, 3.4 * rows + 0.8)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_ylabel("test reward after RL")
    for panel, name in zip(panels.flat, names, strict=False):
        if name in HARMLESS:
            panel.axvspan(-HARMLESS[name], HARMLESS[name], color="#E5E5E5", zorder=0)
        for arm, points in summary["frontier"].items():
            colour, marker, line = looks[arm]
            known = [p for p in points if p.get(name) is not None and p["reward"] is not None]
            for point in known:
                panel.scatter(
                    point[name],
                    point["reward"],
                    s=70 if "main" in point["phases"] else 22,
                    marker=marker,
                    color=colour,
                    alpha=0.85,
                    linewidths=0,
                )
            edge = sorted((p[name], p["reward"]) for p in known if name in p["frontier_of"])
            panel.plot(*zip(*edge, strict=True), color=colour, linestyle=line, linewidth=1.3)
            panel.plot([], [], color=colour, marker=marker, linestyle=line, label=arm)
        words = " risen" if name == "cross_entropy" else " lost" if name in HARMLESS else ""
        panel.set_xlabel(LABELS[name] + words, fontsize=9)
        # One collapsed setting would squeeze all others into a corner.
        if name in ("cross_entropy", "token_kl"):
            panel.set_xscale("symlog", linthresh=0.1 if name == "cross_entropy" else 1.0)
        else:
            panel.locator_params(axis="x", nbins=5)
    figure.suptitle(
        f"CoLA-{summary['task']}-v0: a point a setting (large: the chosen one), "
        "joined where nothing dominates",
        fontsize=10,
    )
    _legend(figure, panels.flat[0])
    return _save(figure, panels.flat, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _legend(figure: Any, plot: Any) -> None:
    handles, labels = plot.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9
    )


def _save(figure: Any, plots: Any, path: Path) -> bool:
    for plot in plots:
        plot.spines[["top", "right"]].set_visible(False)
    # No software version in the file: the same runs give the same bytes.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return True
