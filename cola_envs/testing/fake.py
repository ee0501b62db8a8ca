"""A deterministic fake language model without weights, computed from hashes of the context."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np

from cola_envs.backbone import Decoded, Level

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cola_envs.testing.fake_policy import FakeReader

PRIME = (1 << 61) - 1
LIKELY = 4  # number of possible tokens of a latent action
ALPHABET = "etaoinshrdlu 0123456789.\n"


class ByteTokenizer:
    """Id 0 ends a text; ids 1 to 256 are the bytes of UTF-8, so that a character may have several ids."""

    eos_token_id: int | None = 0

    def __len__(self) -> int:
        return 257

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(token - 1 for token in ids if token != self.eos_token_id).decode(errors="replace")


class FakeBackbone:
    """A Backbone for tests in numpy; only training a policy over it needs torch.

    At latent level every action has, in every context, :data:`LIKELY` possible tokens (letters, digits, the
    full stop, the line break, the end of text) with decreasing probabilities. At token level an action is the
    token itself, and ids beyond the tokenizer's are not allowed.

    Args:
        level: ``"latent"`` or ``"token"``.
        num_codes: A at latent level.
        hidden_size: D.
        max_length: length of the context, in tokens.
        tokens_per_action: number of ids that a latent action gives.
    """

    def __init__(
        self,
        level: Level = "latent",
        *,
        num_codes: int = 8,
        hidden_size: int = 16,
        max_length: int = 512,
        tokens_per_action: int = 1,
    ) -> None:
        self.level: Level = level
        self.tokenizer = ByteTokenizer()
        self.vocab_size = len(self.tokenizer) + 3
        self.hidden_size = hidden_size
        self.max_length = max_length
        self.tokens_per_action = tokens_per_action if level == "latent" else 1
        self.action_space = gym.spaces.Discrete(num_codes if level == "latent" else self.vocab_size)

    @property
    def fingerprint(self) -> str:
        parts = (self.level, int(self.action_space.n), self.hidden_size, self.tokens_per_action)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def action_mask(self) -> np.ndarray:
        mask = np.ones(int(self.action_space.n), dtype=bool)
        if self.level == "token":
            mask[len(self.tokenizer) :] = False
        return mask

    @functools.cached_property
    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """The initial policy's weights: its trunk [D, D] and its head [A, D], float32."""
        generator, size = np.random.default_rng(self.hidden_size), self.hidden_size
        shapes = (size, size), (int(self.action_space.n), size)
        trunk, head = (generator.normal(0, size**-0.5, shape).astype(np.float32) for shape in shapes)
        return trunk, head

    def initial_policy(self) -> tuple[nn.Module, nn.Linear]:
        """The policy behind :meth:`FakeSession.prior`: a linear map of hidden states, and a head."""
        from cola_envs.testing.fake_policy import trunk_and_head

        return trunk_and_head(*self.weights)

    def session(self, num_rows: int, max_length: int | None = None) -> FakeSession:
        return FakeSession(self, num_rows, max_length or self.max_length)

    def __deepcopy__(self, memo: dict[int, object]) -> FakeBackbone:
        return self


