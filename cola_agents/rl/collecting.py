"""Play a policy in Episodes and collect whole episodes: one loop, at latent and at token level alike.

Shapes: B rows of a call, K steps drawn ahead, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.ahead import STEPS_AHEAD, Made, leading
from cola_agents.decoding.contract import PolicySession, missing
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.decoding.session import Rows
from cola_agents.decoding.static import DeviceAct, Draw
from cola_agents.decoding.transfer import to_device, to_host
from cola_agents.model.sampling import sample
from cola_agents.rl.rollout import Episode, Rollout, side_by_side
from cola_envs.checks import check_list, check_seeds
from cola_envs.episodes import Episodes
from cola_envs.order import check_prompts
from cola_envs.spaces import widths

#: Tells a policy's stream from the streams that Episodes draws from with the same row seed.
_POLICY_STREAM = 3
#: The uniforms of a row that are drawn at once.
_UNIFORMS = 32

#: From a session's rows to action logits, [B, A].
Act = Callable[[Sequence[int]], Tensor]


class Policy(Protocol):
    """The interface of a policy that :func:`collect` plays."""

    def attach(self, session: PolicySession) -> Act:
        """Return a function from a session's rows to action logits [B, A].

        Each collection calls this once; the weights must not change until it is over.
        """


#: A policy, or a plain function of a session and its rows that returns action logits [B, A].
AnyPolicy = Policy | Callable[[PolicySession, list[int]], Tensor]


class InitialPolicy:
    """A model's own policy: the cloned one over codes, or the language model over tokens."""

    def attach(self, session: PolicySession) -> Act:
        own = getattr(session, "device_policy", None)
        return session.policy if own is None else cast(Act, own())


def attach(policy: AnyPolicy | None, episodes: Episodes) -> Act:
    """Attach a policy to the session of Episodes: returns a function from rows to action logits [B, A].

    Args:
        policy: the policy; None for the model's own.

    Raises:
        TypeError: for a third party's session that lacks a part of :class:`PolicySession`.
    """
    session = policy_session(episodes)
    if policy is None:
        return InitialPolicy().attach(session)
    if hasattr(policy, "attach"):
        return policy.attach(session)
    return lambda rows: policy(session, list(rows))


def policy_session(episodes: Episodes) -> PolicySession:
    """The session of Episodes, checked to be one that a policy can act in.

    Raises:
        TypeError: for a third party's session that lacks a part of :class:`PolicySession`, naming it.
    """
    names = missing(episodes.session, PolicySession)
    if names:
        raise TypeError(
            f"a policy cannot act in a {type(episodes.session).__name__}, which has no {', '.join(names)}: "
            "see cola_agents.decoding.contract.PolicySession"
        )
    return cast(PolicySession, episodes.session)


