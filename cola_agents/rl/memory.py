"""Estimate the device memory of an agent from shapes alone, without weights.

Shapes: R rows that play in parallel, N episodes of an update (of one process), T tokens of an episode with
its prompt, D hidden size, L layers, Q and K the widths of all heads of queries and of keys, I the inner size
of a layer, r rank of adapters, e bytes of a number of the model's type.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from cola_agents.common.threads import SMALL
from cola_agents.decoding.kv import capacity
from cola_agents.decoding.lean import SILU, is_plain
from cola_agents.model.loading import ONE_AT_A_TIME
from cola_agents.model.modeling import CoLAForCausalLM, MergeLayer
from cola_agents.rl.policy import LOGITS_AT_ONCE
from cola_envs.backbone import Level

GIB = 2**30
#: Bytes of the loss for each logit: float32 logits, log-probabilities, probabilities and two products of
#: them, and in the backward pass two gradients.
LOGIT_BYTES = 7 * 4


def memory_plan(
    config: PretrainedConfig,
    *,
    level: Level,
    rows: int,
    length: int,
    episodes: int,
    prompt: int = 1,
    minibatch: int | None = None,
    micro_batch: int | None = None,
    lora_rank: int | None = None,
    epochs: int = 1,
    dtype: str = "bfloat16",
) -> dict[str, float]:
    """Memory in GiB of every part, of each of the three phases of an update, and of the largest phase.

    ======================= ==============================================================================
    ``weights``             e a parameter of the frozen model, and of the matrices that
                            :mod:`cola_agents.decoding.fused` copies on a CPU: of small stacks in float32
    ``policy``              e a trained parameter, and of copies beside them
    ``optimiser``           8 a trained parameter (Adam), and 4 for its float32 master where e < 4
    ``gradients``           e a trained parameter
    ``step``                4 a trained parameter (Adam on a GPU), and 4 for float32 gradients where e < 4
    ``base_cache``          R C L 2 K e; C, the cache's length, grows by a half or a third up to T or more
    ``row_states``          R C D e: the base's hidden states while episodes run
    ``policy_cache``        as ``base_cache`` for the policy's layers; 0 at token level, where it is the base
    ``code_table``          see :mod:`cola_agents.decoding.code_table`; with the copies of its compiled
                            layers, of small models in float32
    ``episodes``            N T D e: the hidden states of the episodes, for learning; twice with several
                            ``epochs``, for the initial policy's features
    ``collecting``          the same, while single episodes are joined to a batch
    ``minibatch``           the share of a gradient step
    ``activations``         of ``micro_batch`` episodes: T times :func:`activation_bytes` a layer
    ``logits``              28 a logit, of at most 2 ** 26 at once; the others are recomputed
    ======================= ==============================================================================

    Args:
        config: a :class:`~cola_agents.model.configuration.CoLAConfig`; at token level a causal LM's will do.
        level: ``"latent"`` or ``"token"``.
        rows: R, the agent's ``num_envs``.
        length: T.
        episodes: N, of one process.
        prompt: tokens of T that belong to the prompt.
        minibatch, micro_batch, lora_rank, epochs: the agent's options; 1 epoch also for ``kl_in="reward"``.
        dtype: of the model.

    Returns:
        the parts above; the sums of the phases ``playing``, ``learning`` and ``stepping``; and ``peak``, the
        largest of these. The allocator's rounding and cache and the GPU's context (about 1 GiB together at
        8B) are not included.
    """
    text: Any = config.get_text_config()
    size = getattr(torch, dtype).itemsize
    frozen, trunk, head = _parts(config, level)
    decoder = trunk.config
    whole = level == "token"
    if lora_rank is None:
        copied = _numbers(trunk) + _numbers(head)
        trained = copied
        if whole:  # the head in the agent's copy of the model is unused unless it is tied
            tied = frozen.lm_head.weight is frozen.get_input_embeddings().weight
            trained = copied - (_numbers(head) if tied else 0)
            copied = _numbers(frozen) + (0 if tied else _numbers(head))
    else:
        copied = trained = sum(
            lora_rank * (part.in_features + part.out_features)
            for part in trunk.modules()
            if isinstance(part, nn.Linear)
        )
    master = 0 if size == 4 else 4
    keys = text.num_key_value_heads * _head_dim(text)
    room = 0
    for needed in (prompt, *range(prompt + 1, length + 1)):
        if room < needed:
            room = capacity(needed, text.max_position_embeddings)
    slots = rows * room
    hidden = episodes * length * text.hidden_size * size
    kept = hidden * (1 if epochs == 1 else 2)
    step = min(minibatch or episodes, episodes)
    part = min(micro_batch or step, step) * length
    actions = head.out_features
    table = 0 if whole else _table_numbers(frozen, compiled=size == 4) * size
    stacks = [trunk] if lora_rank is None else []
    if not whole:
        stacks.append(frozen.base)
    parts = {
        "weights": (_numbers(frozen) + (sum(map(_fused_numbers, stacks)) if size == 4 else 0)) * size,
        "policy": copied * size,
        "optimiser": trained * (8 + master),
        "gradients": trained * size,
        "step": trained * (4 + master),
        "base_cache": slots * text.num_hidden_layers * 2 * keys * size,
        "row_states": slots * text.hidden_size * size,
        "policy_cache": 0 if whole else slots * decoder.num_hidden_layers * 2 * keys * size,
        "code_table": table,
        "episodes": kept,
        "collecting": hidden,
        "minibatch": kept * step // episodes if step < episodes else 0,
        "activations": part * decoder.num_hidden_layers * activation_bytes(text, size, lora_rank),
        "logits": min(part * actions, max(LOGITS_AT_ONCE, actions)) * LOGIT_BYTES,
    }
    caches = ("base_cache", "row_states", "code_table")
    always = ("weights", "policy", "optimiser", "gradients", *caches, "episodes")
    phases = {
        "playing": ("policy_cache", "collecting"),
        "learning": ("minibatch", "activations", "logits"),
        "stepping": ("minibatch", "step"),
    }
    sums = {name: sum(parts[p] for p in (*always, *phase)) for name, phase in phases.items()}
    return {name: value / GIB for name, value in {**parts, **sums, "peak": max(sums.values())}.items()}


def activation_bytes(text: Any, size: int, lora_rank: int | None = None) -> int:
    """Bytes that one layer stores for one token until the backward pass.

    ``8 D + e (4 D + 2 Q + 2 K + 4 I)``; under adapters ``8 D + e (2 D + 2 Q + 2 K + 4 I + 7 r)``: the norms'
    inputs in float32, and in the model's type their outputs (where their weights are trained), the inputs of
    the linear layers, queries, keys, values, attention's output, and four vectors of the gated MLP.

    Args:
        text: configuration of a plain decoder (Llama, Mistral, Qwen).
        size: e.
        lora_rank: r.
    """
    queries, keys = (
        heads * _head_dim(text) for heads in (text.num_attention_heads, text.num_key_value_heads)
    )
    norms = (4 if lora_rank is None else 2) * text.hidden_size
    rest = 2 * queries + 2 * keys + 4 * text.intermediate_size + 7 * (lora_rank or 0)
    return int(8 * text.hidden_size + size * (norms + rest))


def _parts(config: Any, level: Level) -> tuple[Any, Any, nn.Linear]:
    """The frozen model, and the policy's trunk and head in it, on the meta device."""
    with torch.device("meta"), ONE_AT_A_TIME:
        if level == "latent":
            model = CoLAForCausalLM._from_config(config)
            return model, model.policy_trunk, model.policy_head
        whole = AutoModelForCausalLM.from_config(config.get_text_config(), trust_remote_code=False)
        return whole, whole.model, whole.lm_head


def _fused_numbers(stack: Any) -> int:
    """Numbers in the concatenated matrices of a stack's fused form; 0 if it has none."""
    if not is_plain(stack) or _numbers(stack.layers) + _numbers(stack.norm) >= SMALL:
        return 0
    names = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
    return sum(_numbers(part) for name, part in stack.layers.named_modules() if name.endswith(names))


def _table_numbers(model: CoLAForCausalLM, *, compiled: bool) -> int:
    """Numbers in the table of codes and, of a small model, in the copies of its compiled layers."""
    layers = [layer for layer in model.merge if isinstance(layer, MergeLayer)]
    codes = int(model.config.num_codes) * int(model.config.span)
    terms = codes * sum(2 * layer.gate_proj.out_features for layer in layers)
    read = [model.codebook, *layers, *([] if model.phases is None else [model.phases])]
    sizes = [size for layer in layers for size in layer.down_proj.weight.shape]
    silu = all(isinstance(layer.activation, SILU) for layer in layers)
    if not (compiled and silu) or any(size % 8 for size in sizes) or sum(map(_numbers, read)) >= SMALL:
        return terms
    return 2 * terms + sum(3 * layer.down_proj.weight.numel() for layer in layers)


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _head_dim(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
