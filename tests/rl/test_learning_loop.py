"""learn, predict and save as people know them: callbacks, logs, interrupts, exact resume."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

from cola_agents.common.files import InUseError
from cola_agents.common.interrupts import Terminated
from cola_agents.rl import records
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.learning import writing
from cola_agents.rl.logs import make_logger
from cola_agents.rl.ppo import PPO
from cola_agents.rl.saver import Saver
from cola_agents.rl.saving import read_saved
from cola_agents.sb3 import SB3VecEnv
from cola_envs import Turn
from tests import tiny

IDS = {"latent": "CoLA-Text-v0", "token": "CoLA-Text-Token-v0"}
LEVELS = pytest.mark.parametrize("level", list(IDS))


class FirstIsAscii:
    """Begin with an ASCII character; two segments, so that the task's text comes in between."""

    stop: tuple[str, ...] = ("e", "a", "1", "t")

    def reset(self, rng: np.random.Generator) -> str:
        self.turns = 0
        return f"Q: {int(rng.integers(10))}"

    def step(self, text: str) -> Turn:
        self.turns += 1
        return Turn(text=" So?", reward=float(text[:1].isascii()), done=self.turns == 2)


class NeverPays(FirstIsAscii):
    def step(self, text: str) -> Turn:
        return Turn(reward=0.0)


@pytest.fixture(scope="module")
def models(tiny_tokenizer) -> dict[str, Any]:
    latent = tiny.make_cola()
    with torch.no_grad():
        latent.codebook.weight *= 10
    return {"latent": latent, "token": tiny.make_base(), "tokenizer": tiny_tokenizer}


def make(
    models: dict[str, Any], level: str = "latent", cls: Any = GRPO, task: Any = FirstIsAscii, **given: Any
):
    sizes = {"prompts": 4, "group_size": 4} if cls is GRPO else {"episodes": 16}
    return cls(
        IDS[level],
        num_envs=8,
        model=models[level],
        tokenizer=models["tokenizer"],
        env_kwargs={"task": task, "max_tokens": 6},
        **{"lr": 1e-2, **sizes, **given},
    )


def again(models: dict[str, Any], path: Path, level: str = "latent") -> Any:
    kwargs = {"task": FirstIsAscii, "max_tokens": 6}
    return GRPO.load(path, model=models[level], tokenizer=models["tokenizer"], env_kwargs=kwargs)


def weights_of(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.actor.parameters()])


class Every(BaseCallback):
    """Notes what it sees, and does something at its n-th call."""

    def __init__(self, call: int = 0, then: Any = None) -> None:
        super().__init__()
        self.call, self.then = call, then
        self.seen: list[dict[str, Any]] = []
        self.events: list[str] = []

    def _on_training_start(self) -> None:
        self.events.append("start")

    def _on_rollout_start(self) -> None:
        self.events.append("play")

    def _on_rollout_end(self) -> None:
        self.events.append("learn")

    def _on_training_end(self) -> None:
        self.events.append("end")

    def _on_step(self) -> bool:
        assert self.num_timesteps == self.model.num_timesteps
        self.seen.append({**self.locals, "timesteps": self.num_timesteps})
        return self.then(self) if self.n_calls == self.call else True


# ------------------------------------------------------------------ callbacks


@LEVELS
def test_a_callback_sees_every_step_of_the_rows_as_in_stable_baselines3(level, models):
    agent, seen = make(models, level), Every()
    agent.learn(150, seen)
    assert seen.events[:3] == ["start", "play", "learn"]
    assert seen.events[-1] == "end"
    assert seen.seen[-1]["timesteps"] == agent.num_timesteps >= 150
    assert sum(len(step["dones"]) for step in seen.seen) == agent.num_timesteps
    ended = [i["episode"] for s in seen.seen for i, d in zip(s["infos"], s["dones"], strict=True) if d]
    assert len(ended) == agent.num_episodes == 16 * agent.num_updates
    assert sum(e["l"] for e in ended) == agent.num_timesteps
    rewards = np.mean([e["r"] for e in ended[:16]])
    assert rewards == pytest.approx(agent.history[0]["reward"])
    assert seen.locals["total_timesteps"] == 150


def test_watching_changes_nothing(models):
    plain, watched = make(models), make(models)
    plain.learn(150)
    watched.learn(150, [Every(), lambda seen, others: None], progress_bar=False)
    assert torch.equal(weights_of(plain), weights_of(watched))


