"""What the bundled agents share: playing, one update, learning, predicting, evaluating, saving and loading.

Shapes: N episodes, T positions, M acting positions.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from stable_baselines3.common.logger import Logger
from torch import Tensor

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.arguments import check_no_option, environment_arguments, unknown_option
from cola_agents.common.interrupts import hold_interrupts
from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.decoding.contract import PolicyBackbone
from cola_agents.model.lora import shared_copy
from cola_agents.model.sampling import Drawing
from cola_agents.rl.acting import AgentVecEnv, PolicyFor, actions_for
from cola_agents.rl.actors import (
    adapted_actor,
    make_actor,
    reference_actor,
)
from cola_agents.rl.callbacks import Callback, Progress, Watch
from cola_agents.rl.learning import Run, watched, writing
from cola_agents.rl.logs import default_logger, write_record
from cola_agents.rl.losses import adapted_kl_coef, reinforce_objective, rewards_to_go, whiten
from cola_agents.rl.optimiser import Adam32, tensors_of
from cola_agents.rl.options import AgentOptions, listed
from cola_agents.rl.policy import TrainedPolicy
from cola_agents.rl.records import Idle, batch_figures
from cola_agents.rl.restoring import arguments_of, nameable, take_over
from cola_agents.rl.rollout import Rollout, collect
from cola_agents.rl.rows import make_rows
from cola_agents.rl.saver import Saver
from cola_agents.rl.saving import SavedAgent, read_saved, saved_path
from cola_agents.rl.update import Batch, Record, improve, shuffled
from cola_agents.rl.workers import RolloutWorkers, text_of
from cola_envs.backbone import Level
from cola_envs.build import evaluation_split, repeatable, resolve
from cola_envs.env import CoLAEnv
from cola_envs.episodes import Episodes
from cola_envs.order import check_prompts, order_of
from cola_envs.vector import CoLAVectorEnv


class Agent(ABC):
    """Base of the bundled agents, and of one of your own.

    An algorithm is two functions: :meth:`batch` plays episodes and says how good each action was,
    :meth:`loss` is what an update lowers.

    Args:
        env_id: a registered id such as ``"CoLA-Thinking-v0"`` or its ``-Token-v0`` twin.
        num_envs: rows that play side by side.
        seed: seeds the problems, the rollouts and the order of minibatches.
        model, tokenizer, device, dtype: as in ``gym.make``. Its weights are never changed: a token-level
            agent trains a copy. The policy that the KL is measured to is the model itself, not another
            copy, so that its weights must stay as they are while the agent lives.
        env_kwargs: further arguments of the environment (``max_tokens``, ``level``, ``task``, ...).
        verbose: 1 to log to stdout where no logger is set.
        tensorboard_log: a folder for TensorBoard where no logger is set.
        options: fields of the agent's options class.

    Attributes:
        policy: evaluates actions by what is trained and by what it started as; ``actor`` is its network.
        backbone: the model that it acts over.
        episodes: the rows that it plays in.
        workers: the processes that learn this agent together; usually one.
        num_timesteps, num_episodes: actions taken and episodes begun so far, those of the running update
            included.
        num_updates: how many updates are finished.
        history: the figures of each finished update, by name.
        sample: the text of the first episode of the last update.
        kl_coef: the KL's weight as it stands.
        watch, progress: the callback and the bar of ``learn``, while it runs.

    Raises:
        TypeError: for an unknown option.
        gymnasium.error.Error: for an unknown id.
    """

    options_class: ClassVar[type[AgentOptions]] = AgentOptions
    #: The figures of a step that are 0 where no step is made.
    skipped_figures: ClassVar[tuple[str, ...]] = ("loss", "grad_norm", "approx_kl")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nOptions:\n{listed(cls.options_class)}"

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
        level = _level_of(env_id, taker)
        for name in sorted(set(options) - set(names)):
            raise TypeError(unknown_option(name, options[name], names, taker, env_id))
        check_no_option(env_kwargs or {}, names, taker, env_id)
        self.options = self.options_class(**options)
        self.workers = RolloutWorkers()
        self.begin()
        self.env_id = env_id
        self.env_kwargs = repeatable(dict(env_kwargs or {}))
        self.seed = seed
        self.num_envs = num_envs
        first = self.workers.rank == 0
        self.verbose = verbose if first else 0
        self.tensorboard_log = tensorboard_log if first else None
        if level == "token" and self.env_kwargs.get("prior_coef"):
            raise ValueError(
                "prior_coef needs a policy that stays as it was, and a token-level agent trains the very "
                "model it would be read from; use the agent's own kl_coef"
            )
        named = {"model": model, "tokenizer": tokenizer}
        #: The constructor arguments that say which model this is, as far as text can name them.
        self.source: dict[str, str | None] = {
            **{key: str(value) if isinstance(value, (str, Path)) else None for key, value in named.items()},
            "device": device,
            "dtype": dtype,
        }
        given: Any = resolve(model, level=level, tokenizer=tokenizer, device=device, dtype=dtype)
        #: sha256 of the frozen model: level, configuration, weights and tokenizer. ``load`` refuses another.
        self.fingerprint: str = given.fingerprint
        self.backbone, self.policy = self.make_policy(given)
        self.actor = self.policy.actor
        self.episodes: Episodes = self._episodes(env_id, num_envs, self.env_kwargs)
        lr = self.options.lr or (1e-3 if level == "latent" else 3e-4)
        self.optimiser = Adam32(self.actor.parameters(), lr=lr)
        self._logger: Logger | None = None
        self._logger_is_own = False
        self._started = (0, time.perf_counter())
        self._env: AgentVecEnv | None = None
        self._predictions = np.random.default_rng([seed, 4])
        self._saver = Saver()

    def begin(self) -> None:
        """Nothing was learned yet: set all counts to 0."""
        self.kl_coef: float = self.options.kl_coef
        self.num_timesteps = 0
        self.num_episodes = 0
        self.num_updates = 0
        self.history: list[Record] = []
        self.sample: str | None = None
        self.watch: Watch | None = None
        self.progress: Progress | None = None
        self._finished = (0, 0)  # timesteps and episodes of finished updates alone
        self._finished_steps = 0  # the optimiser's, at the end of the last update; -1 inside one
        self._idle = Idle()
        self._joined = self.workers.size == 1

    def make_policy(self, given: PolicyBackbone) -> tuple[PolicyBackbone, TrainedPolicy]:
        """The backbone to play on, and the policy to train.

        Args:
            given: the backbone of ``model=``, whose weights stay as they are.
        """
        rank = self.options.lora_rank
        backbone, reference = given, None
        if isinstance(given, TokenBackbone):
            own = copy.deepcopy(given.model) if rank is None else shared_copy(given.model)
            backbone = TokenBackbone(own, given.tokenizer)
        if rank is None:
            actor, reference = make_actor(backbone), reference_actor(given)
        else:
            actor = adapted_actor(backbone, rank, self.options.lora_alpha, self.seed)
        return backbone, TrainedPolicy(actor, reference, self.options, self.workers)

    def _episodes(self, env_id: str, num_rows: int, kwargs: dict[str, Any]) -> Episodes:
        return make_rows(env_id, num_rows, model=self.backbone, **kwargs).episodes

    def close(self) -> None:
        """Close the environments, and leave the other processes; the agent can still be saved."""
        self.workers.close()
        self.episodes.close()
        if self._env is not None:
            self._env.close()

    # ---------------------------------------------------------------- what an algorithm defines

    @abstractmethod
    def batch(self) -> Batch:
        """Play episodes (:meth:`play`) and say how good each action was.

        An update that is interrupted here is begun again, so that this changes nothing that is saved.
        """

    @abstractmethod
    def loss(self, part: Batch) -> tuple[Tensor, Record]:
        """The loss on a part of a minibatch, and figures for the record.

        Both are shares of the minibatch's means (:meth:`~cola_agents.rl.update.Batch.mean`), so that its
        parts add up to them.
        """

    def has_other_terms(self) -> bool:
        """Whether the loss has terms that teach something where all advantages are 0."""
        o = self.options
        return o.entropy_coef > 0 or (o.kl_in == "loss" and self.kl_coef > 0)

    # ---------------------------------------------------------------- what it may use

    def draw_seeds(self, num_problems: int, group_size: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Row seeds and problem seeds of this update's groups, [num_problems * group_size] each.

        The episodes of a group share their problem and stand side by side. A second call in the same update
        returns the same seeds.
        """
        stream = np.random.default_rng([self.seed, self.num_updates])
        problems = stream.integers(2**53, size=num_problems)
        if order_of(self.episodes.tasks) is not None:  # an update takes the problems behind the last one's
            problems = self.num_updates * num_problems + np.arange(num_problems)
        problems = problems.repeat(group_size)
        return stream.integers(2**53, size=len(problems)), problems

    def play(self, seeds: np.ndarray, problem_seeds: np.ndarray, *, greedy: bool = False) -> Rollout:
        """An episode for each of the seeds [N]; they count as they are played. Each process plays its share.

        Args:
            greedy: take the likeliest action in place of a draw.
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
        if self.workers.size > 1:  # a group may be in several processes
            check_prompts(self.episodes.tasks, rollout.problem_seeds.tolist(), rollout.prompts)
        self.num_timesteps = timesteps + rollout.num_actions
        self.num_episodes = episodes + len(rollout)
        return rollout

    def _count(self, *, dones: np.ndarray, **seen: Any) -> None:
        """After each step of the rows."""
        self.num_timesteps += len(dones)
        self.num_episodes += int(dones.sum())
        if self.progress:
            self.progress.at(self.num_timesteps)
        if self.watch:
            self.watch.step(dones=dones, **seen)

    def same_for_all_actions(
        self, rollout: Rollout, advantages: Tensor, decision_mask: Tensor, figures: Record
    ) -> Batch:
        """A batch in which every decision of an episode has the episode's advantage.

        With ``kl_in="reward"`` a decision also pays for the KL of all actions from it on.

        Args:
            advantages: [N].
            decision_mask: [N, T] bool.
            figures: of the batch.
        """
        kl, kl_figures = self.policy.kl_in_reward(rollout)
        every = advantages[:, None] * decision_mask - self.kl_coef * rewards_to_go(kl) * decision_mask
        if self.options.whiten:
            every = whiten(every, decision_mask)
        return Batch(rollout, decision_mask, every, {**figures, **kl_figures}, self.options.loss_mean)

    def reinforce_loss(self, part: Batch) -> tuple[Tensor, Record]:
        """REINFORCE's loss with the regularisers: one pass over each batch, without ratios or clipping."""
        now = self.policy.evaluate_actions(part.rollout)
        log_probs, old = part.by_decision(now.log_probs), part.by_decision(part.rollout.taken_log_probs)
        gained = reinforce_objective(log_probs, part.advantages[part.decision_mask])
        loss, figures = self.policy.regularised(-part.mean(gained, "decisions"), part, now, self.kl_coef)
        return loss, {**figures, **part.ratio_figures(log_probs - old)}

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
        """Raise TypeError for a batch that leaves out what an option asks for."""
        if self.options.kl_in == "reward" and "kl" not in batch.figures:
            raise TypeError(
                'kl_in="reward" takes the KL from the rewards, and the batch of '
                f"{type(self).__name__} does not: make it by self.same_for_all_actions(...), or with the KL "
                "and the figures of self.policy.kl_in_reward(rollout)"
            )

    def train_on(self, batch: Batch) -> dict[str, list[float]]:
        """Make the gradient steps of one update; returns the figures of each by name.

        If all advantages are 0 and the loss has no other term, no step is made: with a gradient of zero Adam
        would still move the weights, by its averages of earlier gradients.
        """
        o = self.options
        silent = not self.has_other_terms() and not batch.advantages[batch.decision_mask].any()
        if all(self.workers.exchange(silent)):
            return {"skipped": [1.0], **{name: [0.0] for name in self.skipped_figures}}
        generator = np.random.default_rng([self.seed, self.num_updates, 1])
        figures = improve(
            self.actor,
            self.optimiser,
            batch,
            self.loss,
            shuffled(len(batch.rollout), o.minibatch, o.passes, generator),
            micro_batch=o.micro_batch,
            max_grad_norm=o.max_grad_norm,
            workers=self.workers,
        )
        return {"skipped": [0.0], **figures}

    @property
    def interrupted_mid_update(self) -> bool:
        """Whether an update ended between its gradient steps: the weights are of no whole update."""
        return self.optimiser.steps != self._finished_steps

    def _meet(self) -> None:
        """Check that all processes have this agent.

        At first, and where one stands inside an update, all take over the first one's weights and optimiser.
        """
        if self.workers.size == 1:
            return
        self.optimiser.begin()  # of a first update that was interrupted, some processes may have made a step
        tensors = [*self.actor.trained().values(), *tensors_of(self.optimiser.state_dict())]
        names = ("env_id", "seed", "options", "num_updates", "fingerprint", "num_timesteps", "kl_coef")
        described = {
            "class": type(self).__name__,
            **{name: getattr(self, name) for name in names},
            "env_kwargs": text_of(self.env_kwargs),
            "tensors": len(tensors),
        }
        told = self.workers.agree(described, (self.interrupted_mid_update, self._joined))
        if any(interrupted or not joined for interrupted, joined in told):
            self._joined = False
            self.workers.broadcast(tensors)
            self._finished_steps = -1 if told[0][0] else self.optimiser.steps
            self._joined = True

    def _record(self, batch: Batch, started: float, figures: dict[str, list[float]]) -> Record:
        """Count a finished update, keep its record, and steer the KL's weight."""
        cpu_s = sum(self.workers.exchange(time.process_time() - started))
        self.num_updates += 1
        record = {
            "update": self.num_updates,
            "timesteps": self.num_timesteps,
            "episodes": self.num_episodes,
            **batch_figures(batch),
            **{name: float(np.mean(values)) for name, values in figures.items()},
            "kl_coef": self.kl_coef,
            "cpu_s": cpu_s,
        }
        o = self.options
        if o.kl_target is not None:
            self.kl_coef = adapted_kl_coef(self.kl_coef, record["kl"], o.kl_target, o.kl_gain)
        self.sample = batch.rollout.infos[0].get("text")
        self.history.append(record)
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

        Several processes return together, when the agent is saved; an error of one is raised in all.

        Args:
            total_timesteps: actions (one a token), counted over all rows, as Stable-Baselines3 does.
            callback: one of Stable-Baselines3's callbacks, a list of them, or a function of (locals,
                globals) that returns False to stop. It is called after each step of all rows, with
                ``infos``, ``dones``, ``rewards`` and ``actions`` of the rows that stepped among its locals.
                What it saves is the agent as of the last finished update.
            log_interval: updates between two log records.
            tb_log_name: name of the run in ``tensorboard_log``; None for the agent's.
            reset_num_timesteps: count timesteps, episodes and history from 0 again; weights, optimiser and
                random streams go on as they are.
            progress_bar: show reward, KL, tokens a second and the time that is left.
            save_every: save whenever so many more timesteps have passed; needs ``save_to``.
            save_to: a folder that the agent is saved to, at the end and on Ctrl-C or SIGTERM too. No other
                process may write there meanwhile. A periodic save that fails is a warning, the last one an
                error. An agent that a second Ctrl-C stopped inside an update does not replace one that was
                saved there before.

        Raises:
            ValueError, FileExistsError, InUseError: before anything is played.
            Terminated: a KeyboardInterrupt, after SIGTERM, with ``save_to``; the agent is saved.
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

    # ---------------------------------------------------------------- logs, and what SB3's callbacks ask for

    @property
    def logger(self) -> Logger:
        """Where figures go: to what was set, or to what ``verbose`` and ``tensorboard_log`` say."""
        if self._logger is None:
            self._logger = default_logger(self.verbose, self.tensorboard_log, type(self).__name__)
            self._logger_is_own = True
        return self._logger

    def _begin_log(self, name: str, again: bool) -> None:
        """A log of this call of ``learn``; ``again`` to go on in the last one's TensorBoard folder."""
        if self._logger is None or self._logger_is_own:
            self._logger = default_logger(self.verbose, self.tensorboard_log, name, again=again)
            self._logger_is_own = True
        self._started = (self.num_timesteps, time.perf_counter())

    def set_logger(self, logger: Logger) -> None:
        """Log to Stable-Baselines3's ``configure(...)`` or to :func:`cola_agents.rl.logs.make_logger`'s."""
        self._logger, self._logger_is_own = logger, False

    def dump_logs(self) -> None:
        """Log the last record with the speed since ``learn`` began and a sample of text."""
        if self.history:
            taken, since = self._started
            elapsed = max(time.perf_counter() - since, 1e-9)
            speed = {"time/fps": (self.num_timesteps - taken) / elapsed, "time/time_elapsed": elapsed}
            write_record(self.logger, self.history[-1], self.sample, speed)

    def get_env(self) -> AgentVecEnv:
        """The task that the agent learns, on rows of their own: stepping them disturbs no training."""
        if self._env is None:
            self._env = self._vec_env(self.env_id, self.num_envs, self.env_kwargs)
        return self._env

    def get_vec_normalize_env(self) -> None:
        """None: observations are not normalised."""
        return None

    def vec_env(
        self,
        num_envs: int | None = None,
        *,
        env_id: str | None = None,
        split: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> AgentVecEnv:
        """Rows for ``evaluate_policy``, ``EvalCallback`` and :meth:`predict`.

        Args:
            num_envs: how many; None for as many as the agent learns in.
            env_id: another task of the same level.
            split: one of the task's; None for ``"test"``, or else the last it has.
            env_kwargs: further arguments, over the agent's own on its own task.
        """
        given = environment_arguments(env_kwargs, direct, "vec_env")
        chosen, kwargs = self._evaluation(env_id, split, given)
        return self._vec_env(chosen, num_envs or self.num_envs, kwargs)

    def _vec_env(self, env_id: str, num_envs: int, kwargs: dict[str, Any]) -> AgentVecEnv:
        def version() -> int:
            return self.num_updates

        return AgentVecEnv(self.actor, self.backbone, version, env_id, num_envs, **kwargs)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Actions for the observations of this agent's :meth:`vec_env`.

        Args:
            observation: [N, D], as ``reset`` or ``step`` returned them.
            state: returned as it is: an observation holds what the policy knows of its episode.
            episode_start: not used, for the same reason.
            deterministic: the likeliest action in place of a draw.

        Returns:
            actions [N], and ``state``.

        Raises:
            ValueError: for other observations: one hidden state of a plain environment does not hold the
                episode that the policy reads.
        """
        drawing: Drawing = {"temperature": 0.0} if deterministic else self.options.drawing
        with self.policy.threads:
            return actions_for(self.actor, observation, self._predictions, drawing), state

    def policy_for(self, env: Any) -> PolicyFor:
        """The policy in the loop of an environment of ``gym.make`` or ``gym.make_vec``, wrapped or not.

        ``action = policy(observation)`` is an int, or of a vector environment an array [N]: a draw as the
        agent learned it, or with ``deterministic=True`` the likeliest.

        Raises:
            TypeError: for an environment that is none of these.
            ValueError: for one over another model than the agent's, or of the other level.
        """
        inner = env.unwrapped
        if not isinstance(inner, (CoLAEnv, CoLAVectorEnv)):
            raise TypeError(f"policy_for takes an environment of cola_envs, got {env!r}")
        if inner.episodes.backbone.fingerprint != self.fingerprint:
            raise ValueError(
                f"this agent acts over another model than {env!r}, or at the other level: make the "
                "environment with the same model= as the agent"
            )

        def version() -> int:
            return self.num_updates

        single = isinstance(inner, CoLAEnv)
        generator = np.random.default_rng([self.seed, 6])
        return PolicyFor(self.actor, version, inner.episodes, single, self.options.drawing, generator)

    # ---------------------------------------------------------------- evaluating

    def evaluate(
        self,
        num_episodes: int = 256,
        *,
        env_id: str | None = None,
        split: str | None = None,
        greedy: bool = False,
        seed: int = 10_000,
        env_kwargs: Mapping[str, Any] | None = None,
        **direct: Any,
    ) -> Rollout:
        """Play ``num_episodes`` with the current policy on its own task.

        Args:
            env_id: another task of the same level.
            split: one of the task's; None for ``"test"``, or else the last it has.
            greedy: take the likeliest action instead of drawing one.
            seed: problem ``i`` has seed ``seed + i``, whatever agent plays it; where problems come in order,
                the first ones are played.
            env_kwargs: further arguments, over the agent's own on its own task.
        """
        given = environment_arguments(env_kwargs, direct, "evaluate")
        chosen, kwargs = self._evaluation(env_id, split, given)
        episodes = self._episodes(chosen, min(num_episodes, max(64, self.num_envs)), kwargs)
        try:
            drawing = {"temperature": 0.0} if greedy else self.options.drawing
            seeds = range(seed, seed + num_episodes)
            return collect(episodes, self.actor, seeds=seeds, **drawing)
        finally:
            episodes.close()

    def kwargs_on(self, env_id: str) -> dict[str, Any]:
        """The agent's environment arguments on a task: on another than its own only how codes are decoded."""
        if env_id == self.env_id:
            return dict(self.env_kwargs)
        return {name: self.env_kwargs[name] for name in ("world_temperature",) if name in self.env_kwargs}

    def _evaluation(
        self, env_id: str | None, split: str | None, env_kwargs: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """The id to evaluate on and its arguments."""
        chosen = env_id or self.env_id
        kwargs = {**self.kwargs_on(chosen), **env_kwargs}
        return chosen, {**kwargs, "split": split or evaluation_split(gym.spec(chosen).kwargs["builder"])}

    # ---------------------------------------------------------------- saving and loading

    def save(self, path: str | Path) -> Path:
        """Save the agent into a folder: weights (safetensors), optimiser, options, history.

        Whatever interrupts it, the folder holds a whole agent: the one saved there before, or this one. The
        save before is kept beside it, with its files, for the case that this one is damaged later.
        Of several processes the first one writes, and the others do not wait for it: before they load it all
        must meet, in an update or ``agent.workers.exchange(None)``. :meth:`learn` with ``save_to`` returns
        when it is written.
        The backbone is not saved but named, with its fingerprint. While episodes run, what is saved is the
        agent as of the last finished update, which plays them again.

        Args:
            path: the folder; a trailing ``.zip``, which Stable-Baselines3's callbacks append, is dropped.

        Raises:
            FileExistsError: if ``path`` holds something that is no saved agent.
            InUseError: while another process writes there.
            FloatingPointError: where a weight is not finite.
            OSError: where it cannot be written. After each of them what was saved before is as it was.
        """
        if self.interrupted_mid_update:
            warnings.warn(
                f"update {self.num_updates + 1} ended half-way through its gradient steps: the agent is "
                "saved as it is, and goes on otherwise than one that was never interrupted",
                stacklevel=2,
            )
        path = saved_path(path)
        weights = {name: p.detach().contiguous() for name, p in self.actor.trained().items()}
        if self.workers.rank == 0:  # nothing is exchanged: a callback of the first process may save
            self._saver.write(path, self._described(), weights, self.optimiser.state_dict(), self.history)
        return path

    def _described(self) -> dict[str, Any]:
        named = nameable(self.env_kwargs)
        timesteps, episodes = self._finished
        return {
            "agent": type(self).__name__,
            "env_id": self.env_id,
            "env_kwargs": named,
            "env_kwargs_not_saved": sorted(set(self.env_kwargs) - set(named)),
            "num_envs": self.num_envs,
            "seed": self.seed,
            **self.source,
            "fingerprint": self.fingerprint,
            "options": dataclasses.asdict(self.options),
            "kl_coef": self.kl_coef,
            "num_timesteps": timesteps,
            "num_episodes": episodes,
            "num_updates": self.num_updates,
        }

    @classmethod
    def load(cls, path: str | Path, **changed: Any) -> Self:
        """Load an agent that :meth:`save` wrote; it goes on exactly where it stopped.

        Several processes all read it; :meth:`save` says when they may. Files are checked against their
        digests. Where the newest save is damaged, the one before is loaded, with a warning.

        Args:
            path: the folder.
            changed: constructor arguments to replace: ``model=`` where a model object was passed,
                ``env_kwargs=`` where they held something that JSON does not (a task class, say), options
                such as ``lr=`` and ``kl_coef=``, which hold from the next update on.

        Raises:
            FileNotFoundError: where there is no saved agent.
            DamagedError: a ValueError, where no save is whole; it names the damaged file.
            ValueError: for an agent of another class, or a model other than the one it was trained over.
        """
        return cls.restored(read_saved(saved_path(path)), **changed)

    @classmethod
    def restored(cls, read: SavedAgent, **changed: Any) -> Self:
        """:meth:`load`, of what was read already."""
        agent = cls(**arguments_of(read, cls.__name__, changed))
        take_over(agent, read, changed)
        agent._finished = agent.num_timesteps, agent.num_episodes
        return agent


def _level_of(env_id: str, taker: str) -> Level:
    """Which actions an id takes."""
    if not isinstance(env_id, str):
        raise TypeError(
            f"{taker} takes the id of an environment, got {env_id!r}; a task of yours is an argument of it: "
            f'{taker}("CoLA-Text-v0", env_kwargs={{"task": MyTask}})'
        )
    level: Level | None = gym.spec(env_id).kwargs.get("actions")
    if level is None:
        raise ValueError(f"{env_id} is not one of the CoLA environments: it has no action level")
    return level
