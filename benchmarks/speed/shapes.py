"""Decoding and updates at the shapes of Llama-3.1-8B, where there is a GPU to hold them.

The model has the layers of the paper's (32 of the base; 4 of inverse dynamics, 2 merge, 8 of the policy)
and random weights, made on the device in bfloat16: speed does not depend on what the weights say. Without
a GPU the same parts run at a small shape on the CPU, and the results say so.

A part that runs out of memory is recorded as such; what was measured before it is kept.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks import RESULTS, Commands
from benchmarks.peak_memory import PeakMemory, free_memory
from benchmarks.speed.decoding import Numbers, causal_lm, continued, random_model
from benchmarks.speed.limits import Machine, decode_cost, measure_machine, median_seconds, synchronise
from benchmarks.speed.updates import MeasuredPPO, random_rollout
from benchmarks.targets import judged, targets_table
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.rl.actors import Actor, make_actor, reference_actor

MAX_COLA_OF_BASE, LEAST_BANDWIDTH_SHARE = 1.33, 0.7
LEAST_UPDATE_SPEEDUP, MOST_UPDATE_MEMORY = 3.0, 0.5


@dataclass(frozen=True)
class Shape:
    """The sizes of a measurement.

    Attributes:
        text: fields of the base's ``LlamaConfig``.
        cola: fields of the :class:`~cola_agents.model.configuration.CoLAConfig` around it.
        dtype: of weights and caches.
        rows: rows that decode together, one figure each.
        prompt, tokens: of a decoded row.
        episodes, length, micro: whole episodes of an update, tokens of each, and how many are in memory
            at a time.
        copy_bytes, matmul_size: of what the machine is measured by.
    """

    text: dict[str, Any]
    cola: dict[str, Any]
    dtype: torch.dtype
    rows: tuple[int, ...]
    prompt: int
    tokens: int
    episodes: int
    length: int
    micro: int
    copy_bytes: int
    matmul_size: int

    def config(self) -> CoLAConfig:
        return CoLAConfig(text_config=LlamaConfig(**self.text), **self.cola)


SHAPES = {
    "8b": Shape(
        text={
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        cola={"num_codes": 64, "num_inverse_layers": 4, "num_merge_layers": 2, "num_policy_layers": 8},
        dtype=torch.bfloat16,
        rows=(1, 64),
        prompt=960,
        tokens=64,
        episodes=8,
        length=512,
        micro=2,
        copy_bytes=2**31,
        matmul_size=8192,
    ),
    "small": Shape(
        text={
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1792,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
        },
        cola={"num_codes": 64, "num_inverse_layers": 1, "num_merge_layers": 1, "num_policy_layers": 2},
        dtype=torch.float32,
        rows=(1, 64),
        prompt=96,
        tokens=32,
        episodes=8,
        length=64,
        micro=2,
        copy_bytes=2**28,
        matmul_size=1024,
    ),
}


def measure_shapes(
    shape: Shape | None = None,
    *,
    device: str | None = None,
    repeats: int = 3,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
) -> dict[str, Any]:
    """Run all parts, JSON-ready.

    Args:
        shape: None for 8B shapes on a GPU and for small ones on a CPU.
        device: None for a GPU where there is one.
        repeats: of every timing, after one that is not counted.
        save: called with what there is after every part.
    """
    started = time.perf_counter()
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cpu":
        torch.set_num_threads(1)
    shape = shape or SHAPES["8b" if where.type == "cuda" else "small"]
    name = next((name for name, known in SHAPES.items() if known is shape), "another")
    config = shape.config()
    results: dict[str, Any] = {
        **provenance(),
        "device": where.type,
        "shape": name,
        "note": "8B shapes, random weights"
        if name == "8b"
        else "NOT 8B shapes: the targets are for those, and are judged here only to show the procedure",
        "config": {**shape.text, **shape.cola, "dtype": str(shape.dtype).removeprefix("torch.")},
        "weights_read_cola_of_base": round(_weights_ratio(config, shape), 3),
        "parts": {},
    }
    held = _Held(shape, where)
    parts: dict[str, Callable[[], Any]] = {
        "machine": lambda: held.measure(),
        "model": lambda: held.build(config),
        **{f"decode {n}": partial(decode, held, n, repeats) for n in shape.rows},
        "update latent": lambda: update_latent(held, repeats),
        "update token": lambda: update_token(held, repeats),
    }
    for part, run in parts.items():
        began = time.perf_counter()
        try:
            figures = run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            figures = {"out_of_memory": str(error).splitlines()[0]}
        if "out_of_memory" in figures:
            free_memory(where)  # here, where the error and its frames are gone
        results["parts"][part] = {**figures, "wall_s": round(time.perf_counter() - began, 2)}
        if part == "model" and "out_of_memory" in figures:
            break
        save(results)
    results["targets"] = targets(results["parts"], shape)
    results["wall_s"] = round(time.perf_counter() - started, 1)
    save(results)
    return results


def _weights_ratio(config: CoLAConfig, shape: Shape) -> float:
    """The floor of CoLA's decoding time over the base's at one row and no context: weights read."""
    costs = [
        decode_cost(config, rows=1, context=0, element_size=shape.dtype.itemsize, latent=latent)
        for latent in (True, False)
    ]
    return costs[0].weight_bytes / costs[1].weight_bytes


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means out of memory: a GPU's allocator has a class for it, the CPU's a plain error."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


class _Held:
    """What parts share: the machine's rates, and the model, until the token-level part takes it apart."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self.shape = shape
        self.device = device
        self.numbers = Numbers(shape.text["vocab_size"])
        self.machine: Machine | None = None
        self.model: CoLAForCausalLM | None = None
        self.memory = PeakMemory(device)

    def measure(self) -> dict[str, Any]:
        shape = self.shape
        self.machine = measure_machine(
            self.device, shape.dtype, copy_bytes=shape.copy_bytes, matmul_size=shape.matmul_size
        )
        return {
            "copy_gb_per_s": round(self.machine.copy_bandwidth / 1e9, 1),
            "matmul_tflop_per_s": round(self.machine.matmul_rate / 1e12, 3),
        }

    def build(self, config: CoLAConfig) -> dict[str, Any]:
        self.model = random_model(config, self.device, self.shape.dtype)
        return {"parameters": sum(p.numel() for p in self.model.parameters())}


