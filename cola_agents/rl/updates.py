"""One update of a bundled agent: episodes, advantages, gradient steps.

Shapes: N episodes, T positions, M acting positions, G decisions (M of them, or fewer macro actions).
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cola_agents.common.interrupts import hold_interrupts
from cola_agents.model.lora import adapters_off
from cola_agents.rl.actors import Actor, Scores, score
from cola_agents.rl.callbacks import Progress, Watch
from cola_agents.rl.losses import adapted_kl_coef, average, rewards_to_go, whiten
from cola_agents.rl.optimiser import Adam32, tensors_of
from cola_agents.rl.rollout import Rollout, collect
from cola_agents.rl.workers import RolloutWorkers, text_of
from cola_envs.episodes import Episodes
from cola_envs.fields import failures, mean_scores
from cola_envs.order import check_prompts, order_of

Record = dict[str, float]

#: Updates in which no episode was better than another, after which it is said.
PATIENCE = 10


@dataclass(frozen=True)
class Batch:
    """What one update learns from.

    Attributes:
        rollout: the episodes.
        decides: [N, T] bool, where an advantage stands: at every action, or where a macro action begins.
        advantages: [N, T].
        figures: of the batch, for the record; ``frac_zero_advantage`` is among them.
        values, returns: [N, T], of an agent that learns values.
    """

    rollout: Rollout
    decides: Tensor
    advantages: Tensor
    figures: dict[str, float]
    values: Tensor | None = None
    returns: Tensor | None = None

    def select(self, index: np.ndarray) -> Batch:
        """The episodes of ``index``, cut to the longest of them."""
        rollout = self.rollout.select(index)
        length = rollout.mask.shape[1]
        cut: dict[str, Any] = {
            name: None if tensor is None else tensor[index][:, :length]
            for name, tensor in vars(self).items()
            if name not in ("rollout", "figures")
        }
        return replace(self, rollout=rollout, **cut)


class Updates(ABC):
    """How an agent plays and learns once; :class:`cola_agents.rl.agent.Agent` is what a user sees.

    An algorithm defines :meth:`gather` and :meth:`objective`.
    """

    options: Any
    env_id: str
    env_kwargs: dict[str, Any]
    seed: int
    #: Of the frozen model.
    fingerprint: str
    actor: Actor
    #: The initial policy; None where it is the actor itself without its adapters.
    reference: Actor | None
    episodes: Episodes
    optimiser: Adam32

    def __init__(self) -> None:
        self.kl_coef: float = self.options.kl_coef
        self.num_timesteps = 0
        self.num_episodes = 0
        self.num_updates = 0
        self.history: list[Record] = []
        #: The text of the first episode of the last update.
        self.sample: str | None = None
        self._finished = (0, 0)  # timesteps and episodes of finished updates alone
        self._torn = False  # whether an update ended half-way through its gradient steps
        self._idle = 0
        self._watch: Watch | None = None
        self._progress: Progress | None = None
        #: The processes that learn this agent together; usually one.
        self.workers = RolloutWorkers()
        self._joined = self.workers.size == 1

    # ---------------------------------------------------------------- what an algorithm defines

    @abstractmethod
    def gather(self) -> Batch:
        """Play episodes and say how good each action was. Changes nothing that is saved."""

    @abstractmethod
    def objective(self, log_probs: Tensor, old: Tensor, advantages: Tensor) -> Tensor:
        """What is maximised, per decision; without a gradient where the advantages are 0.

        Args:
            log_probs, old: log-probabilities of decisions, now and when they were taken, [G].
            advantages: theirs, [G].

        Returns:
            [G].
        """

    def grouped(self, part: Batch, values: Tensor) -> Tensor:
        """Sums of ``values`` [M] over what is decided at once, [G]: here each action on its own."""
        return values

    def has_other_terms(self) -> bool:
        """Whether the loss has terms that teach something where all advantages are 0."""
        o = self.options
        return o.entropy_coef > 0 or (o.kl_in == "loss" and self.kl_coef > 0)

    def value_term(self, part: Batch, features: Tensor, decisions: int) -> tuple[Tensor | None, Record]:
        """What an agent that learns values adds to the loss, and its figures; see :meth:`has_other_terms`.

        Args:
            features: at the actions, [M, D].
            decisions: see :meth:`loss`.
        """
        return None, {}

    def diagnostics(self, log_ratio: Tensor) -> Record:
        """Figures of how far the policy is from the one that played: log-ratios of decisions, [G]."""
        return {"approx_kl": (torch.expm1(log_ratio) - log_ratio).mean().item()}

    @property
    def passes(self) -> int:
        """Passes over each batch."""
        return 1

    # ---------------------------------------------------------------- one update

    def update(self) -> Record:
        """Collect episodes, learn from them once, and return the figures of this update.

        Whatever interrupts it: while episodes run nothing has changed, and the next update plays them
        again. Once learning from them has begun, Ctrl-C waits for its end, as SIGTERM does
        where it has a handler.

        An update whose advantages are all 0 makes no pass and no gradient step where its loss has no other
        term; its record has ``skipped`` 1, and nothing that only a pass could tell (``kl``, ``entropy``).

        Of several processes each plays its share of the episodes; see :mod:`cola_agents.rl.workers`.
        """
        started = time.process_time()
        try:
            self._meet()
            if self._watch:
                self._watch.callback.on_rollout_start()
            batch = self.gather()
            if self._watch:
                self._watch.callback.on_rollout_end()
            with hold_interrupts():
                figures = self._improve(batch)
                record = self._record(batch, started, figures)
        except BaseException as error:
            self.num_timesteps, self.num_episodes = self._finished
            self.workers.fail(error)
            raise
        self._notice(record)
        return record

    def _meet(self) -> None:
        """Check that all processes have this agent.

        At first, and where one stands inside an update, all take over the first one's weights and optimiser.
        """
        if self.workers.size == 1:
            return
        self.optimiser.begin()  # of a first update that was torn, some processes may have made a step
        tensors = [*self.actor.trained().values(), *tensors_of(self.optimiser.state_dict())]
        names = ("env_id", "seed", "options", "num_updates", "fingerprint", "num_timesteps", "kl_coef")
        described = {
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in names},
            "env_kwargs": text_of(self.env_kwargs),
            "tensors": len(tensors),
        }
        told = self.workers.agree(described, (self._torn, self._joined))
        if any(torn or not joined for torn, joined in told):
            self._joined = False
            self.workers.spread(tensors)
            self._torn, self._joined = told[0][0], True

    def _improve(self, batch: Batch) -> dict[str, list[float]]:
        """Learn from a batch; the figures of each gradient step.

        Without a signal there is no step, which would not leave the policy as it is: Adam would go on by its
        averages.
        """
        o = self.options
        silent = not self.has_other_terms() and not batch.advantages[batch.decides].any()
        if all(self.workers.exchange(silent)):
            still = {"skipped": 1.0, "loss": 0.0, "grad_norm": 0.0, **self.diagnostics(torch.zeros(1))}
            return {name: [value] for name, value in still.items()}
        figures: dict[str, list[float]] = defaultdict(list, skipped=[0.0])
        for index in self._minibatches(len(batch.rollout)):
            minibatch = batch.select(index)
            decided = int(minibatch.decides.sum())
            totals = (len(index), len(index))
            if o.loss_mean == "token":
                totals = int(minibatch.rollout.mask.sum()), decided
            step: dict[str, float] = defaultdict(float)
            self.optimiser.zero_grad()
            for chosen in self._parts(minibatch.rollout):
                part = minibatch if len(chosen) == len(index) else minibatch.select(chosen)
                loss, found = self.loss(part, *totals)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss.item()} in update {self.num_updates}; the last saved agent "
                        "is intact"
                    )
                loss.backward()
                share = int(part.decides.sum()) / decided
                for name, value in found.items():
                    step[name] += value * share if name in ("approx_kl", "clip_fraction") else value
                step["loss"] += loss.item()
            step = self.workers.sum_gradients(list(self.actor.trained().values()), step)
            torn, self._torn = self._torn, True
            try:
                step["grad_norm"] = self.optimiser.step(o.max_grad_norm)
            except FloatingPointError:
                self._torn = torn  # nothing was stepped
                raise
            for name, value in step.items():
                figures[name].append(value)
        return figures

    def loss(self, part: Batch, actions: int, decisions: int) -> tuple[Tensor, Record]:
        """The loss on some episodes of a minibatch, and their shares of its figures.

        Args:
            actions, decisions: what sums over the part's actions and decisions are divided by, so that the
                parts of a minibatch add up to its mean.
        """
        o, rollout = self.options, part.rollout
        features = self.actor.features(rollout)[rollout.mask]
        scores = self._score(rollout, features, with_kl=o.kl_in == "loss")
        log_probs, old = (
            self.grouped(part, scores.log_probs),
            self.grouped(part, rollout.log_probs[rollout.mask]),
        )
        gained = self.objective(log_probs, old, part.advantages[part.decides])
        loss = -average(gained, part.decides, o.loss_mean, decisions)
        entropy = average(scores.entropy, rollout.mask, o.loss_mean, actions)
        figures = {"entropy": entropy.item(), **self.diagnostics((log_probs - old).detach())}
        if o.kl_in == "loss":
            kl = average(scores.kl, rollout.mask, o.loss_mean, actions)
            loss = loss + self.kl_coef * kl
            figures["kl"] = kl.item()
        loss = loss - o.entropy_coef * entropy
        value, found = self.value_term(part, features, decisions)
        return loss if value is None else loss + value, {**figures, **found}

    def _minibatches(self, count: int) -> Iterator[np.ndarray]:
        """Orders of ``count`` episodes, ``passes`` times over, in pieces of ``minibatch``."""
        order = np.random.default_rng([self.seed, self.num_updates, 1])
        size = self.options.minibatch or count
        for _ in range(self.passes):
            shuffled = order.permutation(count)
            yield from (shuffled[at : at + size] for at in range(0, count, size))

    def _parts(self, rollout: Rollout) -> list[np.ndarray]:
        """The episodes that this process computes on, in order, in pieces of ``micro_batch``."""
        here = rollout.here
        size = self.options.micro_batch or max(len(here), 1)
        return [here[at : at + size] for at in range(0, len(here), size)]

    def _record(self, batch: Batch, started: float, figures: dict[str, list[float]]) -> Record:
        """Count a finished update, keep its record, and steer the KL's weight."""
        rollout, o = batch.rollout, self.options
        cpu_s = sum(self.workers.exchange(time.process_time() - started))
        self.num_updates += 1
        record = {
            "update": self.num_updates,
            "timesteps": self.num_timesteps,
            "episodes": self.num_episodes,
            "reward": rollout.episode_rewards.mean().item(),
            "success": float(np.mean([info["success"] for info in rollout.infos])),
            "length": rollout.num_actions / len(rollout),
            **mean_scores(rollout.infos),
            **failures(rollout.infos),
            **batch.figures,
            **{name: float(np.mean(values)) for name, values in figures.items()},
            "kl_coef": self.kl_coef,
            "cpu_s": cpu_s,
        }
        if o.kl_target is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, record["kl"], o.kl_target, o.kl_gain)
        self.sample = rollout.infos[0].get("text")
        self.history.append(record)
        self._finished = self.num_timesteps, self.num_episodes
        self._torn = False
        return record

    def _notice(self, record: Record) -> None:
        """Warn where update after update gives nothing to learn from."""
        self._idle = self._idle + 1 if record["frac_zero_advantage"] == 1 else 0
        if self._idle == PATIENCE and self.workers.rank == 0:
            warnings.warn(
                f"in the last {PATIENCE} updates no episode was rewarded differently from those it is "
                "compared with, so that there was nothing to learn from: the task may be too hard or too "
                "easy at this max_tokens; more episodes an update or a higher temperature may help",
                stacklevel=3,
            )

    # ---------------------------------------------------------------- playing and scoring

    def _seeds(self, num_prompts: int, group_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Row seeds and problem seeds of this update's groups, [num_prompts * group_size] each."""
        stream = np.random.default_rng([self.seed, self.num_updates])
        problems = stream.integers(2**53, size=num_prompts)
        if order_of(self.episodes.tasks) is not None:  # an update takes the problems behind the last one's
            problems = self.num_updates * num_prompts + np.arange(num_prompts)
        problems = problems.repeat(group_size)
        return stream.integers(2**53, size=len(problems)), problems

    def _play(self, seeds: np.ndarray, problems: np.ndarray, *, greedy: bool = False) -> Rollout:
        """An episode for each of the seeds; they count as they are played."""
        share = self.workers.share(len(seeds))
        own = collect(
            self.episodes,
            self.actor,
            seeds=seeds[share].tolist(),
            problem_seeds=problems[share].tolist(),
            **({"temperature": 0.0} if greedy else self.options.drawing),
            on_step=self._stepped,
        )
        rollout = self.workers.gather(own)
        if self.workers.size > 1:  # a group may be in several processes
            check_prompts(self.episodes.tasks, rollout.problem_seeds.tolist(), rollout.prompts)
        self.num_timesteps += rollout.num_actions - own.num_actions
        self.num_episodes += len(rollout) - len(own)
        return rollout

    def _collect(self, num_prompts: int, group_size: int) -> Rollout:
        """``num_prompts`` groups of ``group_size`` episodes that share their problem."""
        return self._play(*self._seeds(num_prompts, group_size))

    def _stepped(self, **seen: Any) -> None:
        self.num_timesteps += len(seen["dones"])
        self.num_episodes += int(seen["dones"].sum())
        if self._progress:
            self._progress.at(self.num_timesteps)
        if self._watch:
            self._watch.step(**seen)

    def _score(self, rollout: Rollout, features: Tensor | None = None, *, with_kl: bool = False) -> Scores:
        """The policy's figures at the rollout's M actions; the KL to the initial policy where asked for.

        Args:
            features: at the actions, [M, D], where they are known.
        """
        reference = None
        if with_kl:
            with torch.no_grad(), self._initial() as initial:
                reference = initial, initial.features(rollout)[rollout.mask]
        if features is None:
            features = self.actor.features(rollout)[rollout.mask]
        return score(
            self.actor,
            features,
            rollout.actions[rollout.mask],
            drawing=self.options.drawing,
            reference=reference,
            estimator=self.options.estimator,
        )

    @contextmanager
    def _initial(self) -> Iterator[Actor]:
        """The policy that the agent started as."""
        if self.reference is not None:
            yield self.reference
        else:
            with adapters_off(self.actor.trunk):
                yield self.actor

    @torch.no_grad()
    def kl_of(self, rollout: Rollout) -> Tensor:
        """The KL to the initial policy at each action, by the options' estimator, [N, T]; 0 elsewhere."""
        kl = torch.zeros_like(rollout.rewards)
        for index in self._parts(rollout):
            part = rollout.select(index)
            found = torch.zeros_like(part.rewards)
            found[part.mask] = self._score(part, with_kl=True).kl
            kl[index, : found.shape[1]] = found
        return self.workers.sum(kl)

    def spread(self, rollout: Rollout, advantages: Tensor, decides: Tensor, figures: Record) -> Batch:
        """A batch in which every decision of an episode has the episode's advantage.

        With ``kl_in="reward"`` a decision also pays for the KL of all actions from it on.

        Args:
            advantages: [N].
            decides: [N, T] bool.
            figures: of the batch.
        """
        every = advantages[:, None] * decides
        if self.options.kl_in == "reward":
            kl = self.kl_of(rollout)
            figures = {**figures, "kl": average(kl[rollout.mask], rollout.mask, "token").item()}
            every = every - self.kl_coef * rewards_to_go(kl) * decides
        if self.options.whiten:
            every = whiten(every, decides)
        return Batch(rollout, decides, every, figures)