def collect(
    episodes: Episodes,
    policy: AnyPolicy,
    *,
    seeds: Sequence[int] | None = None,
    problem_seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    on_step: Callable[..., None] | None = None,
) -> Rollout:
    """Play one whole episode per seed.

    A row starts the next episode when its last one ends, so that any number of seeds runs over
    ``episodes.num_rows`` rows. An episode depends on its own seeds and the policy alone, not on the
    other rows (on a CPU in float32).

    Args:
        episodes: rows to play in; episodes that run in them are dropped. After an error they must be reset.
        policy: a :class:`Policy`, or a plain function of session and rows [B] that returns action logits.
        seeds: N row seeds, for the draws of actions and of the world model. None for one episode a row, with
            fresh entropy.
        problem_seeds: N seeds of the problems; None for the row seeds, or the next problems if they come in
            order. Episodes with the same problem seed get the same problem.
        temperature, top_k, top_p: how actions are drawn; 0 is greedy. ``log_probs`` are of the
            distribution that these define, and a learner must use the same.
        on_step: is called after each step of the rows with keywords ``actions``, ``rewards`` and ``dones``
            [B] and ``infos`` of the rows that stepped; an ended row's info has ``episode`` (``r`` return,
            ``l`` length). An error that it raises ends the collection.

    Returns:
        a :class:`Rollout` of N episodes, in the order of their seeds.

    Raises:
        TypeError: for something other than Episodes, a single seed, or a third party's session in which no
            policy can act.
        ValueError: for an empty ``seeds``, a seed that is no integer >= 0, another number of problem seeds,
            or a task that gives two prompts for one problem seed.
        FloatingPointError: for policy logits that are not finite, naming row, step and token.
    """
    if not isinstance(episodes, Episodes):
        raise TypeError(
            f"collect plays Episodes, got {type(episodes).__name__}; of an environment these are "
            "env.unwrapped.episodes"
        )
    if seeds is None:
        seeds = np.random.default_rng().integers(2**53, size=episodes.num_rows).tolist()
    seeds = check_list("seeds", seeds, "a list with a seed for each episode")
    seeds = check_seeds("seeds", seeds, len(seeds))
    given: list[int | None] = [None] * len(seeds)
    if problem_seeds is not None:
        problem_seeds = check_list("problem_seeds", problem_seeds, "a list with a seed for each problem")
        given = [*check_seeds("problem_seeds", problem_seeds, len(problem_seeds))]
    if len(given) != len(seeds) or not len(seeds):
        raise ValueError(
            f"collect got {len(seeds)} seeds and {len(given)} problem seeds: give one seed an episode, at "
            "least one, and as many problem seeds or None"
        )
    session = policy_session(episodes)
    # Earlier contents of the rows may be of other weights, or differ in their last bits because they were
    # computed in another batch.
    session.forget()
    episodes.cut(range(episodes.num_rows))
    act = attach(policy, episodes)
    draw = partial(sample, temperature=temperature, top_k=top_k, top_p=top_p)
    played = _Played(episodes, session, seeds, given)
    # The new tokens of all rows, first prompts too, share the forward pass of the next step's actions.
    try:
        with session.deferred() if isinstance(session, Rows) else nullcontext():
            _play(played, episodes, act, draw, on_step)
    except BaseException:
        episodes.cut(range(episodes.num_rows))  # the states of their last tokens may be missing
        raise
    rollout = side_by_side(played.episodes, np.asarray(seeds), played.problems, played.hidden)
    if problem_seeds is not None:
        check_prompts(episodes.tasks, given, rollout.prompts)
    return rollout


def _play(
    played: _Played,
    episodes: Episodes,
    act: Act,
    draw: Draw,
    on_step: Callable[..., None] | None,
) -> None:
    """Step the rows of a collection until all of its episodes have ended."""
    played.refill(list(range(episodes.num_rows)))
    while played.running:
        rows = played.follow(played.due(act, draw), on_step)
        if not rows:
            continue
        actions = played.choose(rows, act, draw)
        _, rewards, terminated, truncated, infos = episodes.step(rows, actions, observe=False)
        ended = played.paid(rows, rewards, terminated, truncated, infos)
        if on_step is not None:
            told = [
                {**info, "episode": {"r": sum(ended[row].rewards), "l": len(ended[row].rewards)}}
                if row in ended
                else info
                for row, info in zip(rows, infos, strict=True)
            ]
            on_step(actions=actions, rewards=rewards, dones=terminated | truncated, infos=told)
        played.refill(list(ended))


