"""``cola pretrain``: the training stages."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from cola_agents.commands import Commands
from cola_agents.commands.settings import check_out
from cola_agents.commands.tasks import OWN_ALGO_HELP, algorithm_name, load_playing, own_task
from cola_agents.common.files import LOCK, first_process, one_writer

if TYPE_CHECKING:
    from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
    from cola_agents.train.metrics import CodebookMetrics
    from cola_agents.train.runs import Run
    from cola_envs.backbone import Level
    from cola_envs.jsonl import JsonObject

_DESCRIPTION = """\
Without --data a stage is trained on the generated corpus. Run world, policy, fta, bundled or controls
again to continue a stopped run; with more --steps world, policy and fta make an ended run longer (its
learning rate then follows the longer schedule). q, outcome and base start anew, in an empty folder; controls
and card need a folder that bundled wrote.
"""
_DATA = """SOURCE[,key=value]...: a text or JSON-lines file, .parquet, or a folder of them; hub:owner/name;
generated; or a .json file with a list of such descriptions. May be repeated: several are mixed by weight=.
Keys: weight, name, epochs, unit (line, paragraph, file), text, prompt, response (fields), template (plain,
dialogue, chat), subset, split, seed (default: generated)"""


def _id_or_text(given: str) -> int | str:
    """A token id, or a text in which ``\\n`` and ``\\t`` stand for a line break and a tab."""
    return int(given) if given.isdecimal() else given.replace("\\n", "\n").replace("\\t", "\t")


_SWITCH: JsonObject = {"action": "store_true", "default": None}

#: Every option of any stage, by its flags.
_OPTIONS: dict[str, JsonObject] = {
    "--out": {"type": Path, "required": True, "help": "folder to write"},
    "--seed": {"type": int, "help": "seed of new weights, data and noise"},
    "--tensorboard": {**_SWITCH, "help": "require TensorBoard (by default it is used if installed)"},
    "--model --source": {"dest": "model", "help": "folder or hub id of the model to start from; needed"},
    "--tokenizer": {"help": "folder or hub id (default: the model's)"},
    "--dtype": {"help": "type to load the weights in (default: float32)"},
    "--device": {"help": "e.g. cuda; accelerate chooses it for several processes"},
    "--data": {"action": "append", "metavar": "SPEC", "help": _DATA},
    "--held-out": {
        "action": "append",
        "metavar": "SPEC",
        "help": "data to measure a finished policy on (default: the generated corpus where that alone was "
        "trained on)",
    },
    "--held-out-tokens": {
        "type": int,
        "help": "tokens of it to score (default: as many as take two minutes)",
    },
    "--long": {
        "choices": ("chunk", "cut", "error"),
        "help": "split, cut or refuse documents longer than a row (default: cut in fta and on the generated "
        "corpus, else chunk)",
    },
    "--preset": {
        "choices": ("tiny", "paper"),
        "help": "defaults of the options that are not given; those of paper are named where they are others "
        "(default: tiny)",
    },
    "--steps": {"type": int, "help": "optimiser steps"},
    "--tokens": {"type": float, "help": "tokens instead of steps, e.g. 1e9"},
    "--epochs": {"type": int, "help": "passes through finite data, instead of steps"},
    "--rows": {"type": int, "help": "rows of a step's batch over all processes"},
    "--micro-rows": {"type": int, "help": "rows of one forward pass"},
    "--length": {"type": int, "help": "tokens of a row"},
    "--lr": {"type": float, "help": "peak learning rate"},
    "--warmup": {"type": int, "help": "steps of warm-up"},
    "--precision": {
        "choices": ("float32", "bf16"),
        "help": "of the computation; bf16 beside --dtype bfloat16 or float16",
    },
    "--gradient-checkpointing": {
        **_SWITCH,
        "help": "compute activations again in the backward pass: less memory, about a third more arithmetic",
    },
    "--states": {"metavar": "FOLDER", "help": "cache of the frozen base's states, made and read here"},
    "--attention": {
        "choices": ("mask", "documents"),
        "help": "within documents by a mask, or document by document (default: documents in rows of more "
        "than 512 tokens)",
    },
    "--liger": {**_SWITCH, "help": "the vocabulary's cross-entropy by Liger's kernel, on a GPU"},
    "--compile": {**_SWITCH, "help": "compile the trained layers by torch.compile"},
    "--save-every": {"type": int, "help": "steps between checkpoints"},
    "--keep": {"type": int, "help": "number of checkpoints to keep"},
    "--log-every": {"type": int, "help": "steps between log records"},
    "--codes": {"dest": "num_codes", "type": int, "help": "size of the codebook"},
    "--inverse-layers": {
        "dest": "num_inverse_layers",
        "type": int,
        "help": "decoder layers of the inverse dynamics",
    },
    "--merge-layers": {"dest": "num_merge_layers", "type": int, "help": "gated MLPs of the world model"},
    "--policy-layers": {"dest": "num_policy_layers", "type": int, "help": "decoder layers of the policy"},
    "--span": {"type": int, "help": "tokens that one code decides (default: 1)"},
    "--span-ends": {
        "type": _id_or_text,
        "nargs": "+",
        "metavar": "ID",
        "help": r"ids of tokens that end a span early, or a text: every token with it, as '\n'",
    },
    "--span-entropy": {
        "type": float,
        "metavar": "NATS",
        "help": "end a span early where the base's prediction has a larger entropy",
    },
    "--readout": {
        "choices": ("difference", "state", "normed_difference"),
        "help": "how the world model's state becomes logits of tokens",
    },
    "--tau": {"type": float, "help": "Gumbel temperature"},
    "--entropy": {"type": float, "help": "weight of the per-position regulariser"},
    "--marginal": {"type": float, "help": "weight of the batch-marginal regulariser"},
    "--under": {
        "choices": ("inverse", "policy"),
        "help": "whose codes to tune under: FTA-I (inverse, the default) or FTA-P",
    },
    "--no-reclone": {**_SWITCH, "help": "FTA-I without cloning the policy again"},
    "--lora-rank": {"type": int, "help": "train low-rank adapters instead of the weights"},
    "--lora-alpha": {
        "type": float,
        "help": "the adapters' scale is this, divided by the rank (default: twice the rank)",
    },
    "--keep-adapters": {**_SWITCH, "help": "write the adapters beside an unchanged base"},
    "--whole": {
        **_SWITCH,
        "help": "write all weights; by default the latent parts and a reference to an unchanged base",
    },
    "--agent": {
        "type": Path,
        "help": "saved agent that played the data, in place of --model: needed for one over tokens",
    },
    "--task": {"help": "of --agent, if its task is your own: module:Class"},
    "--algo --algorithm": {
        "type": algorithm_name,
        "help": f"class of --agent, if it is your own: {OWN_ALGO_HELP}",
    },
    "--trunk": {
        "choices": ("policy", "model"),
        "help": "decoder to copy under the head (default: policy over codes, model over tokens)",
    },
    "--gamma": {"type": float, "help": "discount per action"},
    "--held-out-problems": {
        "type": int,
        "help": "number of problems to hold out; the weights that are best on them are kept",
    },
}
#: Options that mean something else in some stages, whose help replaces that of :data:`_OPTIONS`.
_SEED_OF_RECIPE: dict[str, JsonObject] = {
    "--seed": {"type": int, "help": "seed of weights, data and noise (default: 0)"}
}
_OF_BUNDLED: dict[str, JsonObject] = {
    "--out": {"type": Path, "required": True, "help": "the folder that `cola pretrain bundled` wrote"},
    "--seed": {"type": int, "help": "that of `cola pretrain bundled`, if it was given one"},
    "--steps": {"type": int, "help": "those of `cola pretrain bundled`, if it was given any"},
}
_ON_TRIES: dict[str, JsonObject] = {
    "--model --source": {
        "dest": "model",
        "help": "folder or hub id of the model that played the data (default: the bundled model)",
    },
    "--device": {"help": "e.g. cuda"},
    "--data": {"action": "append", "help": "a file from `cola generate`; needed; may be repeated"},
    "--steps": {"type": int, "help": "optimiser steps"},
    "--rows": {"type": int, "help": "recorded episodes of a step"},
    "--lr": {"type": float, "help": "learning rate"},
    "--seed": {"type": int, "help": "seed of the order of the episodes"},
}
_OPTIONS_OF: dict[str, dict[str, JsonObject]] = {
    "q": {
        "--out": {"type": Path, "required": True, "help": "folder to write the Q-function to"},
        **_ON_TRIES,
    },
    "outcome": {
        "--out": {"type": Path, "required": True, "help": "folder to write the outcome model to"},
        **_ON_TRIES,
    },
    **dict.fromkeys(("base", "bundled"), _SEED_OF_RECIPE),
    **dict.fromkeys(("controls", "card"), _OF_BUNDLED),
}
#: The options of the stages q and outcome that are fields of ``FitConfig``, by the attribute that they are
#: parsed to.
_FIELDS_OF_FIT = {"steps": "steps", "rows": "batch_size", "lr": "lr", "seed": "seed"}
_LENGTHS = ("--steps", "--tokens", "--epochs")
_PLACE = ("--tokenizer", "--dtype", "--device")
_START = ("--model --source", *_PLACE, "--data")
_CONFIG: tuple[str, ...] = ("--rows", "--micro-rows", "--length", "--lr", "--warmup", "--precision")
_CONFIG += ("--save-every", "--keep", "--log-every", "--gradient-checkpointing", "--tensorboard")
_CONFIG += ("--attention", "--liger", "--compile")
_STAGE = ("--seed", *_START, "--long", "--preset", *_LENGTHS, *_CONFIG, "--whole")
_HELD_OUT = ("--held-out", "--held-out-tokens")
_GROW: tuple[str, ...] = ("--codes", "--inverse-layers", "--merge-layers", "--policy-layers", "--readout")
_GROW += ("--span", "--span-ends", "--span-entropy")
_CODES = ("--tau", "--entropy", "--marginal")
_TUNE = ("--under", "--no-reclone", "--lora-rank", "--lora-alpha", "--keep-adapters")
_AGENT = ("--agent", "--task", "--algo --algorithm")
_OUTCOME = (*_START, *_AGENT, "--steps", "--rows", "--lr", "--seed", "--trunk", "--held-out-problems")
_Q = (*_OUTCOME, "--gamma")
_RECIPE = ("--seed", "--steps", "--tensorboard")


class _OtherStage(argparse.Action):
    """An option of other stages: parsed, so that one error can name all that do not apply."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> None:
        namespace.foreign = (*namespace.foreign, option)


