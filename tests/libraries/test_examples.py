"""Each example of another library runs, stays short, and is measured by the benchmark."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.libraries import EXAMPLES, RUNS, load

NEEDS = {
    "sb3_algorithms": "sb3_contrib",
    "ppo_tianshou": "tianshou",
    "ppo_torchrl": "torchrl",
    "ppo_skrl": "skrl",
    "ppo_rllib": "ray",
    "offline_minari": "minari",
}
PATHS = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_an_example_is_under_eighty_lines(path: Any) -> None:
    assert len(path.read_text().splitlines()) < 80


def test_every_example_is_measured() -> None:
    assert {example for example, _, _ in RUNS.values()} == {path.stem for path in PATHS}


@pytest.mark.parametrize("example", [path.stem for path in PATHS])
def test_an_example_runs(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(NEEDS.get(example, "torch")) is None:
        pytest.skip(f"{example} needs {NEEDS[example]}")
    reward = load(example).main(512, num_envs=4, max_tokens=16)
    assert 0 <= reward <= 1
    assert "mean reward" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["ppo_cleanrl", "dqn_cleanrl", "ppo_skrl"])
def test_an_example_that_reads_the_last_observation_from_info_takes_truncated_episodes(
    example: str,
) -> None:
    if find_spec(NEEDS.get(example, "torch")) is None:
        pytest.skip(f"{example} needs {NEEDS[example]}")
    assert 0 <= load(example).main(512, num_envs=4, max_tokens=8, budget_end="truncate") <= 1
