"""Whole episodes for learners: one loop over Episodes, at latent and at token level alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from cola_agents.common.threads import fitting_threads
from cola_agents.decoding.contract import PolicySession, missing
from cola_agents.decoding.finite import NotFiniteError
from cola_agents.decoding.session import Rows
from cola_agents.decoding.static import STEPS_AHEAD, DeviceAct, Draw
from cola_agents.decoding.transfer import to_device, to_host
from cola_agents.model.sampling import sample
from cola_envs.checks import check_seeds
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


@dataclass
class Episode:
    """One episode as it is played; T counts prompt, agent's tokens and task text.

    Attributes:
        ids: token ids, T of them.
        positions: of each action, the index of the last token before it.
        actions, log_probs, rewards: an entry for each action.
        written: of each token, whether an action wrote it; empty if that is not known.
        terminated: True if the episode ended, False if it was cut.
        info: of the last step.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    written: list[bool] = field(default_factory=list)
    terminated: bool = False
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """N whole episodes, padded on the right. T counts prompt, agent's tokens and task text.

    An action is at the position of the state it was taken in: ``actions[n, t]`` was chosen after reading
    ``ids[n, : t + 1]``. All tensors are on the model's device.

    Attributes:
        ids: token ids [N, T] int64; 0 after an episode's end.
        lengths: tokens of each episode [N].
        hidden: the base LM's hidden states [N, T, D] in its own dtype; 0 after the end.
        mask: [N, T] bool, True at acting positions.
        actions: [N, T] int64; 0 elsewhere.
        log_probs: of the actions, under the distribution they were drawn from, [N, T]; 0 elsewhere.
        rewards: of the action at t, [N, T].
        terminated: [N] bool; False for an episode that was cut (bootstrap from its last state).
        seeds: the row seed of each episode [N].
        problem_seeds: the seed that each episode's problem was drawn with [N], or its index if problems come
            in order.
        infos: the info dict of each episode's last step.
        reference: [N, T, K], 0 elsewhere than at acting positions; see
            :meth:`~cola_agents.rl.policy.TrainedPolicy.with_reference`. None if it was not computed.
        held: for episodes of several processes: the row of ``hidden`` with each episode's states [N], -1 for
            an episode of another process. None if row n of ``hidden`` is episode n.
        written: [N, T] bool, True at tokens that an action wrote; None if that is not known, as of episodes
            read from a file: then each is taken to have written one.
    """

    ids: Tensor
    lengths: Tensor
    hidden: Tensor
    mask: Tensor
    actions: Tensor
    log_probs: Tensor
    rewards: Tensor
    terminated: Tensor
    seeds: np.ndarray
    problem_seeds: np.ndarray
    infos: list[dict[str, Any]]
    reference: Tensor | None = None
    held: np.ndarray | None = None
    written: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def episode_rewards(self) -> Tensor:
        """Sum of rewards of each episode, [N]; it does not depend on the padding."""
        return self.rewards.double().sum(1).to(self.rewards.dtype)

    @property
    def reward_sizes(self) -> Tensor:
        """Sum of the magnitudes of each episode's rewards, [N]: rounding error is relative to it."""
        return self.rewards.abs().sum(1)

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each episode before its first action."""
        first = self.mask.int().argmax(1).tolist()
        return [row[: at + 1] for row, at in zip(self.ids.tolist(), first, strict=True)]

    @property
    def num_actions(self) -> int:
        """Number of actions in all episodes together."""
        return int(self.mask.sum())

    @property
    def taken_log_probs(self) -> Tensor:
        """Log-probabilities of the actions when they were taken, [M]."""
        return self.log_probs[self.mask]

    @property
    def here(self) -> np.ndarray:
        """Indices of the episodes whose hidden states are in this process."""
        return np.arange(len(self)) if self.held is None else np.flatnonzero(self.held >= 0)

    def select(self, index: np.ndarray | Tensor) -> Rollout:
        """Some of the episodes, cut to the longest of them.

        Args:
            index: indices of episodes, or a mask [N] bool.
        """
        index = torch.as_tensor(index)
        if index.dtype == torch.bool:
            index = index.nonzero().flatten()
        length = int(self.lengths[index].max())
        picked: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if own.name == "hidden" and self.held is not None:
                rows = self.held[index.cpu().numpy()]
                picked["hidden"] = value[rows[rows >= 0], :length]
            elif own.name == "held":
                if value is not None:  # None if the hidden states of all picked episodes are here
                    here = value[index.cpu().numpy()] >= 0
                    value = None if here.all() else np.where(here, here.cumsum() - 1, -1)
                picked["held"] = value
            elif value is None:
                continue
            elif isinstance(value, Tensor):
                picked[own.name] = value[index] if value.dim() == 1 else value[index, :length]
            elif isinstance(value, np.ndarray):
                picked[own.name] = value[index.cpu().numpy()]
            else:
                picked[own.name] = [value[i] for i in index.tolist()]
        return replace(self, **picked)


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
        TypeError: for something other than Episodes, or a third party's session in which no policy can act.
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
    seeds = check_seeds("seeds", seeds, len(seeds))
    given: list[int | None] = [None] * len(seeds)
    if problem_seeds is not None:
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
        rows = played.due()
        actions = played.choose(rows, act, draw)
        _, rewards, terminated, truncated, infos = episodes.step(rows, actions, observe=False)
        ended = played.paid(rows, rewards, terminated, truncated, infos)
        if on_step is not None:
            infos = [
                {**info, "episode": {"r": sum(ended[row].rewards), "l": len(ended[row].rewards)}}
                if row in ended
                else info
                for row, info in zip(rows, infos, strict=True)
            ]
            on_step(actions=actions, rewards=rewards, dones=terminated | truncated, infos=infos)
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

    def due(self) -> list[int]:
        """The rows whose next actions are drawn already; all that are running if there are none."""
        rows = sorted(self.running)
        drawn = self._session.ahead.rows_drawn(rows) if isinstance(self._session, Rows) else []
        return drawn or rows

    @torch.no_grad()
    def choose(self, rows: list[int], act: Act, draw: Draw) -> np.ndarray:
        """Draw an action [B] for each row, and record its position and log-probability."""
        with self._threads:
            try:
                drawn = self._in_steps(rows, act, draw)
                if drawn is None:
                    logits = act(rows)
            except NotFiniteError as error:
                number = self.running.get(error.row)
                step = 0 if number is None else len(self.episodes[number].positions)
                raise NotFiniteError(error.row, f"{error} (at step {step} of row {error.row})") from error
            if drawn is None:
                _check_logits(logits, len(rows), self._rows)
                uniforms = to_device(self._next_uniforms(rows, 1)[:, 0], logits.device)
                actions, log_probs = draw(logits, uniforms)
                drawn = to_host(actions), to_host(log_probs)
        for row, log_prob in zip(rows, drawn[1].tolist(), strict=True):
            episode, tokens = self.episodes[self.running[row]], self._session.tokens[row]
            if not math.isfinite(log_prob):
                raise FloatingPointError(
                    f"the policy's logits of row {row} are not finite at step {len(episode.positions)}, "
                    f"after token {tokens[-1]}"
                )
            episode.positions.append(len(tokens) - 1)
            episode.log_probs.append(log_prob)
        return drawn[0]

    def _in_steps(self, rows: list[int], act: Act, draw: Draw) -> tuple[np.ndarray, np.ndarray] | None:
        """Actions and log-probabilities [B], drawn in the steps that compute their tokens, if that can be.

        Several steps are taken at once, as if no episode ended: what is drawn behind an end is dropped.
        """
        session = self._session
        if not isinstance(session, Rows) or not isinstance(act, DeviceAct):
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
        infos: list[dict[str, Any]],
    ) -> dict[int, Episode]:
        """Record a step's rewards [B]; returns the episodes that ended, by their rows."""
        ended = {}
        for i, row in enumerate(rows):
            episode = self.episodes[self.running[row]]
            episode.rewards.append(float(rewards[i]))
            if terminated[i] or truncated[i]:
                number = self.running.pop(row)
                episode.ids = list(self._session.tokens[row])
                episode.actions = self._rows.actions(row)
                episode.written = [step >= 0 for step in self._rows.origins(row)]
                episode.terminated, episode.info = bool(terminated[i]), infos[i]
                session = self._session
                self.hidden[number] = (
                    session.take(row) if isinstance(session, Rows) else session.states(row).clone()
                )
                ended[row] = episode
        return ended


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


