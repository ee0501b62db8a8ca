"""The parts of ``agent.learn`` around its updates: the folder's lock, callbacks, logs and saves."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cola_agents.common.files import one_writer
from cola_agents.common.interrupts import sigterm_as_interrupt
from cola_agents.rl.callbacks import Callback, Progress, Watch
from cola_agents.rl.saving import check_free, holds_agent, saved_path
from cola_agents.rl.update import Record
from cola_agents.rl.workers import RolloutWorkers
from cola_envs.checks import check_count


class Learner(Protocol):
    """The attributes of an agent that this module uses."""

    workers: RolloutWorkers
    num_timesteps: int
    num_updates: int
    watch: Watch | None
    progress: Progress | None

    @property
    def interrupted_mid_update(self) -> bool: ...

    def dump_logs(self) -> None: ...

    def save(self, path: str | Path) -> Path: ...


@dataclass(frozen=True)
class Run:
    """The settings of one call of ``learn``.

    Attributes:
        total_timesteps: number of actions to take.
        log_interval: updates between two log records.
        save_every: timesteps between two saves; None for no periodic saves.
        folder: the folder to save to; None for no saves.
    """

    total_timesteps: int
    log_interval: int
    save_every: int | None
    folder: Path | None

    @classmethod
    def checked(
        cls, total_timesteps: int, log_interval: int, save_every: int | None, save_to: str | Path | None
    ) -> Run:
        """Build from the arguments of ``learn``; raise ValueError for one that is not allowed."""
        total_timesteps = _whole("total_timesteps", total_timesteps)
        log_interval = _whole("log_interval", log_interval)
        if save_every is not None:
            save_every = _whole("save_every", save_every)
            if save_to is None:
                raise ValueError(f"save_every={save_every} needs save_to=, a folder")
        folder = None if save_to is None else saved_path(save_to)
        return cls(total_timesteps, log_interval, save_every, folder)


def _whole(name: str, value: object) -> int:
    """A count of at least 1 as an int; people also write 1e5."""
    return check_count(name, int(value) if isinstance(value, float) and value.is_integer() else value)


@contextmanager
def writing(folder: Path | None, first: bool) -> Iterator[None]:
    """A block in which no other process may write ``folder``, and SIGTERM acts as Ctrl-C.

    Args:
        first: whether this is the process that writes, which alone looks at the folder.

    Raises:
        FileExistsError, InUseError: in the first process, for a folder that cannot be written.
    """
    if folder is None:
        yield
        return
    with one_writer(folder) if first else nullcontext(), sigterm_as_interrupt():
        if first:  # the others must not judge a folder that is being written
            check_free(folder)
        yield


@contextmanager
def watched(agent: Learner, run: Run, callback: Callback, name: str, shown: bool) -> Iterator[AfterUpdate]:
    """A block of updates with callbacks and a progress bar; at its end the agent is saved.

    If a callback stops learning, the block ends without an error. After Ctrl-C or SIGTERM, in the last save
    too, the agent is saved, its last update is logged, and the interrupt is raised again.

    Args:
        name: the run's name, for callbacks.
        shown: whether there is a progress bar.

    Yields:
        a function to call after each update.
    """
    first = agent.workers.rank == 0
    target = agent.num_timesteps + run.total_timesteps
    variables = {"self": agent, "total_timesteps": target, "tb_log_name": name}
    after_update = AfterUpdate(agent, run, target)
    try:
        with Progress(agent.num_timesteps, target, shown and first) as agent.progress:
            agent.watch = Watch(callback if first else None, agent, variables)
            with agent.watch.stopping():
                yield after_update
            after_update.log_last()
            agent.workers.begin()  # all processes know that a callback stopped, and continue
            agent.watch.callback.on_training_end()
        if run.folder is not None and after_update.saved_update != agent.num_updates:
            agent.save(run.folder)
    except KeyboardInterrupt as stopped:
        try:
            agent.workers.fail(stopped)
        finally:  # another Ctrl-C may have come during the wait for the other processes
            if run.folder is not None:
                _save_stopped(agent, run.folder)
            after_update.log_last()
        raise
    finally:
        agent.watch = agent.progress = None


class AfterUpdate:
    """Moves the bar, logs and saves after each update.

    Attributes:
        target: the number of timesteps at which learning ends.
        saved_update: the number of updates at the last periodic save; None without one.
    """

    def __init__(self, agent: Learner, run: Run, target: int) -> None:
        self._agent, self._run = agent, run
        self.target = target
        self._first, self._saved = agent.num_updates, agent.num_timesteps
        self._logged = agent.num_updates
        self.saved_update: int | None = None

    def __call__(self, record: Record) -> None:
        agent, run = self._agent, self._run
        if agent.progress:
            agent.progress.show(agent.num_timesteps, record)
        done = agent.num_updates - self._first
        if done == 1 or done % run.log_interval == 0:
            self._log()
        every, folder = run.save_every, run.folder
        if every and folder and agent.num_timesteps // every > self._saved // every:
            self._saved = agent.num_timesteps
            try:
                agent.save(folder)
                self.saved_update = agent.num_updates
            except OSError as error:
                warnings.warn(f"not saved to {folder}, learning continues: {error}", stacklevel=3)

    def log_last(self) -> None:
        """Log the last update if the interval, or an interrupt, left it out."""
        if self._agent.num_updates != self._logged:
            self._log()

    def _log(self) -> None:
        self._logged = self._agent.num_updates
        try:
            self._agent.dump_logs()
        except OSError as error:
            warnings.warn(f"not logged, learning continues: {error}", stacklevel=4)


def _save_stopped(agent: Learner, folder: Path) -> None:
    """Save after Ctrl-C, but do not replace a whole save by an agent that was stopped inside an update."""
    if agent.interrupted_mid_update and holds_agent(folder):
        warnings.warn(
            f"update {agent.num_updates + 1} ended half-way through its gradient steps: not saved, and "
            f"the earlier save in {folder} was kept",
            stacklevel=3,
        )
    else:
        agent.save(folder)
