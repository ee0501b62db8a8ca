"""``python -m benchmarks real``: a latent-action model made of a real language model, measured on the way.

Unattended: the stages ``world`` and ``policy`` on the train splits of GSM8K and MATH, in the model's own chat
template where the environments prompt it so by default and else as plain dialogues, over one
cache of the base's states; after each, every kept checkpoint is measured on the test splits. The same command
goes on after an interruption. With ``--hours`` a few steps are timed first, and both stages get as many
tokens as fit, ``--tokens`` at most.

With larger ``--hours`` or ``--tokens`` the same command makes a run longer, also one that has ended. The
hours are for the whole: what ran before counts by the timings in the plan. The stage ``world`` goes on where
it ended, with the warm-up and the distance between checkpoints that it began with. The policy, whose world
model has changed then, is dropped and trained anew. Limits that allow no more than the plan change nothing.

A stage keeps its last checkpoints, one more than ``--points``. The figures of those that a longer run deletes
stay; but in a run that is made more than about twice as long, some are deleted before they are measured.

The folder holds the stages' runs (``world``, ``policy``), the cache (``states``), ``plan.json``, ``latent``
(the weights that are not the base's, in bfloat16, in files below 48 MB) and ``real.json``, the figures.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks import Commands, options
from cola_agents.common.files import one_writer, write_json
from cola_agents.common.markdown import table
from cola_agents.common.provenance import provenance
from cola_agents.model.loading import load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.checkpoints import TRAINED, begun_steps
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.formats import Template
from cola_agents.train.data.packing import PackedBatches
from cola_agents.train.data.sources import file_identity
from cola_agents.train.metrics import Budget, CodebookMetrics, measure
from cola_agents.train.runs import Run
from cola_agents.train.specs import DataSpec, open_data, parse_data
from cola_agents.train.training import CHECKPOINTS, LOG, train
from cola_agents.train.world import pretrain_world
from cola_envs.jsonl import JsonObject
from cola_envs.prompts import prompt_format

#: Files of the project's data, and their fields.
TRAINING = (
    "gsm8k_train.jsonl.gz,prompt=question,response=answer",
    "math_train7500.jsonl.gz,prompt=problem,response=solution",
)
HELD_OUT = (
    "gsm8k_test.jsonl,prompt=question,response=answer",
    "math500_test.jsonl,prompt=problem,response=solution",
)
STAGES = ("world", "policy")
PLAN, POINTS, FIGURES, LATENT = "plan.json", "points.json", "real.json", "latent"
#: Tokens of each stage, at most, where a new run is given no other number.
_TOKENS = 20_000_000
#: Bytes of a file of latent weights, at most.
_FILE = 47_000_000
#: The share of the hours that the stages get; the rest is for measuring and loading.
_TRAINING_SHARE = 0.85
#: Steps that are timed.
_TIMED = 2


@dataclass(frozen=True)
class Setting:
    """What is made.

    Attributes:
        model: folder or hub id of a causal LM.
        out: the folder to write.
        data, held_out: text to train and to measure on.
        tokens: of each stage, at most; None for 20 million, or what the plan of the folder says.
        layers: of inverse dynamics, world model and policy.
        readout: of the world model.
        rows, length, lr: of a step.
        device, precision, compile: of the computation.
        hours: of both stages and the measurements: CPU hours on a CPU, else wall hours; None for no limit,
            or what the plan of the folder says.
        points: checkpoints of a stage that are kept and measured.
        measured_tokens, measured_states: of a measurement; None for the default budget.
        seed: of weights, data and noise.
    """

    model: str
    out: Path
    data: tuple[DataSpec, ...]
    held_out: tuple[DataSpec, ...]
    tokens: int | None = None
    layers: tuple[int, int, int] = (4, 2, 8)
    readout: str = "state"
    rows: int = 8
    length: int = 2048
    lr: float = 1e-3
    device: str = "cpu"
    precision: str = "float32"
    compile: bool = False
    hours: float | None = None
    points: int = 8
    measured_tokens: int | None = None
    measured_states: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.most_tokens, self.points, *self.layers) < 1:
            raise ValueError(f"tokens, points and layers must be at least 1, got {self}")
        if self.hours is not None and not self.hours > 0:
            raise ValueError(f"hours must be positive, got {self.hours}")
        if any(spec.kind == "generated" for spec in (*self.data, *self.held_out)):
            raise ValueError(
                "the generated corpus is the bundled models', and endless: give files or a hub id"
            )

    @property
    def grow(self) -> JsonObject:
        names = ("num_inverse_layers", "num_merge_layers", "num_policy_layers")
        return {**dict(zip(names, self.layers, strict=True)), "readout": self.readout}

    @property
    def most_tokens(self) -> int:
        return _TOKENS if self.tokens is None else self.tokens

    @property
    def most_steps(self) -> int:
        return math.ceil(self.most_tokens / (self.rows * self.length))

    def config(self, steps: int) -> JsonObject:
        """The changes to the configuration of a stage that is begun for ``steps``."""
        save_every = math.ceil(steps / self.points)
        return {
            "rows": self.rows,
            "length": self.length,
            "lr": self.lr,
            "warmup": min(100, math.ceil(0.03 * steps)),
            "precision": self.precision,
            "compile": self.compile,
            "save_every": save_every,
            "keep": self.points + 1,
            "log_every": max(1, steps // 200),
        }

    def run(self, stage: str, steps: int, began: int | None = None) -> Run:
        """The run of a stage, which was begun for ``began`` steps; None for ``steps``."""
        return Run(
            stage=stage,
            model=self.model if stage == "world" else str(self.out / "world"),
            out=self.out / stage,
            data=self.data,
            steps=steps,
            seed=self.seed,
            config=self.config(began or steps),
            grow=self.grow if stage == "world" else {},
            states=str(self.out / "states"),
            device=self.device,
        )


def make(setting: Setting, say: Any = print) -> JsonObject:
    """Make and measure the model, or go on where that was interrupted; return the figures."""
    started = time.perf_counter()
    setting.out.mkdir(parents=True, exist_ok=True)
    plan = planned(setting, say)
    figures: JsonObject = {"plan": plan, "points": {}}
    for stage in STAGES:
        if stage == "policy":
            _drop_earlier_policy(setting, plan["steps"], say)
        run = setting.run(stage, plan["steps"], plan["began"] if stage == "world" else None)
        train(run, say)
        figures["points"][stage] = _points(setting, stage, say)
        figures[f"log of {stage}"] = [json.loads(line) for line in (run.out / LOG).read_text().splitlines()]
    model = CoLAForCausalLM.from_pretrained(setting.out / "policy")
    figures["final"] = _measured(setting, model.to(setting.device), full=True).as_dict()
    figures["latent_bytes"] = write_latent(model, setting.out / LATENT)
    figures["seconds of this call"] = round(time.perf_counter() - started, 1)
    if torch.cuda.is_available():
        figures["gpu_peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    figures["data"] = [file_identity(Path(spec.source)) for spec in setting.data if spec.kind == "file"]
    write_json(setting.out / FIGURES, {**provenance(), **figures}, indent=1)
    return figures


def _drop_earlier_policy(setting: Setting, steps: int, say: Any) -> None:
    """Remove a policy that was trained on a world model of fewer steps."""
    folder = setting.out / "policy"
    dropped = folder.with_name("policy.dropped")
    begun = begun_steps(folder / CHECKPOINTS / "policy")
    if begun is not None and begun < steps:
        with one_writer(folder):
            folder.rename(dropped)  # at once, so that a kill leaves no half of it to go on with
        say(
            f"Dropped {folder}, its checkpoints and its {POINTS}: it was trained on the world model of "
            f"{begun} steps. A policy of that of {steps} is trained anew."
        )
    shutil.rmtree(dropped, ignore_errors=True)


# ------------------------------------------------------------------ how long


def planned(setting: Setting, say: Any = print) -> JsonObject:
    """The steps of each stage, by the clock where hours are limited, and those that the first one began with.

    A plan that is in the folder is made longer by limits that allow more steps, and never shorter.

    Raises:
        ValueError: where the limit leaves no step, and for a plan of steps with other rows or lengths.
    """
    path = setting.out / PLAN
    new: JsonObject = {"steps": 0, "rows": setting.rows, "length": setting.length}
    plan: JsonObject = json.loads(path.read_text()) if path.exists() else new
    before = plan["steps"]
    shape = plan["rows"], plan["length"]
    if shape != (setting.rows, setting.length):
        raise ValueError(
            f"{path} plans steps of {shape[0]} rows of {shape[1]} tokens, and now they are {setting.rows} of "
            f"{setting.length}: give --rows {shape[0]} --length {shape[1]}, or another --out"
        )
    if not before or setting.tokens is not None or setting.hours is not None:
        plan["steps"] = max(before, _allowed(setting, plan))
    if not plan["steps"]:
        raise ValueError(f"no step fits {setting.hours} hours: a step takes {plan['first_s']:.0f} s")
    plan.setdefault("began", before or plan["steps"])  # older versions did not write it
    write_json(path, plan, indent=1)
    tokens = f"of {setting.rows * setting.length:,} tokens in each stage"
    if not before:
        say(f"Plan: {plan['steps']} steps {tokens}.")
    elif plan["steps"] > before:
        say(
            f"Plan made longer: {plan['steps']} steps {tokens} instead of {before}. "
            "The policy is trained anew."
        )
    else:
        say(f"Goes on by {path}: {before} steps in each stage; only larger --hours or --tokens change that.")
    return plan


def _allowed(setting: Setting, plan: JsonObject) -> int:
    """The most steps within the limits; timings that they need and the plan lacks are added to it."""
    if setting.hours is None:
        return setting.most_steps
    if "first_s" not in plan:
        plan.update(_timed(setting))
    return affordable(setting.most_steps, plan, setting.hours * 3600 * _TRAINING_SHARE)


def affordable(most: int, timed: JsonObject, seconds: float) -> int:
    """How many steps of both stages fit, of which only the first epoch's compute the base's states.

    Args:
        most: the most steps.
        timed: seconds of a step of the world stage that computes states (``first_s``) and that reads them
            (``later_s``), and of the policy stage (``policy_s``); ``epoch_steps``, the steps of an epoch.
        seconds: the time for both stages.
    """
    epoch = timed["epoch_steps"]
    once = timed["first_s"] + timed["policy_s"]
    if seconds <= epoch * once:
        return min(most, int(seconds / once))
    return min(most, epoch + int((seconds - epoch * once) / (timed["later_s"] + timed["policy_s"])))


def _timed(setting: Setting) -> JsonObject:
    """Time a few steps of each kind."""
    model = CoLAForCausalLM.from_base(setting.model, seed=setting.seed, **setting.grow).to(setting.device)
    states = setting.out / "timing"
    shutil.rmtree(states, ignore_errors=True)
    clock = time.process_time if setting.device == "cpu" else time.perf_counter

    def seconds(stage: Any) -> float:
        config = setting.run("world", _TIMED).stage_config()
        started = clock()
        stage(model, _packed(setting, setting.data), config, states=states)
        return (clock() - started) / _TIMED

    if setting.compile:  # which takes longer than the steps that are timed
        for stage in (pretrain_world, clone_policy):
            seconds(stage)
        shutil.rmtree(states)
    found = {
        "first_s": seconds(pretrain_world),
        "later_s": seconds(pretrain_world),
        "policy_s": seconds(clone_policy),
        "epoch_steps": sum(1 for _ in _packed(setting, setting.data, epochs=1)),
    }
    shutil.rmtree(states)
    return {name: round(value, 3) for name, value in found.items()}


def _packed(setting: Setting, specs: tuple[DataSpec, ...], epochs: int | None = None) -> PackedBatches:
    specs = tuple(replace(spec, epochs=epochs) for spec in specs)
    tokenizer = PlainTokenizer(load_tokenizer(setting.model))
    return PackedBatches(
        open_data(specs, setting.seed), tokenizer, rows=setting.rows, length=setting.length, long="chunk"
    )


# ------------------------------------------------------------------ measuring


def _points(setting: Setting, stage: str, say: Any) -> list[JsonObject]:
    """The metrics of every kept checkpoint of a stage; those that were measured are read from its folder.

    Those of checkpoints that a longer run has deleted stay. Where another text or budget was measured, the
    kept ones are measured again.
    """
    path = setting.out / stage / POINTS
    held: JsonObject = json.loads(path.read_text()) if path.exists() else {}
    on = json.loads(
        json.dumps(
            {
                "held_out": [asdict(spec) for spec in setting.held_out],
                "tokens": setting.measured_tokens,
                "states": setting.measured_states,
            }
        )
    )
    done: list[JsonObject] = held["points"] if held.get("on") == on else []
    folder = setting.out / stage / CHECKPOINTS / stage
    model: CoLAForCausalLM | None = None
    for checkpoint in sorted(folder.glob("step-" + 8 * "[0-9]")):
        step = int(checkpoint.name.removeprefix("step-"))
        if any(point["step"] == step for point in done):
            continue
        if model is None:
            model = CoLAForCausalLM.from_pretrained(setting.out / stage).to(setting.device)
        _load(model, checkpoint)
        metrics = _measured(setting, model).as_dict()
        if stage == "world":  # its policy is not trained yet
            for name in ("composed_ce", "composed_excess", "policy_entropy", "policy_perplexity"):
                del metrics[name]
            del metrics["clone_accuracy"]
        done.append({"step": step, "tokens": step * setting.rows * setting.length, "metrics": metrics})
        write_json(path, {"on": on, "points": done}, indent=1)
        say(f"{stage}, step {step}: {metrics}")
    return done


def _load(model: CoLAForCausalLM, checkpoint: Path) -> None:
    """Put a checkpoint's trained weights into a model."""
    trained = {name.removeprefix("model."): w for name, w in load_file(checkpoint / TRAINED).items()}
    unexpected = model.load_state_dict(trained, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"{checkpoint} holds weights that the model has not: {', '.join(unexpected[:3])}")


