"""The value of every action in a state, measured by many continuations of each.

Shapes: O outcomes of a state (actions of one and the same consequence are one), K continuations of each,
A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola_agents.model.sampling import distribution, sample
from cola_agents.rl.collecting import Policy, attach, collect
from cola_agents.search.playout import checked_logits
from cola_envs.episodes import Episodes
from cola_envs.seeds import derived_seed
from cola_envs.state import State


@dataclass(frozen=True)
class Visited:
    """A state that a policy's own episode passed through.

    Attributes:
        state: the row, as it was.
        problem_seed: of the episode's problem.
        step: actions taken before.
        length: actions of the whole episode.
    """

    state: State
    problem_seed: int
    step: int
    length: int


@dataclass(frozen=True)
class Branched:
    """A state in which every action was taken.

    Attributes:
        actions: of each outcome the actions that lead to it, the likeliest first; O of them.
        tokens: what an outcome adds to the text, ids; empty where that is drawn (a world temperature).
        prior: probability of each outcome under the policy, [O]; not 1 together where some were left out.
        returns: rewards from here on, [O, K]. Column k draws the same random numbers in every row.
    """

    actions: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...]
    prior: np.ndarray
    returns: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """The policy among the outcomes that were tried, [O]."""
        return self.prior / self.prior.sum()

    @property
    def q(self) -> np.ndarray:
        """Action values, [O]."""
        return self.returns.mean(1)

    @property
    def q_error(self) -> np.ndarray:
        """Standard errors of :attr:`q`, [O]."""
        return self.returns.std(1, ddof=1) / np.sqrt(self.returns.shape[1])

    @property
    def value(self) -> float:
        """The policy's mean of :attr:`q`."""
        return float(self.weights @ self.q)

    @property
    def advantages(self) -> np.ndarray:
        """Action values less the state's, [O]."""
        return self.q - self.value

    @property
    def between(self) -> float:
        """See :func:`between_variance`."""
        return between_variance(self.returns, self.weights)

    @property
    def within(self) -> float:
        """See :func:`within_variance`."""
        return within_variance(self.returns, self.weights)

    @property
    def best_gain(self) -> float:
        """See :func:`best_gain`."""
        return best_gain(self.returns, self.weights)


def between_variance(returns: np.ndarray, weights: np.ndarray) -> float:
    """An unbiased estimate of ``sum_a w(a) (Q(a) - V)^2``: what the choice of the action decides.

    The plain sum over estimated values counts their noise as well. Here products of *different*
    continuations are summed: ``D[a, k] = X[a, k] - sum_b w(b) X[b, k]`` has mean ``Q(a) - V``, and two
    continuations k and l are independent even where actions share their random numbers. It may be negative.

    Args:
        returns: [O, K], K at least 2.
        weights: [O], summing to 1.
    """
    count = returns.shape[1]
    apart = returns - weights @ returns
    products = apart.sum(1) ** 2 - (apart**2).sum(1)
    return float(weights @ products) / (count * (count - 1))


def within_variance(returns: np.ndarray, weights: np.ndarray) -> float:
    """An unbiased estimate of ``sum_a w(a) Var(return | a)``: what is decided later. Shapes as above."""
    return float(weights @ returns.var(1, ddof=1))


def best_gain(returns: np.ndarray, weights: np.ndarray) -> float:
    """What an action picked by half of the continuations is worth above the policy's mean: a lower bound.

    The action is chosen by one half of the continuations and valued by the other, and the other way round:
    the largest of many estimates would be too large. Half of them may pick another action than the best, so
    the mean of this is a lower bound of the best action's gain, close where K is large. Shapes as above.
    """
    halves = returns[:, ::2].mean(1), returns[:, 1::2].mean(1)
    chosen = [judge[pick.argmax()] - weights @ judge for pick, judge in (halves, halves[::-1])]
    return float(np.mean(chosen))


