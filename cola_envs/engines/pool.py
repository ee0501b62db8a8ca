"""Play many rows of a text game in a few worker processes, which may crash or hang."""

from __future__ import annotations

import os
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cola_envs.checks import check_count, check_number
from cola_envs.engines.process import WorkerProcess
from cola_envs.engines.protocol import EngineError, Failure, GameError, Opening, Reply
from cola_envs.engines.worker import Message, is_query

#: Seconds for a worker to import and create its engine.
START_LIMIT = 180.0
#: Seconds for an idle worker to close its engine before it is killed.
CLOSE_LIMIT = 5.0

#: For each row the result of its job's call, or its Failure or GameError.
Answers = dict[int, Any]


@dataclass(frozen=True)
class Usage:
    """Counts of a pool's engine calls and restarts.

    Attributes:
        calls: answered calls of ``reset``, ``step`` and queries, including replayed ones.
        replayed: number of replayed calls.
        wall, cpu: elapsed and processor seconds of these calls, summed over workers; ``cpu`` excludes
            processes that an engine started.
        restarts: number of replaced workers.
    """

    calls: int = 0
    replayed: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    restarts: int = 0


@dataclass(frozen=True)
class Transcript:
    """The state of a row: its game and the commands so far."""

    game: object
    commands: tuple[str, ...] = ()

    def continues(self, earlier: Transcript | None) -> bool:
        """Whether this is ``earlier`` with further commands."""
        return (
            earlier is not None
            and len(earlier.commands) <= len(self.commands)
            and self.commands[: len(earlier.commands)] == earlier.commands
            and (self.game is earlier.game or bool(self.game == earlier.game))
        )


@dataclass
class _Job:
    """A call of one row's engine, and the row's state before and after it."""

    row: int
    before: Transcript | None  # None if the call begins a game
    call: tuple[object, ...]
    after: Transcript
    calls: int = 0  # number of engine calls, including replayed ones, when it was last sent


