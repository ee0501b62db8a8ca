"""``python -m benchmarks paper``: the paper's claims, one by one, at the bundled scale.

Reads what other benchmarks wrote, runs no RL, and says which input is missing and what makes it. The criteria
stand in :mod:`benchmarks.claims.table`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, Commands
from benchmarks.claims.findings import Finding, Inputs
from benchmarks.claims.runs import FEWEST_MODELS
from benchmarks.claims.table import CLAIMS, Claim
from benchmarks.compare.page import bullets
from benchmarks.compare.records import Comparison, read
from cola_agents.common.files import write_json, write_whole
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_envs import jsonl

#: Benchmarks whose JSON file is read beside the comparisons.
OTHERS = ("peers", "diversity", "search")


def add(commands: Commands) -> None:
    parser = commands.add_parser("paper", help="the paper's claims, decided from what was measured")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of `compare`, one a task (default: those under benchmarks/results/compare)",
    )
    for name in OTHERS:
        parser.add_argument(
            f"--{name}", type=Path, default=RESULTS / f"{name}.json", help=f"what `{name}` wrote"
        )
    parser.add_argument("--out", type=Path, default=RESULTS / "paper.json", help="a page stands beside it")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    folders = arguments.compare
    if folders is None:
        folders = sorted(path.parent for path in (RESULTS / "compare").rglob("runs.jsonl"))
    inputs = gather(folders, {name: getattr(arguments, name) for name in OTHERS})
    results = {**provenance(), **decide(inputs)}
    write_json(arguments.out, results, indent=1)
    text = page(results)
    write_whole(arguments.out.with_suffix(".md"), text.encode())
    print(text)


def gather(folders: Sequence[Path], files: Mapping[str, Path]) -> Inputs:
    """Read the inputs at hand; missing files are left out.

    Raises:
        FileNotFoundError: for a folder that is no comparison's.
        ValueError: for two comparisons on one task, or a file that is not JSON.
    """
    comparisons: dict[str, Comparison] = {}
    for folder in folders:
        comparison = read(folder)
        if comparison.task in comparisons:
            raise ValueError(
                f"{comparisons[comparison.task].folder} and {comparison.folder} are both on "
                f"{comparison.task}: name the one that is meant with --compare"
            )
        comparisons[comparison.task] = comparison
    results = {}
    for name, path in files.items():
        if path.is_file():
            results[name] = jsonl.read_object(path)
    return Inputs(comparisons, results)


def decide(inputs: Inputs, claims: Sequence[Claim] = CLAIMS) -> dict[str, Any]:
    """Every claim's finding, with the inputs that it rests on."""
    return {
        "inputs": {
            **{
                f"compare {task}": {"folder": one.folder, "commit": one.config.get("commit")}
                for task, one in inputs.comparisons.items()
            },
            **{name: {"commit": result.get("commit")} for name, result in inputs.results.items()},
        },
        "claims": [_record(claim, claim.found(inputs)) for claim in claims],
    }


def _record(claim: Claim, finding: Finding) -> dict[str, Any]:
    return {
        "name": claim.name,
        "paper": claim.paper,
        "source": claim.source,
        "criterion": claim.criterion,
        **asdict(finding),
    }


def page(results: Mapping[str, Any]) -> str:
    """The claims as Markdown: the table, and below it each claim's criterion and cause."""
    rows = [
        [claim["name"], claim["paper"], claim["ours"], claim["interval"], f"**{claim['verdict']}**"]
        for claim in results["claims"]
    ]
    blocks = [
        "# The paper's claims at the bundled scale",
        "The paper's figures are of an 8B model, ours of models of a million parameters: a verdict is about "
        "the claim at this scale, and no measurement of the paper's. Codes are the arm `latent`, tokens the "
        "arm `token`; a difference between the two is codes minus tokens.",
        "*Holds*: the criterion below the table is met. *Does not hold*: by the same criterion the "
        "measurement excludes the claim. *Undecided*: it does neither. RL runs over fewer than "
        f"{FEWEST_MODELS} pre-trained models decide nothing.",
        table(["claim", "the paper's", "ours", "95 % interval", "verdict"], rows),
        "What decided each, written down before the runs, and what the control arms show:",
        bullets(
            f"**{claim['name']}** ({claim['source']}). {claim['criterion']}"
            + (f" *{claim['cause']}*" if claim["cause"] else "")
            for claim in results["claims"]
        ),
    ]
    read_from = [
        f"`{name}`" + (f" at commit {about['commit']}" if about["commit"] else "")
        for name, about in results["inputs"].items()
    ]
    blocks.append(f"Read from: {', '.join(read_from) or 'nothing'}.")
    return "\n\n".join(blocks) + "\n"
