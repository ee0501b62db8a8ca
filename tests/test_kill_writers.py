"""A short run of ``python -m tests.kill_writers``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.kill_writers import WRITERS


def test_kills_at_random_moments_lose_nothing_that_was_recorded():
    command = [sys.executable, "-m", "tests.kill_writers", "--kills", "2"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert re.findall(r"(\w+): 2 kills, .* 0 losses", done.stdout) == list(WRITERS)
