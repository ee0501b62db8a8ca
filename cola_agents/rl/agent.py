"""The base class of all agents: collecting episodes, one update, and the loop of updates.

Shapes: N episodes, T positions, M acting positions.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Self

import numpy as np
from stable_baselines3.common.logger import Logger
from torch import Tensor

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import as_arguments, check_env_kwargs, unknown_option
from cola_agents.common.interrupts import hold_interrupts
from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.contract import PolicyBackbone
from cola_agents.model.lora import shared_copy
from cola_agents.rl.acting import AgentVecEnv
from cola_agents.rl.actors import (
    adapted_actor,
    make_actor,
    reference_actor,
)
from cola_agents.rl.callbacks import Callback, Progress, Watch
from cola_agents.rl.collecting import collect
from cola_agents.rl.learning import Run, watched, writing
from cola_agents.rl.logs import default_logger, write_record
from cola_agents.rl.losses import adapted_kl_coef, reinforce_objective, rewards_to_go, whiten
from cola_agents.rl.optimiser import Adam32, tensors_of
from cola_agents.rl.options import AgentOptions, listed
from cola_agents.rl.playing import PlayingMixin, level_of
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.records import Idle, batch_figures
from cola_agents.rl.restoring import SavingMixin, place_of
from cola_agents.rl.rollout import Rollout
from cola_agents.rl.rows import check_rows
from cola_agents.rl.saver import Saver
from cola_agents.rl.update import Batch, Record, improve, shuffled
from cola_agents.rl.workers import RolloutWorkers, text_of
from cola_envs.build import repeatable, resolve
from cola_envs.checks import check_count
from cola_envs.episodes import Episodes
from cola_envs.order import check_prompts, order_of


class Agent(PlayingMixin, SavingMixin, ABC):
    """Base class of the bundled agents and of your own.

    An algorithm is two methods: :meth:`batch` plays episodes and computes an advantage for each decision,
    :meth:`loss` computes the loss that gradient steps minimise.

    Args:
        env_id: a registered id such as ``"CoLA-Thinking-v0"`` or its ``-Token-v0`` twin.
        num_envs: rows that play in parallel.
        seed: seeds the problems, the rollouts and the order of minibatches.
        model, tokenizer, device, dtype: as in ``gym.make``. The agent trains a copy of the policy's weights.
            The model itself is the reference of the KL, so do not change its weights while the agent lives.
        env_kwargs: further arguments of the environment (``max_tokens``, ``level``, ``task``, ...).
        verbose: 1 to log to stdout if no logger is set.
        tensorboard_log: a folder for TensorBoard logs if no logger is set.
        options: fields of :attr:`options_class`, which the docstring of each agent lists.

    Attributes:
        policy: evaluates actions under the trained policy and the initial one.
        actor: the trained network.
        backbone: the model that the policy acts over.
        episodes: the rows that training episodes are played in.
        workers: the processes that train this agent together; usually one.
        num_timesteps, num_episodes: actions taken and episodes ended so far, including the running update.
        num_updates: number of finished updates.
        history: the record of each finished update: figures by name.
        sample: the text of the first episode of the last update.
        kl_coef: the current weight of the KL.
        watch, progress: the callback and the progress bar of ``learn``, while it runs.

    Raises:
        TypeError: for an unknown option, or an argument or option of the agent in ``env_kwargs``.
        ValueError: for an option, a seed or a number of rows that is not allowed.
        gymnasium.error.Error: for an unknown id.
    """

    options_class: ClassVar[type[AgentOptions]] = AgentOptions
    #: The figures that are recorded as 0 for an update without a gradient step.
    skipped_figures: ClassVar[tuple[str, ...]] = ("loss", "grad_norm", "approx_kl")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bundled = cls.__module__.startswith("cola_agents.rl.")
        algo = cls.__name__.lower() if bundled else f"module:{cls.__name__}"
        cls.__doc__ = (
            f"{inspect.cleandoc(cls.__doc__ or '')}\n\n``cola train --algo {algo} --help`` says what each "
            f"option means.\n\nOptions:\n{listed(cls.options_class)}"
        )

    def __init__(
        self,
        env_id: str,
        *,
        num_envs: int = 32,
        seed: int = 0,
        model: Any = None,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str = "float32",
        env_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        tensorboard_log: str | None = None,
        **options: Any,
    ) -> None:
        names = [field.name for field in dataclasses.fields(self.options_class)]
        taker = type(self).__name__
        level = level_of(env_id, taker)
        for name in sorted(set(options) - set(names)):
            raise TypeError(unknown_option(name, options[name], names, taker, env_id))
        own = as_arguments(env_kwargs)
        check_env_kwargs(own, names, taker, env_id)
        self.options = self.options_class(**options)
        self.seed = check_count("seed", seed, 0)
        self.num_envs = check_count("num_envs", num_envs)
        self.workers = RolloutWorkers()
        self.begin()
        self.env_id = env_id
        self.env_kwargs = repeatable(own)
        first = self.workers.rank == 0
        self.verbose = check_count("verbose", verbose, 0) if first else 0
        if not isinstance(tensorboard_log, (str, Path, NoneType)):
            raise TypeError(f"tensorboard_log must be a folder's name or None, got {tensorboard_log!r:.80}")
        self.tensorboard_log = tensorboard_log if first else None
        if level == "token" and self.env_kwargs.get("prior_coef"):
            raise ValueError(
                "prior_coef needs a policy that stays as it was, and a token-level agent trains the very "
                "model it would be read from; use the agent's own kl_coef"
            )
        if model is None or isinstance(model, (str, Path)):
            check_rows(env_id, **self.env_kwargs)  # before the weights, which take longer
        #: The constructor arguments that name the model; None for a model or tokenizer object.
        self.source: dict[str, str | None] = {
            "model": place_of(model),
            "tokenizer": place_of(tokenizer),
            "device": device,
            "dtype": dtype,
        }
        frozen: Any = resolve(model, level=level, tokenizer=tokenizer, device=device, dtype=dtype)
        self._frozen: PolicyBackbone = frozen
        self.backbone, self.policy = self.make_policy(frozen)
        self.actor = self.policy.actor
        self.episodes: Episodes = self._episodes(env_id, self.num_envs, self.env_kwargs)
        lr, warmup = (1e-3, 0) if level == "latent" else (3e-4, 10)
        if self.options.warmup is not None:
            warmup = self.options.warmup
        self.optimiser = Adam32(self.actor.parameters(), lr=self.options.lr or lr, warmup=warmup)
        self._logger: Logger | None = None
        self._logger_is_own = False
        self._started = (0, time.perf_counter())
        self._env: AgentVecEnv | None = None
        self._predictions = np.random.default_rng([self.seed, 4])
        self._saver = Saver()

    def begin(self) -> None:
        """Set all counts to 0."""
        self.kl_coef: float = self.options.kl_coef
        self.num_timesteps = 0
        self.num_episodes = 0
        self.num_updates = 0
        self.history: list[Record] = []
        self.sample: str | None = None
        self.watch: Watch | None = None
        self.progress: Progress | None = None
        self._finished = (0, 0)  # timesteps and episodes at the end of the last update
        self._finished_steps = 0  # the optimiser's steps at the end of the last update; -1 inside an update
        self._idle = Idle()
        self._joined = self.workers.size == 1

    def make_policy(self, frozen: PolicyBackbone) -> tuple[PolicyBackbone, TrainedPolicy]:
        """The backbone to play on, and the policy to train.

        Args:
            frozen: the backbone of ``model=``, whose weights are not changed.
        """
        rank = self.options.lora_rank
        backbone, reference = frozen, None
        if isinstance(frozen, TokenBackbone):
            model = copy.deepcopy(frozen.model) if rank is None else shared_copy(frozen.model)
            backbone = TokenBackbone(model, frozen.tokenizer, frozen.static)
        if rank is None:
            actor, reference = make_actor(backbone), reference_actor(frozen)
        else:
            actor = adapted_actor(backbone, rank, self.options.lora_alpha, self.seed)
        return backbone, TrainedPolicy(actor, reference, self.options, self.workers)

    @property
    def fingerprint(self) -> str:
        """sha256 of the frozen model as it is now: level, configuration, weights and tokenizer.

        It is saved with the agent, and :meth:`load` refuses another.
        """
        return self._frozen.fingerprint

    def close(self) -> None:
        """Close the environments and the agent's own logger, and leave the other processes.

        The agent can still be saved. A logger of :meth:`set_logger` is left to its owner.
        """
        self.workers.close()
        self.episodes.close()
        self._close_log()
        if self._env is not None:
            self._env.close()

    # ---------------------------------------------------------------- what an algorithm defines

    @abstractmethod
    def batch(self) -> Batch:
        """Play episodes (:meth:`play`) and compute an advantage for each decision.

        It must not change anything that is saved: an update that is interrupted here begins again.
        """

    @abstractmethod
    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        """The loss on a part of a minibatch, and figures for the record.

        Each is the part's share of the minibatch's mean (:meth:`~cola_agents.rl.update.Batch.mean`): the
        parts' shares add up to that mean.
        """

    def has_other_terms(self) -> bool:
        """Whether the loss has terms whose gradient is not 0 when all advantages are 0."""
        o = self.options
        return o.entropy_coef > 0 or (o.kl_in == "loss" and self.kl_coef > 0)

    # ---------------------------------------------------------------- what an algorithm may use

    def draw_seeds(self, num_problems: int, group_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Row seeds and problem seeds of this update's groups, [num_problems * group_size] each.

        The episodes of a group have the same problem seed and are consecutive. A second call in the same
        update returns the same seeds.
        """
        stream = np.random.default_rng([self.seed, self.num_updates])
        problems = stream.integers(2**53, size=num_problems)
        if order_of(self.episodes.tasks) is not None:  # continue after the last update's problems
            problems = self.num_updates * num_problems + np.arange(num_problems)
        problems = problems.repeat(group_size)
        return stream.integers(2**53, size=len(problems)), problems

    def play(self, seeds: np.ndarray, problem_seeds: np.ndarray, *, greedy: bool = False) -> Rollout:
        """Play an episode for each of the seeds and count them. Each process plays its share.

        Args:
            seeds: N row seeds.
            problem_seeds: N seeds of the problems.
            greedy: take the likeliest action in place of a draw.

        Returns:
            all N episodes, in the order of their seeds.
        """
        timesteps, episodes = self.num_timesteps, self.num_episodes
        share = self.workers.share(len(seeds))
        own = collect(
            self.episodes,
            self.actor,
            seeds=seeds[share].tolist(),
            problem_seeds=problem_seeds[share].tolist(),
            **({"temperature": 0.0} if greedy else self.options.drawing),
            on_step=self._count,
        )
        rollout = self.workers.all_gather(own)
        if self.workers.size > 1:  # a group may be spread over several processes
            check_prompts(self.episodes.tasks, rollout.problem_seeds.tolist(), rollout.prompts)
        self.num_timesteps = timesteps + rollout.num_actions
        self.num_episodes = episodes + len(rollout)
        return rollout

    def _count(self, *, dones: np.ndarray, **step: Any) -> None:
        """``on_step`` of :func:`collect`: count the step and show it to progress bar and callback."""
        self.num_timesteps += len(dones)
        self.num_episodes += int(dones.sum())
        if self.progress:
            self.progress.at(self.num_timesteps)
        if self.watch:
            self.watch.step(dones=dones, **step)

    def same_for_all_actions(
        self, rollout: Rollout, advantages: Tensor, decision_mask: Tensor, figures: Record
    ) -> Batch:
        """A batch in which every decision of an episode has the episode's advantage.

        With ``kl_in="reward"`` the KL of a decision's and all later actions is subtracted from it.

        Args:
            advantages: [N].
            decision_mask: [N, T] bool.
            figures: figures of the batch, for the record.
        """
        kl, kl_figures = self.policy.kl_in_reward(rollout)
        spread = advantages[:, None] * decision_mask - self.kl_coef * rewards_to_go(kl) * decision_mask
        if self.options.whiten:
            spread = whiten(spread, decision_mask)
        return Batch(rollout, decision_mask, spread, {**figures, **kl_figures}, self.options.loss_mean)

    def reinforce_loss(self, part: Batch) -> tuple[Tensor, Record]:
        """REINFORCE's loss with KL and entropy terms; no ratios, no clipping."""
        now = self.policy.evaluate_actions(part.rollout)
        log_probs, old = part.by_decision(now.log_probs), part.by_decision(part.rollout.taken_log_probs)
        objective = reinforce_objective(log_probs, part.advantages[part.decision_mask])
        loss, figures = self.policy.regularised(-part.mean(objective, "decisions"), part, now, self.kl_coef)
        return loss, {**figures, **part.ratio_figures(log_probs - old)}

    # ---------------------------------------------------------------- one update

    def update(self) -> Record:
        """Collect episodes, make the gradient steps on them, and return the record of this update.

        An interrupt during the rollout changes nothing: the next update plays the same episodes. During the
        gradient steps Ctrl-C, and SIGTERM if it has a handler, wait for the end of the update.

        If all advantages are 0 and the loss has no other term, no gradient step is made. The record then has
        ``skipped`` 1, and no figures that need a forward pass (``kl``, ``entropy``).

        Of several processes each plays its share of the episodes; see :mod:`cola_agents.rl.workers`.
        """
        started = time.process_time()
        try:
            self._meet()
            with self.watch.rollout() if self.watch else nullcontext():
                batch = self.batch()
            self._check(batch)
            with hold_interrupts(), self.policy.threads:
                figures = self.train_on(batch)
                record = self._record(batch, started, figures)
        except BaseException as error:
            self.num_timesteps, self.num_episodes = self._finished
            self.workers.fail(error)
            raise
        self._idle.notice(record, warn=self.workers.rank == 0)
        return record

    def _check(self, batch: Batch) -> None:
        """Raise TypeError for a batch without the KL in its rewards where ``kl_in="reward"`` asks for it."""
        if self.options.kl_in == "reward" and "kl" not in batch.figures:
            raise TypeError(
                'kl_in="reward" takes the KL from the rewards, and the batch of '
                f"{type(self).__name__} does not: make it by self.same_for_all_actions(...), or with the KL "
                "and the figures of self.policy.kl_in_reward(rollout)"
            )

    def train_on(self, batch: Batch) -> dict[str, list[float]]:
        """Make the gradient steps of one update; returns their figures by name, a list each.

        If all advantages are 0 and the loss has no other term, no step is made: even with a gradient of zero
        Adam would move the weights, by its averages of earlier gradients.
        """
        o = self.options
        silent = not self.has_other_terms() and not batch.advantages[batch.decision_mask].any()
        if all(self.workers.exchange(silent)):
            return {"skipped": [1.0], **{name: [0.0] for name in self.skipped_figures}}
        if o.passes > 1 and o.kl_in == "loss":
            batch = replace(batch, rollout=self.policy.with_reference(batch.rollout))
        generator = np.random.default_rng([self.seed, self.num_updates, 1])
        figures = improve(
            self.actor,
            self.optimiser,
            batch,
            self._loss_with_kl,
            shuffled(len(batch.rollout), o.minibatch, o.passes, generator),
            micro_batch=o.micro_batch,
            max_grad_norm=o.max_grad_norm,
            workers=self.workers,
        )
        return {"skipped": [0.0], **figures}

    def _loss_with_kl(self, part: Batch) -> tuple[Tensor, Record]:
        """:meth:`loss`; TypeError where ``kl_target`` needs a KL that neither it nor the batch has."""
        loss, figures = self.loss(part)
        if self.options.kl_target is not None and "kl" not in {**part.figures, **figures}:
            raise TypeError(
                f"kl_target adapts kl_coef to an update's figure 'kl', and the loss of {type(self).__name__} "
                "has none: make it by self.policy.regularised(...), or leave kl_target out"
            )
        return loss, figures

    def _meet(self) -> None:
        """Check that all processes have the same agent.

        Before the first update, and after one was interrupted, all take over the first process's weights and
        optimiser.
        """
        if self.workers.size == 1:
            return
        self.optimiser.begin()  # if the first update was interrupted, some processes may have made a step
        tensors = [*self.actor.trained().values(), *tensors_of(self.optimiser.state_dict())]
        names = ("env_id", "seed", "options", "num_updates", "fingerprint", "num_timesteps", "kl_coef")
        described = {
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in names},
            "env_kwargs": text_of(self.env_kwargs),
            "tensors": len(tensors),
        }
        states = self.workers.agree(described, (self.interrupted_mid_update, self._joined))
        if any(interrupted or not joined for interrupted, joined in states):
            self._joined = False
            self.workers.broadcast(tensors)
            first_interrupted, _ = states[0]
            self._finished_steps = -1 if first_interrupted else self.optimiser.steps
            self._joined = True

    def _record(self, batch: Batch, started: float, figures: dict[str, list[float]]) -> Record:
        """Count a finished update, append its record to the history, and adapt ``kl_coef``."""
        cpu_s = sum(self.workers.exchange(time.process_time() - started))
        record = {
            "update": self.num_updates + 1,
            "timesteps": self.num_timesteps,
            "episodes": self.num_episodes,
            **batch_figures(batch),
            **{name: float(np.mean(values)) for name, values in figures.items()},
            "kl_coef": self.kl_coef,
            "cpu_s": cpu_s,
        }
        o = self.options
        if o.kl_target is not None and "kl" in record:  # an update without a gradient step has none
            self.kl_coef = adapted_kl_coef(self.kl_coef, record["kl"], o.kl_target, o.kl_gain)
        self.sample = batch.rollout.infos[0].get("text")
        self.history.append(record)
        self.num_updates += 1
        self._finished = self.num_timesteps, self.num_episodes
        self._finished_steps = self.optimiser.steps
        return record

    # ---------------------------------------------------------------- learning

    def learn(
        self,
        total_timesteps: int,
        callback: Callback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = False,
        progress_bar: bool = False,
        *,
        save_every: int | None = None,
        save_to: str | Path | None = None,
    ) -> Self:
        """Update until ``total_timesteps`` more actions have been taken.

        Several processes return together, after the agent is saved; an error in one is raised in all.

        Args:
            total_timesteps: actions, counted over all rows, as in Stable-Baselines3. A code that lasts
                several tokens is one.
            callback: one of Stable-Baselines3's callbacks, a list of them, or a function of (locals,
                globals) that returns False to stop. It is called after each step of all rows; its locals
                hold ``infos``, ``dones``, ``rewards`` and ``actions`` of the rows that stepped. An agent
                that it saves is that of the last finished update.
            log_interval: updates between two log records.
            tb_log_name: name of the run in ``tensorboard_log``; None for the agent's class.
            reset_num_timesteps: set timesteps, episodes and history to 0; weights, optimiser and random
                streams are not reset.
            progress_bar: show reward, KL, tokens per second and the remaining time.
            save_every: timesteps between two saves; needs ``save_to``.
            save_to: a folder to save the agent to: at the end, on Ctrl-C and on SIGTERM. No other process
                may write there meanwhile. A failing periodic save is a warning, a failing last one an error.
                An agent that a second Ctrl-C stopped inside an update does not replace an earlier save.

        Raises:
            ValueError, FileExistsError, InUseError: for arguments or a folder that cannot be used, before
                anything is played.
            Terminated: a KeyboardInterrupt, after SIGTERM with ``save_to``; the agent is saved.
        """
        run = Run.checked(total_timesteps, log_interval, save_every, save_to)
        name = tb_log_name or type(self).__name__
        with self.workers.together(), writing(run.folder, self.workers.rank == 0):
            if reset_num_timesteps:
                self.num_timesteps, self.num_episodes = self._finished = (0, 0)
                self.history = []
            self._begin_log(name, again=self.num_timesteps > 0)
            with watched(self, run, callback, name, progress_bar) as after_update:
                while self.num_timesteps < after_update.target:
                    after_update(self.update())
        return self

    # ---------------------------------------------------------------- logging

    @property
    def logger(self) -> Logger:
        """The logger that was set, or one made from ``verbose`` and ``tensorboard_log``."""
        if self._logger is None:
            self._logger = default_logger(self.verbose, self.tensorboard_log, type(self).__name__)
            self._logger_is_own = True
        return self._logger

    def _begin_log(self, name: str, again: bool) -> None:
        """Start the log of a call of ``learn``; ``again`` continues in the last TensorBoard folder."""
        self._close_log()
        if self._logger is None:
            self._logger = default_logger(self.verbose, self.tensorboard_log, name, again=again)
            self._logger_is_own = True
        self._started = (self.num_timesteps, time.perf_counter())

    def _close_log(self) -> None:
        """Close the logger, with its threads and files, unless it was set."""
        if self._logger is not None and self._logger_is_own:
            self._logger.close()
            self._logger = None

    def set_logger(self, logger: Logger) -> None:
        """Log to a logger of Stable-Baselines3, such as :func:`cola_agents.rl.logs.make_logger` makes."""
        self._close_log()
        self._logger, self._logger_is_own = logger, False

    def dump_logs(self) -> None:
        """Log the last record, the speed since ``learn`` began, and a sample of text; only rank 0 does."""
        if self.history and self.workers.rank == 0:
            taken, since = self._started
            elapsed = max(time.perf_counter() - since, 1e-9)
            speed = {"time/fps": (self.num_timesteps - taken) / elapsed, "time/time_elapsed": elapsed}
            write_record(self.logger, self.history[-1], self.sample, speed)
