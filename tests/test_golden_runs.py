"""The same seeds give the same episodes and the same figures as when ``golden_runs.json`` was recorded.

A change of shape must change none of them. What is drawn (actions, rewards, texts, visits) is compared
exactly; figures that go through matrix products, within the last digits that another processor may change.
``python -m tests.test_golden_runs`` records anew, and then the commit says why; it also prints a digest of
the trained weights, to compare two commits on one machine to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from cola_agents import GRPO, PPO, RLOO, ReMax
from cola_agents.search import MCTS, SearchConfig
from tests.train.training_runs import run

GOLDEN = Path(__file__).with_name("golden_runs.json")
UNTIMED = ("cpu_s", "tokens_per_s")
OPTIONS: dict[type[Any], dict[str, Any]] = {
    PPO: {"episodes": 8, "minibatch": 4, "kl_coef": 0.05, "macro": 2},
    GRPO: {"prompts": 2, "group_size": 4, "kl_in": "reward"},
    RLOO: {"prompts": 2, "group_size": 4},
    ReMax: {"episodes": 8, "entropy_coef": 0.01},
}


def digest(*things: Any) -> str:
    return hashlib.sha256(json.dumps(things).encode()).hexdigest()[:16]


def weights(folder: Path) -> str:
    """A digest of all tensors in a folder's files, to the last bit."""
    found = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(file).items()):
            found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()[:16]


def learned(algorithm: type[Any], level: str) -> tuple[dict[str, Any], str]:
    """Two updates on a game of several turns."""
    name = "CoLA-TextRooms-Token-v0" if level == "token" else "CoLA-TextRooms-v0"
    agent = algorithm(name, num_envs=8, seed=3, env_kwargs={"max_tokens": 24}, warmup=0, **OPTIONS[algorithm])
    taken: list[Any] = []

    def watch(seen: dict[str, Any], _: dict[str, Any]) -> bool:
        texts = [info["text"] for info in seen["infos"] if info.get("text")]
        taken.append([np.asarray(seen["actions"]).tolist(), np.asarray(seen["rewards"]).tolist(), texts])
        return True

    for _ in range(2):
        agent.learn(1, callback=watch)
    with tempfile.TemporaryDirectory() as folder:
        agent.save(Path(folder) / "agent")
        bits = weights(Path(folder) / "agent")
    figures = [{k: v for k, v in record.items() if k not in UNTIMED} for record in agent.history]
    agent.close()
    return {"episodes": digest(taken), "figures": figures}, bits


def searched() -> tuple[dict[str, Any], str]:
    solver = MCTS("CoLA-Arithmetic-v0", SearchConfig(simulations=12), level=2)
    result = solver.solve(range(6))
    solver.close()
    texts = [answer.text for answer in result.answers]
    return {"episodes": digest(result.visits.tolist(), texts), "figures": []}, ""


def trained(stage: str) -> tuple[dict[str, Any], str]:
    model, records = run(stage, steps=4)
    bits = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        bits.update(name.encode() + tensor.numpy().tobytes())
    figures = [{k: v for k, v in record.items() if k not in UNTIMED} for record in records]
    return {"episodes": "", "figures": figures}, bits.hexdigest()[:16]


RUNS: dict[str, Callable[[], tuple[dict[str, Any], str]]] = {
    **{
        f"{algorithm.__name__}-{level}": lambda algorithm=algorithm, level=level: learned(algorithm, level)
        for algorithm in OPTIONS
        for level in ("latent", "token")
    },
    "search": searched,
    "world stage": lambda: trained("world"),
    "policy stage": lambda: trained("policy"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_one_that_was_recorded(name: str) -> None:
    golden = json.loads(GOLDEN.read_text())[name]
    found, _ = RUNS[name]()
    assert found["episodes"] == golden["episodes"]
    assert len(found["figures"]) == len(golden["figures"])
    for record, expected in zip(found["figures"], golden["figures"], strict=True):
        assert record == pytest.approx(expected, rel=2e-3, abs=1e-5, nan_ok=True)


if __name__ == "__main__":
    recorded = {}
    for title, play in RUNS.items():
        recorded[title], digest_of_weights = play()
        print(title, recorded[title]["episodes"], digest_of_weights)
    GOLDEN.write_text(json.dumps(recorded, indent=1) + "\n")
