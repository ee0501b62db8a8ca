"""``python -m benchmarks stages``: what the stages of a real language model take, now and before.

Each arm trains one stage in a process of its own, from the same weights on the same batches. ``whole`` is how
stages of the bundled size compute, and all did before: the frozen base in every step, a mask of length x
length, the logits of all positions at once. ``first epoch`` computes and keeps the base's states; ``later
epoch`` reads them, as further epochs, stages and runs do. Training both stages in one pass over the base's
states would take what the first epoch and a policy on cached states take together, in every epoch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, Commands, options
from cola_agents.common.files import write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_envs.jsonl import JsonObject

#: How a stage computes, and whether it has a cache of states.
ARMS: dict[str, tuple[str, ...]] = {
    "whole": ("world", "policy"),
    "first epoch": ("world",),
    "later epoch": ("world", "policy"),
}
_GIB = 2**30 / 1024  # ru_maxrss is in KiB


@dataclass(frozen=True)
class Work:
    """What an arm trains.

    Attributes:
        model: folder of a causal LM.
        data: a description as of ``cola pretrain --data``.
        layers: of inverse dynamics, world model and policy.
        steps, rows, length: of the stage.
        stage, arm: which stage, and how it computes.
        states: folder of the cache.
    """

    model: str
    data: str
    layers: tuple[int, int, int]
    steps: int
    rows: int
    length: int
    stage: str = "world"
    arm: str = "whole"
    states: Path = Path()


def measured(work: Work) -> JsonObject:
    """Train a stage; return its CPU seconds, the process's peak memory in GiB and the losses of all steps."""
    import sys

    from cola_agents.model.loading import load_tokenizer
    from cola_agents.model.modeling import CoLAForCausalLM
    from cola_agents.model.text import PlainTokenizer
    from cola_agents.train import cross_entropy
    from cola_agents.train.clone import clone_policy
    from cola_agents.train.data.packing import PackedBatches
    from cola_agents.train.options import StageConfig
    from cola_agents.train.specs import open_data, parse_data
    from cola_agents.train.world import pretrain_world

    whole = work.arm == "whole"
    if whole:
        cross_entropy.WHOLE = sys.maxsize
    inverse, merge, policy = work.layers
    model = CoLAForCausalLM.from_base(
        work.model,
        seed=0,
        num_inverse_layers=inverse,
        num_merge_layers=merge,
        num_policy_layers=policy,
        readout="state",
    )
    batches = PackedBatches(
        open_data(parse_data([work.data]), 0),
        PlainTokenizer(load_tokenizer(work.model)),
        rows=work.rows,
        length=work.length,
    )
    config = StageConfig(
        steps=work.steps,
        rows=work.rows,
        length=work.length,
        lr=1e-3,
        warmup=5,
        log_every=1,
        attention="mask" if whole else "documents",
    )
    train: Any = {"world": pretrain_world, "policy": clone_policy}[work.stage]
    started = time.process_time()
    records = train(model, batches, config, states=None if whole else work.states)
    seconds = time.process_time() - started
    return {
        "cpu_s": round(seconds, 2),
        "tokens_per_cpu_s": round(config.tokens / seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _GIB, 3),
        "losses": [record["loss"] for record in records],
    }


def compared(work: Work, arms: dict[str, tuple[str, ...]] = ARMS) -> JsonObject:
    """Measure every stage of every arm, one process after another: ``arm: stage: figures``."""
    results: dict[str, dict[str, JsonObject]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for arm, stages in arms.items():
            for stage in stages:
                given = replace(work, arm=arm, stage=stage, states=Path(folder) / "states")
                # The process of an arm ends with it, so that its peak memory is its own.
                context = multiprocessing.get_context("spawn")
                with ProcessPoolExecutor(1, mp_context=context) as process:
                    results.setdefault(arm, {})[stage] = process.submit(measured, given).result()
    return results


def summary(results: JsonObject) -> JsonObject:
    """Tokens a CPU second of both stages together, how many times those of ``whole``, and the loss's change.

    A token counts once when both stages have trained on it. An epoch's figures are its world stage's and the
    policy's on cached states; ``over N epochs`` has one first and N - 1 later ones.
    """

    def rate(*stages: JsonObject) -> float:
        return 1 / sum(1 / stage["tokens_per_cpu_s"] for stage in stages)

    whole, first, later = results["whole"], results["first epoch"], results["later epoch"]
    policy = later["policy"]
    before = rate(whole["world"], whole["policy"])
    now = {"first epoch": rate(first["world"], policy), "later epochs": rate(later["world"], policy)}
    for epochs in (2, 5):
        once, again = 1 / now["first epoch"], (epochs - 1) / now["later epochs"]
        now[f"over {epochs} epochs"] = epochs / (once + again)
    pairs = [
        (ours, theirs)
        for arm in ("first epoch", "later epoch")
        for stage, figures in results[arm].items()
        for ours, theirs in zip(figures["losses"], whole[stage]["losses"], strict=True)
    ]
    return {
        "tokens_per_cpu_s": {"whole": round(before, 1), **{k: round(v, 1) for k, v in now.items()}},
        "times_whole": {name: round(value / before, 2) for name, value in now.items()},
        "peak_gib": {
            "whole": max(figures["peak_gib"] for figures in whole.values()),
            "now": max(figures["peak_gib"] for arm in (first, later) for figures in arm.values()),
        },
        "largest_change_of_loss": round(max(abs(ours - theirs) for ours, theirs in pairs), 6),
    }


def stage_table(results: JsonObject) -> str:
    """One row per arm and stage, as Markdown."""
    rows = [
        [arm, stage, f"{figures['tokens_per_cpu_s']:.0f}", f"{figures['peak_gib']:.2f}"]
        for arm, stages in results.items()
        for stage, figures in stages.items()
    ]
    return table(["arm", "stage", "tokens per CPU-s", "peak GiB"], rows)


def add(commands: Commands) -> None:
    parser = commands.add_parser("stages", help="what training the stages of a real LM takes")
    parser.add_argument("--model", required=True, help="folder of a causal LM")
    parser.add_argument("--data", required=True, help="as `cola pretrain --data`")
    parser.add_argument("--layers", type=int, nargs=3, default=(1, 2, 1), metavar="N")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--out", type=Path, default=RESULTS / "stages.json")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    about = options(arguments, "layers", "steps", "rows", "length")
    results = compared(Work(arguments.model, arguments.data, **about))
    found = summary(results)
    write_json(arguments.out, {**provenance(), **about, "arms": results, "summary": found}, indent=1)
    print(stage_table(results))
    for name, value in found.items():
        print(f"{name}: {value}")
