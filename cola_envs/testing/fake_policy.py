"""What a policy over a :class:`~cola_envs.testing.fake.FakeBackbone` is made of; needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Trunk(nn.Module):
    """A linear map of hidden states, called as a Hugging Face decoder is."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.map = _linear(weight)

    def forward(self, inputs_embeds: Tensor, **_: object) -> SimpleNamespace:
        """States [N, T, D] to ``last_hidden_state`` of the same shape."""
        return SimpleNamespace(last_hidden_state=self.map(inputs_embeds))


class _States(Protocol):
    def last(self, rows: Sequence[int]) -> Tensor: ...


class FakeReader:
    """A decoder stack that reads a session's hidden states, each on its own."""

    def __init__(self, session: _States, trunk: nn.Module) -> None:
        self._session, self._trunk = session, trunk

    @torch.no_grad()
    def features(self, rows: Sequence[int]) -> Tensor:
        """The stack's hidden state at each row's last token, [B, D]."""
        states = self._session.last(rows)[:, None]
        read: Tensor = self._trunk(inputs_embeds=states, use_cache=False).last_hidden_state
        return read[:, 0]


def trunk_and_head(trunk: np.ndarray, head: np.ndarray) -> tuple[Trunk, nn.Linear]:
    """Modules of two weights."""
    return Trunk(trunk), _linear(head)


def _linear(weight: np.ndarray) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.weight.data.copy_(torch.from_numpy(weight))
    return made
