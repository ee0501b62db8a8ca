"""A small model is computed with one thread, and others with as many as there were."""

import pytest
import torch
from torch import nn

from cola_agents.cli import main
from cola_agents.common import threads
from cola_agents.common.threads import fitting_threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_model_takes_one_thread_for_as_long_as_it_works(monkeypatch):
    model = nn.Linear(2, 2)
    with fitting_threads(model):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(threads, "SMALL", 6)
    with fitting_threads(model):
        assert torch.get_num_threads() == 2
    monkeypatch.undo()
    with fitting_threads(model.to("meta")):
        assert torch.get_num_threads() == 2


def test_what_the_environment_says_is_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with fitting_threads(nn.Linear(2, 2)):
        assert torch.get_num_threads() == 2


def test_the_commands_over_the_bundled_model_work_on_one_thread(tmp_path, capsys, monkeypatch):
    from cola_agents.commands import resume, train
    from cola_agents.evaluation import run as evaluation
    from cola_agents.rl import generate

    seen = []

    def watched(module, name):
        real = getattr(module, name)

        def run(*given, **named):
            seen.append(torch.get_num_threads())
            return real(*given, **named)

        monkeypatch.setattr(module, name, run)

    watched(evaluation, "_play")
    watched(generate, "_played")
    watched(train, "go_on")
    watched(resume, "go_on")
    task = ["--task", "CoLA-Arithmetic-v0"]
    assert main(["eval", *task, "--episodes", "2", "--json"]) == 0
    assert '"threads": 1' in capsys.readouterr().out
    assert main(["generate", *task, "--problems", "1", "--n", "2", "--out", str(tmp_path / "e.jsonl")]) == 0
    run = ["train", *task, "--algo", "grpo", "--timesteps", "1", "--num-envs", "4", "--episodes", "2"]
    run += ["--set", "prompts=2", "--set", "group_size=2", "--quiet", "--out", str(tmp_path / "run")]
    assert main(run) == 0
    assert main(["resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert seen == [1] * len(seen)
    assert len(seen) >= 4
    assert torch.get_num_threads() == 2
