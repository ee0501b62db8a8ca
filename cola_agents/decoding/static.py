"""A step of a session in memory that does not move: on a GPU a CUDA graph, with one copy back to the host.

A step of a session's rows is: draw the actions (if a policy acts), turn them into tokens, run the base over
these, and run the followers over its states. The host needs none of the numbers in between. It sends the
rows and their positions in one copy, the device computes, and one copy brings back the tokens and whatever
else the host reads. The base runs over a token before the session holds it: :meth:`~.session.Rows.extend`
finds the work done where the token is appended, and drops it otherwise. Where a policy acts, the host can
wait for several steps at once (:data:`~.ahead.STEPS_AHEAD`): they need nothing more of it but uniforms.

The number of rows and the number of positions that attention reads are rounded up (:func:`bucket`,
:func:`positions_read`). There is one CUDA graph for each pair, captured at its first use: rows that grow to
2,048 positions need 20. The graphs are dropped where memory grows, in larger steps (:func:`~.kv.capacity`),
or weights move; tables that are made again are written to the same memory. Elsewhere than on a GPU the same
function is called directly, if a backbone is made with ``static=True``.

Attention reads the caches of all rows in place; a step of some of the rows gathers theirs first. A value that
is not finite is found in what comes back, without a further copy.

Tests compare these steps with plain sessions on a CPU, replay what was captured once with other numbers, and
count what the host waits for and starts. **No CUDA graph was captured yet**: there was no GPU at hand.

Shapes: B rows, R rows of the session, S positions, D hidden, A actions.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cola_agents.decoding.ahead import FOLLOWER, LOGITS, STATE, STEPS_AHEAD, Made, Run, RunsAhead, TokensAhead
from cola_agents.decoding.kv import KVRows, Window, capacity
from cola_agents.decoding.lean import Plan, lean_forward
from cola_agents.decoding.transfer import to_host

#: The most graphs that a session keeps: those of six numbers of rows that grow to 2,048 positions.
MOST_GRAPHS = 128
#: The number of positions that attention reads is a multiple of it, up to the most that a row may hold.
_FEWEST_READ = 32
#: Draws actions [B] and their log-probabilities [B] from logits [B, A] and uniforms [B].
Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DeviceRows:
    """Rows of a step, as tensors on the device.

    Attributes:
        index: the rows, [B].
        at: the position of each one's next token, [B].
        length: the number of positions that attention reads.
        rows: the rows whose caches are read; None for all rows in order, which need not be gathered.
    """

    index: Tensor
    at: Tensor
    length: int
    rows: Tensor | None

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        """Rows and positions as an index into [R, S, ...]: two of [B, 1]."""
        return self.index[:, None], self.at[:, None]


class Reader(RunsAhead, Protocol):
    """A follower, as a step runs it; see :class:`~.follower.Follower`."""

    trunk: nn.Module

    @property
    def last(self) -> Tensor: ...

    def keeps_up(self, rows: Sequence[int]) -> bool: ...

    def catch_up(self, rows: Sequence[int]) -> None: ...


class Stepped(Protocol):
    """A session, as its steps see it; see :class:`~.session.Rows`."""

    base: nn.Module
    num_actions: int
    num_rows: int
    max_length: int
    device: torch.device
    kv: KVRows
    tokens: list[list[int]]
    tokens_forwarded: int

    @property
    def followers(self) -> Iterable[Reader]: ...

    def last(self, rows: DeviceRows) -> Tensor: ...

    def world_tokens(
        self, h: Tensor, actions: Tensor, u: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor | None]: ...

    def weights(self) -> list[Tensor]: ...

    def states_of(self, length: int) -> Tensor: ...

    def lengths(self, rows: Sequence[int]) -> list[int]: ...

    @property
    def ahead(self) -> TokensAhead: ...

    def observed(self, followers: Sequence[Any]) -> object: ...


class DeviceAct:
    """A policy's action logits [B, A], of rows of a session or of :class:`DeviceRows`.

    Of the latter they are computed on the device alone, so that a step can draw the actions itself.

    Args:
        owner: the module with the policy's weights.
        reader: the follower that computes its features; None if the base does.
        logits: the function.
    """

    def __init__(self, owner: nn.Module, reader: Reader | None, logits: Callable[[Any], Tensor]) -> None:
        self.owner = owner
        self.reader = reader
        self._logits = logits

    def __call__(self, rows: Sequence[int] | DeviceRows) -> Tensor:
        return self._logits(rows)


class Steps:
    """The steps of a session.

    Args:
        session: the session; its buffers have a row R for the pads of a batch.
    """

    def __init__(self, session: Stepped) -> None:
        self._session = weakref.proxy(session)
        rows, device = session.num_rows, session.device
        self._graphs = Graphs(device)
        pinned = device.type == "cuda"
        # Of each step and row: its number, the position of its next token, its action, and two uniforms.
        self._sent = torch.zeros(STEPS_AHEAD, rows, 5, dtype=torch.long, pin_memory=pinned)
        self._numbers = self._sent.numpy()  # the same memory
        self._inputs = torch.zeros(rows, 5, dtype=torch.long, device=device)
        self._keys = torch.arange(session.max_length, device=device)
        self._outputs: Tensor | None = None
        self._several = torch.zeros(STEPS_AHEAD, rows, 4, dtype=torch.int32, device=device)
        self._room = 0  # positions that there is room for

    @torch.no_grad()
    def run(
        self,
        rows: list[int],
        actions: np.ndarray | Tensor | None = None,
        u: np.ndarray | None = None,
        *,
        act: DeviceAct | None = None,
        draw: Draw | None = None,
        world_u: np.ndarray | None = None,
        temperature: float = 0.0,
    ) -> tuple[Made, Run]:
        """Take a step, or k of them.

        Args:
            rows: B rows, each with room for k tokens.
            actions: [B], on the host or the device; None if they are drawn from ``act`` by ``draw`` with
                uniforms ``u`` [B, k], for k of at most :data:`~.ahead.STEPS_AHEAD` steps. A policy that
                cannot run in fixed memory takes the first step alone.
            world_u, temperature: for the world model's tokens; see :meth:`LatentSession.decode`.

        Returns:
            the tokens [k, B], and what they have in common.
        """
        session, count = self._session, len(rows)
        session.ahead.drop(rows)
        reader = None if act is None else act.reader
        if reader is not None:
            reader.catch_up(rows)
        followers = tuple(follower for follower in session.followers if follower.keeps_up(rows))
        if u is not None and reader is not None and reader not in followers:
            u = u[:, :1]  # it runs between the steps, not in them
        steps = 1 if u is None else u.shape[1]
        at = session.lengths(rows)
        needed, most = max(at) + steps, session.max_length
        size, length = bucket(count, session.num_rows), positions_read(needed, most)
        observed = session.observed(followers) if steps == 1 else None
        every = rows == list(range(session.num_rows))
        sent = self._numbers[:steps]
        sent[:, :count, 0], sent[:, count:size, :2] = rows, (session.num_rows, 1)
        sent[:, :count, 1] = np.add.outer(np.arange(steps), at)
        if isinstance(actions, np.ndarray):
            sent[:, :count, 2] = actions
        for column, uniforms in ((3, u), (4, world_u)):
            if uniforms is not None:
                sent.view(np.float64)[:, :count, column] = uniforms.T
        own, theirs = self._make_room(capacity(needed, most), followers, act)
        assert self._outputs is not None
        memory = self._inputs, self._outputs, self._keys
        step = _Step(session, *memory, followers, act, draw, temperature, (*own, *theirs))
        drawing = getattr(draw, "func", draw), tuple(getattr(draw, "keywords", {}).items())
        # Which followers keep up changes from step to step of a search, and so do policies of an evaluation.
        reading = followers, None if act is None else act.owner, drawing, _addresses(theirs)
        addresses = _addresses(own)
        for number in range(steps):
            self._inputs[:size].copy_(self._sent[number, :size], non_blocking=True)
            if isinstance(actions, Tensor):
                self._inputs[:count, 2] = actions
            self._graphs.run(
                (size, length, every, observed, temperature, reading),
                addresses,
                lambda: step.run(size, length, every, observed),
                [follower.last for follower in followers],
            )
            if steps > 1:
                self._several[number, :count] = self._outputs[:count, :4]
        columns = 4 if observed is None else self._outputs.shape[1]
        lines = self._several[:steps, :count] if steps > 1 else self._outputs[None, :count, :columns]
        received = to_host(lines)
        session.tokens_forwarded += count * steps
        tokens, spoilt, drawn, log_probs = np.moveaxis(received[:, :, :4], -1, 0)
        seen = None if observed is None else received[0, :, 4:].copy().view(np.float32)
        made = Made(tokens, drawn, log_probs.copy().view(np.float32), spoilt, seen)
        return made, Run(act is not None, temperature > 0, followers)

    def _make_room(
        self, room: int, followers: tuple[Reader, ...], act: DeviceAct | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Grow all buffers to ``room`` positions.

        Returns:
            the tensors of the session that a graph reads and writes, and those of the followers and of the
            policy.
        """
        session = self._session
        if room > self._room:
            self._graphs.drop()  # they hold the buffers that grow now
            self._room = room
        states = session.states_of(room)
        if self._outputs is None:
            self._outputs = torch.zeros(
                session.num_rows, 4 + states.shape[-1], dtype=torch.int32, device=states.device
            )

        def of_stack(kv: Any, stack: nn.Module) -> list[Tensor]:
            plan: Plan = kv.plan_for(stack)
            like = plan.norm.new_empty(1, 1, plan.key_heads, plan.head_dim)
            rooms = [kv.room(layer.cache_layer, room, like) for layer in plan.layers]
            return [*chain(*rooms), plan.angles.table(room, like), *plan.weights]

        base: Any = session.base
        own = [states, base.embed_tokens.weight, *session.weights(), *of_stack(session.kv, base)]
        theirs = [] if act is None else list(act.owner.parameters())
        return own, theirs + [tensor for one in followers for tensor in of_stack(one.kv, one.trunk)]


