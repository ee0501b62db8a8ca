"""Rank codes: action ``i`` is the base model's ``i``-th likeliest token.

As many actions as there are codes, over a frozen base, with a cloned policy of the same shape; only that the
actions are not learned. The base is the one under the codes, and the policy is cloned on as many tokens as
the latent policy was.

Shapes: B rows, D hidden, A actions, M positions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cola_agents.decoding.backbones import LatentBackbone, LatentSession
from cola_agents.model.loading import load_model, load_tokenizer
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sizes import GROWTH
from cola_agents.train.bundled.recipe import corpus_batches
from cola_agents.train.bundled.settings import Recipe
from cola_agents.train.clone import POLICY_MODULES
from cola_agents.train.cross_entropy import target_cross_entropy
from cola_agents.train.data.packing import IGNORED, Batch
from cola_agents.train.loop import run_stage
from cola_agents.train.stage import StageLoss
from cola_agents.train.world import trained_parameters


class RankBackbone(LatentBackbone):
    """A model's base and policy stack, its codes read as ranks; the world model is not used.

    Args:
        model: a latent-action model whose policy was cloned from ranks (:func:`clone_ranks`).
        tokenizer: its tokenizer.
    """

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the model's fingerprint and of the meaning of its codes."""
        return hashlib.sha256(f"rank {super().fingerprint}".encode()).hexdigest()

    def token_logits(self, hidden: Tensor) -> Tensor:
        """The base's logits, -inf for ids that no token stands for: [..., D] to [..., V]."""
        return self.lm_head(hidden).masked_fill(self.unused_ids, float("-inf"))

    def compose(self, hidden: Tensor, log_actions: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens, [M]; -inf for a token that has no rank among the actions."""
        rank = ranks(self.token_logits(hidden), targets)
        within = rank < log_actions.shape[-1]
        log_probs = log_actions.gather(-1, rank.where(within, 0)[:, None]).squeeze(-1)
        return log_probs.masked_fill(~within, float("-inf"))

    def session(self, num_rows: int, max_length: int | None = None) -> RankSession:
        return RankSession(self, num_rows, self._length(max_length))


class RankSession(LatentSession):
    """Rows that are advanced by ranks."""

    _backbone: RankBackbone

    def _token_logits(self, h: Tensor, codes: Tensor, phase: int = 0) -> Tensor:
        logits = self._backbone.token_logits(h)
        best = logits.topk(int(self._backbone.action_space.n), dim=-1).indices
        shape = torch.broadcast_shapes(h.shape[:-1], codes.shape)
        token = best.expand(*shape, -1).gather(-1, codes.expand(shape)[..., None])
        logits = logits.expand(*shape, -1)
        # The token's own logit, so that what is not finite shows.
        return torch.full_like(logits, float("-inf")).scatter(-1, token, logits.gather(-1, token))


def ranks(logits: Tensor, targets: Tensor) -> Tensor:
    """How many tokens are likelier than the target: logits [..., V], targets [...] to [...]."""
    return (logits > logits.gather(-1, targets[..., None])).sum(-1)


class RankLoss(StageLoss):
    """Cross-entropy of the policy against the rank of what comes next; tokens without a rank do not count.

    Args:
        model: whose policy is trained.
        unused: ids that no token stands for, [V] bool: they have no rank. None where there are none.
    """

    def __init__(self, model: CoLAForCausalLM, unused: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("unused", unused, persistent=False)

    def forward(
        self, batch: Batch, generators: Sequence[torch.Generator], pooled: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            h = self.model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
            counts = batch.targets != IGNORED
            logits = self.model.lm_head(h)
            if self.unused is not None:
                logits.masked_fill_(self.unused, float("-inf"))
            rank = ranks(logits, batch.targets.where(counts, 0))
            counts &= rank < self.model.config.num_codes
        logits = self.model.policy(h, mask=batch.mask, positions=batch.positions)
        loss = target_cross_entropy(logits, rank.masked_fill(~counts, IGNORED))
        return loss, {"clone_ce": loss.detach()}


def clone_ranks(recipe: Recipe, base_path: Path, out: Path) -> CoLAForCausalLM:
    """Grow a policy stack on the base in ``base_path`` and clone it from ranks; saved to ``out``."""
    tokenizer = load_tokenizer(base_path)
    base = load_model(LlamaForCausalLM, base_path)
    model = CoLAForCausalLM.from_base(base, seed=recipe.seed + 2, **GROWTH)
    batches = corpus_batches(recipe.seed * 10 + 5, tokenizer, recipe.policy, recipe.corpus)
    out.mkdir(parents=True, exist_ok=True)
    trained = trained_parameters(model, POLICY_MODULES)
    loss = RankLoss(model, RankBackbone(model, tokenizer).unused_ids)
    run_stage("rank", loss, trained, batches, recipe.policy, log=out / "log.jsonl")
    model.eval()
    model.save_pretrained(out, whole=True)
    tokenizer.save_pretrained(out)
    return model
