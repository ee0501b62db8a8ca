"""The interfaces of backbones and sessions that policies are played and trained over.

Shapes: B rows, T tokens of a row, D hidden, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from cola_envs.backbone import Backbone, Session


class Reader(Protocol):
    """A decoder stack over a session's hidden states."""

    def features(self, rows: Sequence[int]) -> Tensor:
        """The stack's hidden state at each row's last token, [B, D], in the model's dtype.

        Valid until a row changes: clone what is kept.
        """


class PolicySession(Session, Protocol):
    """A session whose rows a policy can act in, as :func:`cola_agents.collect` and the search use it."""

    #: The ids of each row: prompt, agent's tokens and task text.
    tokens: list[list[int]]

    def states(self, row: int) -> Tensor:
        """The base's hidden states of all of a row's tokens, [T, D]; valid until the row changes."""

    def last(self, rows: Sequence[int]) -> Tensor:
        """The base's hidden states at the rows' last tokens, [B, D], in the model's dtype.

        Valid until a row changes: clone what is kept.
        """

    def policy(self, rows: Sequence[int]) -> Tensor:
        """Logits of the backbone's own policy at the rows' last tokens, [B, A]."""

    def follow(self, trunk: nn.Module) -> Reader:
        """A reader of this session's hidden states by another decoder stack; its weights must not change."""


class PolicyBackbone(Backbone, Protocol):
    """A backbone with an initial policy, which the bundled agents can train.

    They train a copy of :meth:`initial_policy`'s trunk and head. The trunk is called as a Hugging Face
    decoder is, ``trunk(inputs_embeds=states, attention_mask=None, position_ids=None, use_cache=False)`` with
    states [N, T, D] of whole episodes, and returns an object whose ``last_hidden_state`` is [N, T, D]. It
    must be causal: a position's state does not depend on later ones.
    """

    def initial_policy(self) -> tuple[nn.Module | None, nn.Linear]:
        """The trunk and the head on it, D -> A; None for the trunk if the head reads the base's states."""

    def session(self, num_rows: int, max_length: int | None = None) -> PolicySession:
        """As in :class:`~cola_envs.backbone.Backbone`."""


def missing(thing: object, contract: type[Any]) -> list[str]:
    """The names of a contract (one of the protocols here) that an object lacks."""
    names: set[str] = set()
    for part in contract.__mro__:
        names |= {name for name in (*vars(part), *vars(part).get("__annotations__", ())) if name[0] != "_"}
    return sorted(name for name in names if not hasattr(thing, name))
