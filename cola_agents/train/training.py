"""``train``: run a training stage in a folder, or resume it there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerBase

from cola_agents.common.files import LOCK, first_process, one_writer, unfinished, write_json
from cola_agents.common.processes import Workers, whole_state
from cola_agents.common.provenance import provenance
from cola_agents.common.randomness import drawn_from
from cola_agents.decoding.loading import check_device
from cola_agents.model.base_reference import REFERENCE
from cola_agents.model.loading import ADAPTERS, load_config, load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM, calibrate_readout
from cola_agents.model.official import is_official
from cola_agents.model.reach import reachable
from cola_agents.model.shards import float_type
from cola_agents.model.text import PlainTokenizer, check_fits
from cola_agents.train.adapters import Adapters
from cola_agents.train.bundled.corpus import HELD_OUT
from cola_agents.train.checkpoints import RUN, begun_steps
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.packing import Batch, PackedBatches
from cola_agents.train.fta import tune_base
from cola_agents.train.metrics import Budget, CodebookMetrics, measure
from cola_agents.train.options import StageConfig
from cola_agents.train.presets import PRESETS
from cola_agents.train.records import RecordLog, check_log
from cola_agents.train.runs import Run, flag_of
from cola_agents.train.specs import DataSpec, once, open_data
from cola_agents.train.world import pretrain_world
from cola_envs import jsonl

CHECKPOINTS = "checkpoints"
LOG, METRICS, FINISHED = "log.jsonl", "metrics.json", "training.json"
#: Held-out batches on which a model is measured by default, at most.
_MEASURED = 12


def train(run: Run, say: Callable[[str], None] = lambda text: None) -> CodebookMetrics | None:
    """Begin or resume a run, and write the finished model to its folder.

    Under ``accelerate launch`` every process calls this; only rank 0 writes. The folder holds the model and
    its tokenizer, ``log.jsonl``, TensorBoard's events, ``checkpoints``, ``metrics.json`` if the model was
    measured (in ``adapters`` if adapters are kept), and ``training.json``, the settings of the run, which is
    written last. A finished run is not changed, unless it is given more steps: then it goes on.

    Args:
        run: the stage, its data and its folder.
        say: called in rank 0 with messages for the user.

    Returns:
        the finished model's metrics, if this call measured it.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: before anything is written: for a folder that holds
            something else or another run, a missing model or one of another kind, unreadable or empty data
            or held-out data, a tokenizer of another vocabulary, rows longer than the context, a device that
            is not there; and as :func:`cola_agents.train.loop.run_stage`.
        OSError: where a checkpoint or the model cannot be written, on a full disk for instance; the same call
            goes on from the last checkpoint.
        InUseError: where another process writes the folder, naming it; nothing was changed.
    """
    with one_writer(run.out) if first_process() else nullcontext():
        if _finished(run):
            say(f"{run.out} is finished: nothing to do.")
            if run.whole and (run.out / REFERENCE).is_file():
                say(
                    f"It holds its latent parts and names its base: `cola convert {run.out} TARGET --whole` "
                    "writes everything."
                )
            return None
        _check_fsdp(run)
        _check_begun(run)
        check_device(run.device)
        model_config = _model_config(run)
        tokenizer = _tokenizer(run)
        plain = PlainTokenizer(tokenizer)
        steps, batches = _batches(run, plain)
        config = run.stage_config(steps)
        _check_cloning(run, config)
        if held_out := _held_out(run, plain, config):
            _first_batch(held_out)
        model = _model(run, model_config, config, plain, batches)
        with drawn_from(run.seeded + 7):
            adapters = Adapters(model, run.lora) if run.lora else None
        workers = Workers(config.precision)
        _run_stages(run, model, adapters, batches, config, say)
        sharded = any(isinstance(p, DTensor) for p in model.parameters())
        weights = whole_state(model) if sharded else None
        if adapters and not run.keep_adapters:
            adapters.merge()
        workers.first(lambda: _save(run, model, tokenizer, adapters, weights))
        metrics = None if sharded else _measure(run, model, plain, config, workers)
        workers.first(lambda: _finish(run, model, adapters, config, metrics))
        say(f"Wrote {run.out}.")
        return metrics


def _check_fsdp(run: Run) -> None:
    """Raise ValueError for settings that sharded weights do not allow."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return
    if run.states:
        raise ValueError(
            "a cache of states (--states) is not supported under FSDP: configure accelerate for DDP"
        )
    if run.lora:
        raise ValueError("low-rank adapters are not supported under FSDP: configure accelerate for DDP")
    if len(run.checkpoints) > 1:
        raise ValueError(
            "under FSDP one command runs one stage: leave the cloning out (--no-reclone), and run `cola "
            "pretrain policy` on the result"
        )


