"""Benchmarks: every figure that this project states is measured here."""

from __future__ import annotations

import argparse
from pathlib import Path

#: Where published results lie.
RESULTS = Path(__file__).parent / "results"

#: What a benchmark adds its parser to, with its module's ``add``.
Commands = argparse._SubParsersAction
