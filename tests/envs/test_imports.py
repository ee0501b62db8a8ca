"""Importing the environments is cheap."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "sympy", "stable_baselines3", "matplotlib", "cola_agents")


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_cola_envs_loads_nothing_heavy() -> None:
    code = f"import sys, cola_envs; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run(code).strip() == "[]"


def test_making_a_task_with_a_numpy_backbone_loads_no_torch() -> None:
    code = (
        "import sys, gymnasium, cola_envs\n"
        "from cola_envs.testing import FakeBackbone\n"
        "gymnasium.make('CoLA-Arithmetic-v0', model=FakeBackbone()).reset(seed=0)\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_importing_cola_envs_adds_little_to_gymnasium() -> None:
    code = (
        "import time, gymnasium, gymnasium.vector\n"
        "start = time.process_time()\n"
        "import cola_envs\n"
        "print(time.process_time() - start)"
    )
    assert min(float(run(code)) for _ in range(2)) < 0.3
