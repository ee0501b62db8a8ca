"""Where codes that last several tokens begin and end in a text.

A code of a model with ``CoLAConfig.span = k`` is chosen at a state and decides the next k tokens, its *span*.
The *phase* of a state is the number of the span's tokens before it: the state of phase 0 is the one in which
the code is chosen. A span is shorter where its document ends, and after a token that *closes* it: see
:meth:`~cola_agents.model.modeling.CoLAForCausalLM.closing`.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Spans(NamedTuple):
    """The spans of rows of tokens.

    Attributes:
        phase: of each state, [B, T] int64, 0 to k - 1.
        start: index of the state in which the code of a state's span was chosen, [B, T]; of a span that began
            before its document's first token, the index of that token.
        end: index of the last token of a state's span, [B, T]. The inverse dynamics reads the code there.
    """

    phase: Tensor
    start: Tensor
    end: Tensor


class HeldCodes:
    """The code that each row of one generation is writing under, and how many tokens it has decided.

    Args:
        span: the number of tokens that a code decides.
    """

    def __init__(self, span: int) -> None:
        self._span = span
        self._code: Tensor | None = None
        self._phase = torch.empty(0)

    def choose(self, chosen: Tensor, closing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The codes and phases of a forward pass, the last of which writes a token; both [B, T].

        Args:
            closing: whether the pass's last tokens close spans, [B]; None where none can.
            chosen: the policy's codes [B, T], of which a row takes the last where its span is over.
        """
        last = chosen[:, -1]
        if self._code is None:
            self._code, self._phase = last, torch.zeros_like(last)
        else:
            over = self._phase + 1 == self._span
            if closing is not None:
                over |= closing
            self._phase = torch.where(over, 0, self._phase + 1)
            self._code = torch.where(over, last, self._code)
        phases = torch.zeros_like(chosen)
        phases[:, -1] = self._phase
        return torch.cat([chosen[:, :-1], self._code[:, None]], dim=1), phases


def find_spans(
    span: int,
    ids: Tensor,
    segments: Tensor | None = None,
    phases: Tensor | None = None,
    closing: Tensor | None = None,
) -> Spans:
    """Divide rows into spans that follow each other.

    Args:
        span: the number k of tokens of a span.
        ids: token ids [B, T].
        segments: index of a token's document within its row [B, T]; None for one document a row.
        phases: the phase of the first state of a document, [B, T] int64, read at its first token; None for 0.
        closing: whether a token closes its span, [B, T]; None where none does.
    """
    at, first = _bounds(ids, segments)
    since = first if closing is None else torch.where(closing, at, first).cummax(1).values
    phase = at - since
    if phases is not None:
        goes_on = since == first if closing is None else (since == first) & ~closing.gather(1, first)
        phase = phase + torch.where(goes_on, phases.gather(1, first), 0)
    phase = phase % span
    start = torch.maximum(at - phase, since)
    return Spans(phase, start, _ends(span, at, first, closing, at - phase))


def ends_from_everywhere(
    span: int, ids: Tensor, segments: Tensor | None = None, closing: Tensor | None = None
) -> Tensor:
    """The index of the last token of the span that a code chosen in each state would have, [B, T].

    Args:
        span, ids, segments, closing: as in :func:`find_spans`.
    """
    at, first = _bounds(ids, segments)
    return _ends(span, at, first, closing, at)


def read_codes(logits: Tensor, at: Tensor) -> Tensor:
    """The logits [B, T, A] of codes at positions [B, T], such as the ends of the spans: [B, T, A]."""
    return logits.gather(1, at.unsqueeze(-1).expand_as(logits))


def code_posterior(log_pi: Tensor, log_probs: Tensor, start: Tensor) -> Tensor:
    """Log-probabilities of the codes in every state, given the tokens of its span so far, [B, T, A].

    In a span's first state these are the policy's; after each of its tokens they follow Bayes' rule.

    Args:
        log_pi: the policy's log-probabilities [B, T, A]; those of the spans' first states are used.
        log_probs: log-probability of the next token under each code, [B, T, A].
        start: the first states of the spans, [B, T].
    """
    before = log_probs.double().cumsum(1).roll(1, 1)
    before[:, 0] = 0
    index = start.unsqueeze(-1).expand_as(before)
    joint = log_pi.gather(1, index) + before - before.gather(1, index)
    return joint.log_softmax(-1).to(log_pi.dtype)


def _bounds(ids: Tensor, segments: Tensor | None) -> tuple[Tensor, Tensor]:
    """The index of each position, and that of its document's first token, both [B, T]."""
    at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    new = torch.zeros_like(ids, dtype=torch.bool)
    if segments is not None:
        new[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return at, torch.where(new, at, 0).cummax(1).values


def _ends(span: int, at: Tensor, first: Tensor, closing: Tensor | None, starts: Tensor) -> Tensor:
    """The last token of each state's span, which begins at ``starts``, maybe before its document: [B, T]."""
    last = torch.ones_like(at, dtype=torch.bool)
    last[:, :-1] = first[:, 1:] != first[:, :-1]
    end = _first_from(last, at)
    if closing is not None:
        # The token of the state itself belongs to the span before.
        after = torch.full_like(at, at.shape[1])
        after[:, :-1] = _first_from(closing, at)[:, 1:]
        end = torch.minimum(end, after)
    return torch.minimum(starts + span, end)


def _first_from(marked: Tensor, at: Tensor) -> Tensor:
    """The index of the first marked position from each on, [B, T]; T where there is none."""
    return torch.where(marked, at, at.shape[1]).flip(1).cummin(1).values.flip(1)
