"""The fused pass computes what the stack computes, for small stacks on a CPU; without numba they run lean."""

from __future__ import annotations

import copy
import multiprocessing
import sys
import threading
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from cola_agents.decoding import fused
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.decoding.fused import Packed, fused_stack
from cola_agents.decoding.kv import Chunk, KVRows, run_rows
from cola_agents.decoding.lean import plan
from tests import tiny
from tests.decoding.test_lean import SHAPES, stack_of

pytest.importorskip("numba")

IDS = torch.randint(50, (3, 16), generator=torch.Generator().manual_seed(1)).tolist()
#: How many tokens three rows gain in each pass: prompts, a row that waits, chunks beside single tokens.
PASSES = ([7, 3, 5], [1, 1, 1], [2, 0, 1], [1, 4, 1], [1, 1, 1])


@torch.no_grad()
def packed_states(stack: PreTrainedModel) -> list[torch.Tensor]:
    """The states [T, D] of three rows that gain tokens as ``PASSES`` says."""
    kv, held, states = KVRows(3, 64), [0, 0, 0], [[], [], []]
    for widths in PASSES:
        rows = [row for row in (2, 0, 1) if widths[row]]
        gained = [widths[row] for row in rows]
        ((_, chunk),) = kv.passes(stack, rows, [held[row] for row in rows], gained)
        assert isinstance(chunk, Packed)
        ids = chunk.lay([IDS[row][held[row] : held[row] + widths[row]] for row in rows])
        h = run_rows(stack, kv, chunk, input_ids=ids)
        for row, part in zip(rows, h.split(gained), strict=True):
            states[row].append(part)
            held[row] += len(part)
    return [torch.cat(parts) for parts in states]


