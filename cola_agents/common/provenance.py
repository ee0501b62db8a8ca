"""The provenance of a published figure: command, commit, versions and hardware."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cola_envs.jsonl import JsonObject

_PACKAGES = ("cola-rl", "torch", "transformers", "gymnasium", "stable-baselines3", "numpy")


def provenance() -> JsonObject:
    """Command, commit, versions and hardware of this process, without local paths."""
    return {
        "command": command_line(sys.argv),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "hardware": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


#: An absolute path at the beginning of an argument, or behind a sign; not the one of a URL.
_ABSOLUTE = re.compile(r"(^|[=,]|:(?!//))/(?:[^,=:]*/)?([^/,=:]+)")


def command_line(argv: list[str]) -> str:
    """The command line, with absolute paths cut to their last part, also behind ``=``, ``:`` and ``,``."""
    program = Path(argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    arguments = [_ABSOLUTE.sub(r"\1\2", part) for part in argv[1:]]
    return f"{name} {shlex.join(arguments)}".strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, with ``+`` for uncommitted changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