class FakeSession:
    """Rows of a :class:`FakeBackbone`; a row's state after each token is a hash of the tokens so far."""

    def __init__(self, backbone: FakeBackbone, num_rows: int, max_length: int) -> None:
        self.backbone = backbone
        self.num_rows = num_rows
        self.max_length = max_length
        self.forget()
        likely = [byte + 1 for byte in ALPHABET.encode()] + [0]
        self._likely = np.array(likely, dtype=np.int64)

    def load(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        for row in rows:
            self.tokens[row], self._hashes[row] = [], []
        self.extend(rows, tokens)

    def forget(self) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(self.num_rows)]
        self._hashes: list[list[int]] = [[] for _ in range(self.num_rows)]

    def extend(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        for row, ids in zip(rows, tokens, strict=True):
            held, hashes = self.tokens[row], self._hashes[row]
            if not ids or len(held) + len(ids) > self.max_length:
                raise ValueError(
                    f"row {row} holds {len(held)} of {self.max_length} tokens and was given {len(ids)} more"
                )
            for token in ids:
                held.append(token)
                hashes.append(_mix(hashes[-1] if hashes else 0, token + 1))

    def decode(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None = None, temperature: float = 0.0
    ) -> Decoded:
        if self.backbone.level == "token":
            return Decoded([np.array([a], dtype=np.int64) for a in actions])
        tokens = []
        for i, (row, action) in enumerate(zip(rows, np.asarray(actions).tolist(), strict=True)):
            state, ids = self._hashes[row][-1], []
            for _ in range(self.backbone.tokens_per_action):
                choices, logits = self._choices(state, action)
                pick = 0
                if temperature > 0.0:
                    if u is None:
                        raise ValueError("decode needs u for temperature > 0")
                    p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
                    pick = min(int(np.searchsorted(np.cumsum(p), u[i], side="right")), LIKELY - 1)
                ids.append(int(choices[pick]))
                state = _mix(state, ids[-1] + 1)
            tokens.append(np.array(ids, dtype=np.int64))
        return Decoded(tokens)

    def hidden(self, rows: Sequence[int]) -> np.ndarray:
        return _noise([self._hashes[row][-1] for row in rows], self.backbone.hidden_size)

    def features(self, rows: Sequence[int]) -> np.ndarray:
        features: np.ndarray = self.hidden(rows) @ self.backbone.weights[0].T
        return features

    def prior(self, rows: Sequence[int]) -> np.ndarray:
        logits = self._logits(rows)
        log_probs: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return log_probs.astype(np.float32)

    def _logits(self, rows: Sequence[int]) -> np.ndarray:
        logits = self.features(rows) @ self.backbone.weights[1].T
        allowed: np.ndarray = np.where(self.backbone.action_mask(), logits, -np.inf)
        return allowed.astype(np.float32)

    # The further methods of cola_agents.decoding.contract.PolicySession.

    def states(self, row: int) -> torch.Tensor:
        import torch

        return torch.from_numpy(_noise(self._hashes[row], self.backbone.hidden_size))

    def last(self, rows: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.hidden(rows))

    def policy(self, rows: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._logits(rows))

    def follow(self, trunk: nn.Module) -> FakeReader:
        from cola_envs.testing.fake_policy import FakeReader

        return FakeReader(self, trunk)

    def outcomes(
        self, rows: Sequence[int], actions: Sequence[int] | None = None, top_k: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen = range(int(self.backbone.action_space.n)) if actions is None else actions
        if self.backbone.level == "token":
            ids = np.tile(np.array(chosen, dtype=np.int64)[None, :, None], (len(rows), 1, 1))
            return ids, np.zeros(ids.shape, dtype=np.float32)
        pairs = [[self._choices(self._hashes[row][-1], action) for action in chosen] for row in rows]
        ids = np.array([[ids[:top_k] for ids, _ in row] for row in pairs])
        logits = np.array([[logits for _, logits in row] for row in pairs])
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return ids, logprobs[..., :top_k].astype(np.float32)

    def _choices(self, state: int, action: int) -> tuple[np.ndarray, np.ndarray]:
        """The possible tokens of an action, all different, most probable first, and logits, both [LIKELY]."""
        count = len(self._likely)
        start, stride = divmod(_mix(state, action + 1000), count - 1)
        return self._likely[(start + (stride % 6 + 1) * np.arange(LIKELY)) % count], -np.arange(float(LIKELY))


def _noise(hashes: Sequence[int], width: int) -> np.ndarray:
    """Numbers in [-1, 1) computed from hashes [N]: [N, width] float32."""
    states = np.array([_mix(state, 3) for state in hashes], dtype=np.uint64)
    odd = np.arange(width, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(3)
    mixed = states[:, None] * odd[None, :]  # overflow at 2**64 is intended: it mixes the bits
    return ((mixed >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0).astype(np.float32)


def _mix(state: int, value: int) -> int:
    mixed = (state * 6364136223846793005 + value * 1442695040888963407 + 1) % PRIME
    return (mixed ^ (mixed >> 29)) % PRIME
