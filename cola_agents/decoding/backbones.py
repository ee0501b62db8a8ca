"""Backbones: a language model with an action space of codes (latent actions) or of tokens."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Self

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cola_agents.decoding.ahead import LOGITS
from cola_agents.decoding.code_table import CodeTable, code_table
from cola_agents.decoding.finite import NotFiniteError, not_finite
from cola_agents.decoding.follower import Follower
from cola_agents.decoding.session import Rows
from cola_agents.decoding.static import DeviceAct, DeviceRows
from cola_agents.decoding.transfer import to_device, to_host
from cola_agents.model.configuration import non_defaults
from cola_agents.model.families import capped, check_family
from cola_agents.model.modeling import CoLAForCausalLM
from cola_agents.model.sampling import sample
from cola_agents.model.text import PlainTokenizer, check_fits
from cola_envs.backbone import Decoded, Level

#: Columns of the sums of a weight's bits: a prime, so that rows of usual sizes do not stand below each other.
_COLUMNS = 4093


def _bit_sums(weight: Tensor) -> bytes:
    """A digest of sums of a weight's bits, eight bytes a number; about ten times as fast as sha256 of all."""
    raw = weight.detach().contiguous().view(-1).view(torch.uint8)
    whole = len(raw) // (8 * _COLUMNS) * 8 * _COLUMNS
    blocks = raw[:whole].clone() if raw.storage_offset() % 8 else raw[:whole]
    sums = blocks.view(torch.int64).view(-1, _COLUMNS).sum(0)
    return hashlib.sha256(raw[whole:].cpu().numpy().tobytes() + sums.cpu().numpy().tobytes()).digest()


