"""Two processes learn what one does: PPO, GRPO and ReMax over gloo, on a CPU.

``python -m tests.rl.test_workers OUT``, with ``RANK`` and ``WORLD_SIZE`` set, is one of the processes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from cola_agents.cli import main as cola
from cola_agents.rl import workers
from cola_agents.rl.agent import Agent
from cola_agents.rl.grpo import GRPO
from cola_agents.rl.ppo import PPO
from cola_agents.rl.remax import ReMax
from cola_agents.rl.saver import Saver
from cola_agents.rl.workers import RolloutWorkers, text_of
from cola_envs import Turn
from tests import tiny

ROOT = Path(__file__).parents[2]
IDS = {"latent": "CoLA-Text-v0", "token": "CoLA-Text-Token-v0"}
BY_EPISODE = {"loss_mean": "sequence"}
#: name -> class, level and options. 9 episodes do not divide, and a minibatch may lie in one process alone.
CASES: dict[str, tuple[type[Agent], str, dict[str, Any]]] = {
    "ppo latent": (PPO, "latent", {"episodes": 9, "minibatch": 2, "epochs": 2, "kl_in": "reward"}),
    "ppo token": (PPO, "token", {"episodes": 9, "minibatch": 5, "micro_batch": 2, "macro": 3}),
    "grpo latent": (
        GRPO,
        "latent",
        {"prompts": 3, "group_size": 3, "micro_batch": 2, "loss_mean": "sequence"},
    ),
    "grpo token": (GRPO, "token", {"prompts": 3, "group_size": 3, "lora_rank": 2, "epochs": 2}),
    "grpo steered": (GRPO, "latent", {"prompts": 3, "group_size": 3, "lora_rank": 2, "kl_target": 0.01}),
    "remax token": (ReMax, "token", {"episodes": 9, "kl_in": "reward", "whiten": True}),
}

#: What one process may have changed by hand.
DIFFERENT: dict[str, Any] = {
    "env_kwargs": {"task": list, "max_tokens": 8},
    "kl_coef": 0.2,
    "num_timesteps": 1,
}


class Chatty:
    """Two segments of unequal length, a reward for each; on purpose no problem is like another."""

    stop = ("e", "a", "1", "t")
    fails = False

    def reset(self, rng: np.random.Generator) -> str:
        if self.fails:
            raise OSError("the game is gone")
        self.turns = 0
        return "Q:" + " hm" * int(rng.integers(1, 4))

    def step(self, text: str) -> Turn:
        self.turns += 1
        return Turn(text=" So?", reward=float(text[:1].isascii()), done=self.turns == 2)


def make(name: str, **changed: Any) -> Agent:
    cls, level, chosen = CASES[name]
    latent = tiny.make_cola()
    with torch.no_grad():
        latent.codebook.weight *= 10
    agent = cls(
        IDS[level],
        num_envs=3,
        seed=3,
        model=latent if level == "latent" else tiny.make_base(),
        tokenizer=tiny.make_tokenizer(),
        env_kwargs={"task": Chatty, "max_tokens": 8},
        **{"lr": 1e-2, "kl_coef": 0.1, **chosen, **changed},
    )
    # Adam divides a gradient by its own size: with its usual epsilon a gradient of twice the size would make
    # the same step, and one that is all rounding a large one.
    agent.optimiser.adam.param_groups[0]["eps"] = 1e-2
    return agent


def state_of(agent: Agent) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in agent.actor.trained().items()}


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in record.items() if name != "cpu_s"} for record in history]


# ---------------------------------------------------------------- what one of the processes does


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}
    for name in CASES:
        agent = make(name)
        if rank == 1:  # other weights than the first process has, as another machine might draw
            with torch.no_grad():
                agent.actor.value_head.weight.fill_(1.0)
        agent.update()
        agent.update()
        found[name] = {"weights": state_of(agent), "history": agent.history, "sample": agent.sample}
    found["stopped"] = stopped()
    found["failed"] = failed(rank)
    found["interrupted"] = interrupted(rank)
    found["different"] = refused(lambda: make("ppo latent", lr=1e-2 * (1 + rank)).update())
    found["too few"] = refused(lambda: make("ppo latent", episodes=1).update())
    for name, value in DIFFERENT.items():
        found[name] = refused(lambda name=name, value=value: changed(name, value, rank).update())
    found["resumed"] = resumed(out / "agent", rank)
    found["not saved"] = not_saved(out / "other", rank)
    found["outside"] = outside(rank)
    found["command"] = command(out / "run", rank)
    found["last"] = interrupted(rank, 1)
    found["torn"] = torn(rank)
    found["no memory"] = no_memory(rank)
    found["broken"] = broken()
    found["closed"] = closed()
    found["lost"] = lost(rank)
    torch.save(found, out / f"{rank}.pt")


def stopped() -> dict[str, Any]:
    """A callback of the first process ends learning in both."""
    agent = make("ppo latent")

    def stop(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        return agent.num_updates < 1

    first = agent.workers.rank == 0
    agent.learn(10**6, callback=stop if first else None)
    return {"updates": agent.num_updates, "timesteps": agent.num_timesteps}


def failed(rank: int) -> dict[str, Any]:
    """An error in one process's game; afterwards both go on as if nothing had been."""
    agent = make("grpo latent")
    agent.update()
    Chatty.fails = rank == 1
    said = refused(agent.update)
    Chatty.fails = False
    agent.update()
    return {"said": said, "weights": state_of(agent), "timesteps": agent.num_timesteps}