@pytest.fixture(params=[0, 16], ids=["parts", "whole layers"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are compiled whole in none of the passes of ``PASSES``, or in all."""
    monkeypatch.setattr(fused, "FEW", request.param)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_rows_equal_the_stack(shape: str) -> None:
    config, changed = SHAPES[shape]
    stack = stack_of(config, **changed)
    for ids, states in zip(IDS, packed_states(stack), strict=True):
        with torch.no_grad():
            own = stack(torch.tensor([ids[: len(states)]])).last_hidden_state[0]
        torch.testing.assert_close(states, own, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("wide", [1, 8, 16, 64, 128, 129])
def test_heads_of_any_size_and_grouping_are_read(wide: int) -> None:
    stack = stack_of(head_dim=2 * wide, num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=1)
    states = packed_states(stack)[0]
    with torch.no_grad():
        own = stack(torch.tensor([IDS[0][: len(states)]])).last_hidden_state[0]
    torch.testing.assert_close(states, own, atol=2e-5, rtol=1e-5)


def test_layers_are_compiled_whole_for_few_tokens_of_sizes_that_the_loops_take(monkeypatch) -> None:
    calls = []
    real = fused.FusedStack._whole_layers
    monkeypatch.setattr(
        fused.FusedStack, "_whole_layers", lambda self, h, *rest: calls.append(len(h)) or real(self, h, *rest)
    )
    packed_states(stack_of())
    assert calls == [sum(widths) for widths in PASSES]
    monkeypatch.setattr(fused, "FEW", 3)
    del calls[:]
    packed_states(stack_of())
    assert calls == [3, 3, 3], "the passes of three tokens, and not those of 15 and 6"
    del calls[:]
    packed_states(stack_of(intermediate_size=60))
    assert not calls


def test_a_long_prompt_runs_lean_and_the_pass_after_it_fused(tiny_base, tiny_tokenizer) -> None:
    session = TokenBackbone(tiny_base, tiny_tokenizer).session(2)
    long = [1 + i % 40 for i in range(fused.LONGEST + 5)]
    kinds = []
    whole = session._forward
    session._forward = lambda chunk, *given: kinds.append(type(chunk)) or whole(chunk, *given)
    session.load([0, 1], [long, [3, 4]])
    session.extend([0, 1], [[5], [6]])
    assert kinds == [Packed, Chunk, Packed]
    for row in (0, 1):
        with torch.no_grad():
            own = tiny_base.model(torch.tensor([session.tokens[row]])).last_hidden_state[0]
        torch.testing.assert_close(session.states(row), own, atol=1e-4, rtol=0)


def test_single_tokens_and_short_prompts_are_one_pass(tiny_base, tiny_tokenizer) -> None:
    session = TokenBackbone(tiny_base, tiny_tokenizer).session(3)
    session.load([0, 1, 2], [[1, 2, 3], [4, 5], [6]])
    passes = []
    whole = session._forward
    session._forward = lambda *given: passes.append(given) or whole(*given)
    session.extend([2, 0, 1], [[1], [2, 3, 4], [5, 6]])
    assert len(passes) == 1


@torch.no_grad()
def test_a_row_does_not_see_its_neighbours_nor_what_stood_in_its_place(tiny_base, tiny_tokenizer) -> None:
    session = TokenBackbone(tiny_base, tiny_tokenizer).session(3)
    session.load([0, 1, 2], [[9] * 40, [8] * 30, [7]])
    for keys, values in session.kv._layers.values():
        keys.data[0], keys.data[2, 1:] = float("nan"), float("nan")
        values.data[0], values.data[2, 1:] = float("nan"), float("nan")
    session.extend([1, 2], [[1, 2], [3]])
    for row in (1, 2):
        own = tiny_base.model(torch.tensor([session.tokens[row]])).last_hidden_state[0]
        torch.testing.assert_close(session.states(row), own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_names_its_row_and_spares_the_others(
    tiny_base, tiny_tokenizer, value
) -> None:
    model = copy.deepcopy(tiny_base)
    with torch.no_grad():
        model.model.embed_tokens.weight[11] = value
    session = TokenBackbone(model, tiny_tokenizer).session(4)
    session.load([0, 1, 2, 3], [[1, 2, 3], [4], [5, 6], [7]])
    with pytest.raises(NotFiniteError, match="row 2 is not finite at position 3, token 11") as caught:
        session.extend([0, 1, 2, 3], [[1], [2, 3], [8, 11], [9]])
    assert caught.value.row == 2
    session.extend([0, 1, 2, 3], [[1], [2, 3], [8], [9]])
    with torch.no_grad():
        own = tiny_base.model(torch.tensor([session.tokens[2]])).last_hidden_state[0]
    torch.testing.assert_close(session.states(2), own, atol=1e-5, rtol=0)


def test_scores_that_overflow_are_not_finite_either() -> None:
    """As in the stack: one score of infinity makes NaN of a softmax, and no token of it passes for one."""
    stack = stack_of(num_hidden_layers=1)
    with torch.no_grad():
        stack.layers[0].self_attn.q_proj.weight *= 1e30
        stack.layers[0].self_attn.k_proj.weight *= 1e30
    assert any(not states.isfinite().all() for states in packed_states(stack))


@pytest.mark.parametrize(
    "change",
    [
        lambda stack: stack.layers[1].mlp.up_proj.weight.mul_(1.5),
        lambda stack: stack.layers[0].self_attn.q_proj.weight.add_(0.1),
        lambda stack: stack.norm.weight.mul_(2),
        lambda stack: stack.load_state_dict(
            stack_of(seed=5, attention_bias=True, mlp_bias=True).state_dict()
        ),
        lambda stack: setattr(stack.layers[0].mlp.up_proj.weight, "data", torch.randn(48, 32)),
        lambda stack: stack.layers[0].self_attn.k_proj.weight.data.mul_(-2),
        lambda stack: stack.layers[1].mlp.down_proj.bias.data.add_(0.5),
        lambda stack: fused_step(stack),
    ],
    ids=[
        "trained up",
        "trained q",
        "trained norm",
        "loaded",
        "replaced",
        "k through data",
        "bias through data",
        "fused optimiser",
    ],
)
def test_weights_that_change_are_seen(change: Any) -> None:
    """By a new session at least, however they were written."""
    stack = stack_of(attention_bias=True, mlp_bias=True)
    before = packed_states(stack)[0]
    with torch.no_grad():
        change(stack)
        own = stack(torch.tensor([IDS[0][: len(before)]])).last_hidden_state[0]
    torch.testing.assert_close(packed_states(stack)[0], own, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(own, before)


def fused_step(stack: PreTrainedModel) -> None:
    """A step of torch's fused AdamW, which does not count its writes."""
    optimiser = torch.optim.AdamW(stack.parameters(), lr=0.1, fused=True)
    for parameter in stack.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


@pytest.mark.parametrize(
    "change",
    [fused_step, lambda stack: [p.data.mul_(1.1) for p in stack.parameters()]],
    ids=["fused", "data"],
)
def test_forget_reads_weights_anew_however_they_were_written(change: Any, tiny_base, tiny_tokenizer) -> None:
    model = copy.deepcopy(tiny_base)
    session = TokenBackbone(model, tiny_tokenizer).session(1)
    session.load([0], [[1, 2, 3]])
    with torch.no_grad():
        change(model.model)
        session.forget()
        session.load([0], [[1, 2, 3]])
        own = model.model(torch.tensor([[1, 2, 3]])).last_hidden_state[0]
    torch.testing.assert_close(session.states(0), own, atol=1e-4, rtol=1e-4)


def test_sessions_share_what_is_made_of_one_stack() -> None:
    stack = stack_of()
    one, other = KVRows(2, 64), KVRows(1, 64)
    assert one.fused_for(stack) is other.fused_for(stack)
    stack.layers[0] = copy.deepcopy(stack.layers[0])
    other.forget_plan()
    assert other.fused_for(stack) is not one.fused_for(stack)


@pytest.mark.parametrize(
    "stack",
    [
        stack_of(Gemma2Config, head_dim=8),
        stack_of().bfloat16(),
        stack_of().double(),
        stack_of(intermediate_size=110_000),
        nn.Linear(2, 2),
    ],
    ids=["gemma", "bfloat16", "float64", "large", "no decoder"],
)
def test_other_stacks_run_as_before(stack: nn.Module) -> None:
    assert KVRows(1, 64).fused_for(stack) is None


def test_weights_without_a_count_of_changes_are_not_copied() -> None:
    with torch.inference_mode():
        stack = stack_of()
    assert fused_stack(stack, plan(stack)) is None


@pytest.mark.parametrize("config", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_without_numba_the_tokens_are_the_same(config, tiny_tokenizer, monkeypatch) -> None:
    model = AutoModelForCausalLM.from_config(stack_of(config, vocab_size=tiny.TOKENIZER).config).eval()
    packed = written(TokenBackbone(model, tiny_tokenizer).session(3), fused=True)
    monkeypatch.setattr(fused, "_kernels", lambda: None)
    monkeypatch.setattr(fused, "_made", {})
    assert written(TokenBackbone(model, tiny_tokenizer).session(3), fused=False) == packed


def test_without_numba_the_codes_are_the_same(tiny_cola, tiny_tokenizer, monkeypatch) -> None:
    packed = written(LatentBackbone(tiny_cola, tiny_tokenizer).session(3), fused=True)
    monkeypatch.setattr(fused, "_kernels", lambda: None)
    monkeypatch.setattr(fused, "_made", {})
    assert written(LatentBackbone(tiny_cola, tiny_tokenizer).session(3), fused=False) == packed


def written(session: Any, *, fused: bool) -> list[list[int]]:
    """What the likeliest actions write on three prompts."""
    session.load([0, 1, 2], [[1, 2, 3], [4, 5], [6]])
    for _ in range(30):
        actions = session.policy([0, 1, 2]).argmax(-1).numpy()
        session.extend([0, 1, 2], [ids.tolist() for ids in session.decode([0, 1, 2], actions).tokens])
    assert (session.kv.fused_for(session.base) is not None) is fused
    return session.tokens


@pytest.mark.parametrize("cause", ["no module", "switched off"])
def test_a_numba_that_does_not_work_is_said_once_and_why(cause, monkeypatch) -> None:
    if cause == "no module":
        monkeypatch.setitem(sys.modules, "numba", None)
    else:
        monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    fused._kernels.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="NUMBA_DISABLE_JIT|import of numba halted"):
            found = fused._kernels()
        assert found is None
        with warnings.catch_warnings(action="error"):
            assert fused._kernels() is None
    finally:
        fused._kernels.cache_clear()


def _in_a_fork(stack: PreTrainedModel, expected: np.ndarray, answer: Any) -> None:
    answer.send(bool(np.allclose(packed_states(stack)[0], expected, atol=1e-6)))


@pytest.mark.skipif(
    not hasattr(multiprocessing.get_context(), "fork") and sys.platform == "win32", reason="fork"
)
def test_a_forked_process_goes_on_with_the_compiled_loops() -> None:
    stack = stack_of()
    expected = packed_states(stack)[0].numpy()
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=_in_a_fork, args=(stack, expected, theirs))
    process.start()
    assert mine.poll(60)
    assert mine.recv()
    process.join()


def test_threads_with_a_session_each_do_not_disturb_each_other() -> None:
    stack = stack_of()
    expected, wrong = packed_states(stack)[0], []

    def run() -> None:
        for _ in range(20):
            if not torch.equal(packed_states(stack)[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
