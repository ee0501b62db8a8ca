"""Reward models: sequence classifiers that score responses, and their training on pairs (Bradley-Terry)."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from cola_agents.common.checks import check_fields
from cola_agents.common.files import whole_folder
from cola_agents.common.provenance import provenance
from cola_agents.common.randomness import drawn_from
from cola_agents.common.threads import check_fork, fitting_threads
from cola_agents.decoding.loading import check_device
from cola_agents.model.families import check_rope
from cola_agents.model.loading import load_config, load_model, load_tokenizer
from cola_agents.model.official import is_official
from cola_agents.model.reach import reachable
from cola_agents.model.shards import disk_errors
from cola_agents.model.text import PlainTokenizer
from cola_agents.rl.losses import alike
from cola_agents.rl.optimiser import fit_batches
from cola_envs import jsonl
from cola_envs.contract import checked_text
from cola_envs.jsonl import JsonObject
from cola_envs.text import with_start_ids


class RewardModel:
    """Scores responses with a sequence classifier of one output.

    Args:
        path: folder or hub id of a Hugging Face sequence-classification model (safetensors; a decoder, such
            as LlamaForSequenceClassification) with its tokenizer; loaded at the first score.
        device: device of the model; None for the CPU.
        batch_size: responses per forward pass.
        max_length: tokens read of prompt and response; of a longer text the last ones, because the score is
            read at the last token.

    Attributes:
        mean, std: mean and standard deviation of the scores on held-out data: ``reward_mean`` and
            ``reward_std`` in the model's configuration, which ``cola train-reward`` writes.

    Prompt and response are tokenised separately, as in an episode, and follow the beginning-of-text token, if
    the tokenizer's template has one.
    """

    def __init__(
        self, path: str | Path, *, device: str | None = None, batch_size: int = 32, max_length: int = 2048
    ) -> None:
        self.path = str(path)
        self.device = device or "cpu"
        self.batch_size = batch_size
        self.max_length = max_length
        self._loaded: tuple[PreTrainedModel, PlainTokenizer] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> RewardModel:
        return self  # Gymnasium copies an environment's arguments; the weights stay shared

    @property
    def mean(self) -> float:
        return self._moment("reward_mean")

    @property
    def std(self) -> float:
        return self._moment("reward_std")

    def _moment(self, name: str) -> float:
        model, _ = self._load()
        value = getattr(model.config, name, None)
        if value is None:
            raise AttributeError(f"the configuration of {self.path} has no {name}")
        return float(value)

    def _load(self) -> tuple[PreTrainedModel, PlainTokenizer]:
        if self._loaded is None:
            self.path = reachable(self.path, "scorer")
            config = load_config(self.path)
            _check_classifier(self.path, config)
            if config.num_labels != 1:
                raise ValueError(
                    f"{self.path} has {config.num_labels} outputs; a reward model is a sequence classifier "
                    "with num_labels=1"
                )
            model = _load_classifier(self.path, config)
            self._loaded = model.to(self.device).eval(), PlainTokenizer(load_tokenizer(self.path))
        return self._loaded

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        """The score of each response."""
        model, tokenizer = self._load()
        rows = [encode(tokenizer, *pair, self.max_length) for pair in zip(prompts, responses, strict=True)]
        # Batches of rows of similar length need less padding, on which the scores do not depend.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = [0.0] * len(rows)
        with torch.no_grad(), fitting_threads(model):
            check_fork()
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                for i, score in zip(batch, score_rows(model, [rows[i] for i in batch]).tolist(), strict=True):
                    scores[i] = score
        return scores


def _check_classifier(source: str, config: PretrainedConfig) -> None:
    """Raise ValueError for a model that has no sequence classifier in transformers."""
    latent = config.model_type == "cola" or is_official(config)
    if latent or type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        kind = "latent-action" if latent else config.model_type
        raise ValueError(
            f"{source} holds a {kind} model, and a reward model is a causal LM or a sequence classifier of "
            f"transformers{', such as the base that the codes were trained on' if latent else ''}: give one"
        )


def _load_classifier(source: str, config: PretrainedConfig) -> PreTrainedModel:
    """Load a decoder with a head on its last token; ValueError for another classifier."""
    check_rope(config.get_text_config())
    model = load_model(AutoModelForSequenceClassification, source, config=config)
    if not hasattr(model, "score"):
        raise ValueError(
            f"{source} is a {type(model).__name__}, not a decoder with a head on its last token: give a "
            "decoder, or score with a callable of your own instead"
        )
    return model


def _check_length(tokenizer: PlainTokenizer, config: PretrainedConfig, length: int) -> None:
    """Raise ValueError for a length beyond the model's context, or one that holds no token of a response."""
    least = len(tokenizer.start_ids) + (tokenizer.eos_token_id is not None) + 1
    if length < least:
        raise ValueError(
            f"max_length (--max-length) must be at least {least}, a token of the response beside those that "
            f"begin and end a text, got {length}"
        )
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if most is not None and length > most:
        raise ValueError(
            f"max_length (--max-length) must be at most {most}, the model's context, got {length}"
        )