@dataclass(frozen=True)
class _Step:
    """What a step computes, by operations on the device alone; fields as in :class:`Steps`.

    Attributes:
        held: the tensors that it reads and writes, so that no memory of a captured step is given to others.
    """

    session: Stepped
    inputs: Tensor
    outputs: Tensor
    keys: Tensor
    followers: tuple[Reader, ...]
    act: DeviceAct | None
    draw: Draw | None
    temperature: float
    held: tuple[Tensor, ...]

    def run(self, size: int, length: int, every: bool, observed: object) -> None:
        """Read ``inputs`` [R, 5], write ``outputs`` [R, 4 + D], caches and states.

        Args:
            size: the number of rows, with pads.
            length: the number of positions that attention reads.
            every: whether these are all rows in order.
            observed: the follower whose state is the observation, ``"base"``, or None.
        """
        session, out = self.session, self.outputs[:size]
        index, at, actions = self.inputs[:size, :3].unbind(1)
        u, world_u = self.inputs[:size].view(torch.float64)[:, 3:].unbind(1)
        rows = DeviceRows(index, at, length, None if every else index)
        h = session.last(rows)
        if self.act is not None and self.draw is not None:
            actions, log_probs = self.draw(self.act(rows), u)
            out[:, 3] = log_probs.float().view(torch.int32)
        # The host refuses actions out of range once it sees them; here they would end the process.
        possible = actions.clamp(0, session.num_actions - 1)
        tokens, best = session.world_tokens(h, possible, world_u, self.temperature)
        base: Any = session.base
        embedded = functional.embedding(tokens[:, None], base.embed_tokens.weight)
        mask = self.keys[:length] <= at[:, None, None, None]
        states = self._stack(session.kv, base, embedded, rows, mask)
        session.states_of(length)[rows.where] = states
        spoilt = STATE * _spoilt(states)
        if best is not None:
            spoilt = spoilt + LOGITS * ~torch.isfinite(best)
        seen = states[:, 0]
        for follower in self.followers:
            features = self._stack(follower.kv, follower.trunk, states, rows, mask)
            follower.last[index] = features[:, 0]
            spoilt = spoilt | FOLLOWER * _spoilt(features)
            if follower is observed:
                seen = features[:, 0]
        out[:, 0], out[:, 1], out[:, 2] = tokens, spoilt, actions
        if observed is not None:
            out[:, 4:] = seen.float().contiguous().view(torch.int32)

    def _stack(self, kv: Any, stack: Any, x: Tensor, rows: DeviceRows, mask: Tensor) -> Tensor:
        """The states [B, 1, D] of a stack at one new token of each row."""
        return lean_forward(kv.plan_for(stack), x, rows.where[1], Window(kv, rows), mask)


