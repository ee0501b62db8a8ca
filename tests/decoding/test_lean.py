"""The lean forward pass computes what the stack computes, or is not taken."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.kv import Chunk, GrowingRows, KVRows, Window, run_rows
from cola_agents.decoding.lean import Angles, lean_forward, plan
from cola_agents.model.versions import cache_argument

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
SHAPES = {
    "grouped": (LlamaConfig, {}),
    "plain": (LlamaConfig, {"num_key_value_heads": 4}),
    "llama3 rope": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE}),
    "biases, wide heads": (LlamaConfig, {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "mistral without a window": (MistralConfig, {"sliding_window": None}),
    "qwen2, with biases": (Qwen2Config, {}),
    "qwen3, with norms of queries and keys": (Qwen3Config, {"head_dim": 12}),
}


def stack_of(config=LlamaConfig, seed: int = 0, **changed) -> PreTrainedModel:
    """A random decoder; biases and norms are drawn too, so that a forgotten one shows."""
    torch.manual_seed(seed)
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
    stack = AutoModel.from_config(config(**fields)).eval()
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if "norm" in name or "bias" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return stack


@torch.no_grad()
def both(stack: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """The stack's and the lean pass's states: a chunk of 2 and then a token on rows of 7, 3 and 5."""
    made = plan(stack)
    assert made is not None
    ids = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(1))
    out = []
    for lean in (False, True):
        kv, states = KVRows(3, 64), []
        for starts, width in (([0, 0, 0], 8), ([7, 3, 5], 2), ([9, 5, 7], 1)):
            chunk = Chunk(3, [0, 1, 2], starts, [width] * 3, ids.device)
            window, part = Window(kv, chunk), ids[:, :width]
            if lean:
                h = lean_forward(made, stack.embed_tokens(part), chunk.positions, window, chunk.mask())
            else:
                mask = chunk.mask()
                h = stack(
                    part,
                    attention_mask={"full_attention": mask} if "qwen" in stack.config.model_type else mask,
                    position_ids=chunk.positions,
                    **cache_argument(window),
                    use_cache=True,
                ).last_hidden_state
            states.append(h)
        out.append(torch.cat(states, dim=1))
    return out[0], out[1]


@pytest.mark.parametrize("shape", SHAPES)
def test_lean_pass_equals_the_stack_on_ragged_rows(shape):
    config, changed = SHAPES[shape]
    own, lean = both(stack_of(config, **changed))
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", ["grouped", "qwen2, with biases", "qwen3, with norms of queries and keys"])
def test_lean_pass_in_bfloat16_is_as_near_to_float32_as_the_stack_is(shape):
    config, changed = SHAPES[shape]
    exact, _ = both(stack_of(config, **changed))
    own, lean = both(stack_of(config, **changed).bfloat16())
    assert lean.dtype == torch.bfloat16
    assert (lean - exact).abs().mean() < 1.2 * (own - exact).abs().mean()


@torch.no_grad()
def test_aligned_rows_need_no_mask_for_one_token():
    stack, ids = stack_of(), torch.tensor([[3, 4, 5, 6], [7, 8, 9, 1]])
    states = []
    for starts in ([3, 3], [3, 2]):
        kv = KVRows(2, 16)
        run_rows(stack, kv, Chunk(2, [0, 1], [0, 0], [3, 3], ids.device), input_ids=ids[:, :3])
        chunk = Chunk(2, [0, 1], starts, [1, 1], ids.device)
        states.append(run_rows(stack, kv, chunk, input_ids=ids[:, 3:]))
        assert chunk.aligned is (starts == [3, 3])
    torch.testing.assert_close(states[0][0], states[1][0], atol=1e-6, rtol=0)
    torch.testing.assert_close(states[0][1], stack(ids[1:]).last_hidden_state[0, 3:], atol=1e-5, rtol=1e-5)


def test_angles_grow_and_follow_the_type():
    rotary = stack_of().rotary_emb
    angles, like = Angles(rotary), torch.zeros(1)
    for length in (3, 200):
        positions = torch.tensor([[length - 1], [0]])
        cos, sin = angles.at(positions, length, like)
        expected = rotary(like, position_ids=positions)
        torch.testing.assert_close(cos.squeeze(2), expected[0], atol=0, rtol=0)
        torch.testing.assert_close(sin.squeeze(2).abs(), expected[1].abs(), atol=0, rtol=0)
    assert angles.at(positions, 200, like.bfloat16())[0].dtype == torch.bfloat16


def test_rows_grow_by_less_than_doubling_and_no_further_than_a_row_may_get():
    rows, like = GrowingRows(2, 150), torch.ones(2, 1, 3)
    sizes = []
    for length in (1, 64, 65, 129, 150, 151):
        rows.ensure(length, like)[:, length - 1] = length
        sizes.append(rows.data.shape[1])
    assert sizes == [64, 64, 96, 150, 150, 151]
    assert rows.data[0, [0, 63, 64, 128, 149, 150], 0].tolist() == [1, 64, 65, 129, 150, 151]


def test_plan_sees_weights_that_are_trained_in_place():
    stack = stack_of()
    made = plan(stack)
    with torch.no_grad():
        for weight in stack.parameters():
            weight.mul_(1.5)
    assert made.layers[1].down[0] is stack.layers[1].mlp.down_proj.weight
    own, lean = both(stack)
    torch.testing.assert_close(lean, own, atol=1e-5, rtol=1e-5)


def test_a_hook_is_seen_again_once_the_session_forgets(tiny_base, tiny_tokenizer):
    model = copy.deepcopy(tiny_base)
    session = TokenBackbone(model, tiny_tokenizer).session(1)
    session.load([0], [[1, 2]])
    seen = []
    model.model.layers[0].register_forward_hook(lambda *_: seen.append(1))
    session.extend([0], [[3]])
    assert not seen
    session.forget()
    session.load([0], [[1, 2]])
    assert seen


class Adapted(nn.Linear):
    """What an adapter library puts in a linear layer's place."""