def _finished(run: Run) -> bool:
    """Whether the folder holds this run and it is finished.

    Raises:
        FileExistsError: where the folder holds another finished run, or something that is not a run.
    """
    if (run.out / FINISHED).is_file():
        finished = jsonl.read_object(run.out / FINISHED, "digest")
        if finished["digest"] != run.digest:
            if difference := run.difference_to(finished):
                raise FileExistsError(
                    f"{run.out} holds a finished run with other settings: it was begun with {difference} "
                    f"(see {FINISHED}). Give another folder; a run is made longer by more --steps or "
                    "--tokens alone, and FTA-I with cloning not at all"
                )
            if run.is_longer_than(finished):
                return False
        check_log(run.out / LOG)
        return True
    # In a process other than the first, the folder may not exist yet.
    if run.out.exists() and not any((run.out / CHECKPOINTS).glob(f"*/{RUN}")):
        # A run that was killed while it wrote its first file leaves its lock and an unfinished file.
        leftovers = {run.out / LOCK, *(run.out / CHECKPOINTS).glob(f"*/{unfinished(Path(RUN))}")}
        files = {path for path in run.out.rglob("*") if path.is_symlink() or not path.is_dir()}
        if not run.out.is_dir() or files - leftovers:
            raise FileExistsError(
                f"{run.out} holds something other than a run to resume: give an empty folder"
            )
    return False


def _check_begun(run: Run) -> None:
    """Raise FileExistsError for a folder with checkpoints of stages that this run does not begin with."""
    begun = {path.parent.name for path in (run.out / CHECKPOINTS).glob(f"*/{RUN}")}
    if begun != set(run.checkpoints[: len(begun)]):
        raise FileExistsError(
            f"{run.out} holds a run that was stopped, with checkpoints of {', '.join(sorted(begun))}; those "
            f"of this run are {', '.join(run.checkpoints)}: resume with the settings of that run, or give "
            "another folder"
        )


def _check_cloning(run: Run, config: StageConfig) -> None:
    """Raise ValueError for another length than that after which the cloning of FTA-I was begun."""
    steps = [begun_steps(run.out / CHECKPOINTS / name) for name in run.checkpoints]
    if len(steps) > 1 and None not in steps and steps[0] != config.steps:
        raise ValueError(
            f"{run.out} clones the policy again after {steps[0]} steps of FTA-I, and {config.steps} steps "
            f"were asked for: such a run cannot be made longer. Resume with --steps {steps[0]}, or give "
            "another folder"
        )


def _model_config(run: Run) -> PretrainedConfig:
    """The configuration of the run's initial model."""
    path = Path(run.model)
    if path.exists() and not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"--model (--source) {run.model} holds no model: there is no config.json in it. Give the folder "
            f"that `cola pretrain {'base' if run.stage == 'world' else 'world'}` wrote, or a hub id"
        )
    reachable(run.model, "--model (--source)")
    try:
        config = load_config(run.model)
    except OSError as error:
        raise FileNotFoundError(
            f"--model (--source) {run.model} is not a local folder, and no hub model of that name could be "
            "fetched: check the name"
        ) from error
    latent = config.model_type == "cola" or is_official(config)
    if run.stage != "world" and not latent:
        raise ValueError(
            f"{run.model} holds a {config.model_type} model, not a latent-action model: run `cola pretrain "
            "world` on it first"
        )
    if run.grow and latent:
        flags = ", ".join(map(flag_of, run.grow))
        raise ValueError(f"{run.model} is a latent-action model already: {flags} cannot be changed")
    return config


