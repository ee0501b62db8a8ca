"""The recipe of the bundled models: from a seed to a base, a latent-action model around it, and controls.

Both arms of a comparison stand on one base: ``base`` is the frozen base inside ``cola``. The controls tell
what the stages themselves give: ``longer`` is the base after further training, on as many tokens as the
stages read, ``fta`` is ``cola`` after FTA-I on the same tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cola_agents.common.files import LOCK, unfinished, write_json
from cola_agents.common.randomness import drawn_from
from cola_agents.model.loading import load_config, load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sizes import GROWTH
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.base import pretrain_base, tiny_llama
from cola_agents.train.bundled.corpus import HELD_OUT, documents
from cola_agents.train.bundled.settings import CorpusConfig, Recipe
from cola_agents.train.bundled.tokenizer import train_tokenizer
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.packing import PackedBatches, packed_batches
from cola_agents.train.data.sources import GeneratedDocuments
from cola_agents.train.fta import tune_base
from cola_agents.train.metrics import CodebookMetrics, measure
from cola_agents.train.options import StageConfig
from cola_agents.train.records import RecordLog
from cola_agents.train.world import pretrain_world
from cola_envs import jsonl

M = TypeVar("M", bound=PreTrainedModel)
TOKENIZER_DOCUMENTS = 8_000
#: The file with the recipe, written first, and the folder of what the stages need to go on.
RECIPE, STAGES = "recipe.json", "stages"
METRICS = "metrics.json"
#: The controls that :func:`train_controls` adds to the bundled models.
CONTROLS = ("longer", "fta")
#: Other latent-action models around the base, of :func:`train_variant`: fields of their configuration.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "codes-16": {"num_codes": 16},
    "codes-256": {"num_codes": 256},
    "span-4": {"span": 4},
    "span-8": {"span": 8},
    # On held-out text of the corpus its spans have 2.3 tokens on average.
    "span-8-unsure": {"span": 8, "span_entropy": 0.5},
}


def corpus_batches(
    seed: int, tokenizer: PreTrainedTokenizerFast, stage: StageConfig, corpus: CorpusConfig
) -> PackedBatches:
    """Endless packed batches of the generated corpus, which can be resumed."""
    return packed_batches(
        GeneratedDocuments(seed, corpus), PlainTokenizer(tokenizer), rows=stage.rows, length=stage.length
    )


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the first documents of the corpus."""
    first = islice(documents(recipe.seed, recipe.corpus), TOKENIZER_DOCUMENTS)
    return train_tokenizer((document.text for document in first), recipe.vocab_size)


def train_base(recipe: Recipe, out: Path, checkpoints: Path | None = None) -> LlamaForCausalLM:
    """Stage 0 with its tokenizer, saved to ``out``."""
    tokenizer = make_tokenizer(recipe)
    with drawn_from(recipe.seed):
        base = tiny_llama(len(tokenizer), tokenizer.eos_token_id)
    batches = corpus_batches(recipe.seed * 10 + 1, tokenizer, recipe.base, recipe.corpus)
    pretrain_base(base, batches, recipe.base, _log(out), checkpoints=checkpoints)
    return _saved(base, tokenizer, out)


def train_world(
    recipe: Recipe, base_path: Path, out: Path, checkpoints: Path | None = None, **grown: Any
) -> CoLAForCausalLM:
    """Stage 1 around a trained base, saved to ``out`` with an untrained policy.

    Args:
        grown: changes to :data:`~cola_agents.model.sizes.GROWTH`.
    """
    tokenizer = load_tokenizer(base_path)
    base = load_model(LlamaForCausalLM, base_path)
    model = CoLAForCausalLM.from_base(base, seed=recipe.seed + 1, **{**GROWTH, **grown})
    batches = corpus_batches(recipe.seed * 10 + 2, tokenizer, recipe.world, recipe.corpus)
    pretrain_world(model, batches, recipe.world, recipe.codes, _log(out), checkpoints=checkpoints)
    return _saved(model, tokenizer, out)


def train_policy(
    recipe: Recipe, world_path: Path, out: Path, checkpoints: Path | None = None
) -> CodebookMetrics:
    """Stage 2, saved to ``out``; returns the finished model's metrics.

    Raises:
        ValueError: where ``world_path`` holds no latent-action model.
    """
    tokenizer = load_tokenizer(world_path)
    kind = load_config(world_path).model_type
    if kind != "cola":
        raise ValueError(f"{world_path} holds a {kind} model, not one that `cola pretrain world` wrote")
    model = CoLAForCausalLM.from_pretrained(world_path)
    batches = corpus_batches(recipe.seed * 10 + 3, tokenizer, recipe.policy, recipe.corpus)
    clone_policy(model, batches, recipe.policy, _log(out), checkpoints=checkpoints)
    return _measured(recipe, _saved(model, tokenizer, out), tokenizer, out)