def side_by_side(
    episodes: Sequence[Episode], seeds: np.ndarray, problem_seeds: np.ndarray, hidden: Sequence[Tensor]
) -> Rollout:
    """Episodes of unequal length as one Rollout, padded on the right.

    Args:
        seeds, problem_seeds: [N].
        hidden: per episode the states of its tokens, [T, D]; the Rollout is on their device.
    """
    lengths = torch.tensor([len(episode.ids) for episode in episodes])
    shape = (len(episodes), int(lengths.max()))
    states = hidden[0].new_zeros((*shape, hidden[0].shape[-1]))
    # Many short lists: numpy reads each in a fraction of the time that torch takes.
    ids, actions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    log_probs, rewards = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    mask = np.zeros(shape, dtype=bool)
    written = np.zeros(shape, dtype=bool) if all(one.written for one in episodes) else None
    for n, episode in enumerate(episodes):
        ids[n, : len(episode.ids)] = episode.ids
        states[n, : len(hidden[n])] = hidden[n]
        at = episode.positions
        mask[n, at] = True
        actions[n, at] = episode.actions
        log_probs[n, at] = episode.log_probs
        rewards[n, at] = episode.rewards
        if written is not None:
            written[n, : len(episode.ids)] = episode.written
    device = states.device
    return Rollout(
        ids=torch.from_numpy(ids).to(device),
        lengths=lengths.to(device),
        hidden=states,
        mask=torch.from_numpy(mask).to(device),
        actions=torch.from_numpy(actions).to(device),
        log_probs=torch.from_numpy(log_probs).to(device),
        rewards=torch.from_numpy(rewards).to(device),
        terminated=torch.tensor([episode.terminated for episode in episodes], device=device),
        seeds=seeds,
        problem_seeds=problem_seeds,
        infos=[episode.info for episode in episodes],
        written=None if written is None else torch.from_numpy(written).to(device),
    )