def _tokenizer(run: Run) -> PreTrainedTokenizerBase:
    """The run's tokenizer, by default the model's; ValueError for another vocabulary than the model's."""
    try:
        default = load_tokenizer(run.model)
    except FileNotFoundError as error:
        default = None
        if run.tokenizer is None:
            raise ValueError(f"no tokenizer found with {run.model}: pass --tokenizer") from error
    if run.tokenizer is None:
        return default
    tokenizer = load_tokenizer(run.tokenizer)
    if default is not None and default.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"the vocabulary of the tokenizer {run.tokenizer} ({len(tokenizer)} entries) is not that of "
            f"{run.model} ({len(default)} entries): leave --tokenizer out"
        )
    return tokenizer


def _packed(run: Run, tokenizer: PlainTokenizer) -> PackedBatches:
    specs = list(run.data) or [DataSpec("generated")]
    if run.epochs is not None:
        specs = [replace(spec, epochs=run.epochs) for spec in specs]
    config = run.stage_config(1)
    return PackedBatches(
        open_data(specs, run.seeded * 10 + {"world": 2, "policy": 3, "fta": 5}[run.stage]),
        tokenizer,
        rows=config.rows,
        length=config.length,
        long=run.long or ("cut" if run.stage == "fta" or run.generated else "chunk"),
        learn_prompts=run.stage != "fta",
    )


def _batches(run: Run, tokenizer: PlainTokenizer) -> tuple[int | None, PackedBatches]:
    """The number of steps, where epochs determine it, and the batches; raises an error for empty data."""
    batches = _packed(run, tokenizer)
    if run.epochs is not None:
        return sum(1 for _ in batches), _packed(run, tokenizer)
    _first_batch(batches)
    return None, batches


def _first_batch(batches: PackedBatches) -> Batch:
    """The next batch, which stays the next one."""
    start = batches.state_dict()
    batch = next(batches)
    batches.load_state_dict(start)
    return batch


def _model(
    run: Run,
    model_config: PretrainedConfig,
    config: StageConfig,
    tokenizer: PlainTokenizer,
    batches: PackedBatches,
) -> CoLAForCausalLM:
    """The latent-action model to train, loaded, converted from the official format, or built on a base."""
    text: PretrainedConfig = model_config
    if model_config.model_type == "cola":
        text = getattr(model_config, "text_config", model_config)
    check_fits(tokenizer, text.vocab_size)
    if config.length > text.max_position_embeddings:
        raise ValueError(
            f"length={config.length} is beyond the model's context of {text.max_position_embeddings}"
        )
    dtype = float_type(run.dtype)
    with drawn_from(run.seeded + 1):
        if is_official(model_config):
            model = CoLAForCausalLM.from_official(run.model, dtype=dtype)
        elif model_config.model_type == "cola":
            model = CoLAForCausalLM.from_pretrained(run.model, dtype=dtype)
        else:
            base = load_model(AutoModelForCausalLM, run.model, config=model_config, dtype=dtype)
            try:
                grown = {**PRESETS[run.preset].grow, **run.grow}
                if grown.get("span_ends"):
                    grown["span_ends"] = _ids(tokenizer, grown["span_ends"])
                model = CoLAForCausalLM.from_base(base, **grown)
            except ValueError as error:
                if not run.grow:
                    raise
                raise ValueError(f"{', '.join(map(flag_of, run.grow))}: {error}") from error
            if model.readout_norm is not None:
                first = _first_batch(batches)
                calibrate_readout(model, first.ids[:4], mask=first.segments[:4] >= 0)
    return model.to(run.device) if run.device else model


def _ids(tokenizer: PlainTokenizer, given: Sequence[int | str]) -> list[int]:
    """Token ids, given as such or as texts that they contain.

    Raises:
        ValueError: for a text that no token contains.
    """
    ids: list[int] = []
    for one in given:
        found = [one] if isinstance(one, int) else tokenizer.ids_with(one)
        if not found:
            raise ValueError(f"no token of the tokenizer contains {one!r}: give the ids of tokens")
        ids += found
    return ids


