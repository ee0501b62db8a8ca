"""``python -m benchmarks growth``: a decoding step over rows, context, size of the vocabulary and codes.

One axis is varied at a time, from a centre of 32 rows, 64 tokens of context, 768 tokens of vocabulary and 64
codes. Weights are random, in the shape of the bundled models: times do not depend on what weights say. At
each point codes, tokens and transformers' cached loop over the same base take turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks import RESULTS, Commands
from benchmarks.speed.decoding import Contender, Numbers, causal_lm, looping, random_model, stepping
from benchmarks.speed.turns import in_turn
from cola_agents.commands.settings import positive
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.configuration import CoLAConfig
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sizes import GROWTH


@dataclass(frozen=True)
class Size:
    """What a step is measured at.

    Attributes:
        rows: texts that are decoded side by side, a token each.
        context: tokens in each row when the clock starts.
        vocabulary: tokens of the model.
        codes: of the codebook.
    """

    rows: int = 32
    context: int = 64
    vocabulary: int = 768
    codes: int = 64


AXES: Mapping[str, tuple[int, ...]] = {
    "rows": (1, 4, 16, 32, 64, 128, 256, 512),
    "context": (16, 64, 128, 256, 512, 1024),
    "vocabulary": (768, 4096, 16_384, 65_536, 131_072),
    "codes": (16, 64, 256, 1024, 4096),
}
CONTENDERS = ("codes", "tokens", "transformers_loop")


def measure_growth(axes: Mapping[str, Sequence[int]], *, tokens: int, repeats: int) -> dict[str, Any]:
    """CPU milliseconds of a step along every axis, medians, JSON-ready.

    Args:
        axes: the values of each field of :class:`Size` to measure at.
        tokens: decoded at each point.
        repeats: of each contender at each point.
    """
    centre = Size()
    measured: dict[str, list[dict[str, Any]]] = {}
    for name, values in axes.items():
        measured[name] = []
        for value in values:
            size = replace(centre, **{name: value})
            times = in_turn(_contenders(size, tokens), repeats).cpu
            step = {who: round(statistics.median(cpu) / tokens * 1e3, 4) for who, cpu in times.items()}
            measured[name].append({name: value, "cpu_ms_per_step": step})
    return {"centre": vars(centre), "tokens": tokens, "repeats": repeats, "axes": measured}


def _contenders(size: Size, tokens: int) -> dict[str, Contender]:
    model = _model(size, tokens)
    source = torch.Generator().manual_seed(0)
    prompts = torch.randint(size.vocabulary, (size.rows, size.context), generator=source).tolist()
    numbers = Numbers(size.vocabulary)
    latent, token, whole = LatentBackbone(model, numbers), TokenBackbone(model, numbers), causal_lm(model)
    return {
        "codes": lambda: stepping(latent, prompts, tokens),
        "tokens": lambda: stepping(token, prompts, tokens),
        "transformers_loop": lambda: looping(whole, prompts, tokens),
    }


def _model(size: Size, tokens: int) -> CoLAForCausalLM:
    """A model of random weights in the bundled shape, but for the size that is varied."""
    text = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=max(2048, size.context + tokens),
    )
    config = CoLAConfig(text_config=text, **{**GROWTH, "num_codes": size.codes})
    return random_model(config, torch.device("cpu"), torch.float32)


def growth_table(measured: Mapping[str, Any]) -> str:
    """The steps of every axis as Markdown."""
    rows = [
        [axis, f"{at[axis]:,}", *(f"{at['cpu_ms_per_step'][who]:.3f}" for who in CONTENDERS)]
        for axis, points in measured["axes"].items()
        for at in points
    ]
    return table(["axis", "value", *CONTENDERS], rows)


def draw(measured: Mapping[str, Any], path: Path) -> None:
    """A panel for each axis, both scales logarithmic."""
    from matplotlib.figure import Figure

    axes = measured["axes"]
    figure = Figure(figsize=(3.2 * len(axes), 3.0), layout="constrained")
    styles = {"codes": ("#0072B2", "o"), "tokens": ("#D55E00", "^"), "transformers_loop": ("#4D4D4D", "s")}
    panels = figure.subplots(1, len(axes), sharey=True, squeeze=False)[0]
    for panel, (axis, points) in zip(panels, axes.items(), strict=True):
        for who, (colour, marker) in styles.items():
            panel.plot(
                [at[axis] for at in points],
                [at["cpu_ms_per_step"][who] for at in points],
                color=colour,
                marker=marker,
                label=who.replace("_", " "),
            )
        panel.set(xscale="log", yscale="log", xlabel=axis)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("CPU ms a step")
    panels[0].legend(fontsize=8)
    centre = ", ".join(f"{value} {name}" for name, value in measured["centre"].items())
    figure.suptitle(f"Decoding step on one CPU thread; elsewhere {centre}", fontsize=10)
    figure.savefig(path, dpi=130)


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "growth", help="how a decoding step's time grows with rows, context, vocabulary and codes"
    )
    parser.add_argument("--tokens", type=positive, default=16, help="decoded at each point")
    parser.add_argument("--repeats", type=positive, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "growth.json", help="with a .png beside it")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    measured = provenance() | measure_growth(AXES, tokens=arguments.tokens, repeats=arguments.repeats)
    write_json(arguments.out, measured, indent=1)
    draw(measured, arguments.out.with_suffix(".png"))
    print(growth_table(measured))
