"""The metrics of a trained latent-action model on held-out documents.

Shapes: B rows, T tokens, D hidden, A codes, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from cola_agents.common.threads import fitting_threads
from cola_agents.model.modeling import CoLAForCausalLM, shift_codes
from cola_agents.model.spans import Spans, code_posterior, find_spans, read_codes
from cola_agents.train.cross_entropy import head_cross_entropy
from cola_agents.train.data.packing import IGNORED, Batch

#: Token logits in memory at a time without ``chunk``: 128 MiB of float32.
_CHUNK_LOGITS = 2**25
#: The tokens that are scored by default, at most, and the multiplications that scoring and comparing take by
#: default: together less than two minutes of one core at 30 GFLOP/s.
MOST_TOKENS = 20_000
_SCORING, _COMPARING = 0.4e12, 1.0e12
#: Codes are compared in so many states at least, and so many tokens are scored for each code.
_LEAST_STATES, _LEAST_TOKENS = 64, 16


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Scoring a token takes one pass through base, inverse dynamics and policy, and two products with the head.
    Comparing the codes in a state takes a product with the head for each code: with 64 codes and a vocabulary
    of 49,152, a base of 135M weights scores 13 tokens meanwhile.

    Attributes:
        tokens: tokens that are scored, at most.
        states: states in which all codes are compared, at most: drawn evenly from those of the scored tokens.

    Raises:
        ValueError: for fewer than one.
    """

    tokens: int
    states: int

    def __post_init__(self) -> None:
        for name in ("tokens", "states"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(
        cls,
        model: CoLAForCausalLM,
        tokens: int | None = None,
        states: int | None = None,
        *,
        most: int = MOST_TOKENS,
    ) -> Budget:
        """The budget that was given, or one of less than two minutes of one core.

        Args:
            model: the model to be measured.
            tokens, states: None for as many as fit these minutes; at least 16 tokens for each code, and 64
                states.
            most: the most tokens by default.
        """
        head, merge = model.lm_head.weight.numel(), _size(model.merge)
        embeddings = _size(model.get_input_embeddings())
        token = _size(model) - embeddings * (1 + (not model.config.tie_word_embeddings)) + 2 * head
        if tokens is None:
            least = _LEAST_TOKENS * model.config.num_codes
            tokens = min(most, max(least, int(_SCORING / token)))
        if states is None:
            state = model.config.num_codes * (head + merge)
            states = max(_LEAST_STATES, int(_COMPARING / state))
        return cls(tokens, states)

    @property
    def sample(self) -> int | None:
        """The size of the sample in which codes are compared; None for all states."""
        return None if self.states >= self.tokens else self.states


def _size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class CodebookMetrics:
    """Metrics of a model on held-out text; cross-entropies, entropies and information in nats per token.

    The code of a token is the argmax of the inverse dynamics, which reads that token too. Codes that last
    several tokens divide each document into spans from its first token on; ``policy_entropy``,
    ``clone_accuracy`` and ``policy_perplexity`` are then of the first states of the spans, and
    ``composed_ce`` is that of the spans, shared out to their tokens.

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
        states: number of states in which all codes were compared, for ``composed_ce``, ``distinct_tokens``
            and ``reachability``. Where these are fewer than ``tokens``, ``composed_ce`` is ``base_ce`` plus
            the mean difference from it in those states.
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
    states: int

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
        sample: the number of states, drawn evenly from all, in which all codes are compared, when the metrics
            are asked for; None to compare them in every state as it is added.

    Attributes:
        joint: counts of code and next token, [A, V] int64.
        policy: the policy's probabilities summed over the states in which a code is chosen, [A] float64.
        tokens, states, choices: numbers of scored tokens, of states in which all codes were compared, and of
            states in which a code is chosen.
    """

    def __init__(self, model: CoLAForCausalLM, chunk: int | None = None, sample: int | None = None) -> None:
        shape = (model.config.num_codes, model.config.vocab_size)
        # More than 64 states at a time only cause cache misses.
        self._chunk = chunk or max(1, min(64, _CHUNK_LOGITS // (shape[0] * shape[1])))
        self._model = model
        self._codes = torch.arange(shape[0], device=model.device)
        self._sums = dict.fromkeys(
            ("base", "world", "composed", "distinct", "reached", "entropy", "agreed", "base there"), 0.0
        )
        # The states with the largest numbers are the sample, whatever the batches.
        self._sample, self._numbers = sample, np.random.default_rng(0)
        self._drawn: tuple[Tensor, ...] = ()
        self.joint = torch.zeros(shape, dtype=torch.long)
        self.policy = torch.zeros(shape[0], dtype=torch.float64)
        self.tokens = self.states = self.choices = 0

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
        on_device = batch.to(device)
        targets, positions, mask = on_device.targets, on_device.positions, on_device.mask
        h = model.hidden(on_device.ids, mask=mask, positions=positions)
        logits = model.infer(h, mask=mask, positions=positions)
        log_pi = model.policy(h, mask=mask, positions=positions).float().log_softmax(-1)
        counted = targets != IGNORED
        if model.config.span == 1:
            codes, chosen, phase = shift_codes(logits).argmax(-1), counted, torch.zeros_like(targets)
            weights = log_pi
        else:
            closing = model.closing(on_device.ids, h)
            spans = find_spans(model.config.span, on_device.ids, on_device.segments, closing=closing)
            codes, phase = read_codes(logits, spans.end).argmax(-1), spans.phase
            chosen, weights = counted & (phase == 0), self._posterior(on_device.ids, h, log_pi, spans)
        self._score(h[counted], targets[counted], codes[counted], phase[counted])
        first = log_pi[chosen]
        self._sums["entropy"] += torch.special.entr(first.exp()).sum().item()
        self._sums["agreed"] += (first.argmax(-1) == codes[chosen]).sum().item()
        compared = (h[counted], targets[counted], weights[counted], phase[counted])
        if self._sample is None:
            for part in zip(*(x.split(self._chunk) for x in compared), strict=True):
                self._compare(*part)
        else:
            self._draw(*compared, size=self._sample)
        ones = torch.ones(int(counted.sum()), dtype=torch.long)
        self.joint.index_put_((codes[counted].cpu(), targets[counted].cpu()), ones, accumulate=True)
        self.policy += first.exp().sum(0).double().cpu()
        self.tokens += len(ones)
        self.choices += len(first)
        return codes.masked_fill(~counted, IGNORED).cpu()

    def _posterior(self, ids: Tensor, h: Tensor, log_pi: Tensor, spans: Spans) -> Tensor:
        """Log-probabilities of the codes given the tokens of the spans so far, [B, T, A].

        Args:
            ids, h, log_pi: token ids [B, T], states [B, T, D] and the policy's log-probabilities [B, T, A].
            spans: of the rows.
        """
        following = ids.roll(-1, 1).flatten()
        states, phase = h.flatten(0, 1), spans.phase.flatten()
        log_probs = self._model.code_log_probs(states, following, phase, chunk=self._chunk)
        return code_posterior(log_pi, log_probs.view_as(log_pi), spans.start)

    def _score(self, h: Tensor, targets: Tensor, codes: Tensor, phase: Tensor) -> None:
        """Add states h [N, D] with their next tokens, codes and phases, [N] each."""
        model = self._model

        def total(states: Tensor) -> float:
            mean = head_cross_entropy(states[None], model.lm_head, targets[None])
            return mean.item() * len(targets)

        self._sums["base"] += total(h)
        self._sums["world"] += total(model.world_state(h, model.vectors(model.codebook(codes), phase)))

    def _draw(self, h: Tensor, targets: Tensor, log_pi: Tensor, phase: Tensor, *, size: int) -> None:
        """Add states to those from which the sample is drawn; arguments as of :meth:`_compare`."""
        numbers = torch.from_numpy(self._numbers.random(len(h))).to(h.device)
        new = (numbers, h, targets, log_pi, phase)
        joined = [torch.cat(pair) for pair in zip(self._drawn, new, strict=True)] if self._drawn else new
        best = joined[0].topk(min(size, len(joined[0]))).indices
        self._drawn = tuple(x[best] for x in joined)

    def _compare(self, h: Tensor, targets: Tensor, log_pi: Tensor, phase: Tensor) -> None:
        """Add the figures of all codes in states; arguments as of :meth:`_score`, log_pi [N, A]."""
        model, shape = self._model, log_pi.shape
        every = (h[:, None].expand(*shape, -1), self._codes.expand(shape), phase[:, None].expand(shape))
        logits = model.world(*every).float()
        gold = logits.gather(-1, targets[:, None, None].expand(*shape, 1)).squeeze(-1)
        best = logits.argmax(-1)
        # torch.logsumexp takes ten times as long on a CPU.
        most = logits.amax(-1, keepdim=True)
        gold -= logits.sub_(most).exp_().sum(-1).log() + most.squeeze(-1)
        ordered = best.sort(-1).values
        base = functional.cross_entropy(model.lm_head(h).float(), targets, reduction="sum")
        self._sums["base there"] += base.item()
        self._sums["composed"] -= (log_pi + gold).logsumexp(-1).sum().item()
        self._sums["distinct"] += len(h) + (ordered[:, 1:] != ordered[:, :-1]).sum().item()
        self._sums["reached"] += (best == targets[:, None]).any(-1).sum().item()
        self.states += len(h)

    @torch.no_grad()
    def _compare_sample(self, progress: bool) -> None:
        drawn, self._drawn = self._drawn[1:], ()
        parts = list(zip(*(x.split(self._chunk) for x in drawn), strict=True))
        for part in tqdm(parts, desc="compare codes", disable=not progress, leave=False):
            self._compare(*part)

    def metrics(self, progress: bool = False) -> CodebookMetrics:
        """The metrics of all added batches. With a sample, no more can be added.

        Args:
            progress: show a progress bar of the sample.

        Raises:
            ValueError: if no token was scored.
        """
        if not self.tokens:
            raise ValueError("there is no token to score: the held-out text is empty")
        compared = ("composed", "distinct", "reached", "base there")
        if self._drawn:
            self._compare_sample(progress)
        count = dict.fromkeys(compared, self.states) | dict.fromkeys(("entropy", "agreed"), self.choices)
        mean = {name: value / max(1, count.get(name, self.tokens)) for name, value in self._sums.items()}
        if self.states < self.tokens:  # the difference varies less from state to state than either
            mean["composed"] += mean["base"] - mean["base there"]
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
            states=self.states,
        )


def first_targets(batches: Iterator[Batch], tokens: int) -> Iterator[Batch]:
    """Batches with ``tokens`` targets in total; further targets of the last batch are masked."""
    left = tokens
    while left and (batch := next(batches, None)) is not None:
        order = (batch.targets != IGNORED).flatten().cumsum(0).view(batch.targets.shape)
        yield replace(batch, targets=batch.targets.masked_fill(order > left, IGNORED))
        left -= min(left, int(order[-1, -1]))


def measure(
    model: CoLAForCausalLM,
    batches: Iterable[Batch],
    chunk: int | None = None,
    *,
    budget: Budget | None = None,
    progress: bool = False,
) -> CodebookMetrics:
    """Measure a model on held-out documents in one pass.

    Args:
        model: a model with inverse dynamics.
        batches: held-out documents.
        chunk: as in :class:`Tally`; limits the memory.
        budget: how much is measured; None for all of ``batches``.
        progress: show a progress bar, of the budget's tokens.

    Raises:
        ValueError: for a model without inverse dynamics, or where there is no token to score.
    """
    tally = Tally(model, chunk, budget.sample if budget else None)
    taken = iter(batches) if budget is None else first_targets(iter(batches), budget.tokens)
    total = budget.tokens if budget else None
    with (
        fitting_threads(model),
        tqdm(total=total, desc="measure", unit="token", disable=not progress) as bar,
    ):
        for batch in taken:
            # A row at a time, so that the bar moves on with a large model.
            rows = [batch.part(at, at + 1) for at in range(len(batch.ids))] if progress else [batch]
            for part in rows:
                tally.add(part)
                bar.update(tally.tokens - bar.n)
        return tally.metrics(progress)
