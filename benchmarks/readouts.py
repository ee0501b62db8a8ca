"""``python -m benchmarks readouts``: how far new latent parts are from their base, for each readout.

The text is the first problems of the embedded set with their solutions, so that anyone has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import RESULTS, Commands
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.decoding.loading import BUNDLED
from cola_agents.model.configuration import READOUTS
from cola_agents.model.loading import load_config, load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.reach import reachable
from cola_agents.model.text import PlainTokenizer
from cola_envs.tasks.substitute import test_items


def text_ids(tokenizer: PlainTokenizer, tokens: int) -> Tensor:
    """The first ``tokens`` ids [1, tokens] of the embedded problems and solutions."""
    ids: list[int] = []
    for item in test_items():
        ids += tokenizer.encode(f"{item['problem']}\n{item['solution']}\n\n")
        if len(ids) >= tokens:
            return torch.tensor([ids[:tokens]])
    raise ValueError(f"the embedded problems have {len(ids)} tokens: give a smaller --tokens than {tokens}")


@torch.no_grad()
def measure(source: str | Path, *, tokens: int, seed: int = 0) -> dict[str, Any]:
    """Cross-entropies in nats of the next token: of the base, and of new latent parts under random codes.

    Args:
        source: folder or hub id of a causal LM.
        tokens: length of the text.
        seed: of the new weights and of the codes.
    """
    source = reachable(source)
    base = load_model(AutoModelForCausalLM, source, config=load_config(source), dtype=torch.float32).eval()
    ids = text_ids(PlainTokenizer(load_tokenizer(source)), tokens)
    states = base.model(input_ids=ids, use_cache=False).last_hidden_state
    results: dict[str, Any] = {
        "model": Path(source).name,
        "tokens": tokens,
        "seed": seed,
        "base": _cross_entropy(base.lm_head(states), ids),
    }
    drawn = torch.Generator().manual_seed(seed)
    for readout in READOUTS:
        found = {}
        for name, zero_start in (("zero", True), ("drawn", False)):
            model = CoLAForCausalLM.from_base(
                base, seed=seed, calibrate_on=ids, zero_start=zero_start, readout=readout
            ).eval()
            codes = torch.randint(model.config.num_codes, ids.shape, generator=drawn)
            found[name] = _cross_entropy(model.world(states, codes), ids)
        results[readout] = found
    return results


def _cross_entropy(logits: Tensor, ids: Tensor) -> float:
    return round(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).item(), 3)


def readouts_table(results: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    rows = [
        [readout, f"{results[readout]['zero']:.3f}", f"{results[readout]['drawn']:.3f}"]
        for readout in READOUTS
    ]
    head = ["readout", "merge layers start at zero", "drawn"]
    return f"base {results['base']:.3f} nats\n\n" + table(head, rows)


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "readouts", help="cross-entropy of new latent parts beside that of their base"
    )
    parser.add_argument("--model", default=str(BUNDLED / "base"), help="folder or hub id of a causal LM")
    parser.add_argument("--tokens", type=int, default=512, help="length of the text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "readouts.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    results = measure(arguments.model, tokens=arguments.tokens, seed=arguments.seed)
    write_json(arguments.out, {**results, **provenance()}, indent=1)
    print(readouts_table(results))
