"""Two processes learn what one does: PPO, GRPO and ReMax over gloo, on a CPU.

``python -m tests.agents.test_workers OUT``, with ``RANK`` and ``WORLD_SIZE`` set, is one of the processes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cola_agents.agent import Agent
from cola_agents.grpo import GRPO
from cola_agents.ppo import PPO
from cola_agents.remax import ReMax
from cola_agents.workers import RolloutWorkers
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
    found["resumed"] = resumed(out / "agent", rank)
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


def interrupted(rank: int) -> str:
    """Ctrl-C in one process, inside the gradient step: both finish it and then end."""
    agent = make("grpo latent")
    inner = agent.optimiser.step

    def step(*arguments: Any) -> float:
        if rank == 1:
            signal.raise_signal(signal.SIGINT)
        return inner(*arguments)

    agent.optimiser.step = step  # type: ignore[method-assign]
    said = refused(lambda: agent.learn(10**6))
    return f"{said} after {agent.num_updates}"


def resumed(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    """One update, saved by the first process and loaded by both, and another update."""
    agent = make("ppo latent")
    agent.update()
    agent.save(folder)
    agent.workers.exchange(None)
    again = PPO.load(
        folder,
        model=agent.backbone.model,
        tokenizer=tiny.make_tokenizer(),
        env_kwargs={"task": Chatty, "max_tokens": 8},
    )
    again.update()
    return state_of(again)


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
            [sys.executable, "-m", "tests.agents.test_workers", str(out)],
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
    main(Path(sys.argv[1]))
