"""Parts of the memory plan equal what a real model takes; learning in bfloat16 keeps its hidden states so."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.speed.iterations import Work, iterations_table, measure_iterations
from benchmarks.speed.memory import plan_table, plans
from benchmarks.speed.shapes import SHAPES
from cola_agents.rl.memory import GIB, memory_plan
from cola_agents.rl.ppo import PPO
from cola_envs import Turn
from tests import tiny

DOCS = Path(__file__).parents[2] / "docs"
IDS = {"latent": "CoLA-Text-v0", "token": "CoLA-Text-Token-v0"}
WORK: dict[str, int] = {"episodes": 6, "minibatch": 4, "micro_batch": 2}


class Long:
    """One segment, ended by the budget."""

    stop: tuple[str, ...] = ()

    def reset(self, rng: np.random.Generator) -> str:
        return "Write on!"

    def step(self, text: str) -> Turn:
        return Turn(reward=float(len(text) % 2))


def held(tensors: Any, but: set[int] = frozenset()) -> int:  # type: ignore[assignment]
    """Bytes of tensors, each memory once."""
    memories = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for at, size in memories.items() if at not in but)


def where(tensors: Any) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def cached(kv: Any) -> list[Tensor]:
    return [rows.data for pair in kv._layers.values() for rows in pair]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("level", "rank"), [("latent", None), ("latent", 4), ("token", None), ("token", 4)])
def test_parts_of_the_plan_are_what_a_small_model_takes(level, rank, dtype, monkeypatch):
    shape = {"hidden_size": 64, "intermediate_size": 160, "initializer_range": 0.05}
    base = tiny.make_base(**shape, eos_token_id=None)
    model = (tiny.make_cola(base=base) if level == "latent" else base).to(getattr(torch, dtype))
    # No id ends a text, so that every episode is as long as any.
    tokenizer = tiny.make_tokenizer()
    tokenizer.eos_token = None
    agent = PPO(
        IDS[level],
        num_envs=3,
        model=model,
        tokenizer=tokenizer,
        env_kwargs={"task": Long, "max_tokens": 90},
        **WORK,
        epochs=1,
        lora_rank=rank,
    )
    seen: dict[str, int] = {}
    followed: list[Any] = []
    stepped = agent._count

    def look(**told: Any) -> None:
        followers = agent.episodes.session.followers  # type: ignore[attr-defined]
        caches = [t for follower in followers for t in cached(follower.kv)]
        seen["policy_cache"] = max(seen.get("policy_cache", 0), held(caches))
        followed[:] = [follower.kv for follower in followers]
        stepped(**told)

    agent._count = look  # type: ignore[method-assign]
    agent.update()
    rollout = agent.play(*agent.draw_seeds(WORK["episodes"]))
    length = rollout.ids.shape[1]
    plan = memory_plan(
        model.config,
        level=level,
        rows=3,
        length=length,
        prompt=length - 90,
        lora_rank=rank,
        dtype=dtype,
        **WORK,
    )
    session: Any = agent.episodes.session
    frozen = where(model.parameters())
    trained = list(agent.actor.trained().values())
    own = [*agent.backbone.model.parameters(), *agent.actor.parameters()]
    states = [t for state in agent.optimiser.adam.state.values() for t in state.values()]
    twins = [twin for twin in agent.optimiser._twins if twin.untyped_storage().data_ptr() not in where(own)]
    part = rollout.select(np.arange(WORK["micro_batch"]))
    measured = {
        "weights": held(model.parameters()),
        "policy": held(own, but=frozen),
        "optimiser": held([*states, *twins]),
        "gradients": held(p.grad for p in trained if p.grad is not None),
        "base_cache": held(cached(session.kv)),
        "row_states": held([session._states.data]),
        "policy_cache": seen["policy_cache"],
        "episodes": held([rollout.hidden]),
        "activations": kept_for_backward(agent.actor, part),
    }
    stacks = [made for made in (kv._fused for kv in (session.kv, *followed)) if made is not None]
    pairs = [pair for made in stacks for layer in made._layers for pair in (layer.qkv, layer.gate_up)]
    measured["weights"] += held(tensor for pair in pairs for tensor in pair if tensor is not None)
    if level == "latent":
        measured["code_table"] = session._table.num_bytes
    for name, found in measured.items():
        assert plan[name] * GIB == pytest.approx(found, rel=0.1), name


def kept_for_backward(actor: Any, part: Any) -> int:
    """Bytes that the trunk keeps for the gradient, beside its weights and what was there before."""
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        actor.features(part)
    return held(kept, but=where([*actor.parameters(), part.hidden]))


@pytest.mark.parametrize("level", list(IDS))
def test_ppo_learns_in_bfloat16_with_hidden_states_kept_so(level):
    agent = PPO(
        "CoLA-Math500-v0" if level == "latent" else "CoLA-Math500-Token-v0",
        num_envs=4,
        dtype="bfloat16",
        env_kwargs={"max_tokens": 4},
        episodes=4,
        minibatch=2,
        lr=1e-4,
        lora_rank=None if level == "latent" else 4,
    )
    before = {name: p.detach().clone() for name, p in agent.actor.trained().items()}
    hidden = []
    gather = agent.batch

    def gathered() -> Any:
        batch = gather()
        hidden.append(batch.rollout.hidden.dtype)
        return batch

    agent.batch = gathered  # type: ignore[method-assign]
    records = [agent.update() for _ in range(2)]
    assert hidden == [torch.bfloat16] * 2
    assert all(np.isfinite(value) for record in records for value in record.values())
    after = agent.actor.trained()
    assert any(not torch.equal(before[name], p) for name, p in after.items())
    assert {twin.dtype for twin in agent.optimiser._twins} == {torch.float32}
    states = [t for state in agent.optimiser.adam.state.values() for t in state.values()]
    assert states
    assert {t.dtype for t in states} == {torch.float32}


def test_the_table_in_the_docs_is_the_plan():
    assert plan_table(plans()) in (DOCS / "scaling.md").read_text()


def test_adapters_take_less_than_weights_and_more_rows_take_more():
    settings: dict[str, Any] = {"rows": 8, "length": 256, "episodes": 16, "micro_batch": 1}
    config = SHAPES["small"].config()
    full, lora = (memory_plan(config, level="token", **settings, lora_rank=rank) for rank in (None, 8))
    assert lora["optimiser"] < 0.1 * full["optimiser"]
    assert lora["peak"] < full["peak"]
    wider = memory_plan(config, level="token", **{**settings, "rows": 16})
    assert wider["base_cache"] == 2 * full["base_cache"]
    assert wider["weights"] == full["weights"]


def test_whole_iterations_are_measured_at_both_levels(monkeypatch):
    from benchmarks.speed import iterations

    asked = {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    given = SHAPES["small"]
    small = dataclasses.replace(given, text={**given.text, **asked})
    monkeypatch.setitem(iterations.SHAPES, "small", small)
    saved: list[int] = []
    results = measure_iterations(
        shape="small",
        device="cpu",
        work=Work(rows=4, episodes=8, max_tokens=3, minibatch=4, micro_batch=2, lora_rank=2),
        updates=1,
        save=lambda found: saved.append(len(found["arms"])),
    )
    assert saved == [1, 2, 3, 4]
    arms = {(arm["level"], arm["algorithm"]): arm for arm in results["arms"]}
    assert set(arms) == {(level, name) for level in IDS for name in ("ppo", "grpo")}
    for arm in arms.values():
        assert arm["tokens"] == [24]
        assert arm["seconds"] >= arm["playing_seconds"] > 0
        assert arm["last_record"]["timesteps"] == 48
    assert arms["latent", "ppo"]["trained_parameters"] > arms["token", "ppo"]["trained_parameters"]
    assert "says nothing about 8B" in iterations_table(results)


def test_an_arm_that_does_not_fit_is_recorded(monkeypatch):
    from benchmarks.speed import iterations

    def full(*arguments: Any) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(iterations, "_measure", full)
    results = measure_iterations(model=str(iterations.BUNDLED / "cola"), device="cpu")
    assert [arm["out_of_memory"] for arm in results["arms"]] == ["CUDA out of memory"] * 4
    assert iterations_table(results).count("out of memory") == 4


def test_work_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"episodes a multiple of 8, got .*episodes=12"):
        Work(rows=4, episodes=12, max_tokens=3, minibatch=4, micro_batch=2)
