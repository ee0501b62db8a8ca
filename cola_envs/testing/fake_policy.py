"""The policy network over a :class:`~cola_envs.testing.fake.FakeBackbone`; needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """A linear map of hidden states with the call signature of a Hugging Face decoder."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.map = _linear(weight)

    def forward(self, inputs_embeds: Tensor, **_: object) -> SimpleNamespace:
        """States [N, T, D] to ``last_hidden_state`` of the same shape."""
        return SimpleNamespace(last_hidden_state=self.map(inputs_embeds))


class _States(Protocol):
    def last(self, rows: Sequence[int]) -> Tensor: ...


class FakeReader:
    """Applies a decoder stack to a session's hidden states, one position at a time."""

    def __init__(self, session: _States, trunk: nn.Module) -> None:
        self._session, self._trunk = session, trunk

    @torch.no_grad()
    def features(self, rows: Sequence[int]) -> Tensor:
        """The stack's hidden state at each row's last token, [B, D]."""
        states = self._session.last(rows)[:, None]
        hidden: Tensor = self._trunk(inputs_embeds=states, use_cache=False).last_hidden_state
        return hidden[:, 0]


def trunk_and_head(trunk: np.ndarray, head: np.ndarray) -> tuple[Trunk, nn.Linear]:
    """The modules with the weights ``trunk`` [D, D] and ``head`` [A, D]."""
    return Trunk(trunk), _linear(head)


def _linear(weight: np.ndarray) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    module.weight.data.copy_(torch.from_numpy(weight))
    return module
