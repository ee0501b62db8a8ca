"""Benchmarks: every figure that this project states is measured here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cola_envs import jsonl

#: Where published results lie.
RESULTS = Path(__file__).parent / "results"

#: What a benchmark adds its parser to, with its module's ``add``.
Commands = argparse._SubParsersAction


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the options that name one pre-trained seed; :func:`model_folder` reads them."""
    parser.add_argument("--models", type=Path, required=True, help="a folder that `benchmarks models` wrote")
    parser.add_argument("--model-seed", type=int, default=0)


def model_folder(arguments: argparse.Namespace) -> Path:
    """The folder of the pre-trained seed that :func:`add_model`'s options name."""
    folder: Path = arguments.models / str(arguments.model_seed)
    return folder


def options(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Some options of a benchmark, as keyword arguments of the function that it runs."""
    return {name: getattr(arguments, name) for name in names}


def held_runs(out: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs of a result file that goes on; none where there is no file yet.

    Raises:
        ValueError: for a file that is damaged, was begun with other settings than ``about``, or does not say
            them.
    """
    if not out.is_file():
        return []
    held = jsonl.read_object(out, "runs")
    for name, value in about.items():
        if name not in held:
            raise ValueError(f"{out} does not say its {name}, so that it cannot go on: use another --out")
        if held[name] != value:
            raise ValueError(
                f"{out} was begun with {name}={held[name]} and is now to go on with {value}: use another "
                "--out, or the same arguments"
            )
    runs: list[dict[str, Any]] = held["runs"]
    return runs
