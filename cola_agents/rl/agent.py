"""What the bundled agents share: making them, learning, predicting, evaluating, saving and loading."""

from __future__ import annotations

import copy
import dataclasses
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger

import cola_envs  # noqa: F401 (registers the ids)
from cola_agents.common.files import one_writer
from cola_agents.common.interrupts import sigterm_as_interrupt
from cola_agents.decoding.backbones import TokenBackbone
from cola_agents.model.lora import shared_copy
from cola_agents.model.sampling import sample
from cola_agents.rl.acting import AgentVecEnv, PolicyState
from cola_agents.rl.actors import Actor, adapted_actor, make_actor, reference_actor
from cola_agents.rl.callbacks import Callback, Progress, Stopped, Watch
from cola_agents.rl.logs import default_logger, write_record
from cola_agents.rl.optimiser import Adam32
from cola_agents.rl.options import AgentOptions
from cola_agents.rl.rollout import Rollout, collect
from cola_agents.rl.rows import make_rows
from cola_agents.rl.saver import Saver
from cola_agents.rl.saving import SavedAgent, check_free, holds_agent, is_json, read_saved, saved_path
from cola_agents.rl.updates import Updates
from cola_envs.backbone import Level
from cola_envs.build import evaluation_split, repeatable, resolve
from cola_envs.episodes import Episodes

#: The argument of an environment that names what is called: it is never read from a saved agent's file.
CODE = "builder"