def train_bundled(recipe: Recipe, out: Path) -> CodebookMetrics:
    """Both bundled models: ``out/base`` and, around it, ``out/cola``; goes on where it was stopped.

    ``out/stages`` holds the world model before the policy was cloned and the stages' checkpoints,
    ``out/recipe.json`` the recipe, each model's folder its log.

    Raises:
        FileExistsError: where ``out`` holds something else than a run of this recipe; nothing was changed.
    """
    _begin(recipe, out)
    stages = out / STAGES
    train_base(recipe, out / "base", stages / "checkpoints" / "base")
    train_world(recipe, out / "base", stages / "world", stages / "checkpoints" / "world")
    return train_policy(recipe, stages / "world", out / "cola", stages / "checkpoints" / "policy")


def train_controls(recipe: Recipe, out: Path) -> None:
    """The controls of the bundled models in ``out``: ``longer`` and ``fta``; goes on where it was stopped.

    Both read the same documents, as many tokens as the latent-action stages did. After FTA-I the policy is
    cloned again from the inverse dynamics' codes, for as many tokens as before.

    Raises:
        FileExistsError: where ``out`` holds no run of this recipe.
        FileNotFoundError: where the bundled models are not in ``out``.
    """
    _check_finished(out)
    _begin(recipe, out)
    saved = out / STAGES / "checkpoints"
    tokenizer = load_tokenizer(out / "base")

    def batches() -> PackedBatches:
        return corpus_batches(recipe.seed * 10 + 4, tokenizer, recipe.control, recipe.corpus)

    longer = load_model(LlamaForCausalLM, out / "base")
    log = _log(out / "longer")
    pretrain_base(longer, batches(), recipe.control, log, checkpoints=saved / "longer")
    _saved(longer, tokenizer, out / "longer")
    tuned = CoLAForCausalLM.from_pretrained(out / "cola")
    log = _log(out / "fta")
    tune_base(tuned, "inverse", batches(), recipe.control, log, checkpoints=saved / "fta")
    clone_policy(tuned, batches(), recipe.policy, log, checkpoints=saved / "fta-policy")
    _measured(recipe, _saved(tuned, tokenizer, out / "fta"), tokenizer, out / "fta")


def train_variant(recipe: Recipe, out: Path, name: str) -> CodebookMetrics:
    """A latent-action model of :data:`VARIANTS` around ``out/base``, in ``out/<name>``.

    It reads the same documents as ``cola`` did, for as many steps; goes on where it was stopped.

    Raises:
        FileExistsError: where ``out`` holds no run of this recipe.
        FileNotFoundError: where the bundled models are not in ``out``.
    """
    _check_finished(out)
    _begin(recipe, out)
    stages = out / STAGES
    saved = stages / "checkpoints"
    train_world(recipe, out / "base", stages / name, saved / f"{name}-world", **VARIANTS[name])
    return train_policy(recipe, stages / name, out / name, saved / f"{name}-policy")


def _check_finished(out: Path) -> None:
    """Raise FileNotFoundError where the bundled models are not in a folder."""
    if not (out / "cola" / METRICS).is_file():
        raise FileNotFoundError(
            f"{out} holds no finished bundled models: run `cola pretrain bundled` there first"
        )


def _begin(recipe: Recipe, out: Path) -> None:
    """Write the recipe into an empty folder, or see that the folder holds a run of this one."""
    described = json.loads(json.dumps(asdict(recipe)))
    path = out / RECIPE
    if path.is_file():
        if jsonl.read_object(path) != described:
            raise FileExistsError(f"{out} holds a run of another recipe (see {RECIPE}): give another folder")
        return
    left = {LOCK, unfinished(path).name}
    if out.exists() and (not out.is_dir() or any(one.name not in left for one in out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder: nothing was written")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, described, indent=2)


def _measured(
    recipe: Recipe, model: CoLAForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path
) -> CodebookMetrics:
    """Codebook metrics on held-out documents, written beside the model and into its log."""
    held_out = corpus_batches(HELD_OUT, tokenizer, recipe.base, recipe.corpus)
    metrics = measure(model, islice(held_out, 12))
    if not (out / METRICS).is_file():
        with RecordLog("codebook", _log(out), recipe.policy.tensorboard) as log:
            log.write({"step": recipe.policy.steps, **metrics.as_dict()})
    write_json(out / METRICS, metrics.as_dict(), indent=2)
    return metrics


def _log(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / "log.jsonl"


def _saved(model: M, tokenizer: PreTrainedTokenizerFast, out: Path) -> M:
    if isinstance(model, CoLAForCausalLM):
        model.save_pretrained(out, whole=True)
    else:
        model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model
