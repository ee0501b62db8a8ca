"""Trainable policies with a value head: one class for latent actions, one for tokens.

A latent actor trains the policy stack on hidden states recorded during the rollout, without running the
frozen base again. A token actor trains the language model itself.

Shapes: B rows, N episodes, T positions, M acting positions, D hidden, A actions.
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
from cola_agents.decoding.follower import Follower
from cola_agents.decoding.session import Rows, last_states
from cola_agents.decoding.static import DeviceAct
from cola_agents.model.families import Mask, decoder_mask
from cola_agents.model.lora import add_adapters, shared_copy
from cola_agents.rl.acting_states import acting_states
from cola_agents.rl.collecting import Act
from cola_agents.rl.rollout import Rollout
from cola_envs.spaces import reach


class Actor(nn.Module, ABC):
    """A trainable policy: a decoder stack that computes features of a state, an action head and a value head.

    Args:
        trunk: the decoder stack.
        head: a linear layer D -> A.
        mask: the allowed actions, [A] bool. Not all ids of a vocabulary need to be tokens.

    Attributes:
        num_actions: the largest allowed action plus one.
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
        """A function from a session's rows to action logits; see :class:`.collecting.Policy`."""
        features = self.follow(session)
        reads = getattr(features, "__self__", None)

        def logits(rows: Any) -> Tensor:
            return self.logits(features(rows))

        if isinstance(reads, (Rows, Follower)):
            return DeviceAct(self, reads if isinstance(reads, Follower) else None, logits)
        return logits

    @abstractmethod
    def follow(self, session: PolicySession) -> Act:
        """A function from a session's rows to the features of their states, [B, D]."""

    @abstractmethod
    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        """Features at every position of padded texts, [N, T, D].

        Args:
            ids: token ids [N, T].
            hidden: the base LM's states of them, [N, T, D].
            mask, positions: as in :meth:`CoLAForCausalLM.hidden`, for rows that hold several documents.
        """

    def features(self, rollout: Rollout) -> Tensor:
        """Features at all positions of whole episodes, [N, T, D]."""
        return self.encode(rollout.ids, rollout.hidden)

    def acting(self, rollout: Rollout) -> Tensor:
        """:meth:`features` at the acting positions only, [M, D], which can be computed faster."""
        return self.features(rollout)[rollout.mask]

    def _encodes_as(self, kind: type[Actor]) -> bool:
        """Whether no subclass of ``kind`` overrides how features are computed."""
        cls = type(self)
        return cls.encode is kind.encode and cls.features is Actor.features

    def logits(self, features: Tensor) -> Tensor:
        """Features [..., D] to action logits [..., ``num_actions``], -inf for actions not allowed."""
        logits: Tensor = self.head(features)[..., : self.num_actions].float()
        return logits if self._holes is None else logits.masked_fill(self._holes, float("-inf"))

    def values(self, features: Tensor) -> Tensor:
        """Features [..., D] to values [...]."""
        values: Tensor = self.value_head(features.float()).squeeze(-1)
        return values

    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name; tied ones once."""
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
        backbone: its initial policy is where training starts; its weights are not changed.
        parts: a trunk and a head to use directly; None for trainable copies of the initial policy's.
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
            features = acting_states(self.trunk, rollout.hidden, rollout.ids, rollout.lengths, rollout.mask)
        return super().acting(rollout) if features is None else features


class TokenActor(Actor):
    """A language model as a policy over its tokens.

    Args:
        backbone: the token backbone to train. The actor uses its base directly, so that the backbone's
            sessions compute the trained policy's hidden states.
        parts: a trunk and a head to use directly; None for the backbone's base and a copy of its head; a head
            that is tied to the embedding stays tied.
    """

    def __init__(self, backbone: TokenBackbone, parts: tuple[Any, nn.Linear] | None = None) -> None:
        if parts is None:
            base: Any = backbone.base.requires_grad_(True)
            head = copy.deepcopy(backbone.lm_head).requires_grad_(True)
            embedding = base.get_input_embeddings()
            if backbone.lm_head.weight is embedding.weight:
                head.weight = embedding.weight
            parts = base, head
        super().__init__(*parts, backbone.action_mask())

    def follow(self, session: PolicySession) -> Act:
        # A session of another backbone (a plain environment's, say) does not run the trained base.
        same_base = getattr(session, "base", self.trunk) is self.trunk
        return session.last if same_base else last_states(self.trunk, session)

    def encode(
        self, ids: Tensor, hidden: Tensor, *, mask: Mask = None, positions: Tensor | None = None
    ) -> Tensor:
        return run_trunk(self.trunk, mask, positions, input_ids=ids)

    def acting(self, rollout: Rollout) -> Tensor:
        features = None
        if self._encodes_as(TokenActor):
            embedded = self.trunk.get_input_embeddings()(rollout.ids)
            features = acting_states(self.trunk, embedded, rollout.ids, rollout.lengths, rollout.mask)
        return super().acting(rollout) if features is None else features


def make_actor(backbone: PolicyBackbone) -> Actor:
    """An actor over a backbone; all of its weights are trained.

    Raises:
        TypeError: for a third party's backbone that lacks a part of :class:`PolicyBackbone`, naming it.
    """
    return TokenActor(backbone) if isinstance(backbone, TokenBackbone) else LatentActor(_checked(backbone))


def reference_actor(backbone: PolicyBackbone) -> Actor:
    """The backbone's initial policy, over the backbone's own modules; not for training."""
    if isinstance(backbone, TokenBackbone):
        return TokenActor(backbone, (backbone.base, backbone.lm_head))
    return LatentActor(backbone, backbone.initial_policy())


def adapted_actor(backbone: PolicyBackbone, rank: int, alpha: float | None, seed: int) -> Actor:
    """An actor that trains low-rank adapters (:func:`cola_agents.model.lora.add_adapters`) and a value head.

    A latent actor shares the frozen weights with the backbone. At token level the adapters are inserted into
    the backbone's base itself, so no other actor may use it.

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
    names = missing(backbone, PolicyBackbone)
    if names:
        raise TypeError(
            f"no policy can be trained over a {type(backbone).__name__}, which has no {', '.join(names)}: "
            "see cola_agents.decoding.contract.PolicyBackbone"
        )
    return backbone