def _measured(setting: Setting, model: CoLAForCausalLM, *, full: bool = False) -> CodebookMetrics:
    """Measure on the held-out text: by the default budget in ``full``, else by a quarter of it."""
    budget = Budget.of(model, setting.measured_tokens, setting.measured_states)
    if not full:
        budget = Budget(
            setting.measured_tokens or max(16 * model.config.num_codes, budget.tokens // 4),
            setting.measured_states or max(64, budget.states // 4),
        )
    return measure(model, _packed(setting, setting.held_out, epochs=1), budget=budget, progress=True)


# ------------------------------------------------------------------ writing


def write_latent(model: CoLAForCausalLM, folder: Path) -> list[int]:
    """Save the latent parts in bfloat16, in files below 48 MB; return the files' sizes."""
    model.to(torch.bfloat16).save_pretrained(folder, whole=False, max_shard_size=_FILE)
    return [path.stat().st_size for path in sorted(folder.glob("*.safetensors"))]


def point_table(figures: JsonObject) -> str:
    """Codebook health over training, as Markdown."""
    names = {
        "codebook_perplexity": "perplexity",
        "distinct_tokens": "argmax tokens a state",
        "reachability": "within reach",
        "base_ce": "base CE",
        "world_ce": "world CE",
        "composed_ce": "composed CE",
    }
    rows = [
        [stage, f"{point['tokens']:,}", *(point["metrics"].get(name, "") for name in names)]
        for stage in STAGES
        for point in figures["points"][stage]
    ]
    return table(["stage", "tokens", *names.values()], rows)


def template_of(model: str) -> Template:
    """``"chat"`` for a model that the environments prompt so by default, else ``"dialogue"``."""
    found = prompt_format(PlainTokenizer(load_tokenizer(model)))
    return "chat" if found.name == "chat" else "dialogue"


def add(commands: Commands) -> None:
    parser = commands.add_parser(
        "real",
        help="make and measure a CoLA of a real LM, unattended",
        description="Make and measure a latent-action model of a language model. The same command goes on "
        "after an interruption. Larger --hours or --tokens make the run of a folder longer: the world model "
        "goes on where it ended, and the policy is dropped and trained anew.",
    )
    parser.add_argument("--model", required=True, help="folder or hub id of a causal LM")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on in")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"), help="of GSM8K and MATH")
    parser.add_argument("--data", action="append", help="instead of their train splits: see `cola pretrain`")
    parser.add_argument("--held-out", action="append", help="instead of their test splits")
    parser.add_argument(
        "--tokens",
        type=float,
        help="of each stage, at most: 20e6 by default, or what the plan of the folder says; a larger number "
        "makes its run longer",
    )
    parser.add_argument("--layers", type=int, nargs=3, default=Setting.layers, metavar="N")
    parser.add_argument("--readout", default=Setting.readout)
    for name in ("rows", "length", "points", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Setting, name))
    parser.add_argument("--lr", type=float, default=Setting.lr)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("float32", "bf16"), help="bf16 on a GPU, else float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--hours", type=float, help="of the whole: CPU hours on a CPU, else wall hours")
    parser.add_argument("--measured-tokens", type=int, help="tokens of a measurement")
    parser.add_argument(
        "--measured-states", type=int, help="states of a measurement in which codes are compared"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    def specs(given: list[str] | None, default: tuple[str, ...]) -> tuple[DataSpec, ...]:
        if given is None:
            template = template_of(arguments.model)
            given = [f"{arguments.folder / text},template={template}" for text in default]
        return tuple(parse_data(given))

    names = ("model", "out", "readout", "rows", "length", "points", "seed", "lr", "device", "compile")
    setting = Setting(
        **options(arguments, *names, "hours", "measured_tokens", "measured_states"),
        data=specs(arguments.data, TRAINING),
        held_out=specs(arguments.held_out, HELD_OUT),
        tokens=None if arguments.tokens is None else int(arguments.tokens),
        layers=tuple(arguments.layers),
        precision=arguments.precision or ("float32" if arguments.device == "cpu" else "bf16"),
    )
    print(point_table(make(setting)))
