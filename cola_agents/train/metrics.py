"""The metrics of a trained latent-action model on held-out documents.

Shapes: B rows, T tokens, D hidden, A codes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cola_agents.common.threads import fitting_threads
from cola_agents.model.modeling import CoLAForCausalLM, shift_codes
from cola_agents.train.data.packing import IGNORED, Batch

#: Token logits in memory at a time without ``chunk``: 128 MiB of float32.
_CHUNK_LOGITS = 2**25


@dataclass(frozen=True)
class CodebookMetrics:
    """Metrics of a model on held-out text; cross-entropies, entropies and information in nats per token.

    The code of a token is the argmax of the inverse dynamics, which reads that token too.

    Attributes:
        base_ce: cross-entropy of the base LM.
        world_ce: cross-entropy of the world model given the inverse dynamics' codes.
        composed_ce: cross-entropy of policy and world model together, summed over the codes.
        codebook_perplexity: exp of the entropy of the use of codes.
        codes_used: number of codes used at least once.
        distinct_tokens: number of distinct argmax tokens over all codes, mean over states.
        reachability: share of gold tokens that some code's argmax gives.
        policy_entropy: mean entropy of the policy.
        clone_accuracy: share of positions where the policy's argmax is the inverse dynamics' code.
        tokens: number of scored tokens.
        num_codes: size of the codebook.
        mutual_information: of code and next token, the plug-in estimate from ``tokens`` pairs: see
            :func:`mutual_information`.
        mutual_information_corrected: the same with the Miller-Madow correction.
        policy_perplexity: exp of the entropy of the policy's mean distribution: the effective number of codes
            over all states, whereas exp(``policy_entropy``) is that in one state.
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
    num_codes: int
    mutual_information: float
    mutual_information_corrected: float
    policy_perplexity: float

    @property
    def dead_codes(self) -> int:
        """Codes that the inverse dynamics never used."""
        return self.num_codes - self.codes_used

    @property
    def composed_excess(self) -> float:
        """Composed minus base cross-entropy: what the latent actions cost in likelihood."""
        return self.composed_ce - self.base_ce

    def as_dict(self) -> dict[str, float]:
        derived = {"dead_codes": self.dead_codes, "composed_excess": self.composed_excess}
        return {name: round(value, 4) for name, value in {**asdict(self), **derived}.items()}


def perplexity(weights: Tensor) -> float:
    """exp of the entropy of weights [N] >= 0, scaled to sum to one."""
    share = weights.double() / weights.double().sum()
    return torch.special.entr(share).sum().exp().item()


def mutual_information(counts: Tensor) -> tuple[float, float]:
    """Mutual information in nats of a table of counts [X, Y].

    Returns:
        The plug-in estimate H(X) + H(Y) - H(X, Y) from the observed shares, which is biased upwards by about
        (cells - rows - columns + 1) / 2N, where only non-empty ones count; and the estimate minus that bias,
        which may be negative where there is no information.

    Source: Miller 1955, "Note on the bias of information estimates".
    """
    counts = counts.double()
    total = counts.sum()

    def entropies(table: Tensor) -> tuple[Tensor, Tensor]:
        entropy = torch.special.entr(table / total).sum()
        return entropy, entropy + ((table > 0).sum() - 1) / (2 * total)

    rows, columns, cells = (entropies(table) for table in (counts.sum(1), counts.sum(0), counts))
    plain, corrected = ((x + y - both).item() for x, y, both in zip(rows, columns, cells, strict=True))
    return plain, corrected