class _StageParser(argparse.ArgumentParser):
    """A stage's parser; its help has the defaults of the options, which are imported for it."""

    def format_help(self) -> str:
        stage = self.prog.split()[-1]
        if stage in ("q", "outcome"):
            self.set_defaults(**_defaults_on_tries(stage))
        defaults = _preset_defaults(stage)
        for flags, settings in _OPTIONS.items():
            words = defaults.get(dest := _dest(flags))
            for action in self._actions:
                if words and action.dest == dest:
                    action.help = f"{settings['help']} ({words})"
        return super().format_help()


def _dest(flags: str) -> str:
    """The attribute that an option of :data:`_OPTIONS` is parsed to."""
    own: str = _OPTIONS[flags].get("dest", flags.split()[0][2:].replace("-", "_"))
    return own


def _preset_defaults(stage: str) -> dict[str, str]:
    """What the presets or the recipe of the bundled models give where an option is left out, in words."""
    if stage in ("base", "bundled"):
        from cola_agents.train.bundled.settings import Recipe

        recipe = Recipe()
        each = ", ".join(f"{name} {getattr(recipe, name).steps}" for name in ("base", "world", "policy"))
        one = f"default: {recipe.base.steps}"
        return {"steps": one if stage == "base" else f"of each stage; default: {each}"}
    if stage not in ("world", "policy", "fta"):
        return {}
    from cola_agents.train.presets import PRESETS

    known = {}
    for name, preset in PRESETS.items():
        steps = 1 if (stage, name) == ("fta", "paper") else None  # any: it has no length of its own
        config = dataclasses.asdict(preset.config(stage, steps, {}))
        config["micro_rows"] = config["micro_rows"] or "all"
        known[name] = {**config, **preset.grow, **dataclasses.asdict(preset.codes), "seed": preset.seed}
    words = {}
    for name, value in known["tiny"].items():
        parts = [] if value is None or value is False else [f"default: {_word(value)}"]
        parts += [f"paper: {_word(known['paper'][name])}"] if known["paper"][name] != value else []
        words[name] = "; ".join(parts)
    if stage == "fta":
        length = f"default: {known['tiny']['steps']}; paper: none, give --epochs 1"
        words |= {"steps": length, "warmup": "default: 3 %% of all steps"}
    else:
        words["warmup"] += "; at most an eighth of all steps"
    return words