class _Backbone:
    """Base of both backbones. ``copy.deepcopy`` returns the same object: weights are never copied.

    Args:
        model, tokenizer: as in the classes.
        static: whether its sessions step in fixed memory (:mod:`cola_agents.decoding.static`); None for True
            on a GPU.
    """

    level: Level

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | PlainTokenizer,
        static: bool | None = None,
    ) -> None:
        if static not in (None, True, False):
            raise TypeError(f"static is True, False, or None for True on a GPU, got {static!r}")
        self.static = static
        self._fingerprint: tuple[object, str] | None = None
        self.model = model.eval()
        self.tokenizer = (
            tokenizer if isinstance(tokenizer, PlainTokenizer) else PlainTokenizer(tokenizer, model)
        )
        text = model.config.get_text_config()
        self.hidden_size: int = text.hidden_size
        self.vocab_size: int = text.vocab_size
        self.max_length: int = text.max_position_embeddings
        check_fits(self.tokenizer, self.vocab_size)
        #: [V] bool, True for ids that are not tokens: they are never drawn.
        self.unused_ids = torch.ones(self.vocab_size, dtype=torch.bool, device=model.device)
        self.unused_ids[sorted(self.tokenizer.ids)] = False

    @property
    def base(self) -> nn.Module:
        """The base decoder, whose last hidden states are the observations."""
        base: nn.Module = self.model.base if isinstance(self.model, CoLAForCausalLM) else self.model.model
        return base

    @functools.cached_property
    def lm_head(self) -> nn.Linear:
        """The linear layer from the base's hidden states to token logits, with the family's capping."""
        return capped(self.model.lm_head, self.model.config.get_text_config())

    @property
    def fingerprint(self) -> str:
        """sha256 of level, configuration, weights and tokenizer, as they are now.

        It is computed again where the configuration, or sums of the weights' bits, are not those of the last
        time. The tokenizer must not change.
        """
        config = json.dumps(non_defaults(self.model.config), sort_keys=True, default=str)
        weights = sorted(self.model.state_dict().items())
        now = config, *((name, tensor.dtype, tensor.shape, _bit_sums(tensor)) for name, tensor in weights)
        if self._fingerprint is None or self._fingerprint[0] != now:
            self._fingerprint = now, self._digest(config, weights)
        return self._fingerprint[1]

    def _digest(self, config: str, weights: Sequence[tuple[str, Tensor]]) -> str:
        digest = hashlib.sha256(self.level.encode())
        digest.update(config.encode())
        for name, tensor in weights:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        vocabulary = sorted(self.tokenizer.source.get_vocab().items())
        digest.update(json.dumps(vocabulary).encode())
        ends, start = sorted(self.tokenizer.end_ids), self.tokenizer.start_ids
        if start or len(ends) > 1:  # the published fingerprints of all other models stay valid
            digest.update(json.dumps([ends, start]).encode())
        return digest.hexdigest()

    def _length(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        if max_length > self.max_length:
            raise ValueError(f"max_length={max_length} is beyond the model's context of {self.max_length}")
        return max_length

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __repr__(self) -> str:
        name = self.model.name_or_path or type(self.model).__name__
        return f"{type(self).__name__}({name!r}, actions={self.action_space.n})"

    action_space: gym.spaces.Discrete


class LatentBackbone(_Backbone):
    """Actions are codes: the world model turns a code into the next token, or the next few.

    A code of a model with a span of k tokens is an action that writes k tokens, fewer where a text ends.

    Args:
        model: a :class:`~cola_agents.model.modeling.CoLAForCausalLM`; put in eval mode.
        tokenizer: its Hugging Face tokenizer.
        static: whether its sessions step in fixed memory (:mod:`cola_agents.decoding.static`); None for True
            on a GPU.

    Raises:
        ValueError: if the tokenizer has an id beyond the model's embeddings.
        TypeError: if the model has no codebook.
    """

    level: Level = "latent"
    model: CoLAForCausalLM

    def __init__(
        self,
        model: CoLAForCausalLM,
        tokenizer: PreTrainedTokenizerBase | PlainTokenizer,
        static: bool | None = None,
    ) -> None:
        if not isinstance(model, CoLAForCausalLM):
            raise TypeError(
                f"latent actions need a CoLAForCausalLM, got {type(model).__name__}; use the -Token-v0 id "
                "for a plain language model, or grow one with CoLAForCausalLM.from_base"
            )
        super().__init__(model, tokenizer, static)
        self.action_space = gym.spaces.Discrete(model.config.num_codes)

    def action_mask(self) -> np.ndarray:
        """Every code may be taken: [A] bool."""
        return np.ones(int(self.action_space.n), dtype=bool)

    def initial_policy(self) -> tuple[nn.Module | None, nn.Linear]:
        """The frozen policy's trunk and its head."""
        return self.model.policy_trunk, self.model.policy_head

    def compose(self, hidden: Tensor, log_actions: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens, summed over all codes, [M].

        Args:
            hidden: base states, [M, D].
            log_actions: log-probabilities of the codes, [M, A].
            targets: tokens, [M].
        """
        return self.model.compose(hidden, log_actions, targets)

    def session(self, num_rows: int, max_length: int | None = None) -> LatentSession:
        """Open a session of ``num_rows`` empty rows of at most ``max_length`` tokens, by default the context.

        Raises:
            ValueError: for a ``max_length`` beyond the model's context.
        """
        return LatentSession(self, num_rows, self._length(max_length))


class TokenBackbone(_Backbone):
    """Actions are token ids.

    Args:
        model: a causal LM of a supported family, or a CoLA model, of which only the base is used.
        tokenizer: its Hugging Face tokenizer.
        static: whether its sessions step in fixed memory (:mod:`cola_agents.decoding.static`); None for True
            on a GPU.

    Raises:
        ValueError: if the model is of another family or has rotary embeddings that are not supported, or
            the tokenizer has an id beyond its embeddings.
        TypeError: if the model is built otherwise.
    """

    level: Level = "token"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | PlainTokenizer,
        static: bool | None = None,
    ) -> None:
        if not isinstance(model, CoLAForCausalLM) and not all(
            hasattr(model, n) for n in ("model", "lm_head")
        ):
            raise TypeError(
                f"token actions need a causal LM with .model and .lm_head, as Llama's or Qwen2's; "
                f"{type(model).__name__} is built otherwise"
            )
        check_family(model.config.get_text_config())
        super().__init__(model, tokenizer, static)
        self.action_space = gym.spaces.Discrete(self.vocab_size)

    def action_mask(self) -> np.ndarray:
        """The ids that are tokens, [V] bool."""
        return ~self.unused_ids.cpu().numpy()

    def initial_policy(self) -> tuple[nn.Module | None, nn.Linear]:
        """None, since the base itself is the policy, and ``lm_head``."""
        return None, self.lm_head

    def compose(self, hidden: Tensor, log_actions: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities of tokens, [M]: those of the actions themselves."""
        return log_actions.gather(-1, targets[:, None]).squeeze(-1)

    def session(self, num_rows: int, max_length: int | None = None) -> TokenSession:
        """As :meth:`.LatentBackbone.session`, over token ids."""
        return TokenSession(self, num_rows, self._length(max_length))


class LatentSession(Rows):
    """A session whose actions are codes; uses a :mod:`~cola_agents.decoding.code_table` where possible.

    Codes that last several tokens are decoded piece by piece, never in fixed memory.

    Attributes:
        draws: the number of uniforms that an action needs under a sampled world, one for each of its tokens.
    """

    def __init__(self, backbone: LatentBackbone, num_rows: int, max_length: int) -> None:
        config = backbone.model.config
        self.draws: int = config.span
        super().__init__(backbone.base, num_rows, max_length, False if self.draws > 1 else backbone.static)
        self._ends = backbone.tokenizer.end_ids | set(config.span_ends or ())
        self._backbone = backbone
        self._model = backbone.model
        self.num_actions = int(backbone.action_space.n)
        self._any_unused = bool(backbone.unused_ids.any())
        self._policy: Follower | None = None
        self._table: CodeTable | None = None
        self._table_possible, self._table_valid = True, False

    def forget(self) -> None:
        super().forget()
        self._table_possible, self._table_valid = True, False

    @torch.no_grad()
    def decode(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None = None, temperature: float = 0.0
    ) -> Decoded:
        """Codes [B] to tokens: the world model's argmax, or a draw at ``temperature`` with uniforms ``u``.

        A code that lasts k tokens gives k, fewer where one of them ends the text or the span, or the row is
        full. ``u`` is then [B, k].

        Raises:
            FloatingPointError: for token logits that are not finite, naming row and code.
        """
        if temperature > 0 and u is None:
            raise ValueError(
                f"a world temperature of {temperature} needs a uniform u for every token of a row"
            )
        if self.draws > 1:
            return self._decode_spans(rows, np.asarray(actions), u, temperature)
        taken = np.asarray(actions)
        ahead = self.step(rows, taken, world_u=u, temperature=temperature)
        if ahead is not None:
            bad = np.flatnonzero(ahead.spoilt & LOGITS).tolist()
            if bad:
                self.ahead.drop(rows)
                raise self._not_finite(rows[bad[0]], int(ahead.actions[bad[0]]))
            return Decoded(ahead.tokens.astype(np.int64)[:, None])
        codes, uniforms = to_device(taken, self.device), None if u is None else to_device(u, self.device)
        with self.threads:
            tokens, best = self.world_tokens(self.last(rows), codes, uniforms, temperature)
        self._refuse(best, rows, codes)
        return Decoded(to_host(tokens).reshape(-1, 1))

    def _decode_spans(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None, temperature: float
    ) -> Decoded:
        """:meth:`decode` of codes that last several tokens: the base runs over each before the next."""
        starts = {row: len(self.tokens[row]) for row in rows}
        codes = dict(zip(rows, actions.tolist(), strict=True))
        uniforms = None if u is None else dict(zip(rows, np.asarray(u), strict=True))
        written: dict[int, list[int]] = {row: [] for row in rows}
        writing = list(rows)
        try:
            for phase in range(self.draws):
                h = self.last(writing)
                if phase and self._model.config.span_entropy is not None:
                    writing, h = self._go_on(writing, h)
                    if not writing:
                        break
                taken = torch.tensor([codes[row] for row in writing], device=self.device)
                draws = None
                if uniforms is not None:
                    draws = to_device(np.stack([uniforms[row][phase] for row in writing]), self.device)
                with self.threads:
                    tokens, best = self.world_tokens(h, taken, draws, temperature, phase)
                self._refuse(best, writing, taken)
                for row, token in zip(writing, to_host(tokens).tolist(), strict=True):
                    written[row].append(token)
                writing = [
                    row
                    for row in writing
                    if written[row][-1] not in self._ends
                    and starts[row] + len(written[row]) < self.max_length
                ]
                if not writing or phase + 1 == self.draws:
                    break
                self.extend(writing, [written[row][-1:] for row in writing])
        finally:
            self.step_back(starts)
        return Decoded([np.array(written[row], dtype=np.int64) for row in rows])

    def _go_on(self, rows: list[int], h: Tensor) -> tuple[list[int], Tensor]:
        """The rows whose span goes on in states h [B, D], and their states."""
        ids = torch.tensor([self.tokens[row][-1] for row in rows], device=self.device)
        with self.threads:
            closing = self._model.closing(ids, h)
        assert closing is not None
        stay = [i for i, closed in enumerate(to_host(closing).tolist()) if not closed]
        return [rows[i] for i in stay], h[stay]

    def world_tokens(
        self, h: Tensor, actions: Tensor, u: Tensor | None, temperature: float, phase: int = 0
    ) -> tuple[Tensor, Tensor]:
        logits = self._token_logits(h, actions, phase)
        # A row with NaN or infinity has a maximum that is not finite.
        best = logits.amax(-1)
        if temperature == 0 or u is None:
            return self._likeliest(logits), best
        return sample(logits, u, temperature=temperature)[0], best

    def _likeliest(self, logits: Tensor) -> Tensor:
        """The index of each row's largest logit, the first of equal ones: [B] of [B, V]."""
        if self._steps is None and logits.dtype == torch.float32 and logits.device.type == "cpu":
            # Over 768 logits numpy is ten times as fast as torch; in fixed memory operations must be torch's.
            return torch.from_numpy(logits.detach().numpy().argmax(-1))
        return logits.max(-1).indices

    def weights(self) -> list[Tensor]:
        self._refresh_table()
        table = [] if self._table is None else self._table.tensors
        model = self._model
        parts = [model.codebook, model.merge, model.readout_norm, model.lm_head, model.policy_head]
        weights = [weight for part in parts if part is not None for weight in part.parameters()]
        return [*table, *weights, self._backbone.unused_ids]

    def _refresh_table(self) -> None:
        """Make the table of codes, again after a change of the weights that it is made of."""
        if self._table_possible and not (self._table_valid and self._table and self._table.holds()):
            memory = None if self._steps is None else self._table
            self._table = code_table(self._model, compiled=self._steps is None, memory=memory)
            self._table_possible = self._table_valid = self._table is not None

    def _token_logits(self, h: Tensor, codes: Tensor, phase: int = 0) -> Tensor:
        """Token logits [..., V] for states [..., D] and codes that broadcast with them, in one phase."""
        self._refresh_table()
        if self._table is None:
            shape = torch.broadcast_shapes(h.shape[:-1], codes.shape)
            logits = self._model.world(h.expand(*shape, -1), codes.expand(shape), phase)
        else:
            logits = self._table.world(h, codes, phase)
        if self._any_unused:
            logits.masked_fill_(self._backbone.unused_ids, float("-inf"))
        return logits

    def _refuse(self, best: Tensor, rows: Sequence[int], codes: Tensor) -> None:
        """Raise NotFiniteError if the largest logit of a row, [B, ...], is not finite."""
        bad = not_finite(best)
        if bad:
            raise self._not_finite(rows[bad[0]], codes[bad[0]].tolist())

    def _not_finite(self, row: int, action: object) -> NotFiniteError:
        return NotFiniteError(
            row,
            f"token logits of row {row} are not finite under action {action}, "
            f"after token {self.tokens[row][-1]}",
        )

    def policy(self, rows: Sequence[int] | DeviceRows) -> Tensor:
        """Logits of the frozen cloned policy at the rows' last tokens, [B, A]."""
        with torch.no_grad(), self.threads:
            logits: Tensor = self._model.policy_head(self._follow_policy().features(rows))
            return logits if isinstance(rows, DeviceRows) else _finite_policy(logits, rows)

    def device_policy(self) -> DeviceAct:
        """:meth:`policy` in the form that a step can draw from."""
        return DeviceAct(self._model, self._follow_policy(), self.policy)

    def features(self, rows: Sequence[int]) -> np.ndarray:
        """The cloned policy's last hidden state, [B, D] float32."""
        here = self.observations(rows, "features")
        return self._copied(self._follow_policy().features(rows)) if here is None else here

    def _follower_of(self, observation: str) -> Follower | None:
        return self._follow_policy() if observation == "features" else None

    def _follow_policy(self) -> Follower:
        if self._policy is None:
            self._policy = self.follow(self._model.policy_trunk)
        return self._policy

    def prior(self, rows: Sequence[int]) -> np.ndarray:
        """Log-probabilities of the frozen cloned policy, [B, A] float32."""
        return self._log_probs(self.policy(rows))

    @torch.no_grad()
    def outcomes(
        self, rows: Sequence[int], actions: Sequence[int] | None = None, top_k: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ``top_k`` likeliest tokens under each code, and their log-probs: both [B, A, top_k].

        Of a code that lasts several tokens these are the first of them.
        """
        chosen = range(int(self._backbone.action_space.n)) if actions is None else actions
        codes = torch.tensor(list(chosen), device=self.device)
        with self.threads:
            logits = self._token_logits(self.last(rows)[:, None], codes)
            self._refuse(logits.amax(-1), rows, codes.expand(len(rows), -1))
            log_probs = logits.float().log_softmax(-1)
            best = log_probs.topk(top_k, dim=-1)
        return best.indices.cpu().numpy(), best.values.cpu().numpy()


class TokenSession(Rows):
    """A session whose actions are token ids."""

    def __init__(self, backbone: TokenBackbone, num_rows: int, max_length: int) -> None:
        super().__init__(backbone.base, num_rows, max_length, backbone.static)
        self._backbone = backbone
        self._any_unused = bool(backbone.unused_ids.any())

    def decode(
        self, rows: Sequence[int], actions: np.ndarray, u: np.ndarray | None = None, temperature: float = 0.0
    ) -> Decoded:
        """The identity: an action is a token."""
        self.step(rows, np.asarray(actions))
        return Decoded(np.array(actions, dtype=np.int64).reshape(-1, 1))

    def features(self, rows: Sequence[int]) -> np.ndarray:
        """The same as :meth:`hidden`: at token level the base is the policy."""
        return self.hidden(rows)

    def weights(self) -> list[Tensor]:
        return [*self._backbone.lm_head.parameters(), self._backbone.unused_ids]

    def device_policy(self) -> DeviceAct:
        """:meth:`policy` in the form that a step can draw from."""
        return DeviceAct(self._backbone.lm_head, None, self.policy)

    def policy(self, rows: Sequence[int] | DeviceRows) -> Tensor:
        """The LM's token logits at the rows' last tokens, -inf for unused ids, [B, V]."""
        with torch.no_grad(), self.threads:
            logits: Tensor = self._backbone.lm_head(self.last(rows))
            if not isinstance(rows, DeviceRows):
                _finite_policy(logits, rows)
            if self._any_unused:
                logits.masked_fill_(self._backbone.unused_ids, float("-inf"))
        return logits

    def prior(self, rows: Sequence[int]) -> np.ndarray:
        """The LM's own log-probabilities, [B, V] float32."""
        return self._log_probs(self.policy(rows))

    def outcomes(
        self, rows: Sequence[int], actions: Sequence[int] | None = None, top_k: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each token itself, with log-probability 0: both [B, A, 1]; ``top_k`` must be 1."""
        if top_k != 1:
            raise ValueError(
                f"at token level an action gives exactly one token: top_k must be 1, got {top_k}"
            )
        chosen = range(int(self._backbone.action_space.n)) if actions is None else actions
        ids = np.tile(np.array(list(chosen), dtype=np.int64)[None, :, None], (len(rows), 1, 1))
        return ids, np.zeros(ids.shape, dtype=np.float32)


def _finite_policy(logits: Tensor, rows: Sequence[int]) -> Tensor:
    bad = not_finite(logits)
    if bad:
        raise NotFiniteError(rows[bad[0]], f"the policy's logits of row {rows[bad[0]]} are not finite")
    return logits