class Tally:
    """Sums over batches of held-out text, from which :meth:`metrics` are computed.

    Args:
        model: a model with inverse dynamics.
        chunk: number of states whose token logits [chunk, A, V] are computed at a time; None for as many, up
            to 64, as fit in 128 MiB.

    Attributes:
        joint: counts of code and next token, [A, V] int64.
        policy: the policy's probabilities summed over the states, [A] float64.
        tokens: number of scored tokens.
    """

    def __init__(self, model: CoLAForCausalLM, chunk: int | None = None) -> None:
        shape = (model.config.num_codes, model.config.vocab_size)
        # More than 64 states at a time only cause cache misses.
        self._chunk = chunk or max(1, min(64, _CHUNK_LOGITS // (shape[0] * shape[1])))
        self._model = model
        self._codes = torch.arange(shape[0], device=model.device)
        self._sums = dict.fromkeys(
            ("base", "world", "composed", "distinct", "reached", "entropy", "agreed"), 0.0
        )
        self.joint = torch.zeros(shape, dtype=torch.long)
        self.policy = torch.zeros(shape[0], dtype=torch.float64)
        self.tokens = 0

    @torch.no_grad()
    def add(self, batch: Batch) -> Tensor:
        """Add a batch.

        Returns:
            the inverse dynamics' codes [B, T], each at the position before its token; -100 at positions
            that are not scored.

        Raises:
            ValueError: for a model without inverse dynamics.
        """
        model, device = self._model, self._model.device
        targets, positions, mask = (x.to(device) for x in (batch.targets, batch.positions, batch.mask))
        h = model.hidden(batch.ids.to(device), mask=mask, positions=positions)
        codes = shift_codes(model.infer(h, mask=mask, positions=positions)).argmax(-1)
        counted = targets != IGNORED
        log_pi = model.policy(h, mask=mask, positions=positions)[counted].float().log_softmax(-1)
        scored = (h[counted], targets[counted], codes[counted], log_pi)
        for part in zip(*(x.split(self._chunk) for x in scored), strict=True):
            self._add_states(*part)
        ones = torch.ones(len(log_pi), dtype=torch.long)
        self.joint.index_put_((codes[counted].cpu(), targets[counted].cpu()), ones, accumulate=True)
        self.policy += log_pi.exp().sum(0).double().cpu()
        self.tokens += len(log_pi)
        return codes.masked_fill(~counted, IGNORED).cpu()

    def _add_states(self, h: Tensor, targets: Tensor, codes: Tensor, log_pi: Tensor) -> None:
        """Add states h [N, D] with their next tokens [N], codes [N] and policy log-probabilities [N, A]."""
        model, shape = self._model, log_pi.shape
        logits = model.world(h[:, None].expand(*shape, -1), self._codes.expand(shape)).float()
        gold = logits.gather(-1, targets[:, None, None].expand(*shape, 1)).squeeze(-1) - logits.logsumexp(-1)
        best = logits.argmax(-1)
        ordered = best.sort(-1).values
        sums = {
            "base": functional.cross_entropy(model.lm_head(h).float(), targets, reduction="sum"),
            "world": -gold.gather(-1, codes[:, None]).sum(),
            "composed": -(log_pi + gold).logsumexp(-1).sum(),
            "distinct": len(h) + (ordered[:, 1:] != ordered[:, :-1]).sum(),
            "reached": (best == targets[:, None]).any(-1).sum(),
            "entropy": torch.special.entr(log_pi.exp()).sum(),
            "agreed": (log_pi.argmax(-1) == codes).sum(),
        }
        for name, value in sums.items():
            self._sums[name] += value.item()

    def metrics(self) -> CodebookMetrics:
        """The metrics of all added batches.

        Raises:
            ValueError: if no token was scored.
        """
        if not self.tokens:
            raise ValueError("there is no token to score: the held-out text is empty")
        mean = {name: value / self.tokens for name, value in self._sums.items()}
        used = self.joint.sum(1)
        plain, corrected = mutual_information(self.joint)
        return CodebookMetrics(
            base_ce=mean["base"],
            world_ce=mean["world"],
            composed_ce=mean["composed"],
            codebook_perplexity=perplexity(used),
            codes_used=int((used > 0).sum()),
            distinct_tokens=mean["distinct"],
            reachability=mean["reached"],
            policy_entropy=mean["entropy"],
            clone_accuracy=mean["agreed"],
            tokens=self.tokens,
            num_codes=len(used),
            mutual_information=plain,
            mutual_information_corrected=corrected,
            policy_perplexity=perplexity(self.policy),
        )


def measure(model: CoLAForCausalLM, batches: Iterable[Batch], chunk: int | None = None) -> CodebookMetrics:
    """Measure a model on held-out documents in one pass.

    Args:
        model: a model with inverse dynamics.
        batches: held-out documents.
        chunk: as in :class:`Tally`; limits the memory.

    Raises:
        ValueError: for a model without inverse dynamics, or where there is no token to score.
    """
    tally = Tally(model, chunk)
    with fitting_threads(model):
        for batch in batches:
            tally.add(batch)
    return tally.metrics()