def test_a_function_that_returns_false_stops_at_once_and_leaves_the_agent_where_it_was(models):
    agent = make(models)
    agent.learn(1)
    before, timesteps = weights_of(agent), agent.num_timesteps
    calls: list[int] = []

    def stop(seen: dict[str, Any], others: dict[str, Any]) -> bool:
        calls.append(seen["self"].num_timesteps)
        return len(calls) < 3

    agent.learn(10_000, stop)
    assert len(calls) == 3
    assert calls[-1] > timesteps
    assert agent.num_timesteps == timesteps, "episodes that were cut are not counted: they are played again"
    assert torch.equal(weights_of(agent), before)
    straight = make(models)
    straight.learn(1)
    for one in (agent, straight):
        one.update()
    assert torch.equal(weights_of(agent), weights_of(straight))


def test_a_callback_that_raises_leaves_the_agent_as_of_the_last_update(models):
    def fail(callback: Every) -> bool:
        raise RuntimeError("no such thing")

    agent = make(models)
    agent.learn(1)
    before, counted = weights_of(agent), (agent.num_timesteps, agent.num_episodes, agent.num_updates)
    with pytest.raises(RuntimeError, match="no such thing"):
        agent.learn(1_000, Every(2, fail))
    assert torch.equal(weights_of(agent), before)
    assert (agent.num_timesteps, agent.num_episodes, agent.num_updates) == counted
    agent.learn(1)
    assert agent.num_updates == 2


def test_eval_callback_keeps_the_best_and_stops_at_its_threshold(models, tmp_path):
    agent = make(models)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no Monitor is missing, and the environments are of one type
        evaluation = EvalCallback(
            agent.vec_env(split="train"),
            callback_on_new_best=StopTrainingOnRewardThreshold(-1.0),
            n_eval_episodes=16,
            eval_freq=10,
            best_model_save_path=str(tmp_path),
            log_path=str(tmp_path),
            verbose=0,
        )
        agent.learn(5_000, [evaluation])
    assert evaluation.n_calls == 10
    assert 0 <= evaluation.best_mean_reward <= 2
    best = again(models, tmp_path / "best_model")
    assert best.num_timesteps == agent.num_timesteps
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (1, 16)


def test_checkpoints_are_of_the_last_finished_update_and_go_on_from_there(models, tmp_path):
    agent = make(models)
    agent.learn(200, CheckpointCallback(save_freq=7, save_path=str(tmp_path), name_prefix="run"))
    saved = sorted(tmp_path.glob("run_*_steps"), key=lambda path: int(path.name.split("_")[1]))
    assert len(saved) >= 3
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in saved}, "no .zip in the names"
    middle = again(models, tmp_path / f"{saved[1].name}.zip")
    assert middle.num_timesteps <= int(saved[1].name.split("_")[1])
    while middle.num_updates < agent.num_updates:
        middle.update()
    assert torch.equal(weights_of(middle), weights_of(agent))
    assert (middle.num_timesteps, middle.num_episodes) == (agent.num_timesteps, agent.num_episodes)


def test_other_callbacks_of_stable_baselines3(models):
    agent = make(models)
    events: list[int] = []
    every = EveryNTimesteps(60, Every(1, lambda callback: events.append(callback.num_timesteps) or True))
    agent.learn(10_000, [every, LogEveryNTimesteps(50), StopTrainingOnMaxEpisodes(max_episodes=5)])
    assert len(events) == 1
    assert 60 <= events[0] < 80
    assert agent.num_episodes <= 5 * 8
    with pytest.raises(TypeError, match="a list of them or a function"):
        agent.learn(10, 7)


# ------------------------------------------------------------------ predict


@LEVELS
def test_stable_baselines3_evaluates_an_agent_as_it_plays_itself(level, models):
    """Two roads to the same greedy episodes: SB3 steps a VecEnv through predict, or collect plays."""
    agent = make(models, level)
    venv = agent.vec_env(num_envs=5, split="train")
    for _ in range(3):  # the second and third time with other weights than those that filled its caches
        venv.seed(100)
        found: Any = evaluate_policy(agent, venv, n_eval_episodes=5, return_episode_rewards=True)
        played = agent.evaluate(5, split="train", greedy=True, seed=100)
        assert sorted(found[0]) == sorted(played.episode_rewards.tolist())
        assert sorted(found[1]) == sorted(played.mask.sum(1).tolist())
        agent.learn(60)
    venv.close()


