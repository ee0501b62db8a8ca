"""The recipe of the bundled models: from a seed to two models, a tokenizer and a model card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cola_agents.common.files import write_json
from cola_agents.common.randomness import drawn_from
from cola_agents.model.loading import load_config, load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.text import PlainTokenizer
from cola_agents.train.base import pretrain_base, tiny_llama
from cola_agents.train.bundled.corpus import HELD_OUT, CorpusConfig, documents
from cola_agents.train.bundled.tokenizer import train_tokenizer
from cola_agents.train.clone import clone_policy
from cola_agents.train.data.packing import PackedBatches, packed_batches
from cola_agents.train.data.sources import GeneratedDocuments
from cola_agents.train.loop import StageConfig
from cola_agents.train.metrics import CodebookMetrics, measure
from cola_agents.train.records import RecordLog
from cola_agents.train.world import CodeConfig, pretrain_world
from cola_envs.jsonl import JsonObject

M = TypeVar("M", bound=PreTrainedModel)
TOKENIZER_DOCUMENTS = 8_000
#: The sizes of the latent-action model around the base.
GROWTH: JsonObject = {
    "num_codes": 64,
    "num_inverse_layers": 1,
    "num_merge_layers": 2,
    "num_policy_layers": 1,
    "readout": "state",
}


@dataclass(frozen=True)
class Recipe:
    """The settings of the bundled models.

    Attributes:
        seed: of weights, data and noise.
        vocab_size: entries of the tokenizer.
        base, world, policy: the stages. For comparisons at token level the base is trained further, for as
            many tokens as ``world`` and ``policy`` together.
        codes, corpus: the code assignment and the composition of the corpus.
        zero_start: whether new merge layers start at zero; those of the bundled models were drawn.
    """

    seed: int = 0
    vocab_size: int = 768
    base: StageConfig = field(default_factory=lambda: StageConfig(steps=2530))
    world: StageConfig = field(default_factory=lambda: StageConfig(steps=5750))
    policy: StageConfig = field(default_factory=lambda: StageConfig(steps=805))
    codes: CodeConfig = field(default_factory=CodeConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    zero_start: bool = False

    @property
    def continued(self) -> StageConfig:
        """The further training of the base: as many tokens as the latent-action stages."""
        steps = round((self.world.tokens + self.policy.tokens) / (self.base.rows * self.base.length))
        # A third of the peak rate: the schedule starts again from a trained model.
        return replace(self.base, steps=steps, lr=self.base.lr / 3)


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


def train_base(recipe: Recipe, out: Path) -> LlamaForCausalLM:
    """Stage 0 with its tokenizer, saved to ``out``."""
    tokenizer = make_tokenizer(recipe)
    with drawn_from(recipe.seed):
        base = tiny_llama(len(tokenizer), tokenizer.eos_token_id)
    batches = corpus_batches(recipe.seed * 10 + 1, tokenizer, recipe.base, recipe.corpus)
    pretrain_base(base, batches, recipe.base, _log(out))
    return _saved(base, tokenizer, out)


def train_world(recipe: Recipe, base_path: Path, out: Path) -> CoLAForCausalLM:
    """Stage 1 around a trained base, saved to ``out`` with an untrained policy."""
    tokenizer = load_tokenizer(base_path)
    base = load_model(LlamaForCausalLM, base_path)
    model = CoLAForCausalLM.from_base(base, seed=recipe.seed + 1, zero_start=recipe.zero_start, **GROWTH)
    batches = corpus_batches(recipe.seed * 10 + 2, tokenizer, recipe.world, recipe.corpus)
    pretrain_world(model, batches, recipe.world, recipe.codes, _log(out))
    return _saved(model, tokenizer, out)


def train_policy(recipe: Recipe, world_path: Path, out: Path) -> CodebookMetrics:
    """Stage 2, saved to ``out``; returns the finished model's metrics."""
    tokenizer = load_tokenizer(world_path)
    kind = load_config(world_path).model_type
    if kind != "cola":
        raise ValueError(f"{world_path} holds a {kind} model, not one that `cola pretrain world` wrote")
    model = CoLAForCausalLM.from_pretrained(world_path)
    batches = corpus_batches(recipe.seed * 10 + 3, tokenizer, recipe.policy, recipe.corpus)
    clone_policy(model, batches, recipe.policy, _log(out))
    _saved(model, tokenizer, out)
    held_out = corpus_batches(HELD_OUT, tokenizer, recipe.base, recipe.corpus)
    metrics = measure(model, islice(held_out, 12))
    write_json(out / "metrics.json", metrics.as_dict(), indent=2)
    with RecordLog("codebook", _log(out), recipe.policy.tensorboard) as log:
        log.write({"step": recipe.policy.steps, **metrics.as_dict()})
    return metrics


def continue_base(recipe: Recipe, base_path: Path, out: Path) -> None:
    """Train the base further, for comparisons at token level; saved to ``out``."""
    tokenizer = load_tokenizer(base_path)
    base = load_model(LlamaForCausalLM, base_path)
    stage = recipe.continued
    batches = corpus_batches(recipe.seed * 10 + 4, tokenizer, stage, recipe.corpus)
    pretrain_base(base, batches, stage, _log(out))
    _saved(base, tokenizer, out)


def train_bundled(recipe: Recipe, out: Path) -> CodebookMetrics:
    """The whole recipe: ``out/cola`` and ``out/base``, with logs, metrics and the recipe beside them."""
    started = out / "stages"
    train_base(recipe, started / "base")
    train_world(recipe, started / "base", started / "world")
    metrics = train_policy(recipe, started / "world", out / "cola")
    continue_base(recipe, started / "base", out / "base")
    write_json(out / "recipe.json", asdict(recipe), indent=2)
    return metrics


def _log(out: Path) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return out / "log.jsonl"


def _saved(model: M, tokenizer: PreTrainedTokenizerFast, out: Path) -> M:
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return model
