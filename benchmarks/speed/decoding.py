"""Decoding speed: ours beside transformers', base-only beside latent, and both beside the hardware limit.

All contenders of a shape share its weights, decode greedily from the same prompts for the same number of
tokens, and take turns in one process. A prompt is read before the clock starts, except in
``generate``, where it takes the place of the last token's pass.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.cache_utils import DynamicCache

from benchmarks.speed.limits import Machine, decode_cost, measure_machine, synchronise
from benchmarks.speed.turns import in_turn, median_ratio
from cola_agents.common.markdown import table
from cola_agents.common.randomness import drawn_from
from cola_agents.decoding.backbones import LatentBackbone, LatentSession, TokenBackbone, TokenSession
from cola_agents.decoding.loading import load_bundled
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sampling import sample
from cola_agents.model.versions import cache_argument

#: What ours is compared with, and the least that it should be faster by at these rows.
PEER, AIM, AIM_ROWS = "transformers_loop", 1.4, (1, 8, 32)
PROMPT = 16

Prepared = Callable[[], Tensor]
Contender = Callable[[], Prepared]


class Numbers:
    """A tokenizer of a vocabulary without words, for models of random weights."""

    eos_token_id: int | None = None

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {str(token): token for token in range(self.size)}

    def encode(self, text: str, **settings: Any) -> list[int]:
        return []

    def decode(self, ids: Sequence[int], **settings: Any) -> str:
        return ""


def random_model(config: CoLAConfig, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A CoLA model of random weights, made on their device."""
    with drawn_from(seed, device), torch.device(device):
        return CoLAForCausalLM._from_config(config, dtype=dtype).eval().requires_grad_(False)


def causal_lm(model: CoLAForCausalLM) -> Any:
    """The base as transformers' own causal LM, sharing the weights of a CoLA model."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(model.config.text_config, trust_remote_code=False)
    whole.model, whole.lm_head = model.base, model.lm_head
    whole.generation_config.eos_token_id = None  # every row gets as many tokens as are asked for
    whole.generation_config.pad_token_id = 0
    return whole.eval()


def base_tokens(latent: LatentBackbone) -> TokenBackbone:
    """A token backbone over the base of a latent one, with shared weights."""
    return TokenBackbone(causal_lm(latent.model), latent.tokenizer)


def _middle() -> CoLAForCausalLM:
    text = LlamaConfig(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    config = CoLAConfig(text_config=text, num_inverse_layers=0, num_policy_layers=2)
    return random_model(config, torch.device("cpu"), torch.float32)


#: name -> a CoLA model: the bundled one, and one whose policy is a quarter of its base, as in the paper.
MODELS: dict[str, Callable[[], CoLAForCausalLM]] = {
    "bundled": lambda: load_bundled("cola").requires_grad_(False),
    "random 256 x 8": _middle,
}


def measure_decoding(
    *, rows: tuple[int, ...] = (1, 8, 32, 128), tokens: int = 64, repeats: int = 5
) -> list[dict[str, Any]]:
    """Every shape at every number of rows, JSON-ready."""
    measured = []
    for name, make in MODELS.items():
        model = make()
        measured += [{"model": name, **measure_rows(model, count, tokens, repeats)} for count in rows]
    return measured


def measure_rows(model: CoLAForCausalLM, rows: int, tokens: int, repeats: int) -> dict[str, Any]:
    """All contenders over one model at one number of rows; times are medians of a step."""
    source = torch.Generator().manual_seed(0)
    prompts = torch.randint(model.config.vocab_size, (rows, PROMPT), generator=source).tolist()
    numbers = Numbers(model.config.vocab_size)
    latent, token = LatentBackbone(model, numbers), TokenBackbone(model, numbers)
    fixed_latent, fixed_token = LatentBackbone(model, numbers, True), TokenBackbone(model, numbers, True)
    whole = causal_lm(model)
    contenders: dict[str, Contender] = {
        "base": lambda: stepping(token, prompts, tokens),
        "cola": lambda: stepping(latent, prompts, tokens),
        "base_static": lambda: stepping(fixed_token, prompts, tokens),
        "cola_static": lambda: stepping(fixed_latent, prompts, tokens),
        "transformers_loop": lambda: looping(whole, prompts, tokens),
        "transformers_generate": lambda: generating(whole, prompts, tokens),
    }
    cpu, wall, outputs = in_turn(contenders, repeats)
    step = {name: statistics.median(times) / tokens for name, times in cpu.items()}
    costs = {
        kind: decode_cost(
            model.config,
            rows=rows,
            context=PROMPT + tokens // 2,
            element_size=model.dtype.itemsize,
            latent=kind == "cola",
        )
        for kind in ("base", "cola")
    }
    machine: dict[str, Machine] = {
        kind: measure_machine(model.device, model.dtype, copy_bytes=cost.bytes, matmul_size=512)
        for kind, cost in costs.items()
    }
    return {
        "rows": rows,
        "tokens": tokens,
        "cpu_ms_per_step": {name: round(value * 1e3, 4) for name, value in step.items()},
        "wall_ms_per_step": {
            name: round(statistics.median(times) / tokens * 1e3, 4) for name, times in wall.items()
        },
        "faster_than_transformers_loop": {
            name: median_ratio(cpu[PEER], cpu[name]) for name in ("base", "base_static")
        },
        "faster_than_transformers_generate": {
            name: median_ratio(cpu["transformers_generate"], cpu[name]) for name in ("base", "base_static")
        },
        "cola_of_base": {
            "session": median_ratio(cpu["cola"], cpu["base"]),
            "static": median_ratio(cpu["cola_static"], cpu["base_static"]),
            "bytes": round(costs["cola"].bytes / costs["base"].bytes, 3),
        },
        "copy_gb_per_s": {kind: round(m.copy_bandwidth / 1e9, 2) for kind, m in machine.items()},
        "matmul_gflop_per_s": round(machine["base"].matmul_rate / 1e9, 1),
        "limits": {
            name: machine[kind].described(costs[kind], step[name])
            for kind in costs
            for name in (kind, f"{kind}_static")
        },
        "same_tokens": {
            name: round((outputs[name] == outputs[of]).float().mean().item(), 4)
            for of, names in (
                ("transformers_loop", ("base", "base_static", "transformers_generate")),
                ("cola", ("cola_static",)),
            )
            for name in names
        },
    }


def stepping(backbone: LatentBackbone | TokenBackbone, prompts: list[list[int]], tokens: int) -> Prepared:
    """A session that takes its policy's likeliest actions; base and policy have read the prompts."""
    rows = list(range(len(prompts)))
    session: LatentSession | TokenSession = backbone.session(len(rows))
    session.load(rows, prompts)
    session.policy(rows)
    return lambda: continued(session, tokens)