def _word(value: object) -> str:
    """A value of a preset, as it is typed."""
    return "on" if value is True else f"{value:g}" if isinstance(value, float) else str(value)


def _defaults_on_tries(stage: str) -> JsonObject:
    """The default of each option of q or outcome that has one, by the attribute that it is parsed to."""
    from cola_agents.train.options import DISCOUNT, FitConfig, QConfig

    config = QConfig if stage == "q" else FitConfig  # no instance, whose check of its fields needs NumPy
    return {"gamma": DISCOUNT} | {dest: getattr(config, field) for dest, field in _FIELDS_OF_FIT.items()}


def add(commands: Commands) -> None:
    """Add the command, with a parser for each stage."""
    text = "run a training stage of a model, on the generated corpus or your own"
    stages = commands.add_parser("pretrain", help=text, description=_DESCRIPTION).add_subparsers(
        required=True, metavar="stage", dest="stage", parser_class=_StageParser
    )
    for name, (words, run, options) in _STAGES.items():
        parser = stages.add_parser(name, help=words)
        lengths = parser.add_mutually_exclusive_group() if "--tokens" in options else parser
        for flags, settings in (_OPTIONS | _OPTIONS_OF.get(name, {})).items():
            if flags in ("--out", *options):
                (lengths if flags in _LENGTHS else parser).add_argument(*flags.split(), **settings)
            else:
                parser.add_argument(
                    *flags.split(),
                    action=_OtherStage,
                    dest="foreign",
                    default=(),
                    nargs="?",
                    help=argparse.SUPPRESS,
                )
        parser.set_defaults(run=_checked(run))