def decode(held: _Held, rows: int, repeats: int) -> dict[str, Any]:
    """Base-only and CoLA decoding of so many rows, as a session does it (on a GPU with CUDA graphs)."""
    shape, model = held.shape, held.model
    assert model is not None
    assert held.machine is not None
    source = torch.Generator().manual_seed(0)
    prompts = torch.randint(shape.text["vocab_size"], (rows, shape.prompt), generator=source).tolist()
    backbones: dict[str, LatentBackbone | TokenBackbone] = {
        "base": TokenBackbone(model, held.numbers),
        "cola": LatentBackbone(model, held.numbers),
    }
    times: dict[str, list[float]] = {name: [] for name in backbones}
    figures: dict[str, Any] = {}
    for turn in range(repeats + 1):
        for name, backbone in backbones.items():
            session = backbone.session(rows, shape.prompt + shape.tokens)
            for timed in (False, True):  # the first time captures the graphs
                session.load(range(rows), prompts)
                synchronise(held.device)
                started = time.perf_counter()
                continued(session, shape.tokens)
                synchronise(held.device)
                if turn and timed:
                    times[name].append((time.perf_counter() - started) / shape.tokens)
            del session
    for name in backbones:
        cost = decode_cost(
            model.config,
            rows=rows,
            context=shape.prompt + shape.tokens // 2,
            element_size=shape.dtype.itemsize,
            latent=name == "cola",
        )
        seconds = statistics.median(times[name])
        figures[name] = {
            "tokens_per_s": round(rows / seconds, 1),
            **held.machine.described(cost, seconds),
            "all_ms": [round(value * 1e3, 4) for value in times[name]],
        }
    figures["cola_of_base"] = round(statistics.median(times["cola"]) / statistics.median(times["base"]), 3)
    return figures


def update_latent(held: _Held, repeats: int) -> dict[str, Any]:
    """An update of the policy stack on kept hidden states; the whole model stays in memory to play on."""
    assert held.model is not None
    held.memory.begin()
    backbone = LatentBackbone(held.model, held.numbers)
    return _timed_updates(held, make_actor(backbone), reference_actor(backbone), backbone, repeats)