def continued(session: LatentSession | TokenSession, tokens: int) -> Tensor:
    """The next tokens [B, tokens] of all rows, under the policy's likeliest actions."""
    rows, act = list(range(session.num_rows)), session.device_policy()
    draw, u = partial(sample, temperature=0.0), np.zeros(session.num_rows)
    for _ in range(tokens):
        drawn = session.act(rows, act, draw, u)
        actions = session.policy(rows).argmax(-1).cpu().numpy() if drawn is None else drawn[0]
        decoded = session.decode(rows, actions)
        session.extend(rows, [ids.tolist() for ids in decoded.tokens])
    return torch.tensor([ids[-tokens:] for ids in session.tokens])


def looping(whole: Any, prompts: list[list[int]], tokens: int) -> Prepared:
    """transformers' model over its own growing cache, a call a token."""
    cache = DynamicCache(config=whole.config)
    ids = torch.tensor(prompts, device=whole.device)
    with torch.no_grad():
        logits = whole(ids, use_cache=True, **cache_argument(cache), logits_to_keep=1).logits

    @torch.no_grad()
    def run() -> Tensor:
        nonlocal logits
        generated = []
        for _ in range(tokens):
            generated.append(logits[:, -1:].argmax(-1))
            logits = whole(generated[-1], use_cache=True, **cache_argument(cache)).logits
        return torch.cat(generated, dim=1).cpu()

    return run


def generating(whole: Any, prompts: list[list[int]], tokens: int) -> Prepared:
    """``generate``, greedily."""
    ids = torch.tensor(prompts, device=whole.device)
    given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}

    def run() -> Tensor:
        generated = whole.generate(ids, **given)[:, ids.shape[1] :]
        synchronise(whole.device)
        return generated.cpu()

    return run


def decoding_table(measured: list[dict[str, Any]]) -> str:
    """CPU milliseconds per step, and ratios of them, as Markdown."""
    names = list(measured[0]["cpu_ms_per_step"])
    head = ["model", "rows", *names, f"base faster than {PEER}", f"aim {AIM}"]
    head += ["base of limit", "cola of base", "by bytes"]
    rows = []
    for part in measured:
        faster = part["faster_than_transformers_loop"]["base"]
        aim = "-" if part["rows"] not in AIM_ROWS else "met" if faster >= AIM else "missed"
        times = [f"{part['cpu_ms_per_step'][name]:.3f}" for name in names]
        cola = part["cola_of_base"]
        ratios = [part["limits"]["base"]["of_limit"], cola["session"], cola["bytes"]]
        shares = [f"{ratio:.2f}" for ratio in ratios]
        rows.append([part["model"], part["rows"], *times, f"{faster:.2f}", aim, *shares])
    return table(head, rows)
