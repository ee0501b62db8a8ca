"""Policies with a value head, one class a level, one interface for every learner.

A latent actor trains the policy stack on hidden states that were kept while playing: the frozen base
is never run again. A token actor trains the language model itself. M counts acting positions.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torch.utils.checkpoint import checkpoint

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.model.families import Mask, decoder_mask
from cola_agents.model.lora import add_adapters, shared_copy
from cola_agents.model.sampling import distribution
from cola_agents.rl.losses import categorical_entropy, categorical_kl, sampled_kl
from cola_agents.rl.rollout import Rollout
from cola_envs.spaces import reach

#: Log-probabilities that are held at once, over all actions: 2 ** 26 are 256 MiB in float32.
LOGITS_AT_ONCE = 2**26


class Actor(nn.Module, ABC):
    """A trainable policy: features of a state, a linear head on them, and a linear value.

    Args:
        trunk: the decoder stack that makes the features.
        head: D -> A.
        mask: which entries of the head may be drawn, [A] bool (a vocabulary can be padded beyond its
            tokenizer, and its ids can have holes).

    Attributes:
        num_actions: how many first entries of the head hold all that may be drawn.
    """

    def __init__(self, trunk: Any, head: nn.Linear, mask: np.ndarray) -> None:
        super().__init__()
        self.head = head
        self.num_actions = reach(mask)
        holes = torch.from_numpy(~mask[: self.num_actions]).to(head.weight.device)
        self.register_buffer("_holes", holes if holes.any() else None, persistent=False)
        # In float32 whatever the model's type: returns are small differences of large sums.
        self.value_head = skip_init(nn.Linear, head.in_features, 1, device=head.weight.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.trunk = trunk

    @abstractmethod
    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        """Begin to act in a session; see :class:`cola_agents.rl.rollout.Policy`."""

    @abstractmethod
    def follow(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        """A function from a session's rows to the features of their states, [B, D]."""

    @abstractmethod
    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        """Features at every position of padded texts, [N, T, D].

        Args:
            ids: [N, T].
            hidden: the base LM's states of them, [N, T, D].
            mask, positions: of several documents in a row; as in :meth:`CoLAForCausalLM.hidden`.
        """

    def features(self, rollout: Rollout) -> Tensor:
        """States to features, [N, T, D], for all positions of whole episodes."""
        return self.encode(rollout.ids, rollout.hidden)

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., D] to logits [..., ``num_actions``] of actions, -inf where none may be drawn."""
        logits = self.head(features)[..., : self.num_actions].float()
        return logits if self._holes is None else logits.masked_fill(self._holes, float("-inf"))

    def values(self, features: Tensor) -> Tensor:
        """Features [..., D] to values [...]."""
        return self.value_head(features.float()).squeeze(-1)

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learning changes, by name; tied ones once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def run_trunk(trunk: Any, mask: Mask, positions: Tensor | None, **inputs: Tensor) -> Tensor:
    """The last hidden states of a decoder stack, [N, T, D]."""
    mask = decoder_mask(trunk, mask)
    out = trunk(**inputs, attention_mask=mask, position_ids=positions, use_cache=False)
    return out.last_hidden_state


class LatentActor(Actor):
    """The policy stack of a latent-action model, trained on kept hidden states.

    Args:
        backbone: whose cloned policy it starts as; the backbone's own copy stays as it is.
        parts: a trunk and a head to use as they are; None for trainable copies of the backbone's.
    """

    def __init__(self, backbone: LatentBackbone, parts: tuple[Any, nn.Linear] | None = None) -> None:
        if parts is None:
            trunk, head = copy.deepcopy(backbone.initial_policy())
            parts = trunk.requires_grad_(True), head.requires_grad_(True)  # type: ignore[union-attr]
        super().__init__(*parts, backbone.action_mask())

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        features = self.follow(session)
        return lambda rows: self.logits(features(rows))

    def follow(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        return session.follow(self.trunk).features

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        return run_trunk(self.trunk, mask, positions, inputs_embeds=hidden)


class TokenActor(Actor):
    """A language model as a policy over its tokens.

    Args:
        backbone: the token backbone that is trained: the actor uses its base, so that a session of this
            backbone always shows the trained policy's own hidden states.
        parts: a trunk and a head to use as they are; None to train the backbone's base, and a head that is
            a copy unless it is tied to the embedding.
    """

    def __init__(self, backbone: TokenBackbone, parts: tuple[Any, nn.Linear] | None = None) -> None:
        if parts is None:
            base: Any = backbone.base.requires_grad_(True)
            head = copy.deepcopy(backbone.lm_head).requires_grad_(True)
            embedding = base.get_input_embeddings()
            if backbone.lm_head.weight is embedding.weight:
                # A tied head stays tied: it is trained as one weight, as the model itself would be.
                head.weight = embedding.weight
            parts = base, head
        super().__init__(*parts, backbone.action_mask())

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        return lambda rows: self.logits(session.last(rows))

    def follow(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        return session.last

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        return run_trunk(self.trunk, mask, positions, input_ids=ids)


def make_actor(backbone: LatentBackbone | TokenBackbone) -> LatentActor | TokenActor:
    """The actor that acts over a backbone; all of its weights are trained."""
    if isinstance(backbone, LatentBackbone):
        return LatentActor(backbone)
    if isinstance(backbone, TokenBackbone):
        return TokenActor(backbone)
    raise TypeError(
        f"the bundled agents act over a LatentBackbone or a TokenBackbone, got {type(backbone).__name__}; "
        "with a backbone of your own, pass a policy of your own to cola_agents.collect"
    )


def reference_actor(backbone: LatentBackbone | TokenBackbone) -> LatentActor | TokenActor:
    """The backbone's initial policy over its own modules: nothing is copied, nothing is to be trained."""
    if isinstance(backbone, LatentBackbone):
        return LatentActor(backbone, backbone.initial_policy())
    return TokenActor(backbone, (backbone.base, backbone.lm_head))


