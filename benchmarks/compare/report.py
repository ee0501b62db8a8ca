"""The report of a comparison: JSON with every figure, a Markdown page, and three plots.

``write_report(folder)`` needs the raw records alone, finished or not, and says what is missing; ``python -m
benchmarks report DIR`` is the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import Commands
from benchmarks.compare import summary
from benchmarks.compare.page import CURVES, DIFFERENCES, FRONTIER, page, sentences
from benchmarks.compare.records import Comparison, Run, read
from benchmarks.compare.summary import HARMLESS, REFERENCE, THRESHOLD, TIE, Judged
from benchmarks.statistics import Estimate, estimate
from cola_agents.common.files import write_json, write_whole

#: Losses that a setting without harm stays within, on the mean of its runs.
SHARES = ("arithmetic", "grammar")


def add(commands: Commands) -> None:
    parser = commands.add_parser("report", help="what the runs of `compare` say, finished or not")
    parser.add_argument("out", metavar="DIR", type=Path, help="a folder of `compare`; the report goes there")
    parser.add_argument(
        "--threshold", type=float, default=THRESHOLD, help="of the training reward, for the times to it"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    print(write_report(arguments.out, threshold=arguments.threshold))


def write_report(folder: Path, out: Path | None = None, *, threshold: float = THRESHOLD) -> str:
    """Write ``report.json`` (:func:`summarise`), ``report.md`` and the plots, and return the page.

    Args:
        folder: with ``config.json`` and ``runs.jsonl``.
        out: where to write; the folder itself unless said.
        threshold: of the mean training reward, for the times.

    Raises:
        FileNotFoundError, ValueError: as :func:`~benchmarks.compare.records.read`.
    """
    from benchmarks.compare.figures import draw_curves, draw_differences, draw_frontier

    comparison = read(folder)
    summary = summarise(comparison, threshold=threshold)
    out = Path(folder if out is None else out)
    out.mkdir(parents=True, exist_ok=True)
    drawn = {
        CURVES: draw_curves(comparison, out / CURVES, threshold=threshold),
        DIFFERENCES: draw_differences(summary, out / DIFFERENCES),
        FRONTIER: draw_frontier(summary, out / FRONTIER),
    }
    text = page(summary, plots=[name for name, there in drawn.items() if there])
    write_json(out / "report.json", summary, indent=1)
    write_whole(out / "report.md", text.encode())
    return text


def summarise(comparison: Comparison, *, threshold: float = THRESHOLD) -> dict[str, Any]:
    """Every figure of the report, JSON-ready, with the sentences that they support."""
    harms = summary.harm(comparison)
    differences = {}
    for quantity in summary.quantities(comparison, threshold):
        judged, dropped = summary.compared(comparison, quantity)
        if judged:
            differences[quantity.name] = {
                "label": quantity.label,
                "margin": round(quantity.margin, 6),
                "arms": {
                    arm: {**judged_record(one), "unpaired": dropped[arm]} for arm, one in judged.items()
                },
            }
    lines = summary.frontier(comparison)
    every = [point for points in lines.values() for point in points]
    shares = [name for name in SHARES if any(point.get(name) is not None for point in every)]
    result: dict[str, Any] = {
        "task": comparison.task,
        "folder": comparison.folder,
        "config": comparison.config,
        "threshold": threshold,
        "horizons": summary.horizons(comparison),
        "missing": summary.missing(comparison),
        "cut": comparison.cut,
        "diverged": comparison.diverged,
        "arms": {arm: _arm(comparison, arm, threshold) for arm in comparison.arms() if comparison.main(arm)},
        "harm": {
            name: {arm: judged_record(one) for arm, one in judged.items()} for name, judged in harms.items()
        },
        "differences": differences,
        "floors": _floors(comparison),
        "frontier": {arm: _points(points) for arm, points in lines.items()},
        "kept": shares,
        "without_harm": {arm: _without_harm(points, shares) for arm, points in lines.items() if shares},
    }
    result["says"] = sentences(result)
    return result


def _arm(comparison: Comparison, arm: str, threshold: float) -> dict[str, Any]:
    runs = comparison.main(arm)
    figures = {}
    for name in (*summary.FIGURES, *summary.pass_keys(comparison)):
        sides = {when: summary.nested(runs, summary.figure(when, name)) for when in ("before", "after")}
        there = {when: estimate_record(estimate(side)) for when, side in sides.items() if side}
        if "after" in there:
            figures[name] = there
    own = {
        quantity.name: estimate_record(estimate(values))
        for quantity in summary.quantities(comparison, threshold)
        if (values := summary.nested(runs, quantity.value))
    }
    sizes = sorted({run.trained_parameters for run in runs if run.trained_parameters is not None})
    return {
        "options": runs[0].options,
        "runs": len(runs),
        "models": len({run.model_seed for run in runs}),
        "trained_parameters": sizes,
        "costs": _costs(runs),
        "fingerprints": sorted({run.fingerprint for run in runs if run.fingerprint is not None}),
        "figures": figures,
        "quantities": own,
        "times": {axis: summary.times(comparison, arm, axis, threshold) for axis in ("episodes", "cpu_s")},
    }


def _costs(runs: Sequence[Run]) -> dict[str, float]:
    """Medians of what a run took."""
    names = dict.fromkeys(name for run in runs for name in run.costs)
    known = {name: [cost for run in runs if (cost := run.costs.get(name)) is not None] for name in names}
    return {name: _round(median(values)) for name, values in known.items() if values}


def _floors(comparison: Comparison) -> dict[str, Any]:
    """Each floor's test reward, and the reference's beyond it on the same models."""
    floors = comparison.floors()
    beyond = {}
    for name, rewards in floors.items():
        runs = [run for run in comparison.main(REFERENCE) if run.model_seed in rewards]
        values: dict[int, list[float]] = {}
        for run in runs:
            reward = run.after.get("reward")
            if reward is not None:
                values.setdefault(run.model_seed, []).append(reward - rewards[run.model_seed])
        if values:
            beyond[name] = values
    judged = summary.judge(beyond, TIE)
    return {
        name: {
            "reward": estimate_record(estimate({seed: [reward] for seed, reward in rewards.items()})),
            "reference_beyond": judged_record(judged[name]) if name in judged else None,
        }
        for name, rewards in floors.items()
    }


def _points(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Figures rounded, and of which losses the point is on the arm's frontier."""
    worse = [name for name in (*HARMLESS, "token_kl") if points and name in points[0]]
    on = {name: summary.efficient(points, "reward", name) for name in worse}
    return [
        {
            **{key: _round(value) for key, value in point.items()},
            "frontier_of": [name for name in worse if on[name][i]],
        }
        for i, point in enumerate(points)
    ]


def _without_harm(points: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The best test reward among settings whose mean losses of some shares are harmless.

    A setting of which a run diverged is not.
    """
    kept = [
        point
        for point in points
        if point["reward"] is not None
        and not point.get("diverged")
        and all(point[name] is not None and point[name] <= HARMLESS[name] for name in names)
    ]
    best = max(kept, key=lambda point: point["reward"], default=None)
    return {
        "settings": len(points),
        "without_harm": len(kept),
        "best": None
        if best is None
        else {"options": best["options"], "reward": _round(best["reward"]), "runs": best["runs"]},
    }


def judged_record(one: Judged) -> dict[str, Any]:
    """A tested mean as it stands in JSON files."""
    return {
        **estimate_record(one.estimate),
        "holm_p": _round(one.holm_p),
        "verdict": one.verdict,
        "agreeing": one.agreeing,
    }


def estimate_record(one: Estimate) -> dict[str, Any]:
    """An estimate as it stands in JSON files; its p-value is uncorrected and left to :class:`Judged`."""
    return {name: _round(value) for name, value in asdict(one).items() if name != "p"}


def _round(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
