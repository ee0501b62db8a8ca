"""Warnings about a codebook or policy that has collapsed, with a cure for each."""

from __future__ import annotations

import math
import warnings

from cola_agents.train.metrics import CodebookMetrics

#: A codebook has collapsed where its perplexity is below this share of its size.
COLLAPSED = 0.25
#: A policy has collapsed where the perplexity of its mean distribution is below this share of the codebook's.
POLICY_COLLAPSED = 0.5
#: The least mutual information of code and next token, as a share of the codes' entropy.
LEAST_INFORMATION = 0.25
LEAST_REACHABILITY = 0.8
LEAST_DISTINCT = 2.0
#: Most that policy and world model together may cost against the base, in nats per token.
MOST_EXCESS = 0.05
#: Tokens for each code, below which the figures are too rough to judge by.
LEAST_TOKENS = 16


class CodebookWarning(UserWarning):
    """A codebook collapses."""


_SPREAD = (
    "raise the weight of the batch-marginal regulariser (CodeConfig.marginal, .02 to .05), keep tau at 1, "
    "and train the world stage anew"
)


def health_warnings(metrics: CodebookMetrics) -> list[str]:
    """The problems of a measured codebook: one sentence each, with its threshold and a cure.

    The thresholds are this module's constants. In the project's experiments they separate the models that
    RL could steer from the others; they are a rule of thumb.

    Returns:
        the sentences; none for a healthy codebook.
    """
    if not all(math.isfinite(value) for value in metrics.as_dict().values()):
        return ["the measurements are not finite: the weights hold NaN or infinite values"]
    warnings_ = []
    if metrics.tokens < LEAST_TOKENS * metrics.num_codes:
        warnings_.append(
            f"only {metrics.tokens} tokens were scored: the figures are rough, and codes may look dead that "
            f"are not. Cure: measure {LEAST_TOKENS * metrics.num_codes} or more, {LEAST_TOKENS} for each code"
        )
    entropy = math.log(metrics.codebook_perplexity)
    if metrics.codebook_perplexity < COLLAPSED * metrics.num_codes:
        warnings_.append(
            f"the codebook has collapsed: its perplexity is {metrics.codebook_perplexity:.1f}, below "
            f"{COLLAPSED:.0%} of {metrics.num_codes} codes ({metrics.dead_codes} dead). Cure: {_SPREAD}"
        )
    if metrics.mutual_information_corrected < LEAST_INFORMATION * entropy:
        warnings_.append(
            f"the codes say little of the next token: they share "
            f"{metrics.mutual_information_corrected:.2f} nats with it, below {LEAST_INFORMATION:.0%} of "
            f"their own {entropy:.2f}. Cure: train the world stage longer"
        )
    if metrics.world_ce >= metrics.base_ce:
        warnings_.append(
            f"the world model is no better than the base even where it is told the code: cross-entropy "
            f"{metrics.world_ce:.3f} against {metrics.base_ce:.3f}. Cure: train the world stage longer; the "
            "readout 'difference' starts from a uniform language model, 'state' and 'normed_difference' "
            "start from the base"
        )
    if metrics.distinct_tokens < LEAST_DISTINCT:
        warnings_.append(
            f"the codes leave little choice: {metrics.distinct_tokens:.2f} distinct argmax tokens per "
            f"state, below {LEAST_DISTINCT:g}. Cure: train the world stage longer; using more codes alone "
            "does not help"
        )
    if metrics.reachability < LEAST_REACHABILITY:
        warnings_.append(
            f"{1 - metrics.reachability:.0%} of the text is out of reach: no code's argmax gives it (at "
            f"most {1 - LEAST_REACHABILITY:.0%}). Cure: train the world stage longer, or fine-tune the base "
            "under codes (FTA) on text that is rich in what must be reached"
        )
    if metrics.composed_excess > MOST_EXCESS:
        warnings_.append(
            f"policy and world model together cost {metrics.composed_excess:.3f} nats per token against the "
            f"base, more than {MOST_EXCESS:g}. Cure: clone the policy longer (cola pretrain policy); after "
            "RL, raise kl_coef"
        )
    if metrics.policy_perplexity < POLICY_COLLAPSED * metrics.codebook_perplexity:
        warnings_.append(
            f"the policy uses few of the codes that text needs: perplexity {metrics.policy_perplexity:.1f} "
            f"over all states, below {POLICY_COLLAPSED:.0%} of the codebook's "
            f"{metrics.codebook_perplexity:.1f}. Cure: clone it longer; after RL, raise kl_coef"
        )
    return warnings_


class CollapseWatch:
    """Warns once when a codebook collapses while it is trained.

    Args:
        num_codes: size of the codebook.
        warmup: steps without a warning.
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
                f"recover. If not: {_SPREAD}",
                CodebookWarning,
                stacklevel=2,
            )
