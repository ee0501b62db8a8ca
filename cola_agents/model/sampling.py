"""The sampler of all codes and tokens, in training and evaluation."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

#: The smallest temperature above 0: logits up to 1e32 divided by it are finite in float32.
COLDEST = 1e-6


class Drawing(TypedDict, total=False):
    """Sampling options: arguments of :func:`sample`."""

    temperature: float
    top_k: int | None
    top_p: float


def distribution(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    taken: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of the distribution that :func:`sample` draws from.

    Args:
        logits: [..., N].
        temperature: divides the logits; at least :data:`COLDEST`, or 0. 0 is greedy: all mass on the argmax,
            ties to the lowest index.
        top_k: keep the k likeliest; None keeps all. Ties at the border are kept to the lower index.
        top_p: then keep the smallest set of the likeliest whose mass reaches ``top_p``, at least one.
        taken: entries [...] that are kept whatever their rank: actions drawn before the weights changed.

    Returns:
        [..., N] float32 log-probabilities, -inf where nothing is drawn.

    Raises:
        ValueError: for settings out of range.
    """
    if 0 < temperature < COLDEST:
        raise ValueError(f"temperature={temperature} is below {COLDEST}, where logits overflow: 0 is greedy")
    if not 0 <= temperature < float("inf") or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"temperature={temperature} must be finite and >= 0, top_p={top_p} in (0, 1] and top_k={top_k} "
            "None or >= 1"
        )
    logits = logits.float()
    if temperature == 0:
        out = torch.full_like(logits, float("-inf"))
        return out.scatter_(-1, logits.argmax(-1, keepdim=True), 0.0)
    log_probs = torch.log_softmax(logits / temperature, dim=-1)
    if top_k is None and top_p == 1:
        return log_probs
    ordered, index = log_probs.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        keep[..., top_k:] = False
    if top_p < 1:
        mass = ordered.masked_fill(~keep, float("-inf")).softmax(-1)
        # An entry stays while the mass before it is below top_p: the first always stays.
        keep &= mass.cumsum(-1) - mass < top_p
    keep = torch.zeros_like(keep).scatter_(-1, index, keep)
    if taken is not None:
        keep.scatter_(-1, taken.unsqueeze(-1), True)
    return torch.log_softmax(log_probs.masked_fill(~keep, float("-inf")), dim=-1)


def sample(
    logits: Tensor, u: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draw by inverting the cumulative distribution at given uniforms.

    Args:
        logits: [..., N].
        u: uniforms in [0, 1), [...]; a row's draw depends on its own u and logits alone.
        temperature, top_k, top_p: as in :func:`distribution`.

    Returns:
        indices [...] int64, and their log-probabilities [...] under the distribution drawn from; NaN where
        the logits have NaN or +inf.
    """
    log_probs = distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    if temperature == 0:
        chosen = log_probs.argmax(-1)
        best = logits.float().gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        return chosen, best - best
    cumulative = log_probs.exp().double().cumsum(-1)
    # Scaling by the total keeps the last entry reachable; staying below the total excludes later entries
    # without mass, even for a u that was rounded up to 1.
    total = cumulative[..., -1:]
    target = torch.minimum(u.to(cumulative).unsqueeze(-1) * total, total.nextafter(torch.zeros_like(total)))
    chosen = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    chosen = chosen.clamp_max(logits.shape[-1] - 1)
    return chosen, log_probs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
