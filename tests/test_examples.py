"""Every example runs, stays short, and does what it says."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
SMALL = {
    "bundled_ppo": {"timesteps": 2_500, "test_episodes": 16},
    "evaluate_math": {"samples": 2, "episodes": 6, "max_tokens": 24},
    "expert_iteration": {"rounds": 1, "problems": 8, "simulations": 8, "test_episodes": 16},
    "own_algorithm": {"timesteps": 1_000},
    "own_loop": {"updates": 2, "rollouts": 16},
    "own_task": {"updates": 1},
    "pretrain_on_text": {"steps": 8},
    "sb3_cloned_policy": {"timesteps": 2_048},
    "sb3_dqn": {"timesteps": 640, "test_episodes": 16},
    "sb3_ppo": {"timesteps": 2_048},
    "text_rooms": {"updates": 1, "test_episodes": 16, "num_envs": 64},
    "token_baseline": {"updates": 1, "test_episodes": 16},
}


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES} == set(SMALL)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_under_sixty_lines(path):
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    load(path).main(**SMALL[path.stem])
    assert capsys.readouterr().out.strip()
