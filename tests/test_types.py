"""The contracts of the two packages are typed: mypy holds them (pyproject.toml), and ``Any`` is rare."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
#: ``Any`` per 1,000 lines.
MOST = 12


def test_any_is_rare() -> None:
    files = [path for package in ("cola_envs", "cola_agents") for path in (ROOT / package).rglob("*.py")]
    texts = [path.read_text(encoding="utf-8") for path in files]
    mentions = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    lines = sum(text.count("\n") for text in texts)
    assert 1000 * mentions <= MOST * lines, f"{mentions} mentions of Any in {lines} lines"
