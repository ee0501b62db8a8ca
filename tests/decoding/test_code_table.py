"""The table of codes gives what the world model gives, and only for the weights it was made of."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cola_agents.decoding.backbones import LatentBackbone
from cola_agents.decoding.code_table import code_table
from cola_agents.model.modeling import CoLAForCausalLM
from tests import tiny

READOUTS = ("state", "difference", "normed_difference")


def some_states(rows: int = 6) -> torch.Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize("readout", READOUTS)
def test_looked_up_codes_give_the_worlds_logits(readout):
    model = tiny.make_cola(readout)
    table, h, codes = code_table(model), some_states(), torch.tensor([0, 3, 15, 3, 7, 1])
    expected = model.world(h, codes)
    largest = expected.abs().max()
    torch.testing.assert_close(table.world(h, codes) / largest, expected / largest, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 4, 7, 16, 17])
def test_compiled_layers_give_the_worlds_logits_for_any_number_of_states(rows, monkeypatch):
    pytest.importorskip("numba")
    from cola_agents.decoding import kernels

    model = tiny.make_cola()
    table, h = code_table(model), some_states(rows)
    codes = torch.arange(rows) % tiny.CODES
    calls, merge_layer = [], kernels.merge_layer
    monkeypatch.setattr(kernels, "merge_layer", lambda *given: calls.append(0) or merge_layer(*given))
    before = h.clone()
    torch.testing.assert_close(table.world(h, codes), model.world(h, codes), atol=1e-4, rtol=1e-5)
    assert torch.equal(h, before)
    assert len(calls) == (2 if rows <= 16 else 0)


def test_what_the_compiled_layers_cannot_do_runs_as_it_did(monkeypatch):
    pytest.importorskip("numba")
    from cola_agents.decoding import kernels

    monkeypatch.setattr(kernels, "merge_layer", None)
    codes = torch.tensor([0, 3])
    odd = tiny.make_cola(base=tiny.make_base(intermediate_size=60))
    with torch.no_grad():
        torch.testing.assert_close(
            code_table(odd).world(some_states(2), codes), odd.world(some_states(2), codes)
        )
    model, h = tiny.make_cola(), some_states(2).requires_grad_()
    code_table(model).world(h, codes).sum().backward()
    assert h.grad.abs().sum() > 0, "a gradient of the states"


@torch.no_grad()
@pytest.mark.parametrize("readout", READOUTS)
def test_all_outcomes_of_a_state_at_once_are_each_codes_own(readout):
    model = tiny.make_cola(readout)
    table, h, codes = code_table(model), some_states(), torch.arange(tiny.CODES)
    together = table.world(h[:, None], codes)
    assert together.shape == (6, tiny.CODES, tiny.VOCAB)
    for code in codes.tolist():
        expected = model.world(h, torch.full((6,), code))
        torch.testing.assert_close(together[:, code], expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("readout", READOUTS)
def test_in_bfloat16_it_errs_by_at_most_1_3_times_what_the_world_does(readout):
    """Two more roundings (the table's, and the sum's) beside those of the layers; float32 is the truth."""
    model = tiny.make_cola(readout)
    half, h = copy.deepcopy(model).bfloat16(), some_states(64)
    codes = torch.arange(64) % tiny.CODES
    exact = model.world(h, codes)
    table = code_table(half)
    looked_up, world = table.world(h.bfloat16(), codes), half.world(h.bfloat16(), codes)
    assert looked_up.dtype == torch.bfloat16
    assert (looked_up - exact).abs().mean() < 1.3 * (world - exact).abs().mean()
    assert (looked_up - world).abs().max() < 0.03 * exact.abs().max()


def test_its_memory_is_two_inner_vectors_a_code_and_layer(tiny_cola):
    table = code_table(tiny_cola)
    inner = tiny_cola.config.text_config.intermediate_size
    terms = tiny.CODES * 2 * inner * 2 * 4
    assert table.num_bytes == terms
    hidden = tiny_cola.config.text_config.hidden_size
    with torch.no_grad():
        table.world(some_states(2), torch.arange(2))
    copies = terms + 2 * 3 * inner * hidden * 4 if table._kernels is not None else 0
    assert table.num_bytes == terms + copies, "the compiled layers have weights and terms of their own"
    for layer, merge in zip(table.layers, tiny_cola.merge, strict=True):
        assert layer.gate_state.data_ptr() == merge.gate_proj.weight.data_ptr()
        assert layer.up_state.data_ptr() == merge.up_proj.weight.data_ptr()
        assert layer.down.data_ptr() == merge.down_proj.weight.data_ptr()


def trained(model: CoLAForCausalLM, name: str) -> None:
    weight = model.get_parameter(name)
    optimiser = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimiser.step()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: trained(m, "codebook.weight"),
        lambda m: trained(m, "merge.0.gate_proj.weight"),
        lambda m: trained(m, "merge.1.up_proj.weight"),
        lambda m: m.load_state_dict(tiny.make_cola(seed=5).state_dict()),
        lambda m: m.double(),
        lambda m: setattr(m.merge[0], "gate_proj", nn.Linear(64, 64, bias=False)),
    ],
    ids=["trained codebook", "trained gate", "trained up", "loaded", "another type", "another module"],
)
def test_changed_weights_make_it_void_and_a_session_makes_another(tiny_cola, tiny_tokenizer, change):
    model = copy.deepcopy(tiny_cola)
    session = LatentBackbone(model, tiny_tokenizer).session(2)
    session.load([0, 1], [[1, 2], [3]])
    session.decode([0, 1], np.array([4, 9]))
    table = session._table
    assert table.holds()
    change(model)
    assert not table.holds()
    if model.dtype == torch.double:
        session = LatentBackbone(model, tiny_tokenizer).session(2)
        session.load([0, 1], [[1, 2], [3]])
    _, log_probs = session.outcomes([0, 1], top_k=3)
    with torch.no_grad():
        logits = model.world(session.last([0, 1])[:, None].expand(-1, 16, -1), torch.arange(16).expand(2, -1))
    expected = logits[..., : tiny.TOKENIZER].float().log_softmax(-1).topk(3).values
    np.testing.assert_allclose(log_probs, expected, atol=1e-4)
    assert session._table is not table
    assert session._table.holds()


def test_what_is_not_noticed_is_dropped_by_forget(tiny_cola, tiny_tokenizer):
    model = copy.deepcopy(tiny_cola)
    session = LatentBackbone(model, tiny_tokenizer).session(1)
    session.load([0], [[1, 2]])
    session.decode([0], np.array([4]))
    first = session._table
    model.codebook.weight.data.mul_(2)
    session.forget()
    session.load([0], [[1, 2]])
    session.decode([0], np.array([4]))
    assert session._table is not first
    torch.testing.assert_close(session._table.layers[0].gate, 2 * first.layers[0].gate)


class Adapted(nn.Linear):
    """What an adapter library puts in a linear layer's place."""


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.merge[0], "up_proj", Adapted(64, 64, bias=False)),
        lambda m: setattr(m.merge[0], "up_proj", nn.Linear(64, 64)),
        lambda m: m.codebook.register_forward_hook(lambda *_: None),
        lambda m: setattr(m.merge[1], "forward", lambda z, e: 0 * z),
    ],
    ids=["adapter", "bias", "hook", "a forward of its own"],
)
def test_without_a_table_a_session_asks_the_world(tiny_cola, tiny_tokenizer, change):
    model = copy.deepcopy(tiny_cola)
    change(model)
    assert code_table(model) is None
    session = LatentBackbone(model, tiny_tokenizer).session(2)
    session.load([0, 1], [[1, 2], [3]])
    ids, log_probs = session.outcomes([0, 1], top_k=1)
    assert session._table is None
    for code in range(tiny.CODES):
        codes = np.array([code, code])
        assert [int(d[0]) for d in session.decode([0, 1], codes).tokens] == ids[:, code, 0].tolist()
        with torch.no_grad():
            logits = model.world(session.last([0, 1]), torch.tensor(codes))[:, : tiny.TOKENIZER]
        np.testing.assert_allclose(log_probs[:, code, 0], logits.log_softmax(-1).amax(-1), atol=1e-4)


def test_weights_without_a_count_of_changes_get_no_table():
    with torch.inference_mode():
        model = tiny.make_cola()
    assert code_table(model) is None