@LEVELS
def test_predict_follows_the_whole_episode_and_new_weights(level, models):
    agent = make(models, level)
    venv = agent.vec_env(num_envs=3, split="train")
    venv.seed(7)
    observation: Any = venv.reset()
    for step in range(4):
        session = venv._session
        with torch.no_grad():
            if level == "latent":
                full = agent.actor.trunk(inputs_embeds=session.states(0)[None], use_cache=False)
            else:
                full = agent.actor.trunk(input_ids=torch.tensor([session.tokens[0]]), use_cache=False)
        expected = full.last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(np.asarray(observation)[0], expected, atol=1e-4)
        if step == 1:
            agent.update()  # between two steps of running episodes
        actions, state = agent.predict(observation, deterministic=True)
        assert state is None
        observation = venv.step(actions)[0]


def test_predict_draws_from_the_policy_and_disturbs_no_training(models):
    agent, other = make(models), make(models)
    venv = agent.vec_env(num_envs=8, split="train")
    observation = venv.reset()
    drawn = np.array([agent.predict(observation)[0] for _ in range(200)])
    assert len({tuple(row) for row in drawn}) > 10
    with torch.no_grad():
        probs = agent.actor.logits(torch.from_numpy(np.array(observation))).softmax(-1)
    shares = (drawn[:, 0][:, None] == np.arange(16)).mean(0)
    assert np.abs(shares - probs[0].numpy()).max() < 0.12
    agent.get_env().reset()
    for one in (agent, other):
        one.update()
    assert torch.equal(weights_of(agent), weights_of(other))


def test_predict_refuses_observations_that_do_not_hold_the_episode(models):
    agent = make(models)
    plain = SB3VecEnv(
        IDS["latent"],
        num_envs=2,
        env_kwargs={"model": models["latent"], "tokenizer": models["tokenizer"], "task": FirstIsAscii},
    )
    own: Any = agent.vec_env(num_envs=2, split="train").reset()
    for observation in (plain.reset(), own[:1], own * 2, make(models).vec_env(split="train").reset()):
        with pytest.raises(ValueError, match=r"own vec_env\(\)"):
            agent.predict(observation)


# ------------------------------------------------------------------ the loop and its logs


def test_learn_counts_on_or_from_zero(models):
    agent = make(models)
    agent.learn(50).learn(50)
    assert agent.num_timesteps >= 100
    assert len(agent.history) == agent.num_updates
    agent.learn(40, reset_num_timesteps=True)
    assert 40 <= agent.num_timesteps < 40 + 16 * 6
    assert (
        agent.num_updates > len(agent.history) == agent.history[-1]["update"] - agent.history[0]["update"] + 1
    )


def test_counts_of_numpy_and_whole_floats_are_taken_and_saved(tmp_path):
    kwargs = {"num_envs": np.int64(2), "seed": np.int64(3), "env_kwargs": {"max_tokens": 2}}
    options = {"prompts": np.int32(1), "group_size": 2, "lr": np.float32(0.5), "whiten": np.bool_(True)}
    agent = GRPO("CoLA-Arithmetic-v0", **kwargs, **options)
    agent.learn(np.int64(1), save_every=1e0, save_to=tmp_path / "run")
    loaded = GRPO.load(tmp_path / "run")
    assert (loaded.seed, loaded.num_envs, loaded.options) == (3, 2, agent.options)
    for one in (agent, loaded):
        values = one.seed, one.num_envs, one.options.prompts, one.options.lr, one.options.whiten
        assert [type(value) for value in values] == [int, int, int, float, bool]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"total_timesteps": 0}, ValueError, "total_timesteps must be at least 1, got 0"),
        ({"total_timesteps": 9, "log_interval": 0}, ValueError, "log_interval"),
        ({"total_timesteps": 9, "save_every": 5}, ValueError, "needs save_to="),
        (
            {"total_timesteps": 9, "save_every": 0, "save_to": "x"},
            ValueError,
            "save_every must be at least 1",
        ),
    ],
)
def test_learn_checks_before_it_plays(given, error, message, models):
    agent = make(models)
    with pytest.raises(error, match=message):
        agent.learn(**given)
    assert agent.num_timesteps == 0