def states_along(
    episodes: Episodes,
    policy: Any,
    problem_seeds: Sequence[int],
    *,
    positions: int = 3,
    seed: int = 0,
    **drawing: Any,
) -> list[Visited]:
    """States that the policy passes through, one episode a problem.

    The first is where the episode begins. The steps after it are cut into ``positions - 1`` parts of equal
    length and one is drawn from each; a shorter episode gives as many states as it has steps.

    Args:
        episodes: rows to play in; whatever ran in them is dropped.
        policy: as in :func:`cola_agents.collect`.
        problem_seeds: of the problems; the row seeds follow from them and ``seed``.
        drawing: ``temperature``, ``top_k`` and ``top_p``, as there.
    """
    if positions < 1:
        raise ValueError(f"positions must be at least 1, got {positions}")
    seeds = [derived_seed(seed, problem) for problem in problem_seeds]
    played = collect(episodes, policy, seeds=seeds, problem_seeds=problem_seeds, **drawing)
    wanted = []
    for number in range(len(played)):
        actions = played.actions[number][played.mask[number]].tolist()
        parts = positions - 1
        u = np.random.default_rng([seed, int(problem_seeds[number])]).random(parts)
        later = 1 + ((np.arange(parts) + u) / max(parts, 1) * (len(actions) - 1)).astype(int)
        steps = sorted({0, *later[later < len(actions)].tolist()})
        wanted += [(number, step, actions) for step in steps]
    visits = []
    for at in range(0, len(wanted), episodes.num_rows):
        part = dict(enumerate(wanted[at : at + episodes.num_rows]))
        numbers = [number for number, _, _ in part.values()]
        episodes.reset(list(part), [seeds[n] for n in numbers], [int(problem_seeds[n]) for n in numbers])
        taken = 0
        while going := [row for row, (_, step, _) in part.items() if step > taken]:
            episodes.step(going, [part[row][2][taken] for row in going])
            taken += 1
        visits += [
            Visited(episodes.snapshot(row), int(problem_seeds[number]), step, len(actions))
            for row, (number, step, actions) in part.items()
        ]
    return visits


def credit(
    episodes: Episodes,
    policy: Policy | Callable[[Any, list[int]], Tensor],
    states: Sequence[State],
    *,
    actions: Sequence[int] | None = None,
    max_actions: int = 64,
    continuations: int = 32,
    seed: int = 0,
    **drawing: Any,
) -> list[Branched]:
    """Take every action in every state, and play on with the policy to the episode's end.

    Where the world model takes its likeliest token, actions that lead to the same text for the same reward
    lead to the same future, and it is played once for all of them.

    Args:
        episodes: rows to play in; whatever ran in them is dropped.
        policy: as in :func:`cola_agents.collect`. It and the task must not depend on how a text came about.
        states: of running rows, from :meth:`Episodes.snapshot`.
        actions: which ones are tried; None for the policy's likeliest ``max_actions``, of those that it may
            draw.
        continuations: K, of each outcome.
        seed: continuation k of a state draws the same numbers after every action, so that what actions
            differ in is not blurred by luck.
        drawing: ``temperature`` (above 0), ``top_k`` and ``top_p`` of the policy, in its probabilities and in
            playing on.

    Raises:
        ValueError: fewer than two continuations, a policy that does not draw or draws none of ``actions``, or
            a state whose episode is over.
        gymnasium.error.InvalidAction: an action that is not allowed.
        FloatingPointError: where the policy's logits are not finite.
    """
    if continuations < 2 or max_actions < 1:
        raise ValueError(
            f"continuations must be at least 2, to tell noise from values, got {continuations}, and "
            f"max_actions at least 1, got {max_actions}"
        )
    over = [number for number, state in enumerate(states) if not state.running]
    if over:
        raise ValueError(f"state {over[0]} is of an episode that is over: there is no action to take")
    episodes.session.forget()  # what rows held may be of other weights
    episodes.cut(range(episodes.num_rows))
    act = attach(policy, episodes)
    branches = []
    for state in states:
        episodes.restore([0], [state])
        prior = _probabilities(checked_logits(act([0]), [0]), drawing)
        tried = actions
        if tried is None:
            likeliest = np.argsort(-prior, kind="stable")[:max_actions]
            tried = likeliest[prior[likeliest] > 0].tolist()
        elif not prior[list(tried)].sum() > 0:
            raise ValueError(f"the policy draws none of the actions {list(tried)}: they have no mean value")
        branches.append(_outcomes(episodes, state, tried, prior))
    jobs = [
        _Job(state, outcome[0], (number, place, k), derived_seed(seed, number, k))
        for number, (state, branch) in enumerate(zip(states, branches, strict=True))
        for place, outcome in enumerate(branch[0])
        for k in range(continuations)
    ]
    returns = [np.zeros((len(branch[0]), continuations)) for branch in branches]
    for (number, place, k), value in _play_on(episodes, act, jobs, drawing):
        returns[number][place, k] = value
    return [Branched(*branch, per_action) for branch, per_action in zip(branches, returns, strict=True)]


