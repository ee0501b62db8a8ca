"""The lean forward pass computes what the stack computes, or is not taken."""

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel

from cola_agents.kv import KVRows
from cola_agents.lean import lean_forward, plan

SHAPES = {
    "grouped": {},
    "plain": {"num_key_value_heads": 4},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
}


def llama(**changed) -> LlamaModel:
    torch.manual_seed(0)
    fields = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        **changed,
    }
    return LlamaModel(LlamaConfig(**fields)).eval()


@torch.no_grad()
def both(stack: LlamaModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The stack's and the lean pass's last states over rows of lengths 7, 3 and 5, two tokens each."""
    out = []
    starts, ids = (
        torch.tensor([7, 3, 5]),
        torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1)),
    )
    for lean in (False, True):
        kv = KVRows(3)
        for first, width in ((torch.zeros(3, dtype=torch.long), 8), (starts, 2)):
            positions = first[:, None] + torch.arange(width)
            length = int(positions.max()) + 1
            mask = torch.arange(length) <= positions[:, None, :, None]
            window = kv.window(None, positions, length)
            chunk = ids[:, :8] if width == 8 else ids[:, 8:10]
            if lean:
                h = lean_forward(plan(stack), stack.embed_tokens(chunk), positions, window, mask)
            else:
                h = stack(
                    chunk, attention_mask=mask, position_ids=positions, past_key_values=window, use_cache=True
                ).last_hidden_state
        out.append(h)
    return out[0], out[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_lean_pass_equals_the_stack_on_ragged_rows(shape):
    own, lean = both(llama(**SHAPES[shape]))
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=1e-5)


def test_plan_sees_weights_that_are_trained_in_place():
    stack = llama()
    made = plan(stack)
    with torch.no_grad():
        for weight in stack.parameters():
            weight.mul_(1.5)
    assert made.layers[1].down is stack.layers[1].mlp.down_proj.weight
    own, lean = both(stack)
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=1e-5)


class Adapted(nn.Linear):
    """What an adapter library puts in a linear layer's place."""


def adapted(stack):
    own = stack.layers[1].self_attn.q_proj
    stack.layers[1].self_attn.q_proj = Adapted(own.in_features, own.out_features, bias=False)


@pytest.mark.parametrize(
    "change",
    [
        adapted,
        lambda stack: stack.train(),
        lambda stack: stack.set_attn_implementation("eager"),
        lambda stack: stack.layers[0].mlp.up_proj.register_forward_hook(lambda *a: None),
        lambda stack: stack.layers[0].register_forward_pre_hook(lambda *a: None),
    ],
    ids=["adapter", "training", "eager attention", "hook", "layer hook"],
)
def test_a_stack_that_is_not_plain_gets_no_plan(change):
    stack = llama()
    assert plan(stack) is not None
    changed = copy.deepcopy(stack)
    change(changed)
    assert plan(changed) is None


@pytest.mark.parametrize("fields", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}])
def test_other_layers_get_no_plan(fields):
    assert plan(llama(**fields)) is None


def test_another_family_gets_no_plan():
    config = MistralConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    config.num_key_value_heads = 2
    assert plan(MistralModel(config).eval()) is None