def _addresses(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    return tuple([tensor.data_ptr() for tensor in tensors])


def _spoilt(states: Tensor) -> Tensor:
    """1 for rows of [B, 1, D] with NaN or infinity, 0 for the others: [B] int64."""
    return (~torch.isfinite(states)).flatten(1).any(-1).long()


class Graphs:
    """Runs functions of tensors that do not move: as CUDA graphs on a GPU, by calling them elsewhere.

    The graphs of one set of inputs are kept, the last used :data:`MOST_GRAPHS` of them; for another set they
    are dropped and captured again.

    Attributes:
        launches: the number of runs.
        captures: the number of graphs that were captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._inputs: Hashable = None
        # With each graph the function, which holds the tensors that the graph reads and writes.
        self._captured: dict[Hashable, tuple[torch.cuda.CUDAGraph, Callable[[], None]]] = {}
        self.launches = self.captures = 0

    def run(
        self, key: Hashable, inputs: Hashable, function: Callable[[], None], changed: Sequence[Tensor]
    ) -> None:
        """Run a function.

        Args:
            key: its shapes, and what else tells it from others of the same ``inputs``.
            inputs: what all functions depend on, such as addresses of tensors.
            function: called directly, or captured at the first run of ``key`` with these ``inputs``.
            changed: tensors that it reads and then writes, which capturing must restore.
        """
        self.launches += 1
        if self._device.type != "cuda":
            function()
            return
        if inputs != self._inputs:
            self._captured, self._inputs = {}, inputs
        held = self._captured.pop(key, None)
        if held is None:
            if len(self._captured) >= MOST_GRAPHS:
                del self._captured[next(iter(self._captured))]
            held = self._capture(function, changed), function
            self.captures += 1
        self._captured[key] = held  # behind those that were used before
        held[0].replay()

    def drop(self) -> None:
        """Drop all graphs, and with them the tensors that only they hold."""
        self._captured = {}

    def _capture(self, function: Callable[[], None], changed: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        before = [tensor.clone() for tensor in changed]
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
                for tensor, value in zip(changed, before, strict=True):
                    tensor.copy_(value)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # No result of a step is in a graph's own memory, so that all graphs can share one pool.
        pool = next(iter(self._captured.values()))[0].pool() if self._captured else None
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph


def bucket(count: int, limit: int) -> int:
    """The number of rows of a step: the least power of two that is not below ``count``, up to ``limit``."""
    return min(1 << (count - 1).bit_length(), limit)


def positions_read(length: int, limit: int) -> int:
    """The number of positions that attention reads for rows of ``length``, up to ``limit``.

    It is a multiple of 32 and beyond 128 one of four numbers between a power of two and the next, so that it
    is at most 1.25 times ``length`` there.
    """
    step = max(_FEWEST_READ, (1 << (length - 1).bit_length()) // 8)
    return min(-(-length // step) * step, limit)