def test_a_folder_of_something_else_is_refused_before_anything_is_played(models, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    agent = make(models)
    with pytest.raises(FileExistsError, match="not replaced"):
        agent.learn(50, save_to=tmp_path)
    assert agent.num_timesteps == 0


def test_logs_go_through_the_logger_of_stable_baselines3(models, tmp_path, capsys):
    agent = make(models, cls=PPO)
    agent.set_logger(configure(str(tmp_path), ["stdout", "csv", "json", "tensorboard"]))
    agent.learn(250, log_interval=2)
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    last = len(agent.history)  # the first and the last are logged whatever the interval
    logged = [
        record for record in agent.history if record["update"] % 2 == 0 or record["update"] in (1, last)
    ]
    assert [int(row["time/total_timesteps"]) for row in rows] == [r["timesteps"] for r in logged]
    for row, record in zip(rows, logged, strict=True):
        assert float(row["rollout/ep_rew_mean"]) == pytest.approx(record["reward"])
        assert float(row["train/kl"]) == pytest.approx(record["kl"])
        assert float(row["train/value_loss"]) == pytest.approx(record["value_loss"])
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert len(lines) == len(rows)
    assert all(isinstance(line["sample/text"], str) for line in lines)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    out = capsys.readouterr().out
    assert "ep_rew_mean" in out
    assert "sample: " in out


def test_verbose_and_tensorboard_log_need_no_logger(models, tmp_path, capsys):
    make(models).learn(30)
    assert capsys.readouterr().out == ""
    agent = make(models, verbose=1, tensorboard_log=str(tmp_path))
    agent.learn(30).learn(30)
    assert "total_timesteps" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["GRPO_1"], "the second learn goes on in it"


def test_a_learner_has_one_writer_of_its_own_and_closes_it(models, tmp_path):
    agent, before = make(models, tensorboard_log=str(tmp_path)), threading.active_count()
    agent.learn(1)
    writing_threads = threading.active_count()
    assert writing_threads > before
    agent.learn(1).learn(1)
    assert threading.active_count() == writing_threads
    agent.close()
    assert threading.active_count() == before
    agent.close()


@pytest.mark.parametrize("end", ["close", "learn", "set_logger"])
def test_a_logger_that_was_set_is_left_to_its_owner(end, models, tmp_path):
    agent, logger = make(models), configure(str(tmp_path / "a"), ["csv"])
    agent.set_logger(logger)
    {
        "close": agent.close,
        "learn": lambda: agent.learn(1),
        "set_logger": lambda: agent.set_logger(configure(str(tmp_path / "b"), ["csv"])),
    }[end]()
    logger.record("x", 1)
    logger.dump()


def test_a_second_run_in_a_log_folder_keeps_the_first_ones_files(tmp_path):
    for count in range(3):
        logger = make_logger(tmp_path, ["csv", "json", "log"])
        logger.record("x", count)
        logger.dump()
        logger.close()
    assert {path.name for path in tmp_path.glob("*.csv")} == {
        "progress.csv",
        "progress-1.csv",
        "progress-2.csv",
    }
    assert (tmp_path / "progress.csv").read_text() == "x\n0\n"
    with pytest.raises(ValueError, match="no log format 'xml'"):
        make_logger(tmp_path, ["xml"])


def test_weights_and_biases_is_imported_at_use(models, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        with pytest.raises(ImportError, match="pip install wandb"):
            make_logger(tmp_path, ["wandb"])
    logged: list[tuple[int, dict[str, Any]]] = []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, dict(values))), finish=lambda: None
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **settings: run))
    agent = make(models)
    agent.set_logger(make_logger(tmp_path, ["wandb"]))
    agent.learn(30)
    assert [step for step, _ in logged] == [record["timesteps"] for record in agent.history]
    assert {"train/kl", "rollout/ep_rew_mean", "sample/text"} <= set(logged[0][1])


def test_the_progress_bar_shows_reward_kl_speed_and_time_left(models, capsys):
    make(models).learn(150, progress_bar=True)
    err = capsys.readouterr().err
    assert re.search(r"150/150 \[\d\d:\d\d<\d\d:\d\d, .*tok/s.*reward=\d\.\d{3}", err)
    assert "kl=" in err


