"""Writes the page of the ``cola`` command from its parsers."""

from __future__ import annotations

import os
from pathlib import Path

from cola_agents.cli import leaf_parsers, make_parser


def write_commands(path: Path) -> None:
    """Write ``--help`` of every command, as text of 100 columns, into a Markdown page."""
    os.environ["COLUMNS"] = "100"
    intro = "What each command prints for `--help`. [Install](../install.md) says how a shell completes them."
    parts = ["# The `cola` command", intro]
    for own in leaf_parsers(make_parser()):
        parts += [f"## {own.prog}", f"```text\n{own.format_help()}```"]
    path.write_text("\n\n".join(parts) + "\n")
