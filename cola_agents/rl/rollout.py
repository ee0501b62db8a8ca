"""Whole episodes for learners: one loop over Episodes, at latent and at token level alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cola_agents.model.sampling import sample
from cola_envs.episodes import Episodes
from cola_envs.order import check_prompts
from cola_envs.spaces import reach

#: Tells a policy's stream from the streams that Episodes draws from with the same row seed.
_POLICY_STREAM = 3


class Policy(Protocol):
    """What :func:`collect` asks of an agent."""

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        """Begin to act in a session: returns a function from rows to action logits [B, A].

        The weights must not change until the collection is over; each collection attaches anew.
        """


class InitialPolicy:
    """A model's own policy: the cloned one over codes, or the language model over tokens."""

    def attach(self, session: Any) -> Callable[[Sequence[int]], Tensor]:
        return session.policy


@dataclass(frozen=True)
class Rollout:
    """N whole episodes, padded on the right. T counts prompt, agent's tokens and task text.

    An action stands at the position of the state it was taken in: ``actions[n, t]`` was chosen after
    reading ``ids[n, : t + 1]``. All tensors are on the model's device.

    Attributes:
        ids: token ids [N, T] int64; 0 behind an episode's end.
        lengths: tokens per episode [N].
        hidden: the base LM's hidden states [N, T, D] in its own dtype; 0 behind the end.
        mask: [N, T] bool, True where an action was taken.
        actions: [N, T] int64, 0 where none was taken.
        log_probs: of the actions, under the distribution drawn from, [N, T]; 0 where none was taken.
        rewards: paid for the action at t, [N, T].
        terminated: [N] bool; False where the episode was cut (then bootstrap from the last state).
        seeds: the row seed of each episode [N]; ``problem_seeds`` the one its problem was drawn with, or its
            place where problems come in order.
        infos: the info dict of each episode's last step.
        held: of episodes that several processes played, the row of ``hidden`` that has each one's states [N],
            -1 for those in another process. None where row n is episode n's, as everywhere else.
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
    held: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def episode_rewards(self) -> Tensor:
        """Sum of rewards of each episode, [N]; the same however long the episodes beside it are."""
        return self.rewards.double().sum(1).to(self.rewards.dtype)

    @property
    def reward_sizes(self) -> Tensor:
        """Sum of the magnitudes of each episode's rewards, [N]: what rounding error is measured by."""
        return self.rewards.abs().sum(1)

    @property
    def prompts(self) -> list[list[int]]:
        """The tokens of each episode that came before its first action."""
        first = self.mask.int().argmax(1).tolist()
        return [row[: at + 1] for row, at in zip(self.ids.tolist(), first, strict=True)]

    @property
    def num_actions(self) -> int:
        """Actions taken in all episodes together."""
        return int(self.mask.sum())

    @property
    def here(self) -> np.ndarray:
        """The episodes whose hidden states are in this process, in order."""
        return np.arange(len(self)) if self.held is None else np.flatnonzero(self.held >= 0)

    def select(self, index: np.ndarray | Tensor) -> Rollout:
        """The episodes of ``index``, cut to the longest of them."""
        index = torch.as_tensor(index)
        length = int(self.lengths[index].max())
        picked: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "hidden" and self.held is not None:
                rows = self.held[index.cpu().numpy()]
                picked["hidden"] = value[rows[rows >= 0], :length]
            elif field.name == "held":
                picked["held"] = None if value is None else _renumbered(value[index.cpu().numpy()])
            elif isinstance(value, Tensor):
                picked[field.name] = value[index] if value.dim() == 1 else value[index, :length]
            elif isinstance(value, np.ndarray):
                picked[field.name] = value[index.cpu().numpy()]
            else:
                picked[field.name] = [value[i] for i in index.tolist()]
        return replace(self, **picked)


def _renumbered(held: np.ndarray) -> np.ndarray | None:
    """``Rollout.held`` of episodes whose hidden states were picked in their order; None if that is all."""
    here = held >= 0
    return None if here.all() else np.where(here, here.cumsum() - 1, -1)