def test_equal_rewards_give_no_gradient_no_nan_and_one_warning(models, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PATIENCE", 3)
    agent = make(models, task=NeverPays, kl_coef=0.0)
    before = weights_of(agent)
    agent.set_logger(make_logger(tmp_path, ["json"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(7):
            agent.update()
            agent.dump_logs()
    assert ["nothing to learn from" in str(warning.message) for warning in caught] == [True]
    assert torch.equal(weights_of(agent), before)
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert {line["rollout/frac_zero_advantage"] for line in lines} == {1.0}
    assert all(np.isfinite(list(record.values())).all() for record in agent.history)


# ------------------------------------------------------------------ saves that are interrupted


def test_learn_saves_now_and_then_and_at_the_end(models, tmp_path, monkeypatch):
    agent = make(models)
    saves: list[int] = []
    original = type(agent).save

    def save(self: Any, path: Any) -> Path:
        saves.append(self.num_timesteps)
        return original(self, path)

    monkeypatch.setattr(type(agent), "save", save)
    agent.learn(300, save_every=100, save_to=tmp_path / "run")
    assert [saved // 100 for saved in saves] == [1, 2, 3], "the last periodic save is the final one"
    assert again(models, tmp_path / "run").num_timesteps == agent.num_timesteps


@pytest.mark.parametrize("broken", ["torch.save", "fsync", "replace"])
def test_a_full_disk_leaves_the_last_whole_agent_and_nothing_else(broken, models, tmp_path, monkeypatch):
    agent = make(models)
    agent.learn(1, save_to=tmp_path / "run")
    files = {path.name for path in (tmp_path / "run").iterdir()}
    whole = weights_of(agent)
    agent.update()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        where = {
            "torch.save": (torch, "save"),
            "fsync": (os, "fsync"),
            "replace": (os, "replace"),
        }
        patch.setattr(*where[broken], full)
        with pytest.raises(OSError, match="No space left"):
            agent.save(tmp_path / "run")
        with pytest.raises(OSError, match="No space left"):
            agent.save(tmp_path / "new")
        with (
            pytest.warns(UserWarning, match="learning continues"),
            pytest.raises(OSError, match="No space left"),
        ):
            agent.learn(1, save_every=1, save_to=tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == files
    assert torch.equal(weights_of(again(models, tmp_path / "run")), whole)
    agent.save(tmp_path / "run")
    assert again(models, tmp_path / "run").num_updates == agent.num_updates


def test_ctrl_c_while_playing_saves_the_last_update_and_goes_on_exactly(models, tmp_path):
    def interrupt(callback: Every) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return True

    agent = make(models)
    agent.update()
    with pytest.raises(KeyboardInterrupt):
        agent.learn(10_000, Every(4, interrupt), save_to=tmp_path / "run")
    assert agent.num_updates == 1
    resumed, straight = again(models, tmp_path / "run"), make(models)
    straight.update()
    for one in (agent, resumed, straight):
        one.update()
    assert torch.equal(weights_of(agent), weights_of(straight))
    assert torch.equal(weights_of(resumed), weights_of(straight))


def test_ctrl_c_while_learning_waits_for_the_end_of_the_update(models, tmp_path, capsys):
    agent, straight = make(models, minibatch=4), make(models, minibatch=4)
    straight.update()
    step = agent.optimiser.step

    def interrupted(norm: float) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        agent.optimiser.step = step
        return step(norm)

    agent.optimiser.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.learn(10_000, save_to=tmp_path / "run")
    assert agent.num_updates == 1
    assert torch.equal(weights_of(agent), weights_of(straight))
    assert again(models, tmp_path / "run").num_updates == 1
    assert "finishing this update first" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait_and_the_save_says_so(models, tmp_path):
    agent = make(models, minibatch=4)
    step, calls = agent.optimiser.step, []

    def interrupted(norm: float) -> float:
        calls.append(norm)
        if len(calls) == 2:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
        return step(norm)

    agent.optimiser.step = interrupted
    with pytest.warns(UserWarning, match="half-way"), pytest.raises(KeyboardInterrupt):
        agent.learn(10_000, save_to=tmp_path / "run")
    assert len(calls) == 2
    assert agent.num_updates == agent.num_timesteps == 0
    assert torch.equal(weights_of(again(models, tmp_path / "run")), weights_of(agent))


def test_a_second_ctrl_c_inside_an_update_keeps_the_earlier_save(models, tmp_path):
    agent = make(models, minibatch=4)
    agent.learn(1, save_to=tmp_path / "run")
    before, step = weights_of(agent), agent.optimiser.step

    def interrupted(norm: float) -> float:
        stepped = step(norm)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return stepped

    agent.optimiser.step = interrupted
    with (
        pytest.warns(UserWarning, match="not saved, and the earlier save in"),
        pytest.raises(KeyboardInterrupt),
    ):
        agent.learn(10_000, save_to=tmp_path / "run")
    assert not torch.equal(weights_of(agent), before)
    kept = again(models, tmp_path / "run")
    assert kept.num_updates == 1
    assert torch.equal(weights_of(kept), before)


@pytest.mark.parametrize("moment", ["playing", "learning"])
def test_sigterm_saves_as_ctrl_c_does_and_goes_on_exactly(moment, models, tmp_path):
    agent, straight = (make(models) for _ in range(2))
    straight.learn(1)
    straight.update()
    name = {"playing": "batch", "learning": "train_on"}[moment]
    real = getattr(agent, name)

    def terminated(*given: Any) -> Any:
        done = real(*given)
        if agent.num_updates == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        return done

    setattr(agent, name, terminated)
    handlers = []
    before = signal.signal(signal.SIGTERM, lambda *_: handlers.append(1))
    try:
        with pytest.raises(Terminated):
            agent.learn(10_000, save_to=tmp_path / "run")
        assert handlers == [], "while it learns, the caller's handler is not called"
        signal.raise_signal(signal.SIGTERM)
        assert handlers == [1], "afterwards it is"
    finally:
        signal.signal(signal.SIGTERM, before)
    loaded = again(models, tmp_path / "run")
    assert loaded.num_updates == {"playing": 1, "learning": 2}[moment]
    if loaded.num_updates == 1:
        loaded.update()
    assert torch.equal(weights_of(loaded), weights_of(straight))


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_an_interrupt_during_the_last_save_loses_nothing(number, error, models, tmp_path, monkeypatch):
    agent, write, calls = make(models), Saver._write, []

    def interrupted(self: Saver, *given: Any) -> None:
        calls.append(agent.num_updates)
        if len(calls) == 1:
            signal.raise_signal(number)
        write(self, *given)

    monkeypatch.setattr(Saver, "_write", interrupted)
    with pytest.raises(error):
        agent.learn(1, save_to=tmp_path / "run")
    assert calls == [1, 1], "it was saved again"
    assert again(models, tmp_path / "run").num_updates == 1


@pytest.mark.parametrize("interval", [1, 10])
def test_the_update_that_an_interrupt_waited_for_is_logged(interval, models, tmp_path):
    agent = make(models)
    agent.set_logger(make_logger(tmp_path, ["csv"]))
    train_on = agent.train_on

    def interrupted(batch: Any) -> Any:
        if agent.num_updates == 2:
            signal.raise_signal(signal.SIGINT)
        return train_on(batch)

    agent.train_on = interrupted
    with pytest.raises(KeyboardInterrupt):
        agent.learn(10_000, log_interval=interval)
    with (tmp_path / "progress.csv").open() as file:
        logged = [int(row["time/iterations"]) for row in csv.DictReader(file)]
    assert logged == ([1, 2, 3] if interval == 1 else [1, 3])


def test_of_several_processes_the_first_alone_judges_the_folder(tmp_path):
    (tmp_path / "logs").mkdir()  # as the first process leaves it, when another looks a moment too early
    with writing(tmp_path, first=False):
        pass
    with pytest.raises(FileExistsError, match="something other than a saved agent"), writing(tmp_path, True):
        pass


def test_sigterm_is_left_alone_where_nothing_is_to_be_saved(models):
    agent = make(models)
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        agent.learn(1, callback=lambda *_: signal.raise_signal(signal.SIGTERM) if not came else None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1]


def test_while_an_agent_learns_no_other_process_writes_its_folder(models, tmp_path):
    agent, other = make(models), make(models)
    run = tmp_path / "run"

    def refused() -> bool:
        try:
            other.learn(1, save_to=run)
        except InUseError as error:
            return str(os.getppid()) in str(error) and other.num_timesteps == 0
        return False

    def callback(*_: Any) -> None:
        if not children:
            agent.save(run)  # the process that learns may
            child = os.fork()
            if child == 0:
                os._exit(0 if refused() else 1)
            children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    children: list[int] = []
    agent.learn(1, callback, save_to=run)
    assert children == [0]
    assert not list(run.glob("*.lock")), "the lock ends with learning"
    other.learn(1, save_to=run)


def test_a_full_disk_under_the_logs_is_a_warning_too(models, monkeypatch):
    agent = make(models)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(agent, "dump_logs", full)
    with pytest.warns(UserWarning, match="not logged, learning continues: .*No space left"):
        agent.learn(200)
    assert agent.num_timesteps >= 200


def test_an_agent_of_another_shape_is_refused_by_the_name_of_the_weight(models, tmp_path):
    agent = make(models)
    with torch.no_grad():
        agent.actor.head.weight.add_(1)
    agent.save(tmp_path / "run")
    read = read_saved(tmp_path / "run")
    (name,) = read.weights
    given = {
        "model": models["latent"],
        "tokenizer": models["tokenizer"],
        "env_kwargs": {"task": FirstIsAscii},
    }
    for wrong in (torch.zeros(2, 2), read.weights[name].double()):
        for more in ({}, {"dtype": "float32"}):
            with pytest.raises(ValueError, match=f"holds {name} as torch.float"):
                GRPO.restored(replace(read, weights={**read.weights, name: wrong}), **given, **more)
    agent = make(models)
    agent.update()
    agent.save(tmp_path / "run")
    read = read_saved(tmp_path / "run")
    read.optimiser["adam"]["state"][0]["exp_avg"] = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="optimiser of other weights"):
        GRPO.restored(read, **given)
    for foreign in ({}, {"adam": 3, "twins": None}, {"adam": {"state": {}, "param_groups": []}, "twins": []}):
        with pytest.raises(ValueError, match="optimiser"):
            GRPO.restored(replace(read, optimiser=foreign), **given)


KILLED = """
import sys, torch
torch.set_num_threads(1)
from cola_agents.rl.ppo import PPO
settings = {"num_envs": 8, "env_kwargs": {"max_tokens": 6}, "episodes": 8, "minibatch": None, "seed": 3}
PPO("CoLA-Arithmetic-v0", **settings).learn(10**9, save_every=1, save_to=sys.argv[1])
"""


def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path):
    """kill -9 at any moment, since every update is saved: while playing, learning or saving."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (run / "agent.json").is_file() and json.loads((run / "agent.json").read_text())[
            "num_updates"
        ] >= 2:
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = PPO.load(run)
    assert killed.num_updates >= 2
    settings: dict[str, Any] = {"num_envs": 8, "env_kwargs": {"max_tokens": 6}, "episodes": 8}
    through = PPO("CoLA-Arithmetic-v0", minibatch=None, seed=3, **settings)
    while through.num_updates <= killed.num_updates:
        through.update()
    killed.update()
    assert torch.equal(weights_of(killed), weights_of(through))
    lasting = [[{k: v for k, v in r.items() if k != "cpu_s"} for r in a.history] for a in (killed, through)]
    assert lasting[0] == lasting[1]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_during_a_save_leaves_the_last_whole_agent(step, models, tmp_path, monkeypatch):
    agent = make(models)
    agent.update()
    agent.save(tmp_path / "run")
    whole = {path.name for path in (tmp_path / "run").iterdir()}
    before = weights_of(agent)
    child = os.fork()
    if child == 0:  # dies with the new weights written, before or after they are said to be the agent's
        monkeypatch.setattr(os, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        with torch.no_grad():
            agent.actor.head.weight += 1
        agent.save(tmp_path / "run")
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left > whole, "what the killed save had written is there"
    loaded = again(models, tmp_path / "run")
    assert torch.equal(weights_of(loaded), before)
    loaded.save(tmp_path / "run")
    now = {path.name for path in (tmp_path / "run").iterdir()}
    assert now & left == whole, "the next save clears it away"


def test_the_environments_of_an_agent_are_made_when_they_are_asked_for(models):
    agent = make(models)
    assert agent.get_env() is agent.get_env()
    assert agent.get_env().num_envs == 8
    assert isinstance(agent.get_env().action_space, gym.spaces.Discrete)
    assert agent.get_vec_normalize_env() is None
    agent.close()


def test_of_several_processes_the_first_alone_logs(tmp_path, monkeypatch):
    agent = GRPO("CoLA-Arithmetic-v0", num_envs=4, prompts=2, group_size=2)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.update()
    monkeypatch.setattr(agent.workers, "rank", 1)
    agent.dump_logs()
    assert (tmp_path / "progress.csv").read_text() == ""
    monkeypatch.setattr(agent.workers, "rank", 0)
    agent.dump_logs()
    assert "time/total_timesteps" in (tmp_path / "progress.csv").read_text()