def adapted(stack):
    own = stack.layers[1].self_attn.q_proj
    stack.layers[1].self_attn.q_proj = Adapted(own.in_features, own.out_features, bias=False)


def placed(stack):
    """What spreading a model over devices does: a ``forward`` of the module's own."""
    layer = stack.layers[1]
    layer.forward = lambda *args, own=layer.forward, **kwargs: own(*args, **kwargs)


@pytest.mark.parametrize(
    "change",
    [
        adapted,
        placed,
        lambda stack: stack.train(),
        lambda stack: stack.set_attn_implementation("eager"),
        lambda stack: stack.layers[0].mlp.up_proj.register_forward_hook(lambda *a: None),
        lambda stack: stack.layers[0].register_forward_pre_hook(lambda *a: None),
        lambda stack: setattr(stack, "norm", nn.RMSNorm(32)),
    ],
    ids=["adapter", "placement", "training", "eager attention", "hook", "layer hook", "another norm"],
)
def test_a_stack_that_is_not_plain_gets_no_plan(change):
    stack = stack_of()
    assert plan(stack) is not None
    changed = copy.deepcopy(stack)
    change(changed)
    assert plan(changed) is None


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (LlamaConfig, {"hidden_act": "gelu"}),
        (LlamaConfig, {"rope_parameters": DYNAMIC_ROPE}),
        (MistralConfig, {"sliding_window": 8}),
        (Qwen2Config, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        (Gemma2Config, {"head_dim": 8}),
    ],
    ids=["gelu", "dynamic rope", "mistral's window", "qwen2's windows", "gemma"],
)
def test_other_layers_get_no_plan(config, fields):
    assert plan(stack_of(config, **fields)) is None
    assert plan(nn.Linear(2, 2)) is None