def update_token(held: _Held, repeats: int) -> dict[str, Any]:
    """An update of the whole base; nothing of the latent-action model but the base stays in memory."""
    assert held.model is not None
    whole = causal_lm(held.model)
    held.model = None
    held.memory.begin()
    given, own = (TokenBackbone(model, held.numbers) for model in (whole, copy.deepcopy(whole)))
    return _timed_updates(held, make_actor(own), reference_actor(given), own, repeats)


def _timed_updates(
    held: _Held, actor: Actor, reference: Actor, backbone: LatentBackbone | TokenBackbone, repeats: int
) -> dict[str, Any]:
    shape = held.shape
    rollout = random_rollout(backbone, shape.episodes, shape.length, shape.micro)
    agent = MeasuredPPO(actor, reference, shape.micro)
    seconds = median_seconds(lambda: agent.once(rollout), held.device, repeats)
    return {
        "seconds": round(seconds, 4),
        "actions_per_s": round(rollout.num_actions / seconds, 1),
        "trained_parameters": sum(p.numel() for p in actor.trained().values()),
        "optimiser": "Adam, its state of the weights' own type",
        "peak_memory_mib": held.memory.mib(),
        "memory_is": held.memory.what,
    }


def targets(parts: dict[str, Any], shape: Shape) -> list[dict[str, Any]]:
    """The targets beside the measurements; ``met`` is None where nothing was measured."""
    return judged(_judged(parts, shape))


def _judged(parts: dict[str, Any], shape: Shape) -> Iterator[tuple[str, float | None, bool]]:
    for rows in shape.rows:
        ratio = parts.get(f"decode {rows}", {}).get("cola_of_base")
        text = f"CoLA decoding at most {MAX_COLA_OF_BASE} times base-only, {rows} rows"
        yield text, ratio, ratio is not None and ratio <= MAX_COLA_OF_BASE
    for kind in ("base", "cola"):
        share = parts.get("decode 1", {}).get(kind, {}).get("of_copy_bandwidth")
        text = f"batch-1 decoding ({kind}) at {LEAST_BANDWIDTH_SHARE} or more of the copy bandwidth"
        yield text, share, share is not None and share >= LEAST_BANDWIDTH_SHARE
    latent, token = (parts.get(f"update {kind}", {}) for kind in ("latent", "token"))
    text = f"latent PPO update at least {LEAST_UPDATE_SPEEDUP:g} times faster than the token-level one"
    ratio = round(token["seconds"] / latent["seconds"], 2) if _both(latent, token, "seconds") else None
    yield text, ratio, ratio is not None and ratio >= LEAST_UPDATE_SPEEDUP
    text = f"with at most {MOST_UPDATE_MEMORY:g} of its memory"
    memory = "peak_memory_mib"
    share = round(latent[memory] / token[memory], 3) if _both(latent, token, memory) else None
    yield text, share, share is not None and share <= MOST_UPDATE_MEMORY


def _both(latent: dict[str, Any], token: dict[str, Any], name: str) -> bool:
    """Whether the memory of both can be compared: a tiny model does not change the process's peak."""
    return bool(latent.get(name)) and bool(token.get(name))


def shapes_table(results: dict[str, Any]) -> str:
    """Targets beside what was measured, as Markdown."""
    lines = [
        f"Device {results['device']}, shape {results['shape']}: {results['note']}.",
        f"Floor of CoLA over base-only decoding, from weights read: {results['weights_read_cola_of_base']}.",
        "",
        targets_table(results["targets"]),
    ]
    return "\n".join(lines)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "shapes", help="decoding and PPO updates at 8B shapes on a GPU; at a small shape on a CPU"
    )
    parser.add_argument("--shape", choices=tuple(SHAPES), help="default: 8b where there is a GPU")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "shapes.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    # What an earlier run published stays until this one is through.
    partial = arguments.out.with_suffix(".partial.json")
    results = measure_shapes(
        SHAPES.get(arguments.shape),
        device=arguments.device,
        repeats=arguments.repeats,
        save=lambda so_far: write_json(partial, so_far, indent=1),
    )
    partial.replace(arguments.out)
    print(shapes_table(results))
