"""A short run of ``python -m tests.kill_writers``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kill_writers import WRITERS


@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_at_a_random_moment_loses_nothing_that_was_recorded(writer):
    command = [sys.executable, "-m", "tests.kill_writers", writer, "--kills", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{writer}: 2 kills" in done.stdout
    assert "0 losses" in done.stdout