def interrupted(rank: int, timesteps: int = 10**6) -> str:
    """Ctrl-C in one process, inside the gradient step: both finish it and then end."""
    agent = make("grpo latent")
    inner = agent.optimiser.step

    def step(*arguments: Any) -> float:
        if rank == 1:
            signal.raise_signal(signal.SIGINT)
        return inner(*arguments)

    agent.optimiser.step = step  # type: ignore[method-assign]
    said = refused(lambda: agent.learn(timesteps))
    return f"{said} after {agent.num_updates}"


def changed(name: str, value: Any, rank: int) -> Agent:
    """An agent of which the second process has another ``name``."""
    agent = make("grpo latent")
    if rank == 1:
        setattr(agent, name, value)
    return agent


def resumed(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    """One update, saved slowly by the first process and loaded by both, and another update."""
    agent = make("ppo latent")
    write = Saver.write

    def slowly(*arguments: Any) -> None:
        time.sleep(1)
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "write", slowly)
        agent.learn(1, save_to=folder)
    again = PPO.load(
        folder,
        model=agent.backbone.model,
        tokenizer=tiny.make_tokenizer(),
        env_kwargs={"task": Chatty, "max_tokens": 8},
    )
    again.update()
    return state_of(again)


def not_saved(folder: Path, rank: int) -> str:
    """The last save of ``learn`` fails in the first process."""
    agent = make("grpo latent")

    def full(*arguments: Any) -> None:
        raise OSError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Saver, "write", full)
        return refused(lambda: agent.learn(1, save_to=folder))


def command(folder: Path, rank: int) -> int:
    """`cola train`, whose first process is slow to save; the other must not touch the folder before it."""
    options = ["prompts=2", "group_size=2"]
    words = ["train", "--task", "CoLA-Arithmetic-v0", "--algo", "grpo", "--timesteps", "12", "--quiet"]
    words += ["--out", str(folder), "--num-envs", "4", "--episodes", "2", "--env", "max_tokens=3"]
    write = Saver.write

    def late(*arguments: Any) -> None:
        time.sleep(1)
        write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr(Saver, "write", late)
        return cola([*words, *(word for option in options for word in ("--set", option))])


class Failing(BaseCallback):
    """Fails in one of a callback's methods; before the end it asks for the end."""

    def __init__(self, where: str) -> None:
        super().__init__()
        setattr(self, where, self._fail)

    def _fail(self) -> None:
        raise OSError("the callback is broken")

    def _on_step(self) -> bool:
        return False


def outside(rank: int) -> list[str]:
    """Errors between updates, one after the other; afterwards an update succeeds."""
    agent = make("grpo latent")
    said = []
    for where in ("_on_training_start", "_on_training_end"):
        callback = Failing(where) if rank == 0 else None
        said.append(refused(lambda callback=callback: agent.learn(10**6, callback=callback)))
    if rank == 1:
        agent.dump_logs = lambda iteration=0: signal.raise_signal(signal.SIGINT)  # type: ignore[method-assign]
    said.append(refused(lambda: agent.learn(10**6)))
    agent.update()
    return [*said, f"{agent.num_updates} updates"]