Branch = tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], np.ndarray]


def _outcomes(episodes: Episodes, state: State, tried: Sequence[int], prior: np.ndarray) -> Branch:
    """Actions of one consequence together, what they add to the text, and their probabilities, [O]."""
    tried = sorted(tried, key=lambda action: -prior[action])
    if episodes.world_temperature > 0:
        return tuple((action,) for action in tried), tuple(() for _ in tried), prior[tried]
    together: dict[Any, list[int]] = {}
    for at in range(0, len(tried), episodes.num_rows):
        part = tried[at : at + episodes.num_rows]
        rows = list(range(len(part)))
        episodes.restore(rows, [state] * len(part))
        _, rewards, _, _, _ = episodes.step(rows, part)
        for row, action in enumerate(part):
            after = episodes.snapshot(row)
            added = after.tokens[len(state.tokens) :]
            together.setdefault((added, after.running, float(rewards[row])), []).append(action)
    return (
        tuple(map(tuple, together.values())),
        tuple(added for added, _, _ in together),
        np.array([prior[actions].sum() for actions in together.values()]),
    )


@dataclass(frozen=True)
class _Job:
    """One continuation: a state, its first action, the result that it belongs to, and its random numbers."""

    state: State
    action: int
    index: tuple[int, int, int]
    seed: int


def _play_on(
    episodes: Episodes, act: Callable[[list[int]], Tensor], jobs: list[_Job], drawing: dict[str, Any]
) -> Iterator[tuple[tuple[int, int, int], float]]:
    """The return of each job; rows are refilled as their episodes end."""
    waiting = jobs[::-1]
    running: dict[int, _Job] = {}
    draws: dict[int, Callable[[], float]] = {}
    returns: dict[int, float] = {}
    while waiting or running:
        free = [row for row in range(episodes.num_rows) if row not in running][: len(waiting)]
        if free:
            running.update((row, waiting.pop()) for row in free)
            started = [running[row] for row in free]
            episodes.restore(free, [job.state for job in started], [job.seed for job in started])
            for row, job in zip(free, started, strict=True):
                draws[row] = np.random.default_rng([job.seed, 1]).random
                returns[row] = 0.0
        rows = sorted(running)
        begun = [row for row in rows if row not in free]
        chosen = {row: running[row].action for row in free}
        if begun:
            with torch.no_grad():
                u = torch.tensor([draws[row]() for row in begun], dtype=torch.float64)
                logits = checked_logits(act(begun), begun)
                drawn, _ = sample(logits, u.to(logits.device), **drawing)
            chosen.update(zip(begun, drawn.tolist(), strict=True))
        _, rewards, _, _, _ = episodes.step(rows, [chosen[row] for row in rows])
        for row, reward in zip(rows, rewards.tolist(), strict=True):
            returns[row] += reward
            if not episodes.running(row):
                yield running.pop(row).index, returns[row]


def _probabilities(logits: Tensor, drawing: dict[str, Any]) -> np.ndarray:
    """What the policy draws from, given one row's action logits [1, A]: [A] float64."""
    if drawing.get("temperature") == 0:
        raise ValueError("temperature=0 leaves nothing to choose: give one above 0, and top_k=1 to be greedy")
    return distribution(logits[0].detach(), **drawing).double().exp().cpu().numpy()
