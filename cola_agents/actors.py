"""Policies with a value head, one class a level, one interface for every learner.

A latent actor trains the policy stack on hidden states that were kept while playing: the frozen base
is never run again. A token actor trains the language model itself.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from cola_agents.backbones import LatentBackbone, TokenBackbone
from cola_agents.rollout import Rollout


class Actor(nn.Module, ABC):
    """A trainable policy: features of a state, a linear head on them, and a linear value.

    Args:
        head: D -> A, without bias; copied.
        num_actions: the first ``num_actions`` entries of the head may be drawn (a vocabulary can be
            padded beyond its tokenizer).
    """

    def __init__(self, head: nn.Linear, num_actions: int) -> None:
        super().__init__()
        self.head = copy.deepcopy(head).requires_grad_(True)
        self.num_actions = num_actions
        # In float32 whatever the model's type: returns are small differences of large sums.
        self.value_head = nn.Linear(head.in_features, 1, device=head.weight.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    @abstractmethod
    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        """Begin to act in a session; see :class:`cola_agents.rollout.Policy`."""

    @abstractmethod
    def features(self, rollout: Rollout) -> Tensor:
        """States to features, [N, T, D], for all positions of whole episodes."""

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., D] to action logits [..., A]."""
        return self.head(features)[..., : self.num_actions].float()

    def values(self, features: Tensor) -> Tensor:
        """Features [..., D] to values [...]."""
        return self.value_head(features.float()).squeeze(-1)


class LatentActor(Actor):
    """The policy stack of a latent-action model, trained on kept hidden states.

    Args:
        backbone: whose cloned policy it starts as; the backbone's own copy stays as it is.
    """

    def __init__(self, backbone: LatentBackbone) -> None:
        trunk, head = backbone.initial_policy()
        super().__init__(head, int(backbone.action_space.n))
        self.trunk: Any = copy.deepcopy(trunk).requires_grad_(True)  # type: ignore[union-attr]

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        follower = session.follow(self.trunk)
        return lambda rows: self.logits(follower.features(rows))

    def features(self, rollout: Rollout) -> Tensor:
        return self.trunk(inputs_embeds=rollout.hidden, use_cache=False).last_hidden_state


class TokenActor(Actor):
    """A language model as a policy over its tokens; all of its weights are trained.

    Args:
        backbone: the token backbone that is trained: the actor uses its base, so that a session of this
            backbone always shows the trained policy's own hidden states.
    """

    def __init__(self, backbone: TokenBackbone) -> None:
        super().__init__(backbone.lm_head, len(backbone.tokenizer))
        base: Any = backbone.base.requires_grad_(True)
        self.trunk = base
        embedding = base.get_input_embeddings()
        if backbone.lm_head.weight is embedding.weight:
            # A tied head stays tied: it is trained as one weight, as the model itself would be.
            self.head.weight = embedding.weight

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        return lambda rows: self.logits(session.last(rows))

    def features(self, rollout: Rollout) -> Tensor:
        return self.trunk(input_ids=rollout.ids, use_cache=False).last_hidden_state


def make_actor(backbone: LatentBackbone | TokenBackbone) -> LatentActor | TokenActor:
    """The actor that acts over a backbone."""
    if isinstance(backbone, LatentBackbone):
        return LatentActor(backbone)
    if isinstance(backbone, TokenBackbone):
        return TokenActor(backbone)
    raise TypeError(
        f"the bundled agents act over a LatentBackbone or a TokenBackbone, got {type(backbone).__name__}; "
        "with a backbone of your own, pass a policy of your own to cola_agents.collect"
    )