@dataclass
class _Running:
    """One episode under way."""

    number: int
    draw: Callable[[], float]
    positions: list[int]
    log_probs: list[float]
    rewards: list[float]


def collect(
    episodes: Episodes,
    policy: Policy | Callable[[Any, list[int]], Tensor],
    *,
    seeds: Sequence[int] | None = None,
    problem_seeds: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    on_step: Callable[..., None] | None = None,
) -> Rollout:
    """Play one whole episode per seed.

    Rows are refilled as their episodes end, so that any number of seeds runs over
    ``episodes.num_rows`` rows. An episode depends on its own seeds and the policy alone, not on the
    rows beside it (on a CPU in float32).

    Args:
        episodes: rows to play in; whatever ran in them is dropped.
        policy: gives action logits: a :class:`Policy`, or a plain function of session and rows.
        seeds: N row seeds: the policy's and the world's draws. None for one episode a row, from fresh
            entropy.
        problem_seeds: N seeds of the problems; None for the row seeds, or the next problems where they come
            in order. A group shares one.
        temperature, top_k, top_p: how actions are drawn; 0 is greedy. ``log_probs`` are of the
            distribution that these define, and a learner must use the same.
        on_step: is called after each step of the rows with keywords ``actions``, ``rewards`` and ``dones``
            [B] and ``infos`` of the rows that stepped; an ended row's info has ``episode`` (``r`` return,
            ``l`` length). What it raises ends the collection.

    Raises:
        ValueError: without seeds, with another number of problem seeds, or for a task that gives two prompts
            for one problem seed.
        FloatingPointError: where the policy's logits are not finite, naming row, step and token.
    """
    if not isinstance(episodes, Episodes):
        raise TypeError(
            f"collect plays Episodes, got {type(episodes).__name__}; of an environment these are "
            "env.unwrapped.episodes"
        )
    if seeds is None:
        seeds = np.random.default_rng().integers(2**53, size=episodes.num_rows).tolist()
    given = [None] * len(seeds) if problem_seeds is None else [int(seed) for seed in problem_seeds]
    if len(given) != len(seeds) or not len(seeds):
        raise ValueError(f"collect got {len(seeds)} seeds and {len(given)} problem seeds")
    session: Any = episodes.session
    # What rows held before, perhaps under other weights, must not show: not in a kept prefix, and not in
    # the last bits of a state that was computed in other company.
    session.forget()
    act = policy.attach(session) if hasattr(policy, "attach") else partial(policy, session)
    waiting = list(range(len(seeds)))[::-1]
    running: dict[int, _Running] = {}
    done: list[dict[str, Any]] = [{} for _ in seeds]
    problems = np.zeros(len(seeds), dtype=np.int64)

    def refill(rows: list[int]) -> None:
        rows = rows[: len(waiting)]
        if not rows:
            return
        numbers = [waiting.pop() for _ in rows]
        episodes.reset(rows, [int(seeds[n]) for n in numbers], [given[n] for n in numbers])
        for row, number in zip(rows, numbers, strict=True):
            problems[number] = episodes.problem_seed(row)
            stream = np.random.default_rng([int(seeds[number]), _POLICY_STREAM])
            running[row] = _Running(number, stream.random, [], [], [])

    refill(list(range(episodes.num_rows)))
    while running:
        rows = sorted(running)
        with torch.no_grad():
            logits = act(rows)
            _check_logits(logits, len(rows), episodes)
            draws = [running[row].draw() for row in rows]
            u = torch.tensor(draws, dtype=torch.float64, device=logits.device)
            actions, log_probs = sample(logits, u, temperature=temperature, top_k=top_k, top_p=top_p)
        for row, log_prob in zip(rows, log_probs.tolist(), strict=True):
            if not math.isfinite(log_prob):
                step = len(running[row].positions)
                raise FloatingPointError(
                    f"the policy's logits of row {row} are not finite at step {step}, "
                    f"after token {session.tokens[row][-1]}"
                )
            running[row].positions.append(len(session.tokens[row]) - 1)
            running[row].log_probs.append(log_prob)
        chosen = actions.cpu().numpy()
        _, rewards, terminated, truncated, infos = episodes.step(rows, chosen)
        free, ends = [], {}
        for i, row in enumerate(rows):
            running[row].rewards.append(float(rewards[i]))
            if terminated[i] or truncated[i]:
                episode = running.pop(row)
                done[episode.number] = {
                    "ids": list(session.tokens[row]),
                    "hidden": session.states(row).clone(),
                    "positions": episode.positions,
                    "actions": episodes.actions(row),
                    "log_probs": episode.log_probs,
                    "rewards": episode.rewards,
                    "terminated": bool(terminated[i]),
                    "info": infos[i],
                }
                free.append(row)
                ends[i] = {"r": sum(episode.rewards), "l": len(episode.rewards)}
        if on_step is not None:
            seen = [{**info, "episode": ends[i]} if i in ends else info for i, info in enumerate(infos)]
            on_step(actions=chosen, rewards=rewards, dones=terminated | truncated, infos=seen)
        refill(free)
    hidden = [record.pop("hidden") for record in done]
    rollout = side_by_side(done, np.asarray(seeds), problems, hidden)
    if problem_seeds is not None:
        check_prompts(episodes.tasks, given, rollout.prompts)
    return rollout