def _run_stages(
    run: Run,
    model: CoLAForCausalLM,
    adapters: Adapters | None,
    batches: PackedBatches,
    config: StageConfig,
    say: Callable[[str], None],
) -> None:
    """Train the model by the run's stage; after FTA-I, clone the policy again on the same documents."""
    log = run.out / LOG
    first, *then = [run.out / CHECKPOINTS / name for name in run.checkpoints]
    states = Path(run.states) if run.states else None
    if run.stage == "world":
        pretrain_world(
            model, batches, config, run.code_config(), log, checkpoints=first, states=states, say=say
        )
        return
    if run.stage == "policy":
        clone_policy(model, batches, config, log, checkpoints=first, states=states, say=say)
        return
    start = batches.state_dict()
    tune_base(model, run.tune, batches, config, log, adapters=adapters, checkpoints=first, say=say)
    for cloning in then:
        batches.load_state_dict(start)
        clone_policy(model, batches, config, log, checkpoints=cloning, say=say)


def _held_out(run: Run, tokenizer: PlainTokenizer, config: StageConfig) -> PackedBatches | None:
    """The text on which a finished policy is measured, finite text once; None for none."""
    specs = list(run.held_out) or ([DataSpec("generated", seed=HELD_OUT)] if run.generated else [])
    if run.stage == "world" or not specs:
        return None
    rows = min(8, config.rows)
    return PackedBatches(
        open_data(once(specs), HELD_OUT), tokenizer, rows=rows, length=config.length, long="cut"
    )


def _measure(
    run: Run,
    model: CoLAForCausalLM,
    tokenizer: PlainTokenizer,
    config: StageConfig,
    workers: Workers,
) -> CodebookMetrics | None:
    """The metrics of a saved policy on held-out text, measured by rank 0; None without such text."""
    held_out = _held_out(run, tokenizer, config)
    if held_out is None or model.inverse_trunk is None:
        return None

    def measure_held_out() -> CodebookMetrics:
        most = _MEASURED * held_out.rows * held_out.length
        budget = Budget.of(model, run.held_out_tokens, most=most)
        few = None if run.held_out_tokens else _MEASURED
        return measure(model, islice(held_out, few), budget=budget, progress=True)

    return workers.first(measure_held_out)


def _save(
    run: Run,
    model: CoLAForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Adapters | None,
    weights: dict[str, Tensor] | None,
) -> None:
    """Write all that was trained, and the model unless it has adapters."""
    dtype = float_type(run.dtype)
    # Until this run is finished, the folder holds no finished one: the files of a shorter one are replaced.
    (run.out / FINISHED).unlink(missing_ok=True)
    tokenizer.save_pretrained(run.out)
    if adapters and run.keep_adapters:
        adapters.save(run.out / ADAPTERS)
    elif weights is None:
        model.to(dtype).save_pretrained(run.out, whole=run.whole or None)
    else:
        state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
        model.save_pretrained(run.out, state_dict=state, whole=run.whole or None)


def _finish(
    run: Run,
    model: CoLAForCausalLM,
    adapters: Adapters | None,
    config: StageConfig,
    metrics: CodebookMetrics | None,
) -> None:
    """Write the metrics, the unchanged base of kept adapters, and, last, the settings."""
    if adapters and run.keep_adapters:
        adapters.remove()
        model.to(float_type(run.dtype)).save_pretrained(run.out, whole=run.whole or None)
    if metrics:
        # The metrics include kept adapters, which are not part of the saved model.
        folder = run.out / ADAPTERS if run.keep_adapters else run.out
        write_json(folder / METRICS, metrics.as_dict(), indent=2)
        with RecordLog("codebook", run.out / LOG, config.tensorboard) as log:
            log.write({"step": config.steps, **metrics.as_dict()})
    settings = {
        "digest": run.digest,
        "places": run.places(),
        "run": run.described(),
        "config": asdict(config),
        "tokens": config.tokens,
        **provenance(),
    }
    write_json(run.out / FINISHED, settings, indent=1)
