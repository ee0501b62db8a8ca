"""Run text-game engines in worker processes, and build tasks on them.

An :class:`Engine` wraps a game package and runs in a worker process. An :class:`EnginePool` starts the
workers, plays many rows in few of them, and replaces workers that crash or hang. An :class:`EngineTask` makes
a :class:`~cola_envs.task.TaskBatch` from a pool and games. Only the workers import engines.
"""

from __future__ import annotations

from cola_envs.engines.pool import EnginePool, Usage
from cola_envs.engines.protocol import Engine, EngineError, Failure, GameError, Opening, Reply
from cola_envs.engines.task import EngineTask, Game

__all__ = [
    "Engine",
    "EngineError",
    "EnginePool",
    "EngineTask",
    "Failure",
    "Game",
    "GameError",
    "Opening",
    "Reply",
    "Usage",
]