def _check_logits(logits: Any, num_rows: int, episodes: Episodes) -> None:
    """Raise TypeError or ValueError for what is no action logits of these rows."""
    if not (isinstance(logits, Tensor) and logits.is_floating_point()):
        raise TypeError(
            f"a policy must return a floating tensor of action logits, got {type(logits).__name__}"
        )
    known = reach(episodes.action_mask)  # a token policy may leave out what no token stands for
    sizes = {int(episodes.action_space.n), known}
    if logits.dim() != 2 or len(logits) != num_rows or logits.shape[1] not in sizes:
        wanted = " or ".join(f"[{num_rows}, {size}]" for size in sorted(sizes))
        raise ValueError(f"a policy must return action logits {wanted}, got {list(logits.shape)}")


def side_by_side(
    episodes: Sequence[dict[str, Any]], seeds: np.ndarray, problem_seeds: np.ndarray, hidden: Sequence[Tensor]
) -> Rollout:
    """Episodes of unequal length as one Rollout, padded on the right.

    Args:
        episodes: per episode ``ids``, ``positions`` (where actions were taken), ``actions``, ``log_probs``,
            ``rewards``, ``terminated`` and ``info``.
        seeds, problem_seeds: [N].
        hidden: per episode the states of its tokens, [T, D]; the Rollout is on their device.
    """
    lengths = torch.tensor([len(episode["ids"]) for episode in episodes])
    shape = (len(episodes), int(lengths.max()))
    states = hidden[0].new_zeros((*shape, hidden[0].shape[-1]))
    ids = torch.zeros(shape, dtype=torch.long)
    actions = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    log_probs, rewards = torch.zeros(shape), torch.zeros(shape)
    for n, episode in enumerate(episodes):
        ids[n, : len(episode["ids"])] = torch.tensor(episode["ids"])
        states[n, : len(hidden[n])] = hidden[n]
        at = torch.tensor(episode["positions"])
        mask[n, at] = True
        actions[n, at] = torch.tensor(episode["actions"])
        log_probs[n, at] = torch.tensor(episode["log_probs"])
        rewards[n, at] = torch.tensor(episode["rewards"], dtype=torch.float32)
    device = states.device
    return Rollout(
        ids=ids.to(device),
        lengths=lengths.to(device),
        hidden=states,
        mask=mask.to(device),
        actions=actions.to(device),
        log_probs=log_probs.to(device),
        rewards=rewards.to(device),
        terminated=torch.tensor([episode["terminated"] for episode in episodes], device=device),
        seeds=seeds,
        problem_seeds=problem_seeds,
        infos=[episode["info"] for episode in episodes],
    )