def _checked(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``run``, after a check that no option of another stage was given and that ``--out`` can be written."""

    def checked(arguments: argparse.Namespace) -> int:
        if arguments.foreign:
            raise ValueError(f"the stage {arguments.stage} takes no {', '.join(arguments.foreign)}")
        check_out(arguments.out, "folder")
        return run(arguments)

    return checked


def _train(arguments: argparse.Namespace) -> int:
    from cola_agents.train.training import train

    first = first_process()
    metrics = train(_run(arguments), print if first else lambda text: None)
    if metrics and first:
        print(json.dumps(metrics.as_dict(), indent=2))
        _warn(metrics)
    return 0


def _given(arguments: argparse.Namespace, flags: Sequence[str]) -> JsonObject:
    """The values of the ``flags`` that were given, by attribute."""
    return {
        name: value for name in map(_dest, flags) if (value := getattr(arguments, name, None)) is not None
    }


def _run(arguments: argparse.Namespace) -> Run:
    """The run that a command line describes."""
    from cola_agents.train.runs import Run
    from cola_agents.train.specs import parse_data

    if arguments.model is None:
        previous = "base" if arguments.stage == "world" else "world"
        raise ValueError(
            f"the stage {arguments.stage} needs --model (or --source): a hub id, or a folder such as `cola "
            f"pretrain {previous}` writes"
        )
    options = _given(
        arguments,
        (*_PLACE, "--long", "--preset", "--states", "--held-out-tokens", *_LENGTHS, "--seed", "--whole"),
    )
    if "tokens" in options:
        if not math.isfinite(options["tokens"]):
            raise ValueError(f"--tokens is a finite number, e.g. 1e9, got {options['tokens']}")
        options["tokens"] = int(options["tokens"])
    return Run(
        stage=arguments.stage,
        model=arguments.model,
        out=arguments.out,
        data=tuple(parse_data(arguments.data or ())),
        held_out=tuple(parse_data(getattr(arguments, "held_out", None) or ())),
        config=_given(arguments, _CONFIG),
        grow=_given(arguments, _GROW),
        codes=_given(arguments, _CODES),
        **options,
        **_tuning(_given(arguments, _TUNE)),
    )


def _tuning(given: JsonObject) -> JsonObject:
    """The arguments of a run that the options of FTA set."""
    from cola_agents.train.adapters import LoRA
    from cola_agents.train.runs import flag_of

    for name in ("lora_alpha", "keep_adapters"):
        if name in given and "lora_rank" not in given:
            raise ValueError(f"{flag_of(name)} needs --lora-rank")
    options: JsonObject = {"reclone": "no_reclone" not in given, "keep_adapters": "keep_adapters" in given}
    if "under" in given:
        options["tune"] = given["under"]
    if "lora_rank" in given:
        options["lora"] = LoRA(given["lora_rank"], given.get("lora_alpha"))
    return options


def _check_empty(out: Path) -> None:
    """Raise FileExistsError for a folder that is not empty: these stages cannot be resumed."""
    if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: nothing was written")


def _backbone_of(arguments: argparse.Namespace, level: Level) -> LatentBackbone | TokenBackbone:
    """The language model that ``--agent`` plays, or that the options of a model name.

    Raises:
        ValueError: for options of the one beside the other.
        TypeError: for an agent over something else.
    """
    from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
    from cola_agents.decoding.loading import make_backbone

    if arguments.agent is None:
        if arguments.task is not None or arguments.algo is not None:
            raise ValueError(
                "--task and --algo are those of a saved agent: give --agent too, or leave them out"
            )
        return make_backbone(
            arguments.model,
            level=level,
            tokenizer=arguments.tokenizer,
            device=arguments.device,
            dtype=arguments.dtype or "float32",
        )
    if given := _given(arguments, ("--model --source", *_PLACE)):
        raise ValueError(f"--agent has its own model: leave out {', '.join(f'--{n}' for n in given)}")
    own = own_task(arguments.task, "an agent")
    with closing(load_playing(arguments.agent, own, arguments.algo)) as agent:
        backbone = agent.backbone
    if not isinstance(backbone, (LatentBackbone, TokenBackbone)):
        raise TypeError(f"{arguments.agent} plays a {type(backbone).__name__}, which has no such stage")
    return backbone


def _on_tries(arguments: argparse.Namespace) -> int:
    """Run ``q`` or ``outcome``, which learn from recorded episodes."""
    from cola_agents.rl.generate import read
    from cola_agents.search.fitting import check_held_out, split_problems
    from cola_agents.search.judges import OutcomeModel, check_answers, train_outcome
    from cola_agents.search.q import QFunction, check_discount, train_q
    from cola_agents.train.options import FitConfig, QConfig

    if not arguments.data:
        raise ValueError(f"the stage {arguments.stage} needs --data: a file from `cola generate`")
    with one_writer(arguments.out, "file"):
        _check_empty(arguments.out)
        values = {field: getattr(arguments, dest) for dest, field in _FIELDS_OF_FIT.items()}
        given = {field: value for field, value in values.items() if value is not None}
        config = QConfig(**given) if arguments.stage == "q" else FitConfig(**given)
        discount = _given(arguments, ("--gamma",)) if arguments.stage == "q" else {}
        for gamma in discount.values():
            check_discount(gamma)
        recorded = read(*arguments.data)
        if arguments.held_out_problems is not None:
            check_held_out(recorded.num_problems, arguments.held_out_problems)
        if arguments.stage == "outcome":
            check_answers(recorded.rewards)
        # What can be refused has been: from here on it takes long.
        backbone = _backbone_of(arguments, recorded.about["actions"])
        rollout, held_out = recorded.rollout(backbone), None
        if arguments.held_out_problems is not None:
            rollout, held_out = split_problems(rollout, arguments.held_out_problems)
        size = min(config.batch_size, len(rollout))
        print(
            f"Training for {config.steps} steps (--steps) of {size} episodes (--rows): each of the "
            f"{len(rollout)} is read {config.steps * size / len(rollout):.1f} times.",
            file=sys.stderr,
        )
        model: QFunction | OutcomeModel
        if isinstance(config, QConfig):
            model = QFunction.over(backbone, trunk=arguments.trunk, **discount)
            records = train_q(model, rollout, config, held_out=held_out)
        else:
            model = OutcomeModel.over(backbone, trunk=arguments.trunk)
            records = train_outcome(model, rollout, config, held_out=held_out)
        model.save(arguments.out)
        print(json.dumps({"episodes": len(recorded.episodes), **_kept(records)}, indent=2))
        print(f"Wrote {arguments.out}.")
        return 0


def _kept(records: Sequence[JsonObject]) -> JsonObject:
    """The record of the weights that were kept, with the held-out scores by step that chose them."""
    evaluated = [record for record in records if "held_out" in record]
    if not evaluated:
        return records[-1]
    scores = {record["step"]: round(record["held_out"], 4) for record in evaluated}
    return {**max(evaluated, key=lambda record: record["held_out"]), "held_out_looks": scores}


def _recipe(arguments: argparse.Namespace) -> int:
    """Run ``bundled``, ``controls``, ``base`` or ``card``."""
    from cola_agents.evaluation.bundled_card import write_card
    from cola_agents.train.bundled import recipe as stages
    from cola_agents.train.bundled.settings import Recipe
    from cola_agents.train.options import short_warmup
    from cola_envs import jsonl

    with one_writer(arguments.out):
        recipe = Recipe(seed=arguments.seed or 0)
        if arguments.stage == "card":
            held = arguments.out / stages.RECIPE
            seed = jsonl.read_object(held, "seed")["seed"] if held.is_file() else None
            if seed is not None and arguments.seed not in (None, seed):
                raise ValueError(f"{held} says seed {seed}: leave --seed {arguments.seed} out")
            write_card(arguments.out, recipe)
            print(f"Wrote {arguments.out / 'README.md'}.")
            return 0
        changed = _given(arguments, ("--steps", "--tensorboard"))
        names = ("base",) if arguments.stage == "base" else ("base", "world", "policy")
        configs = {name: dataclasses.replace(getattr(recipe, name), **changed) for name in names}
        for name, config in configs.items():
            configs[name] = dataclasses.replace(config, warmup=short_warmup(config.steps, config.warmup))
        recipe = dataclasses.replace(recipe, **configs)
        if arguments.stage == "base":
            _check_empty(arguments.out)
            stages.train_base(recipe, arguments.out)
        elif arguments.stage == "controls":
            stages.train_controls(recipe, arguments.out)
            write_card(arguments.out, recipe)
        else:
            metrics = stages.train_bundled(recipe, arguments.out)
            write_card(arguments.out, recipe)
            _warn(metrics)
        print(f"Wrote {arguments.out}.")
        return 0


def _warn(metrics: CodebookMetrics) -> None:
    from cola_agents.train.health import health_warnings

    for warning in health_warnings(metrics):
        print(f"warning: {warning}", file=sys.stderr)


#: Each stage: its help, the function that runs it, and its options besides ``--out``.
_STAGES: dict[str, tuple[str, Callable[[argparse.Namespace], int], tuple[str, ...]]] = {
    "world": (
        "inverse dynamics, codebook and world model around a causal LM, or of a latent-action model",
        _train,
        (*_STAGE, "--states", *_GROW, *_CODES),
    ),
    "policy": (
        "the policy, cloned from the inverse dynamics",
        _train,
        (*_STAGE, "--states", *_HELD_OUT),
    ),
    "fta": (
        "the base tuned under codes, and the policy cloned again",
        _train,
        (*_STAGE, *_HELD_OUT, *_TUNE),
    ),
    "q": (
        "a Q-function over the actions, from files of `cola generate`",
        _on_tries,
        _Q,
    ),
    "outcome": (
        "a model that judges whether an answer is right, from files of `cola generate`",
        _on_tries,
        _OUTCOME,
    ),
    "base": ("the bundled models' base", _recipe, _RECIPE),
    "bundled": ("both bundled models: the base, and the latent-action model around it", _recipe, _RECIPE),
    "controls": (
        "controls of the bundled models in --out: the base after further training, and FTA-I",
        _recipe,
        _RECIPE,
    ),
    "card": ("the model card of the bundled models in --out", _recipe, ("--seed",)),
}
