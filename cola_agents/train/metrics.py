"""What a trained latent-action model is judged by, on held-out documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from cola_agents.modeling import CoLAForCausalLM, shift_codes
from cola_agents.train.data import IGNORED, Batch


@dataclass(frozen=True)
class CodebookMetrics:
    """Measured on held-out text; cross-entropies in nats per token.

    Attributes:
        base_ce: of the base LM.
        world_ce: of the world model given the inverse dynamics' codes (which saw the token).
        composed_ce: of policy and world model together, summed over the codes.
        codebook_perplexity: exp of the entropy of the codes' use.
        codes_used: codes used at least once.
        distinct_tokens: distinct argmax tokens that the codes give, mean over states.
        reachability: share of gold tokens that some code's argmax gives.
        policy_entropy: mean entropy of the policy.
        clone_accuracy: share of positions where the policy's argmax is the inverse dynamics' code.
        tokens: how many tokens were scored.
    """

    base_ce: float
    world_ce: float
    composed_ce: float
    codebook_perplexity: float
    codes_used: int
    distinct_tokens: float
    reachability: float
    policy_entropy: float
    clone_accuracy: float
    tokens: int

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


@torch.no_grad()
def measure(model: CoLAForCausalLM, batches: Iterable[Batch], chunk: int = 512) -> CodebookMetrics:
    """Measure a model on held-out documents, expanding ``chunk`` states at a time over the codes."""
    num_codes = model.config.num_codes
    all_codes = torch.arange(num_codes)
    totals: dict[str, float] = dict.fromkeys(
        ("base", "world", "composed", "distinct", "reached", "entropy", "agreed"), 0.0
    )
    used = torch.zeros(num_codes)
    count = 0
    for batch in batches:
        h = model.hidden(batch.ids, mask=batch.mask, positions=batch.positions)
        where = batch.targets != IGNORED
        codes = shift_codes(model.infer(h, mask=batch.mask, positions=batch.positions)).argmax(-1)[where]
        log_pi = model.policy(h, mask=batch.mask, positions=batch.positions)[where].log_softmax(-1)
        states, targets = h[where], batch.targets[where]
        count += len(targets)
        used += torch.bincount(codes, minlength=num_codes)
        totals["base"] += functional.cross_entropy(model.lm_head(states), targets, reduction="sum").item()
        totals["world"] += functional.cross_entropy(
            model.world(states, codes), targets, reduction="sum"
        ).item()
        totals["entropy"] -= (log_pi.exp() * log_pi).sum().item()
        totals["agreed"] += (log_pi.argmax(-1) == codes).sum().item()
        totals["composed"] -= model.compose(states, log_pi, targets, chunk=chunk).sum().item()
        for part in torch.arange(len(targets)).split(chunk):
            each = states[part][:, None].expand(-1, num_codes, -1)
            best = model.world(each, all_codes.expand(len(part), -1)).argmax(-1)
            totals["reached"] += (best == targets[part][:, None]).any(-1).sum().item()
            ordered = best.sort(-1).values
            totals["distinct"] += (1 + (ordered[:, 1:] != ordered[:, :-1]).sum(-1)).sum().item()
    share = used / used.sum()
    perplexity = torch.exp(-(share * torch.log(share.clamp_min(1e-12))).sum()).item()
    mean = {name: value / count for name, value in totals.items()}
    return CodebookMetrics(
        base_ce=mean["base"],
        world_ce=mean["world"],
        composed_ce=mean["composed"],
        codebook_perplexity=perplexity,
        codes_used=int((used > 0).sum()),
        distinct_tokens=mean["distinct"],
        reachability=mean["reached"],
        policy_entropy=mean["entropy"],
        clone_accuracy=mean["agreed"],
        tokens=count,
    )
