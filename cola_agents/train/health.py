"""Warnings about a codebook or policy that has collapsed, with a cure for each."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

from cola_agents.train.metrics import CodebookMetrics

#: A codebook has collapsed where its perplexity is below this share of its size.
COLLAPSED = 0.25
#: A policy has collapsed where the perplexity of its mean distribution is below this share of the codebook's.
POLICY_COLLAPSED = 0.5
#: The least mutual information of code and next token, as a share of the codes' entropy.
LEAST_INFORMATION = 0.25
#: The least share of gold tokens that some code's argmax gives.
LEAST_REACHABILITY = 0.8
#: The least number of distinct argmax tokens per state.
LEAST_DISTINCT = 2.0
#: The most that policy and world model together may cost against the base, in nats per token.
MOST_EXCESS = 0.05
#: The least number of tokens per code: the figures of fewer are too rough to judge by.
LEAST_TOKENS = 16


class CodebookWarning(UserWarning):
    """A codebook collapses."""


_RAISE_PERPLEXITY = (
    "raise the weight of the batch-marginal regulariser (CodeConfig.marginal, .02 to .05), keep tau at 1, "
    "and train the world stage again"
)


def health_warnings(metrics: CodebookMetrics) -> list[str]:
    """The problems of a measured model: one sentence each, with its threshold and a cure.

    The thresholds are this module's constants: a rule of thumb, by which the models that RL could steer in
    the project's experiments differ from the others.

    Returns:
        the sentences; none for a healthy model.
    """
    if not all(math.isfinite(value) for value in metrics.as_dict().values()):
        return ["the measurements are not finite: the weights hold NaN or infinite values"]
    return [*_codebook_warnings(metrics), *_world_warnings(metrics), *_policy_warnings(metrics)]


def _codebook_warnings(metrics: CodebookMetrics) -> Iterator[str]:
    if metrics.tokens < LEAST_TOKENS * metrics.num_codes:
        yield (
            f"only {metrics.tokens} tokens were scored: the figures are rough, and used codes may seem "
            f"unused. Cure: measure {LEAST_TOKENS * metrics.num_codes} or more, {LEAST_TOKENS} for each code"
        )
    entropy = math.log(metrics.codebook_perplexity)
    if metrics.codebook_perplexity < COLLAPSED * metrics.num_codes:
        yield (
            f"the codebook has collapsed: its perplexity is {metrics.codebook_perplexity:.1f}, below "
            f"{COLLAPSED:.0%} of {metrics.num_codes} codes ({metrics.dead_codes} dead). Cure: "
            f"{_RAISE_PERPLEXITY}"
        )
    if metrics.mutual_information_corrected < LEAST_INFORMATION * entropy:
        yield (
            f"the codes say little about the next token: they share "
            f"{metrics.mutual_information_corrected:.2f} nats with it, below {LEAST_INFORMATION:.0%} of "
            f"their own {entropy:.2f}. Cure: train the world stage longer"
        )


def _world_warnings(metrics: CodebookMetrics) -> Iterator[str]:
    if metrics.world_ce >= metrics.base_ce:
        yield (
            f"the world model is no better than the base even when it is given the code: cross-entropy "
            f"{metrics.world_ce:.3f} against {metrics.base_ce:.3f}. Cure: train the world stage longer; the "
            "readout 'difference' starts from a uniform language model, 'state' and 'normed_difference' "
            "start from the base"
        )
    if metrics.distinct_tokens < LEAST_DISTINCT:
        yield (
            f"the codes leave little choice: {metrics.distinct_tokens:.2f} distinct argmax tokens per "
            f"state, below {LEAST_DISTINCT:g}. Cure: train the world stage longer; using more codes alone "
            "does not help"
        )
    if metrics.reachability < LEAST_REACHABILITY:
        yield (
            f"{1 - metrics.reachability:.0%} of the text is out of reach: no code's argmax gives it (at "
            f"most {1 - LEAST_REACHABILITY:.0%}). Cure: train the world stage longer, or fine-tune the base "
            "under codes (FTA) on text that is rich in what must be reached"
        )


def _policy_warnings(metrics: CodebookMetrics) -> Iterator[str]:
    if metrics.composed_excess > MOST_EXCESS:
        yield (
            f"policy and world model together cost {metrics.composed_excess:.3f} nats per token against the "
            f"base, more than {MOST_EXCESS:g}. Cure: clone the policy longer (cola pretrain policy); after "
            "RL, raise kl_coef"
        )
    if metrics.policy_perplexity < POLICY_COLLAPSED * metrics.codebook_perplexity:
        yield (
            f"the policy uses few of the codes that text needs: perplexity {metrics.policy_perplexity:.1f} "
            f"over all states, below {POLICY_COLLAPSED:.0%} of the codebook's "
            f"{metrics.codebook_perplexity:.1f}. Cure: clone it longer; after RL, raise kl_coef"
        )


class CollapseWatch:
    """Warns once when a codebook collapses while it is trained.

    Args:
        num_codes: size of the codebook.
        warmup: number of first steps without a warning.
    """

    def __init__(self, num_codes: int, warmup: int) -> None:
        self._num_codes = num_codes
        self._warmup = warmup
        self._warned = False

    def __call__(self, record: dict[str, float]) -> None:
        """Check a log record with ``step`` and ``code_perplexity``, of the codes of one batch."""
        collapsed = record["code_perplexity"] < COLLAPSED * self._num_codes
        if collapsed and not self._warned and record["step"] > self._warmup:
            self._warned = True
            warnings.warn(
                f"the codebook is collapsing: at step {record['step']} the batch's codes have perplexity "
                f"{record['code_perplexity']:.1f}, below {COLLAPSED:.0%} of {self._num_codes}. It may "
                f"recover. If not: {_RAISE_PERPLEXITY}",
                CodebookWarning,
                stacklevel=2,
            )