class EnginePool:
    """Plays rows of a game in worker processes, which run in parallel; a row always uses the same worker.

    A vector step is one message to each worker. If a worker dies, hangs longer than ``deadline`` or raises,
    the row that it was working on loses its game (its answer is a :class:`Failure`); the worker is replaced,
    and its other rows are replayed from their commands at their next step. Workers start on first use, each
    in a new interpreter (never forked), and end with the pool, with the interpreter, or about a second after
    the parent is killed. A pool in a forked child starts its own workers.

    Args:
        engine: ``"module:callable"`` that returns an :class:`~cola_envs.engines.protocol.Engine`.
        kwargs: its keyword arguments, picklable.
        num_rows: number of rows.
        num_workers: number of processes; by default one for each core that this process may use, at most one
            for each row.
        deadline: time limit of one call of the engine, in seconds.

    Raises:
        TypeError, ValueError: for an invalid argument.
        EngineError: on a system that is not POSIX.
    """

    def __init__(
        self,
        engine: str,
        kwargs: Mapping[str, object] | None = None,
        *,
        num_rows: int,
        num_workers: int | None = None,
        deadline: float = 60.0,
    ) -> None:
        if not isinstance(engine, str) or engine.count(":") != 1 or engine.startswith("__main__"):
            raise ValueError(
                "engine must be 'module:callable' of a module that another process can import, "
                f"got {engine!r}"
            )
        num_rows = check_count("num_rows", num_rows)
        num_workers = None if num_workers is None else check_count("num_workers", num_workers)
        deadline = check_number("deadline", deadline)
        if deadline <= 0:
            raise ValueError(f"deadline must be above 0 seconds, got {deadline!r}")
        if os.name != "posix":
            raise EngineError(
                "engines run in process groups with alarms, which need Linux, macOS or another POSIX"
            )
        self.num_rows = num_rows
        if num_workers is None:
            affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
            num_workers = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.num_workers = min(num_rows, num_workers)
        self.deadline = deadline
        self._settings = {"engine": engine, "kwargs": dict(kwargs or {}), "deadline": deadline}
        self._current: list[Transcript | None] = [None] * num_rows  # the state of each row
        self._held: list[Transcript | None] = [None] * num_rows  # the row's state in its worker's engine
        self._workers: dict[int, WorkerProcess] = {}
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._finalizer = weakref.finalize(self, _end_all, self._workers, self._pid)
        self.usage = Usage()

    # ---------------------------------------------------------------- calls of a task

    def reset(self, rows: Sequence[int], games: Sequence[object]) -> list[Opening]:
        """Begin a game in each of ``rows``.

        Raises:
            GameError: for the first game that cannot be played; the rows must then be reset again.
            EngineError: if an engine does not start, or fails twice in a row on one game.
        """
        jobs = [
            _Job(row, None, ("reset", game), Transcript(game)) for row, game in zip(rows, games, strict=True)
        ]
        with self._lock:
            for job in jobs:
                self._current[job.row] = None
            answers = self._run(jobs)
            failed = [job for job in jobs if isinstance(answers[job.row], Failure)]
            answers.update(self._run(failed))
            for job in jobs:
                answer = answers[job.row]
                if isinstance(answer, GameError):
                    raise answer
                if isinstance(answer, Failure):
                    raise EngineError(f"row {job.row} failed twice to begin a game: {answer.cause}")
                self._current[job.row] = job.after
        return [answers[row] for row in rows]

    def step(self, rows: Sequence[int], commands: Sequence[str]) -> list[Reply | Failure]:
        """Send a command in each of ``rows``; a row that gets a :class:`Failure` must be reset."""
        jobs = []
        with self._lock:
            for row, command in zip(rows, commands, strict=True):
                before = self.transcript(row)
                after = Transcript(before.game, (*before.commands, command))
                jobs.append(_Job(row, before, ("step", command), after))
            answers = self._run(jobs)
            for job in jobs:
                if isinstance(answers[job.row], GameError):  # from the replay of a game that was playable
                    answers[job.row] = Failure(f"the game cannot be replayed: {answers[job.row]}")
                lost = isinstance(answers[job.row], Failure)
                self._current[job.row] = None if lost else job.after
        return [answers[row] for row in rows]

    def query(self, row: int, name: str, *arguments: object) -> object:
        """Call the engine's method ``name(row, *arguments)``, which must not change the game.

        Raises:
            GameError: for a name that is not one of the engine's queries (its public methods besides
                ``reset``, ``step`` and ``close``), with their names, or for arguments that it does not take.
            EngineError: if the engine fails.
            RuntimeError: if the row has no game. The row keeps its state in all cases.
        """
        if not isinstance(name, str) or not is_query(name):
            raise GameError(f"{name!r} is no query of an engine")
        with self._lock:
            state = self.transcript(row)
            answer = self._run([_Job(row, state, (name, *arguments), state)])[row]
        if isinstance(answer, GameError):
            raise answer
        if isinstance(answer, Failure):
            raise EngineError(answer.cause)
        return answer

    def transcript(self, row: int) -> Transcript:
        """The row's game and commands, picklable, for :meth:`restore`.

        Raises:
            RuntimeError: if the row has no game.
        """
        state = self._current[row]
        if state is None:
            raise RuntimeError(f"row {row} has no game; reset it first")
        return state

    def lost(self, row: int) -> bool:
        """Whether the row has no game: none was begun, or its engine failed."""
        return self._current[row] is None

    def restore(self, row: int, state: Transcript | None) -> None:
        """Set a row's state; its commands are replayed at the row's next call. None leaves it no game."""
        if state is not None and not isinstance(state, Transcript):
            raise TypeError(f"restore takes what transcript returned, got {state!r}")
        self._current[row] = state

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the started workers; row ``r`` uses worker ``r % num_workers``."""
        return tuple(worker.process.pid for _, worker in sorted(self._workers.items()))

    def close(self) -> None:
        """End the workers. May be called more than once; the next call for a row starts new ones."""
        with self._lock:
            self._check_process()
            self._held = [None] * self.num_rows
            _end_all(self._workers, self._pid)

    # ---------------------------------------------------------------- driving the workers

    def _run(self, jobs: Sequence[_Job]) -> Answers:
        """Run the jobs; an answer is the call's result, a :class:`Failure` or a :class:`GameError`."""
        self._check_process()
        queues: dict[int, deque[_Job]] = {}
        for job in jobs:
            queues.setdefault(job.row % self.num_workers, deque()).append(job)
        answers: Answers = {}
        try:
            self._drive(queues, answers)
        except BaseException:
            # After an interrupt these workers are still busy with dropped jobs.
            for index, queue in queues.items():
                if queue and index in self._workers:
                    self._discard(index)
            raise
        return answers

    def _drive(self, queues: dict[int, deque[_Job]], answers: Answers) -> None:
        due = {index: self._send(index, queue) for index, queue in queues.items()}
        while due:
            now = time.monotonic()
            ready = self._select(due, max(0.0, min(due.values()) - now))
            now = time.monotonic()
            for index in list(due):
                queue, failure = queues[index], None
                if index in ready:
                    worker = self._workers[index]
                    worker.flush()
                    messages, ended = worker.messages()
                    for message in messages:
                        failure = failure or self._take(worker, queue, answers, message)
                        due[index] = now + self.deadline
                    if ended and not queue:
                        self._discard(index)  # it died with its last answer
                    elif ended and failure is None:
                        failure = self._died(index)
                elif now >= due[index]:
                    failure = self._overdue(index)
                if failure is not None:
                    lost = queue.popleft()
                    answers[lost.row] = failure
                    self._discard(index)
                    due[index] = self._send(index, queue) if queue else now
                if not queue:
                    del due[index]

    def _send(self, index: int, queue: deque[_Job]) -> float:
        """Send a worker all its jobs, starting it if needed; return the deadline of its first message."""
        if index in self._workers and self._workers[index].process.poll() is not None:
            self._discard(index)  # it died between calls
        fresh = index not in self._workers
        if fresh:
            self._workers[index] = WorkerProcess(self._settings)
        worker = self._workers[index]
        calls = [(job.row, self._calls(job)) for job in queue]
        worker.post(calls)
        worker.flush()
        return time.monotonic() + (START_LIMIT if fresh else self.deadline)

    def _calls(self, job: _Job) -> list[tuple[object, ...]]:
        """The engine calls of a job: those that bring the row to its state before, then the job's own."""
        calls: list[tuple[object, ...]] = []
        if job.before is not None:
            held = self._held[job.row]
            known = 0
            if held is not None and job.before.continues(held):
                known = len(held.commands)
            else:
                calls.append(("reset", job.before.game))
            calls += [("step", command) for command in job.before.commands[known:]]
        calls.append(job.call)
        job.calls = len(calls)
        self._held[job.row] = None  # unknown until the worker answers
        return calls

    def _select(self, due: Mapping[int, float], wait: float) -> set[int]:
        """Wait until workers can be read or written; return their indices."""
        with selectors.DefaultSelector() as selector:
            for index in due:
                worker = self._workers[index]
                selector.register(worker.output, selectors.EVENT_READ, index)
                if worker.unsent:
                    selector.register(worker.input, selectors.EVENT_WRITE, index)
            return {key.data for key, _ in selector.select(wait)}

    def _take(
        self, worker: WorkerProcess, queue: deque[_Job], answers: Answers, message: Message
    ) -> Failure | None:
        """Process a worker's message; return the Failure of its current job if the engine raised."""
        kind, *payload = message
        if kind == "ready":
            worker.started = True
        elif kind == "failed":
            raise EngineError(f"the engine {self._settings['engine']} does not start: {payload[0]}")
        elif kind == "raised":
            return Failure(f"the engine raised {payload[0]}")
        elif kind == "refused":
            job = queue.popleft()
            answers[job.row] = GameError(payload[0])
        elif kind == "done":
            job = queue.popleft()
            answers[job.row], wall, cpu = payload
            self._held[job.row] = job.after
            self._count(calls=job.calls, replayed=job.calls - 1, wall=wall, cpu=cpu)
        return None

    def _died(self, index: int) -> Failure:
        worker = self._workers[index]
        code = worker.kill()
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if not worker.started:
            raise EngineError(f"a worker of {self._settings['engine']} ended {how} while starting")
        return Failure(f"the engine's process ended {how}")

    def _overdue(self, index: int) -> Failure:
        if not self._workers[index].started:
            raise EngineError(
                f"the engine {self._settings['engine']} did not start within {START_LIMIT:g} seconds"
            )
        return Failure(f"the engine did not answer within {self.deadline:g} seconds")

    def _discard(self, index: int) -> None:
        self._workers.pop(index).kill()
        for row in range(index, self.num_rows, self.num_workers):
            self._held[row] = None
        self._count(restarts=1)

    def _count(self, **more: float) -> None:
        totals = {name: getattr(self.usage, name) + value for name, value in more.items()}
        self.usage = replace(self.usage, **totals)

    def _check_process(self) -> None:
        """In a forked child, forget the parent's workers."""
        if os.getpid() == self._pid:
            return
        for worker in self._workers.values():
            worker.abandon()
        self._workers.clear()
        self._held = [None] * self.num_rows
        self._pid = os.getpid()
        self._finalizer.detach()
        self._finalizer = weakref.finalize(self, _end_all, self._workers, self._pid)


def _end_all(workers: dict[int, WorkerProcess], pid: int) -> None:
    """End all workers in parallel, if this process started them."""
    if os.getpid() != pid:
        return
    ending = list(workers.values())
    workers.clear()
    for worker in ending:
        worker.ask_to_end()
    limit = time.monotonic() + CLOSE_LIMIT
    for worker in ending:
        worker.wait(limit - time.monotonic())