def adapted_actor(
    backbone: LatentBackbone | TokenBackbone, rank: int, alpha: float | None, seed: int
) -> LatentActor | TokenActor:
    """An actor that trains low-rank adapters and its value; see :func:`cola_agents.model.lora.add_adapters`.

    At latent level weights are shared with the backbone. At token level the adapters go into the
    backbone's base itself, which must be the actor's own.
    """
    actor: LatentActor | TokenActor
    if isinstance(backbone, LatentBackbone):
        trunk, head = backbone.initial_policy()
        actor = LatentActor(backbone, (shared_copy(trunk), shared_copy(head)))
    else:
        actor = reference_actor(backbone)
    add_adapters(actor.trunk, rank, alpha, seed)
    return actor


@dataclass(frozen=True)
class Scores:
    """Figures of a policy at M acting positions, [M] float32 each.

    Attributes:
        log_probs: of the actions taken.
        entropy: of the policy.
        kl: from the policy to the reference, exact or estimated; zeros where no reference was given.
    """

    log_probs: Tensor
    entropy: Tensor
    kl: Tensor


def score(
    actor: Actor,
    features: Tensor,
    taken: Tensor,
    *,
    drawing: dict[str, Any],
    reference: tuple[Actor, Tensor] | None = None,
    estimator: str = "exact",
) -> Scores:
    """Score actions, without holding M distributions at once where the actions are many.

    Over a large vocabulary the positions are taken a few at a time and their logits are made again for
    the gradient, so that memory holds ``LOGITS_AT_ONCE`` of them, and not M times A.

    Args:
        features: of the actor, [M, D].
        taken: the actions, [M].
        drawing: temperature, top_k and top_p that the actions were drawn with.
        reference: another actor and its features [M, D], for the KL; nothing of its policy is cut.
        estimator: ``"exact"``, ``"k1"`` or ``"k3"``.
    """

    def part(features: Tensor, taken: Tensor, theirs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        log_policy = distribution(actor.logits(features), **drawing, taken=taken)
        log_probs = log_policy.gather(-1, taken[:, None]).squeeze(-1)
        kl = torch.zeros_like(log_probs)
        if reference is not None and theirs is not None:
            with torch.no_grad():
                other = distribution(reference[0].logits(theirs), temperature=drawing["temperature"])
            if estimator == "exact":
                kl = categorical_kl(log_policy, other)
            else:
                kl = sampled_kl(log_probs, other.gather(-1, taken[:, None]).squeeze(-1), estimator)
        return log_probs, categorical_entropy(log_policy), kl

    theirs = None if reference is None else reference[1]
    size = max(1, LOGITS_AT_ONCE // actor.num_actions)
    if len(taken) <= size:
        return Scores(*part(features, taken, theirs))
    pieces = []
    for at in range(0, len(taken), size):
        here = slice(at, at + size)
        given = features[here], taken[here], None if theirs is None else theirs[here]
        pieces.append(
            checkpoint(part, *given, use_reentrant=False) if torch.is_grad_enabled() else part(*given)
        )
    return Scores(*(torch.cat(columns) for columns in zip(*pieces, strict=True)))