def encode(tokenizer: PlainTokenizer, prompt: str, response: str, max_length: int) -> list[int]:
    """Ids of prompt and response between the tokenizer's start ids and its end-of-text token.

    Of more than ``max_length`` ids, the start ids and the last of the others are kept.
    """
    text = [*tokenizer.encode(prompt), *tokenizer.encode(response)]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = [*with_start_ids(tokenizer, text), *end]
    start = ids[: min(len(tokenizer.start_ids), max_length - 1)]
    return [*start, *ids[len(start) :][len(start) - max_length :]] or [0]


def score_rows(model: PreTrainedModel, rows: Sequence[list[int]]) -> Tensor:
    """The model's output at each row's last token, [B]. Rows are padded on the right, with a mask."""
    width = max(map(len, rows))
    device = next(model.parameters()).device
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(width, device=device) < lengths[:, None]
    hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(rows), device=device), lengths - 1]
    return model.score(last).squeeze(-1).float()


@dataclass(frozen=True)
class RewardConfig:
    """Options of :func:`train_reward`; the defaults are the official scripts' (learning rate, batch, length).

    Attributes:
        lr: peak learning rate, after a warm-up over 3 % of the steps; a cosine decays it to a tenth.
        batch_size: pairs per step.
        epochs: passes over the pairs.
        max_length: tokens read of prompt and response, up to the model's context.
        held_out: share of the pairs that is kept for evaluation.
        seed: seed of the order, of the choice of held-out pairs, and of the new head.

    Raises:
        ValueError: for a value that is not allowed, naming the field.
    """

    lr: float = 9e-6
    batch_size: int = 256
    epochs: int = 1
    max_length: int = 512
    held_out: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("batch_size", "epochs", "max_length")
        check_fields(self, counts=counts, seeds=("seed",), positive=("lr",))
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, got {self.held_out}")


@dataclass(frozen=True)
class Pair:
    """A preferred and a rejected response to the same prompt."""

    prompt: str
    chosen: str
    rejected: str


def read_pairs(path: str | Path) -> list[Pair]:
    """Read pairs from a JSONL file whose lines have the strings ``prompt``, ``chosen`` and ``rejected``.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a line that is not a pair of Unicode texts, naming it, and for an empty file.
    """
    path, names = Path(path), [field.name for field in fields(Pair)]
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; pairs are lines of {', '.join(names)} in JSON")
    pairs = []
    for where, item in jsonl.read(path):
        if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in names):
            raise ValueError(f"{where}: a pair has the strings {', '.join(names)}, got {item!r:.80}")
        pairs.append(Pair(*(checked_text(item[name], f"{where}: {name!r}") for name in names)))
    if not pairs:
        raise ValueError(f"{path} holds no pair")
    return pairs


