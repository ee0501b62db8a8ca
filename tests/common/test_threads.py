"""A small model is computed with one thread, and others with as many as there were."""

import threading

import gymnasium as gym
import pytest
import stable_baselines3 as sb3
import torch
from torch import nn

from cola_agents import GRPO, SB3VecEnv
from cola_agents.cli import main
from cola_agents.common import threads
from cola_agents.common.threads import fitting_threads, set_threads
from cola_agents.decoding import kv
from cola_agents.search import MCTS, SearchConfig


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_chosen", False)
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


@pytest.mark.parametrize("name", threads.VARIABLES)
def test_what_the_environment_says_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with fitting_threads(nn.Linear(2, 2)):
        assert torch.get_num_threads() == 2


def test_a_number_that_was_asked_for_holds_for_small_models_too():
    set_threads(3)
    with fitting_threads(nn.Linear(2, 2)):
        assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="at least 1, got 0"):
        set_threads(0)


def test_blocks_nest_and_a_large_model_in_a_small_ones_gets_what_the_caller_had(monkeypatch):
    small = fitting_threads(nn.Linear(2, 2))
    monkeypatch.setattr(threads, "SMALL", 6)
    large = fitting_threads(nn.Linear(2, 2))
    with small:
        with large:
            assert torch.get_num_threads() == 2
            with small, small:
                assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    with pytest.raises(RuntimeError, match="inside"), small:
        raise RuntimeError("inside")
    assert torch.get_num_threads() == 2


def test_every_way_to_step_or_train_a_small_model_computes_on_one_thread_and_gives_back_the_callers(
    monkeypatch,
):
    seen = []
    real = kv.check_fork
    monkeypatch.setattr(kv, "check_fork", lambda: (seen.append(torch.get_num_threads()), real()))
    adam = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda *a, **k: (seen.append(torch.get_num_threads()), adam(*a, **k))[1]
    )
    loss = GRPO.loss
    monkeypatch.setattr(GRPO, "loss", lambda *a: (seen.append(torch.get_num_threads()), loss(*a))[1])
    task = "CoLA-Arithmetic-v0"

    def step():
        env = gym.make(task, observation="features")
        env.reset(seed=0)
        env.step(1)

    def sb3_learns():
        venv = SB3VecEnv(task, num_envs=2, env_kwargs={"max_tokens": 4})
        model = sb3.PPO("MlpPolicy", venv, n_steps=4, batch_size=8, n_epochs=1)
        model.learn(8)
        model.predict(venv.reset())

    def agent_learns():
        agent = GRPO(task, num_envs=4, prompts=2, group_size=2, env_kwargs={"max_tokens": 4})
        agent.learn(1)
        agent.evaluate(2)
        agent.predict(agent.vec_env(2).reset())

    def search():
        MCTS(task, SearchConfig(simulations=2), num_trees=1, env_kwargs={"max_tokens": 4}).solve([0])

    for work in (step, sb3_learns, agent_learns, search):
        seen.clear()
        work()
        assert seen, work
        assert set(seen) == {1}, work
        assert torch.get_num_threads() == 2, work


def test_the_commands_over_the_bundled_model_work_on_one_thread(tmp_path, capsys, monkeypatch):
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
    task = ["--task", "CoLA-Arithmetic-v0"]
    assert main(["eval", *task, "--episodes", "2", "--json"]) == 0
    assert '"threads": 1' in capsys.readouterr().out
    assert main(["generate", *task, "--problems", "1", "--n", "2", "--out", str(tmp_path / "e.jsonl")]) == 0
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2


def test_a_pass_of_a_small_model_counts_where_there_are_more_threads_outside(monkeypatch):
    monkeypatch.setattr(threads, "_pool", threading.local())
    with fitting_threads(nn.Linear(2, 2)):
        threads.check_fork()
    monkeypatch.setattr(threads.os, "getpid", lambda: 1)
    with pytest.raises(RuntimeError, match="was forked from process"):
        threads.check_fork()


def test_in_a_forked_process_a_small_models_block_leaves_one_thread(monkeypatch):
    small = fitting_threads(nn.Linear(2, 2))
    monkeypatch.setattr(threads, "_importer", 0)
    with small:
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1