class Agent(Updates):
    """Base of the bundled agents.

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
        num_timesteps, num_episodes: actions taken and episodes; while episodes run, theirs too.
        num_updates: finished updates.
        history: a record of each.
        kl_coef: the KL's weight as it stands.

    Raises:
        TypeError: for an unknown option.
        gymnasium.error.Error: for an unknown id.
    """

    options_class: ClassVar[type[AgentOptions]] = AgentOptions

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
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise TypeError(f"unknown option {unknown[0]!r}: {type(self).__name__} takes {', '.join(names)}")
        self.options: Any = self.options_class(**options)
        super().__init__()
        self.env_id = env_id
        self.env_kwargs = repeatable(dict(env_kwargs or {}))
        self.seed = seed
        self.num_envs = num_envs
        first = self.workers.rank == 0
        self.verbose = verbose if first else 0
        self.tensorboard_log = tensorboard_log if first else None
        level = _level_of(env_id)
        if level == "token" and self.env_kwargs.get("prior_coef"):
            raise ValueError(
                "prior_coef needs a policy that stays as it was, and a token-level agent trains the very "
                "model it would be read from; use the agent's own kl_coef"
            )
        named = {"model": model, "tokenizer": tokenizer}
        #: The constructor arguments that say which model this is, as far as text can name them.
        self._source: dict[str, str | None] = {
            **{key: str(value) if isinstance(value, (str, Path)) else None for key, value in named.items()},
            "device": device,
            "dtype": dtype,
        }
        given: Any = resolve(model, level=level, tokenizer=tokenizer, device=device, dtype=dtype)
        self.fingerprint: str = given.fingerprint
        self.backbone: Any
        self.actor: Actor
        self.backbone, self.actor, self.reference = self.make_policy(given)
        self.episodes: Episodes = self._episodes(env_id, num_envs, self.env_kwargs)
        lr = self.options.lr or (1e-3 if level == "latent" else 3e-4)
        self.optimiser = Adam32(self.actor.parameters(), lr=lr)
        self._logger: Logger | None = None
        self._logger_is_own = False
        self._started = (0, time.perf_counter())
        self._env: AgentVecEnv | None = None
        self._predictions = np.random.default_rng([seed, 4])
        self._saver = Saver()

    def make_policy(self, given: Any) -> tuple[Any, Actor, Actor | None]:
        """The backbone to play on, the policy to train, and the one that it starts as.

        Args:
            given: the backbone of ``model=``, whose weights stay as they are.

        Returns:
            None in the last place where the initial policy is the trained one without its adapters.
        """
        rank, backbone = self.options.lora_rank, given
        if isinstance(given, TokenBackbone):
            own = copy.deepcopy(given.model) if rank is None else shared_copy(given.model)
            backbone = TokenBackbone(own, given.tokenizer)
        if rank is None:
            return backbone, make_actor(backbone), reference_actor(given)
        return backbone, adapted_actor(backbone, rank, self.options.lora_alpha, self.seed), None

    def _episodes(self, env_id: str, num_rows: int, kwargs: dict[str, Any]) -> Episodes:
        return make_rows(env_id, num_rows, model=self.backbone, **kwargs).episodes

    def close(self) -> None:
        """Close the environments, and leave the other processes; the agent can still be saved."""
        self.workers.close()
        self.episodes.close()
        if self._env is not None:
            self._env.close()

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
        if total_timesteps < 1 or log_interval < 1:
            raise ValueError(
                f"total_timesteps must be at least 1, got {total_timesteps}, and log_interval too, "
                f"got {log_interval}"
            )
        if save_every is not None and (save_to is None or save_every < 1):
            raise ValueError(f"save_every={save_every} must be at least 1 and needs save_to=, a folder")
        folder = None if save_to is None else saved_path(save_to)
        with self.workers.together(), self._writing(folder):
            if reset_num_timesteps:
                self.num_timesteps, self.num_episodes = self._finished = (0, 0)
                self.history = []
            name = tb_log_name or type(self).__name__
            if self._logger is None or self._logger_is_own:
                again = not reset_num_timesteps and self.num_timesteps > 0
                self._logger = default_logger(self.verbose, self.tensorboard_log, name, again=again)
                self._logger_is_own = True
            target = self.num_timesteps + total_timesteps
            self._started = (self.num_timesteps, time.perf_counter())
            first = self.workers.rank == 0
            seen = {"self": self, "total_timesteps": target, "tb_log_name": name}
            try:
                with Progress(self.num_timesteps, target, progress_bar and first) as self._progress:
                    if callback is not None and first:
                        self._watch = Watch(callback, self, seen)
                    self._learn_until(target, log_interval, save_every, folder)
                    self.workers.begin()  # all know of a callback's stop, and go on
                    if self._watch:
                        self._watch.callback.on_training_end()
            except KeyboardInterrupt as stopped:
                try:
                    self.workers.fail(stopped)
                finally:  # another Ctrl-C may have come while the others were waited for
                    if folder is not None:
                        self._save_stopped(folder)
                raise
            finally:
                self._watch = self._progress = None
            if folder is not None:
                self.save(folder)
        return self

    @contextmanager
    def _writing(self, folder: Path | None) -> Iterator[None]:
        """A block in which these processes alone write ``folder``, and SIGTERM is as Ctrl-C."""
        if folder is None:
            yield
            return
        with one_writer(folder) if self.workers.rank == 0 else nullcontext(), sigterm_as_interrupt():
            check_free(folder)
            yield

    def _save_stopped(self, folder: Path) -> None:
        """Save after Ctrl-C, but no agent that stands inside an update over a whole one."""
        if self._torn and holds_agent(folder):
            warnings.warn(
                f"update {self.num_updates + 1} ended half-way through its gradient steps: not saved, and "
                f"the earlier save in {folder} was kept",
                stacklevel=3,
            )
        else:
            self.save(folder)

    def _learn_until(self, target: int, log_interval: int, every: int | None, folder: Path | None) -> None:
        """Update until ``target`` timesteps or until a callback asks for the end."""
        first, saved = self.num_updates, self.num_timesteps
        while self.num_timesteps < target:
            try:
                record = self.update()
            except Stopped:
                return
            assert self._progress is not None
            self._progress.show(self.num_timesteps, record)
            if (self.num_updates - first) % log_interval == 0:
                try:
                    self.dump_logs()
                except OSError as error:
                    warnings.warn(f"not logged, learning on: {error}", stacklevel=3)
            if every and folder and self.num_timesteps // every > saved // every:
                saved = self.num_timesteps
                try:
                    self.save(folder)
                except OSError as error:
                    warnings.warn(f"not saved to {folder}, learning on: {error}", stacklevel=3)

    # ---------------------------------------------------------------- logs, and what SB3's callbacks ask for

    @property
    def logger(self) -> Logger:
        """Where figures go: to what was set, or to what ``verbose`` and ``tensorboard_log`` say."""
        if self._logger is None:
            self._logger = default_logger(self.verbose, self.tensorboard_log, type(self).__name__)
            self._logger_is_own = True
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log to Stable-Baselines3's ``configure(...)`` or to :func:`cola_agents.rl.logs.make_logger`'s."""
        self._logger, self._logger_is_own = logger, False

    def dump_logs(self, iteration: int = 0) -> None:
        """Log the last record with the speed since ``learn`` began and a sample of text.

        Args:
            iteration: not used: updates are counted by the agent.
        """
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
        **env_kwargs: Any,
    ) -> AgentVecEnv:
        """Rows for ``evaluate_policy``, ``EvalCallback`` and :meth:`predict`.

        Args:
            num_envs: how many; None for as many as the agent learns in.
            env_id: another task of the same level.
            split: one of the task's; None for ``"test"``, or else the last it has.
            env_kwargs: further arguments, over the agent's own on its own task.
        """
        chosen, kwargs = self._evaluation(env_id, split, env_kwargs)
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
        if not isinstance(observation, PolicyState) or observation.reader is not self.actor:
            raise ValueError(
                "predict reads the observations of this agent's own vec_env(), as they come: the policy "
                "reads whole episodes, which an observation of a plain environment does not hold; to play "
                "elsewhere use cola_agents.collect(episodes, agent.actor)"
            )
        weight = self.actor.head.weight
        features = torch.from_numpy(np.array(observation)).to(weight)
        with torch.no_grad():
            logits = self.actor.logits(features)
            u = torch.from_numpy(self._predictions.random(len(features))).to(weight.device)
            drawing = {"temperature": 0.0} if deterministic else self.options.drawing
            actions, _ = sample(logits, u, **drawing)
        return actions.cpu().numpy(), state

    # ---------------------------------------------------------------- evaluating

    def evaluate(
        self,
        num_episodes: int = 256,
        *,
        env_id: str | None = None,
        split: str | None = None,
        greedy: bool = False,
        seed: int = 10_000,
        **env_kwargs: Any,
    ) -> Rollout:
        """Play ``num_episodes`` with the current policy on its own task.

        Args:
            env_id: another task of the same level.
            split: one of the task's; None for ``"test"``, or else the last it has.
            greedy: take the likeliest action instead of drawing one.
            seed: problem ``i`` has seed ``seed + i``, whatever agent plays it.
        """
        chosen, kwargs = self._evaluation(env_id, split, env_kwargs)
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
        if self._torn:
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
        named = {key: value for key, value in self.env_kwargs.items() if key != CODE and is_json(value)}
        timesteps, episodes = self._finished
        return {
            "agent": type(self).__name__,
            "env_id": self.env_id,
            "env_kwargs": named,
            "env_kwargs_not_saved": sorted(set(self.env_kwargs) - set(named)),
            "num_envs": self.num_envs,
            "seed": self.seed,
            **self._source,
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
        path, saved = read.path, read.description
        if saved["agent"] != cls.__name__:
            raise ValueError(f"{path} holds a {saved['agent']}: load it with {saved['agent']}.load")
        again = saved["env_kwargs_not_saved"] + [key for key in saved["env_kwargs"] if key == CODE]
        if again and "env_kwargs" not in changed:
            raise ValueError(
                f"{path} was trained with {', '.join(again)}, which could not be saved: pass env_kwargs= "
                "again"
            )
        kept = ("num_envs", "seed", "model", "tokenizer", "device", "dtype", "env_kwargs")
        arguments = {key: saved[key] for key in kept}
        arguments.update(saved["options"])
        agent = cls(changed.pop("env_id", saved["env_id"]), **{**arguments, **changed})
        if agent.fingerprint != saved["fingerprint"]:
            raise ValueError(
                f"{path} was trained over a model with fingerprint {saved['fingerprint'][:12]}, and this one "
                f"has {agent.fingerprint[:12]}; pass model= the one it was trained over"
            )
        trained = agent.actor.trained()
        if set(read.weights) != set(trained):
            odd = sorted(set(read.weights) ^ set(trained))
            raise ValueError(
                f"{path} holds other weights than this agent trains: {odd[0]} and {len(odd) - 1} more"
            )
        for name, parameter in trained.items():
            weight = read.weights[name]
            if weight.shape != parameter.shape or (
                "dtype" not in changed and weight.dtype != parameter.dtype
            ):
                raise ValueError(
                    f"{path} holds {name} as {weight.dtype} of shape {tuple(weight.shape)}, and this agent "
                    f"trains it as {parameter.dtype} of shape {tuple(parameter.shape)}"
                )
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(read.weights[name])
        agent.optimiser.load_state_dict(read.optimiser, keep_lr="lr" in changed)
        numbers = {**saved, "history": read.history}
        for name in ("num_timesteps", "num_episodes", "num_updates", "history", "kl_coef"):
            if name not in changed:
                setattr(agent, name, numbers[name])
        agent._finished = agent.num_timesteps, agent.num_episodes
        return agent


def _level_of(env_id: str) -> Level:
    """Which actions an id takes."""
    if not isinstance(env_id, str):
        raise TypeError(f"an agent takes the id of an environment, got {type(env_id).__name__}")
    kwargs = gym.spec(env_id).kwargs
    if "actions" not in kwargs:
        raise ValueError(f"{env_id} is not one of the CoLA environments: it has no action level")
    return kwargs["actions"]