def train_reward(
    model: str | Path,
    pairs: Sequence[Pair],
    out: str | Path,
    config: RewardConfig | None = None,
    *,
    device: str | None = None,
) -> JsonObject:
    """Train a reward model on pairs and save it to ``out``.

    The loss is ``-log sigmoid(r_chosen - r_rejected)``. The head is a bias-free linear map of the hidden
    state at the last token. The configuration gets the mean and standard deviation of the scores of the
    held-out responses, for whitening (``reward_mean``, ``reward_std``). The model is computed and saved in
    the type of its file; the optimiser keeps weights of a lower precision in float32 too.

    Args:
        model: folder or hub id of a causal LM or of a sequence classifier with one output.
        pairs: at least two; the share ``config.held_out`` of them, and at least one, is not trained on.
        out: folder to write; absent or empty.

    Returns:
        ``accuracy`` on the held-out pairs, their number, ``reward_mean``, ``reward_std``, the last loss, and
        the provenance; also written to ``out/reward.json``.

    Raises:
        ValueError: for fewer than two pairs, another kind of model, a ``max_length`` beyond its context or
            without room for a response, and for a device that is not there.
        FloatingPointError: when the loss is not finite, naming the step, or the gradient is not.
        FileExistsError: if ``out`` is not empty.

    Source: Bradley and Terry 1952; the official post-training trains its reward models so.
    """
    config = config or RewardConfig()
    if len(pairs) < 2:
        raise ValueError(f"at least two pairs are needed, one of them for evaluation; got {len(pairs)}")
    check_device(device)
    named, model = Path(model).name, reachable(model)
    with whole_folder(Path(out)) as folder, drawn_from(config.seed, device):
        _check_classifier(model, load_config(model))
        model_config = load_config(model, num_labels=1)
        tokenizer = load_tokenizer(model)
        plain = PlainTokenizer(tokenizer)
        _check_length(plain, model_config, config.max_length)
        network = _load_classifier(model, model_config)
        network.to(device or "cpu").train()
        order = np.random.default_rng(config.seed).permutation(len(pairs))
        count = min(len(pairs) - 1, max(1, round(config.held_out * len(pairs))))
        held_out = [pairs[i] for i in order[:count]]
        with fitting_threads(network):
            loss = _fit(network, plain, [pairs[i] for i in order[count:]], config)
            network.eval()
            figures: JsonObject = {**_evaluate(network, plain, held_out, config), "loss": round(loss, 5)}
        network.config.reward_mean, network.config.reward_std = figures["reward_mean"], figures["reward_std"]
        with disk_errors(Path(out)):
            network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        report = {"base": named, "pairs": len(pairs), "held_out": count, **figures, **provenance()}
        (folder / "reward.json").write_text(json.dumps(report, indent=2))
    return report


def _fit(
    network: PreTrainedModel,
    tokenizer: PlainTokenizer,
    pairs: list[Pair],
    config: RewardConfig,
) -> float:
    """Train on the pairs; return the loss of the last step.

    transformers' Trainer would be longer: it needs a data set, a collator, a sampler for the order, a
    subclass for the loss and a callback for a loss that is not finite. TRL's RewardTrainer
    tokenises prompt and response in another way than :func:`encode`.
    """
    batches = []
    for epoch in range(config.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(pairs))
        batches += [order[i : i + config.batch_size] for i in range(0, len(pairs), config.batch_size)]

    def loss(batch: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        texts = [(pairs[i].prompt, pairs[i].chosen) for i in batch]
        texts += [(pairs[i].prompt, pairs[i].rejected) for i in batch]
        rows = [encode(tokenizer, *text, config.max_length) for text in texts]
        chosen, rejected = score_rows(network, rows).chunk(2)
        accuracy = (chosen > rejected).float().mean().item()
        return -functional.logsigmoid(chosen - rejected).mean(), {"accuracy": accuracy}

    *_, last = fit_batches(network, batches, len(batches), loss, lr=config.lr, final=0.1, name="reward")
    return last["loss"]


@torch.no_grad()
def _evaluate(
    network: PreTrainedModel, tokenizer: PlainTokenizer, pairs: Sequence[Pair], config: RewardConfig
) -> dict[str, float]:
    """Accuracy on pairs, and mean and standard deviation of the scores."""
    scores: list[float] = []
    correct = 0
    for start in range(0, len(pairs), config.batch_size):
        batch = pairs[start : start + config.batch_size]
        texts = [(pair.prompt, text) for pair in batch for text in (pair.chosen, pair.rejected)]
        rows = [encode(tokenizer, *text, config.max_length) for text in texts]
        batch_scores = score_rows(network, rows).tolist()
        scores += batch_scores
        correct += sum(a > b for a, b in zip(batch_scores[::2], batch_scores[1::2], strict=True))
    # Equal scores have no deviation to whiten by; 1 avoids a division by 0.
    low, high = torch.tensor(scores).aminmax()
    std = 1.0 if alike(low, high, torch.maximum(low.abs(), high.abs())) else statistics.pstdev(scores)
    return {
        "accuracy": round(correct / len(pairs), 4),
        "reward_mean": statistics.fmean(scores),
        "reward_std": std,
    }