def torn(rank: int) -> dict[str, Any]:
    """A second Ctrl-C ends one process before its first gradient step, and the other after; both go on."""
    agent = make("ppo latent")
    inner = agent.workers.sum_gradients

    def summed(*arguments: Any) -> Any:
        inner(*arguments)
        raise KeyboardInterrupt

    if rank == 1:
        agent.workers.sum_gradients = summed  # type: ignore[method-assign]
    said = refused(agent.update)
    agent.workers.sum_gradients = inner  # type: ignore[method-assign]
    before = state_of(agent)
    agent.update()
    return {"said": said, "before": before, "weights": state_of(agent), "history": timeless(agent.history)}


def no_memory(rank: int) -> list[str]:
    """One process cannot make room for the second piece of the gradients; afterwards both go on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "WAIT", timedelta(seconds=20))
        patch.setattr(workers, "GRADIENTS_AT_ONCE", 1)
        agent = make("grpo latent")
        pieces = workers._pieces

        def fails(parameters: Any) -> Any:
            yield next(pieces(parameters))
            raise MemoryError("no room for the gradients")

        if rank == 1:
            patch.setattr(workers, "_pieces", fails)
        said = refused(agent.update)
        patch.setattr(workers, "_pieces", pieces)
        agent.update()
    return [said, f"{agent.num_updates} updates"]


def broken() -> list[str]:
    """Collectives of tensors fail, as they do where the connection breaks after an exchange of objects."""
    said = []
    for name, collective in (("grpo latent", "broadcast"), ("ppo latent", "all_reduce")):
        agent = make(name)

        def fail(*arguments: Any, **named: Any) -> None:
            raise RuntimeError("Connection closed by peer")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.distributed, collective, fail)
            said.append(refused(agent.update))
    return said


def closed() -> dict[str, Any]:
    """A closed agent leaves no group behind, and says that it is closed."""
    groups = torch.distributed.distributed_c10d._world.pg_names
    before = len(groups)
    agent = make("grpo latent")
    made = len(groups)
    agent.update()
    for _ in range(2):
        agent.close()
    return {"groups": (made - before, len(groups) - before), "said": refused(agent.update)}


def lost(rank: int) -> str:
    """What a process says when another has gone."""
    agent = make("grpo latent")
    if rank == 1:
        return "gone"
    return refused(agent.update)


def refused(call: Any) -> str:
    try:
        call()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


# ---------------------------------------------------------------- tests


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, Any]]:
    """What both processes found; whatever happens, none of them is left."""
    out = tmp_path_factory.mktemp("workers")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.rl.test_workers", str(out)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == 0, text[-5000:]
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


def alone(name: str, updates: int = 2) -> Agent:
    agent = make(name)
    for _ in range(updates):
        agent.update()
    return agent


@pytest.fixture(scope="module")
def expected() -> dict[str, Agent]:
    """The same in this process alone."""
    return {name: alone(name) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_updates_that_one_makes(name, found, expected):
    agent = expected[name]
    before = state_of(make(name))
    assert any(not torch.equal(before[key], tensor) for key, tensor in state_of(agent).items())
    assert any(record["reward"] > 0 for record in agent.history)
    for told in found:
        assert told[name]["sample"] == agent.sample
        for key, tensor in state_of(agent).items():
            torch.testing.assert_close(told[name]["weights"][key], tensor, atol=1e-5, rtol=0, msg=key)
        for one, two in zip(timeless(told[name]["history"]), timeless(agent.history), strict=True):
            assert list(one) == list(two)
            assert one == pytest.approx(two, abs=1e-5, rel=1e-4)
    assert found[0][name]["history"] == found[1][name]["history"]
    for key, tensor in found[0][name]["weights"].items():
        assert torch.equal(tensor, found[1][name]["weights"][key]), key


def test_a_callback_of_the_first_process_stops_both(found):
    assert found[0]["stopped"] == found[1]["stopped"]
    assert found[0]["stopped"]["updates"] == 1


def test_an_error_in_one_process_is_raised_in_both_and_nothing_is_lost(found, expected):
    assert found[0]["failed"]["said"] == "RuntimeError: process 1 failed: OSError: the game is gone"
    assert found[1]["failed"]["said"] == "OSError: the game is gone"
    agent = expected["grpo latent"]
    for told in found:
        assert told["failed"]["timesteps"] == agent.num_timesteps
        for key, tensor in state_of(agent).items():
            torch.testing.assert_close(told["failed"]["weights"][key], tensor, atol=1e-5, rtol=0, msg=key)


def test_an_interrupt_of_one_process_ends_both_after_the_update(found):
    assert {told["interrupted"] for told in found} == {"KeyboardInterrupt:  after 1"}


def test_an_interrupt_of_the_last_update_ends_both(found):
    assert {told["last"] for told in found} == {"KeyboardInterrupt:  after 1"}


def test_errors_between_updates_are_raised_in_both_and_learning_goes_on(found):
    first, second = (told["outside"] for told in found)
    own = "OSError: the callback is broken"
    assert first == [own, own, "KeyboardInterrupt: ", "2 updates"]
    told = f"RuntimeError: process 0 failed: {own}"
    assert second == [told, told, "KeyboardInterrupt: ", "2 updates"]


def test_a_last_save_that_fails_is_an_error_in_both(found):
    assert found[0]["not saved"] == "OSError: the disk is full"
    assert found[1]["not saved"] == "RuntimeError: process 0 failed: OSError: the disk is full"


def test_the_command_trains_though_its_first_process_is_slow_to_save(found):
    assert [told["command"] for told in found] == [0, 0]


def test_processes_that_were_torn_apart_go_on_with_the_weights_of_the_first(found):
    one, two = (told["torn"] for told in found)
    assert one["said"] == two["said"] == "KeyboardInterrupt: "
    assert any(not torch.equal(tensor, two["before"][name]) for name, tensor in one["before"].items())
    for name, tensor in one["weights"].items():
        assert torch.equal(tensor, two["weights"][name]), name
    assert one["history"] == two["history"]


def test_an_error_between_the_sums_of_gradients_is_raised_in_both_at_once(found):
    own = "MemoryError: no room for the gradients"
    assert found[0]["no memory"] == [f"RuntimeError: process 1 failed: {own}", "1 updates"]
    assert found[1]["no memory"] == [own, "1 updates"]


def test_a_connection_that_breaks_in_a_sum_is_a_lost_process(found):
    for told in found:
        for said in told["broken"]:
            assert said.startswith("LostProcessError: another of the 2 processes ended"), said


def test_a_closed_agent_leaves_the_other_processes(found):
    for told in found:
        assert told["closed"]["groups"] == (1, 0)
        assert "LostProcessError: the agent was closed" in told["closed"]["said"]


@pytest.mark.parametrize("name", DIFFERENT)
def test_processes_whose_agents_changed_apart_are_refused(name, found):
    for told in found:
        assert f"ValueError: the processes have different agents: {name} is" in told[name]


def test_the_text_of_a_setting_is_the_same_in_every_process():
    one, two = ({"task": lambda: None, "stop": set(order), "max_tokens": 8} for order in ([0, 8], [8, 0]))
    assert repr(one) != repr(two)
    assert text_of(one) == text_of(two)
    assert text_of(one) != text_of({**one, "max_tokens": 9})
    assert text_of(one) != text_of({**one, "stop": {0}})


def test_processes_with_different_agents_are_refused(found):
    for told in found:
        assert "ValueError: the processes have different agents: options is" in told["different"]
        assert "lr=0.01" in told["different"]
        assert "lr=0.02" in told["different"]
        assert "1 episodes cannot be shared by 2 processes" in told["too few"]


def test_a_saved_agent_goes_on_in_two_processes(found, expected):
    for told in found:
        for key, tensor in state_of(expected["ppo latent"]).items():
            torch.testing.assert_close(told["resumed"][key], tensor, atol=1e-5, rtol=0, msg=key)


def test_a_process_that_is_gone_is_an_error_in_the_others(found):
    assert "LostProcessError: another of the 2 processes ended" in found[0]["lost"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "configured for FSDP, .* set its use_fsdp to false"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed precision .bf16., .* pass dtype="),
    ],
)
def test_what_agents_do_not_do_is_refused_before_processes_join(name, value, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        RolloutWorkers()
    monkeypatch.delenv("WORLD_SIZE")
    assert RolloutWorkers().size == 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    # A shell that runs the tests in the background has its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(Path(sys.argv[1]))