class _Played:
    """The episodes of a collection, one for each seed, and the rows that play them.

    Args:
        seeds, given: row seeds, and problem seeds or None.

    Attributes:
        episodes, hidden: the episodes and the states of their tokens [T, D], in the order of the seeds.
        problems: the seed of each episode's problem, or its index if problems come in order.
        running: row -> the index of its episode.
    """

    def __init__(
        self, rows: Episodes, session: PolicySession, seeds: list[int], given: list[int | None]
    ) -> None:
        self._rows, self._session, self._seeds, self._given = rows, session, seeds, given
        self.episodes = [Episode() for _ in seeds]
        self.hidden: list[Tensor] = [torch.empty(0)] * len(seeds)
        self.problems = np.zeros(len(seeds), dtype=np.int64)
        self.running: dict[int, int] = {}
        self._waiting = list(range(len(seeds)))[::-1]
        self._streams: dict[int, np.random.Generator] = {}
        self._uniforms: dict[int, list[float]] = {}  # of all actions of the row's episode, and more
        self._threads = fitting_threads(rows.backbone)

    def refill(self, free: list[int]) -> None:
        """Start the next episodes in free rows."""
        rows = free[: len(self._waiting)]
        if not rows:
            return
        numbers = [self._waiting.pop() for _ in rows]
        self._rows.reset(
            rows, [self._seeds[n] for n in numbers], [self._given[n] for n in numbers], observe=False
        )
        for row, number in zip(rows, numbers, strict=True):
            self.running[row] = number
            self.problems[number] = self._rows.problem_seed(row)
            self._streams[row] = np.random.default_rng([self._seeds[number], _POLICY_STREAM])
            self._uniforms[row] = []

    def due(self, act: Act, draw: Draw) -> list[int]:
        """The rows whose next actions are drawn already; all that are running if there are none.

        Of the latter actions are drawn ahead, if that can be.
        """
        rows = sorted(self.running)
        drawn = self._session.ahead.rows_drawn(rows) if isinstance(self._session, Rows) else []
        if not drawn:
            with self._threads, self._located():
                self._in_steps(rows, act, draw)
        return drawn or rows

    def follow(self, rows: list[int], on_step: Callable[..., None] | None) -> list[int]:
        """Take the steps of rows that were drawn ahead up to the first that may end something.

        Returns:
            the rows that have a next action to take, in a step of their own.
        """
        session = self._session
        if not isinstance(session, Rows) or not session.ahead.used:
            return rows
        # What the policy or ``on_step`` decoded to look at it was not drawn.
        if len(session.ahead.rows_drawn(rows)) < len(rows):
            return rows
        made, known = session.ahead.all(rows)
        fine = (made.spoilt == 0) & np.isfinite(made.log_probs) & self._rows.are_plain(rows, made.tokens)
        counts = np.minimum(leading(fine), known)
        if not counts.any():
            return rows
        going = [(rows[i], i, count) for i, count in enumerate(counts.tolist()) if count]
        tokens, actions, log_probs = (
            [columns[i][:count] for _, i, count in going]
            for columns in (made.tokens.T.tolist(), made.actions.T.tolist(), made.log_probs.T.tolist())
        )
        for (row, _, count), own in zip(going, log_probs, strict=True):
            episode, last = self.episodes[self.running[row]], len(session.tokens[row]) - 1
            episode.positions += range(last, last + count)
            episode.log_probs += own
            episode.rewards += [0.0] * count
        self._rows.follow([row for row, *_ in going], actions, tokens)
        if on_step is not None:
            _tell(on_step, made, counts)
        return [row for row, more in zip(rows, (counts < known).tolist(), strict=True) if more]

    @torch.no_grad()
    def choose(self, rows: list[int], act: Act, draw: Draw) -> np.ndarray:
        """Draw an action [B] for each row, and record its position and log-probability."""
        with self._threads:
            with self._located():
                drawn = self._in_steps(rows, act, draw)
                if drawn is None:
                    logits = act(rows)
            if drawn is None:
                _check_logits(logits, len(rows), self._rows)
                uniforms = to_device(self._next_uniforms(rows, 1)[:, 0], logits.device)
                on_device = draw(logits, uniforms)
                drawn = to_host(on_device[0]), to_host(on_device[1])
        actions, log_probs = drawn
        tokens = self._session.tokens
        if not np.isfinite(log_probs).all():
            row = rows[int(np.isfinite(log_probs).argmin())]
            step = len(self.episodes[self.running[row]].positions)
            raise FloatingPointError(
                f"the policy's logits of row {row} are not finite at step {step}, "
                f"after token {tokens[row][-1]}"
            )
        for row, log_prob in zip(rows, log_probs.tolist(), strict=True):
            episode = self.episodes[self.running[row]]
            episode.positions.append(len(tokens[row]) - 1)
            episode.log_probs.append(log_prob)
        return actions

    @contextmanager
    def _located(self) -> Iterator[None]:
        """A block in which the error about a value that is not finite names the step."""
        try:
            yield
        except NotFiniteError as error:
            if error.left:
                raise
            number = self.running.get(error.row)
            step = 0 if number is None else len(self.episodes[number].positions)
            raise NotFiniteError(error.row, f"{error} (at step {step} of row {error.row})") from error

    def _in_steps(self, rows: list[int], act: Act, draw: Draw) -> tuple[np.ndarray, np.ndarray] | None:
        """Actions and log-probabilities [B], drawn in the steps that compute their tokens, if that can be.

        Several steps are taken at once, as if no episode ended: what is drawn behind an end is dropped.
        """
        session = self._session
        if not (isinstance(session, Rows) and session.static and isinstance(act, DeviceAct)):
            return None
        # A token that is drawn needs a uniform of the row's own stream, which Episodes draws after this; and
        # where Episodes reads the initial policy before it decodes, what was computed would be dropped.
        if self._rows.world_temperature or self._rows.prior_coef:
            return None
        drawn = session.ahead.drawn(rows)
        if drawn is not None:
            return drawn
        room = session.max_length - max(len(session.tokens[row]) for row in rows)
        left = max(self._rows.tokens_left(row) for row in rows)
        return session.act(rows, act, draw, self._next_uniforms(rows, min(STEPS_AHEAD, room, left)))

    def _next_uniforms(self, rows: list[int], count: int) -> np.ndarray:
        """The uniforms of the rows' next actions, [B, count]."""
        uniforms = []
        for row in rows:
            at, own = len(self.episodes[self.running[row]].positions), self._uniforms[row]
            if len(own) < at + count:
                own += self._streams[row].random(_UNIFORMS).tolist()
            uniforms.append(own[at : at + count])
        return np.array(uniforms)

    def paid(
        self,
        rows: list[int],
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        infos: Sequence[dict[str, Any]],
    ) -> dict[int, Episode]:
        """Record a step's rewards [B]; returns the episodes that ended, by their rows."""
        for row, reward in zip(rows, rewards.tolist(), strict=True):
            self.episodes[self.running[row]].rewards.append(reward)
        ended, session = {}, self._session
        if isinstance(session, Rows) and session.ahead.used:
            # A task's text may be what was drawn ahead: what follows it there was drawn with uniforms of
            # later actions.
            session.ahead.drop([row for row in rows if self._answered(row)])
        for i in np.flatnonzero(terminated | truncated).tolist():
            row = rows[i]
            number = self.running.pop(row)
            ended[row] = episode = self.episodes[number]
            episode.ids = list(session.tokens[row])
            episode.actions = self._rows.actions(row)
            episode.written = [step >= 0 for step in self._rows.origins(row)]
            episode.terminated, episode.info = bool(terminated[i]), infos[i]
            self.hidden[number] = (
                session.take(row) if isinstance(session, Rows) else session.states(row).clone()
            )
        return ended

    def _answered(self, row: int) -> bool:
        """Whether a row has gained more than the token of its last action."""
        return len(self._session.tokens[row]) > self.episodes[self.running[row]].positions[-1] + 2


def _tell(on_step: Callable[..., None], made: Made, counts: np.ndarray) -> None:
    """Call ``on_step`` for each of the steps [K, B] of which each row took as many as ``counts`` [B] says."""
    for step in range(int(counts.max())):
        rows = counts > step
        actions, tokens = made.actions[step, rows].tolist(), made.tokens[step, rows].tolist()
        on_step(
            actions=np.array(actions),
            rewards=np.zeros(len(actions)),
            dones=np.zeros(len(actions), dtype=bool),
            infos=[{"token": token, "action": action} for token, action in zip(tokens, actions, strict=True)],
        )


def _check_logits(logits: Any, num_rows: int, episodes: Episodes) -> None:
    """Raise TypeError or ValueError unless a policy returned action logits for these rows."""
    if not (isinstance(logits, Tensor) and logits.is_floating_point()):
        raise TypeError(
            f"a policy must return a floating tensor of action logits, got {type(logits).__name__}"
        )
    shapes = [(num_rows, width) for width in widths(episodes.action_mask)]
    if logits.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(f"a policy must return action logits {wanted}, got {list(logits.shape)}")
