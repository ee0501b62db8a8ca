"""Trainable policies with a value head: one class for latent actions, one for tokens.

A latent actor trains the policy stack on hidden states that were recorded during the rollout, without running
the frozen base again. A token actor trains the language model itself. M counts acting positions.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.contract import PolicyBackbone, PolicySession, missing
from cola_agents.decoding.session import last_states
from cola_agents.model.families import Mask, decoder_mask
from cola_agents.model.lora import add_adapters, shared_copy
from cola_agents.rl.acting_states import acting_states
from cola_agents.rl.rollout import Act, Rollout
from cola_envs.spaces import reach


class Actor(nn.Module, ABC):
    """A trainable policy: features of a state, a linear head on them, and a linear value head.

    Args:
        trunk: the decoder stack that computes the features.
        head: D -> A.
        mask: the allowed actions, [A] bool (a vocabulary can be padded beyond its tokenizer, and its ids can
            have holes).

    Attributes:
        num_actions: one more than the largest allowed action.
    """

    _holes: Tensor | None

    def __init__(self, trunk: Any, head: nn.Linear, mask: np.ndarray) -> None:
        super().__init__()
        self.head = head
        self.num_actions = reach(mask)
        holes = torch.from_numpy(~mask[: self.num_actions]).to(head.weight.device)
        self.register_buffer("_holes", holes if holes.any() else None, persistent=False)
        # In float32 for every type of model: returns are small differences of large sums.
        self.value_head = skip_init(nn.Linear, head.in_features, 1, device=head.weight.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.trunk = trunk

    def attach(self, session: PolicySession) -> Act:
        """A function from a session's rows to action logits; see :class:`cola_agents.rl.rollout.Policy`."""
        features = self.follow(session)
        return lambda rows: self.logits(features(rows))

    @abstractmethod
    def follow(self, session: PolicySession) -> Act:
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

    def acting(self, rollout: Rollout) -> Tensor:
        """:meth:`features` where actions were taken, [M, D]; an actor may need less work for these alone."""
        return self.features(rollout)[rollout.mask]

    def _encodes_as(self, kind: type[Actor]) -> bool:
        """Whether this actor's features are made as a class makes them, and not as a subclass has it."""
        own = type(self)
        return own.encode is kind.encode and own.features is Actor.features

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., D] to logits [..., ``num_actions``] of actions, -inf where none may be drawn."""
        logits: Tensor = self.head(features)[..., : self.num_actions].float()
        return logits if self._holes is None else logits.masked_fill(self._holes, float("-inf"))

    def values(self, features: Tensor) -> Tensor:
        """Features [..., D] to values [...]."""
        values: Tensor = self.value_head(features.float()).squeeze(-1)
        return values

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that learning changes, by name; tied ones once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}


def run_trunk(trunk: Any, mask: Mask, positions: Tensor | None, **inputs: Tensor) -> Tensor:
    """The last hidden states of a decoder stack, [N, T, D]."""
    mask = decoder_mask(trunk, mask)
    states: Tensor = trunk(
        **inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return states


class LatentActor(Actor):
    """The policy stack of a latent-action model, trained on recorded hidden states.

    Args:
        backbone: its cloned policy is the initial policy, and stays unchanged.
        parts: a trunk and a head to use directly; None for trainable copies of the backbone's.
    """

    def __init__(
        self, backbone: PolicyBackbone, parts: tuple[nn.Module | None, nn.Linear] | None = None
    ) -> None:
        if parts is None:
            trunk, head = copy.deepcopy(backbone.initial_policy())
            parts = trunk.requires_grad_(True), head.requires_grad_(True)  # type: ignore[union-attr]
        super().__init__(*parts, backbone.action_mask())

    def follow(self, session: PolicySession) -> Act:
        return session.follow(self.trunk).features

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        return run_trunk(self.trunk, mask, positions, inputs_embeds=hidden)

    def acting(self, rollout: Rollout) -> Tensor:
        features = None
        if self._encodes_as(LatentActor):
            features = acting_states(self.trunk, rollout.hidden, rollout.lengths, rollout.mask)
        return super().acting(rollout) if features is None else features


class TokenActor(Actor):
    """A language model as a policy over its tokens.

    Args:
        backbone: the trained token backbone: the actor uses its base, so that a session of this backbone
            always has the trained policy's hidden states.
        parts: a trunk and a head to use directly; None to train the backbone's base, and a copy of its head
            unless that is tied to the embedding.
    """

    def __init__(self, backbone: TokenBackbone, parts: tuple[Any, nn.Linear] | None = None) -> None:
        if parts is None:
            base: Any = backbone.base.requires_grad_(True)
            head = copy.deepcopy(backbone.lm_head).requires_grad_(True)
            embedding = base.get_input_embeddings()
            if backbone.lm_head.weight is embedding.weight:
                # A tied head stays tied: the two are trained as one weight.
                head.weight = embedding.weight
            parts = base, head
        super().__init__(*parts, backbone.action_mask())

    def follow(self, session: PolicySession) -> Act:
        # The session of another backbone (a plain environment's, say) runs another base than the trained one.
        own = getattr(session, "base", self.trunk) is self.trunk
        return session.last if own else last_states(self.trunk, session)

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        return run_trunk(self.trunk, mask, positions, input_ids=ids)

    def acting(self, rollout: Rollout) -> Tensor:
        features = None
        if self._encodes_as(TokenActor):
            embedded = self.trunk.get_input_embeddings()(rollout.ids)
            features = acting_states(self.trunk, embedded, rollout.lengths, rollout.mask)
        return super().acting(rollout) if features is None else features


def make_actor(backbone: PolicyBackbone) -> Actor:
    """An actor over a backbone, of which all weights are trained.

    Raises:
        TypeError: for a third party's backbone that does not fulfil the contract, naming what is missing.
    """
    return TokenActor(backbone) if isinstance(backbone, TokenBackbone) else LatentActor(_checked(backbone))


def reference_actor(backbone: PolicyBackbone) -> Actor:
    """The backbone's initial policy, over its own modules; it is not for training."""
    if isinstance(backbone, TokenBackbone):
        return TokenActor(backbone, (backbone.base, backbone.lm_head))
    return LatentActor(backbone, backbone.initial_policy())


def adapted_actor(backbone: PolicyBackbone, rank: int, alpha: float | None, seed: int) -> Actor:
    """An actor that trains low-rank adapters (:func:`cola_agents.model.lora.add_adapters`) and a value head.

    A latent actor shares the frozen weights with the backbone. At token level the adapters are inserted into
    the backbone's base itself, which no other actor may use.

    Raises:
        TypeError: as :func:`make_actor` does.
    """
    if isinstance(backbone, TokenBackbone):
        actor = reference_actor(backbone)
    else:
        trunk, head = _checked(backbone).initial_policy()
        actor = LatentActor(backbone, (shared_copy(trunk), shared_copy(head)))
    add_adapters(actor.trunk, rank, alpha, seed)
    return actor


def _checked(backbone: PolicyBackbone) -> PolicyBackbone:
    """Return the backbone, or raise TypeError if no policy can be trained over it."""
    lacks = missing(backbone, PolicyBackbone)
    if lacks:
        raise TypeError(
            f"no policy can be trained over a {type(backbone).__name__}, which has no {', '.join(lacks)}: "
            "see cola_agents.decoding.contract.PolicyBackbone"
        )
    return backbone
