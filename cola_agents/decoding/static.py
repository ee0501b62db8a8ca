"""Decoding with fixed shapes: steps from a token to the next one that never wait for the host.

A :class:`~cola_agents.decoding.session.Rows` session looks at every token, grows and forks. The decoder here
continues prompts by a fixed number of tokens, and keeps ids, positions, keys and values in memory that does
not move. One step is base language model, policy, drawn code, world model and drawn token, without a
synchronisation with the host. On a GPU it is captured once as a CUDA graph and replayed, by default;
elsewhere the same step runs eagerly.

The step is tested against sessions on a CPU. **Capturing it as a CUDA graph was not run**: there was no
GPU at hand when it was written. ``graphs=False`` runs it eagerly on a GPU as well.

Shapes: B rows, S positions, A actions, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from cola_agents.decoding.backbones import LatentBackbone, TokenBackbone
from cola_agents.decoding.code_table import CodeTable, code_table
from cola_agents.decoding.lean import Plan, lean_forward, plan
from cola_agents.decoding.session import NotFiniteError
from cola_agents.model.sampling import sample

_FIRST_LENGTH = 64
#: Tokens of prompts in one forward pass, at least one row: this bounds the memory of activations.
_PROMPT_TOKENS = 8192
_NEVER = torch.iinfo(torch.long).max


class _Window:
    """The cache of one lean pass: a range of rows of the buffers, up to a length."""

    def __init__(
        self, held: dict[int, tuple[Tensor, Tensor]], rows: slice, where: tuple[Tensor, Tensor], length: int
    ) -> None:
        self._held = held
        self._rows = rows
        self._where = where
        self.length = length

    def store(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        held_keys, held_values = self._held[layer]
        held_keys[self._where] = keys
        held_values[self._where] = values
        return held_keys[self._rows, : self.length], held_values[self._rows, : self.length]


class StaticDecoder:
    """Continues prompts with shapes that do not change.

    Every row gets the same number of tokens; the caller cuts them at an end-of-text token. The number of rows
    and the number of positions that attention reads are rounded up to powers of two: there is one CUDA graph
    for each pair of these, captured at its first use.

    Args:
        backbone: at latent level the frozen policy draws codes and the world model tokens; at token level
            the language model draws tokens.
        num_rows: the largest number of prompts.
        max_length: the most tokens of a row, for which memory is allocated at once; None for the model's
            context.
        temperature: of the actions; 0 takes the likeliest.
        world_temperature: of the world model's tokens, at latent level.
        graphs: whether to replay CUDA graphs; None for True on a GPU.
        compile: pass the step through ``torch.compile`` first. The first step of each pair of sizes then
            takes minutes on a CPU.

    Raises:
        ValueError: for a model without a lean pass (:mod:`cola_agents.decoding.lean`), graphs without a GPU,
            or settings out of range.
    """

    def __init__(
        self,
        backbone: LatentBackbone | TokenBackbone,
        num_rows: int,
        max_length: int | None = None,
        *,
        temperature: float = 0.0,
        world_temperature: float = 0.0,
        graphs: bool | None = None,
        compile: bool = False,
    ) -> None:
        self.max_length = max_length or backbone.max_length
        if num_rows < 1 or not 2 <= self.max_length <= backbone.max_length:
            raise ValueError(
                f"num_rows={num_rows} must be at least 1 and max_length={self.max_length} between 2 and the "
                f"model's context of {backbone.max_length}"
            )
        if temperature < 0 or world_temperature < 0:
            raise ValueError(
                f"temperature={temperature} and world_temperature={world_temperature} must be at least 0"
            )
        self.num_rows = num_rows
        self.temperature = temperature
        self.world_temperature = world_temperature
        self.device = next(backbone.base.parameters()).device
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        if self.graphs and self.device.type != "cuda":
            raise ValueError(f"CUDA graphs need a model on a GPU; this one is on {self.device}")
        self._backbone = backbone
        self._base: PreTrainedModel = backbone.base
        self._trunk, self._head = backbone.initial_policy()
        self._any_unused = bool(backbone.unused_ids.any())
        # None for the plain step: a bound method would be a reference cycle and delay freeing the memory.
        self._compiled: Callable[[int, int], None] | None = (
            torch.compile(self._step, dynamic=False) if compile else None
        )
        self._count = 0
        self._build()

    def _weights(self) -> Iterator[Tensor]:
        for module in (self._base, self._trunk, self._head):
            if module is not None:
                yield from module.parameters()

    def _build(self) -> None:
        """Allocate the buffers and make everything that depends on the addresses of the weights."""
        self._places = [weight.data_ptr() for weight in self._weights()]
        self._plans = [self._plan_of(stack) for stack in (self._base, self._trunk) if stack is not None]
        latent = isinstance(self._backbone, LatentBackbone)
        self._table: CodeTable | None = code_table(self._backbone.model) if latent else None
        like, rows, length = self._plans[0].norm, self.num_rows, self.max_length
        self._held = {
            layer.cache_layer: (
                like.new_zeros(rows, length, made.key_heads, made.head_dim),
                like.new_zeros(rows, length, made.key_heads, made.head_dim),
            )
            for made in self._plans
            for layer in made.layers
        }
        for made in self._plans:
            made.angles.at(torch.zeros(1, 1, dtype=torch.long, device=self.device), length, like)
        self._order = torch.arange(rows, device=self.device)
        self._keys = torch.arange(length, device=self.device)
        self._ids = torch.zeros(rows, length, dtype=torch.long, device=self.device)
        self._actions = torch.zeros_like(self._ids)
        self._at = torch.zeros(rows, dtype=torch.long, device=self.device)
        self._spoilt = torch.full_like(self._at, _NEVER)
        self._u = torch.zeros(length, rows, 2, dtype=torch.float64, device=self.device)
        self._taken = torch.zeros(1, dtype=torch.long, device=self.device)
        self._captured: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def _plan_of(self, stack: nn.Module) -> Plan:
        made = plan(stack)
        if made is None:
            raise ValueError(
                "fixed shapes need a plain Llama, Mistral, Qwen2 or Qwen3 stack in eval mode with sdpa "
                f"attention and no sliding windows, adapters or hooks; this {type(stack).__name__} is none. "
                "A session of the backbone decodes any supported family"
            )
        return made

    @torch.no_grad()
    def load(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begin anew with prompts of token ids.

        Raises:
            ValueError: for none or too many, an empty one, or one that leaves no room for a token;
                nothing is changed then.
        """
        lengths = [len(ids) for ids in prompts]
        if not 0 < len(lengths) <= self.num_rows or min(lengths) < 1 or max(lengths) >= self.max_length:
            raise ValueError(
                f"{len(lengths)} prompts of lengths {sorted(set(lengths))}: 1 to {self.num_rows} prompts of "
                f"1 to {self.max_length - 1} tokens fit"
            )
        moved = self._places != [weight.data_ptr() for weight in self._weights()]
        if moved or (self._table is not None and not self._table.holds()):
            self._build()
        self._count, self._longest = len(lengths), max(lengths)
        for keys, values in self._held.values():
            # Entries of an earlier run are masked, but a NaN among them would spread (0 * NaN).
            keys.zero_()
            values.zero_()
        self._ids.zero_()
        for row, ids in enumerate(prompts):
            self._ids[row, : len(ids)] = torch.tensor(ids, device=self.device)
        self._at.zero_()
        self._at[: self._count] = torch.tensor(lengths, device=self.device) - 1
        self._spoilt.fill_(_NEVER)
        width = self._longest - 1
        if width:
            # The last token of each row is left to the first step. The entries of pads are masked until they
            # are overwritten.
            piece = max(1, _PROMPT_TOKENS // width)
            for first in range(0, self._count, piece):
                rows = slice(first, min(first + piece, self._count))
                at = self._keys[None, :width].expand(rows.stop - first, -1)
                self._states(self._ids[rows, :width], rows, at, width)

    def _states(self, ids: Tensor, rows: slice, at: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The base's states and the policy's, both [B, T, D], of tokens [B, T] at positions [B, T]."""
        window = _Window(self._held, rows, (self._order[rows, None], at), length)
        mask = self._keys[:length] <= at[:, None, :, None]
        h = lean_forward(self._plans[0], self._base.embed_tokens(ids), at, window, mask)
        if self._trunk is None:
            return h, h
        return h, lean_forward(self._plans[1], h, at, window, mask)

    def _advance(self, count: int, length: int) -> None:
        (self._step if self._compiled is None else self._compiled)(count, length)

    def _step(self, count: int, length: int) -> None:
        """Advance the first ``count`` rows by a token; attention reads ``length`` positions."""
        rows, at = self._order[:count], self._at[:count]
        ids = self._ids[rows, at][:, None]
        h, features = self._states(ids, slice(0, count), at[:, None], length)
        h, features = h[:, 0], features[:, 0]
        u = self._u.index_select(0, self._taken)[0, :count]
        logits = self._head(features)
        if self._trunk is None:
            actions = token = self._draw(self._without_unused(logits), u[:, 0], self.temperature, at)
        else:
            actions = self._draw(logits, u[:, 0], self.temperature, at)
            world = self._backbone.model.world if self._table is None else self._table.world
            token = self._draw(self._without_unused(world(h, actions)), u[:, 1], self.world_temperature, at)
        self._actions[rows, at] = actions
        self._ids[rows, at + 1] = token
        self._at[:count] += 1
        self._taken += 1

    def _without_unused(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(self._backbone.unused_ids, float("-inf")) if self._any_unused else logits

    def _draw(self, logits: Tensor, u: Tensor, temperature: float, at: Tensor) -> Tensor:
        """Draw from logits [B, N]; record the first position of a row whose largest logit is not finite."""
        best = logits.max(-1)
        spoilt = self._spoilt[: len(at)]
        spoilt.copy_(torch.minimum(spoilt, torch.where(torch.isfinite(best.values), _NEVER, at)))
        if temperature == 0:
            return best.indices
        return sample(logits, u, temperature=temperature)[0]

    @torch.no_grad()
    def run(self, steps: int, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Advance all rows by ``steps`` tokens; may be called again.

        Args:
            steps: the number of tokens.
            u: uniforms in [0, 1), [B, steps, 2], the first for actions and the second for the world
                model's tokens; needed unless both temperatures are 0.

        Returns:
            the new tokens and the actions that led to them, both [B, steps] int64.

        Raises:
            RuntimeError: before prompts are loaded.
            ValueError: if rows would get too long, or uniforms are missing.
            FloatingPointError: for logits that are not finite, naming row and position. Prompts must be
                loaded again after it.
        """
        if not self._count:
            raise RuntimeError("the decoder holds no tokens yet: load() prompts first")
        if steps < 1 or self._longest + steps > self.max_length:
            raise ValueError(
                f"{steps} steps make rows of up to {self._longest + steps} tokens; at least 1 step is needed "
                f"and {self.max_length} tokens fit"
            )
        drawn = self.temperature > 0 or self.world_temperature > 0
        if drawn and (u is None or u.shape != (self._count, steps, 2)):
            came = "none" if u is None else list(u.shape)
            raise ValueError(f"drawing needs uniforms of shape {[self._count, steps, 2]}, got {came}")
        if drawn and u is not None:
            self._u[:steps, : self._count] = u.to(self._u).transpose(0, 1)
        self._taken.zero_()
        start = self._at[: self._count].clone()
        rows = min(_bucket(self._count), self.num_rows)
        for _ in range(steps):
            length = min(max(_FIRST_LENGTH, _bucket(self._longest)), self.max_length)
            if not self.graphs:
                self._advance(rows, length)
            else:
                if (rows, length) not in self._captured:
                    self._captured[rows, length] = self._capture(rows, length)
                self._captured[rows, length].replay()
            self._longest += 1
        self._refuse_spoilt()
        index, at = self._order[: self._count, None], start[:, None] + torch.arange(steps, device=self.device)
        return self._ids[index, at + 1], self._actions[index, at]

    def _refuse_spoilt(self) -> None:
        spoilt = self._spoilt[: self._count].tolist()
        for row, at in enumerate(spoilt):
            if at != _NEVER:
                self._count = 0
                raise NotFiniteError(
                    row,
                    f"logits of row {row} are not finite at position {at}, after token {self._ids[row, at]}",
                )

    def _capture(self, count: int, length: int) -> torch.cuda.CUDAGraph:
        """Capture the step as a CUDA graph. The effects of the warm-up steps are undone."""
        state = (self._at, self._taken, self._spoilt)
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):
                self._advance(count, length)
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # No result of a step is in a graph's own memory, so that all graphs can share one pool.
        pool = next(iter(self._captured.values())).pool() if self._captured else None
        with torch.cuda.graph(graph, pool=pool):
            self._advance(count, length)
        return graph


def _bucket(number: int) -> int:
    """The least power of two that is not below ``number``."""
    return 1 << (number - 1).bit_length()
