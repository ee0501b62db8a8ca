"""An engine that does what a test tells it to: the game is a number, ``add N`` adds, others misbehave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import Any

from cola_envs.engines import GameError, Opening, Reply


class ToyEngine:
    def __init__(self, scale: int = 1, say: str = "") -> None:
        self.scale, self.say = scale, say
        self.totals: dict[int, int] = {}
        self.child: subprocess.Popen[bytes] | None = None

    def reset(self, row: int, game: Any) -> Opening:
        if game == "crash":
            os._exit(7)
        if not isinstance(game, int):
            raise GameError(f"{game!r} is no number")
        self.totals[row] = game
        return Opening(f"{self.say}Begin at {game}.", ("add 1", "win"), {"start": game})

    def step(self, row: int, command: str) -> Reply:
        name, _, argument = command.partition(" ")
        if name == "add":
            self.totals[row] += int(argument) * self.scale
        elif name == "crash":
            os._exit(3)
        elif name == "hang":
            time.sleep(1e6)
        elif name == "raise":
            raise RuntimeError("something broke")
        elif name == "exit":
            sys.exit("translation failed")
        elif name == "print":
            print("noise " * 10_000, flush=True)
            print("noise", file=sys.stderr, flush=True)
            os.write(1, b"native noise")
        elif name == "last":
            threading.Timer(0.1, os._exit, (1,)).start()  # a moment after the answer
        elif name == "child":
            self.child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1e6)"])
            return Reply(str(self.child.pid))
        elif name == "win":
            return Reply("Won.", reward=1.0, done=True, success=True)
        else:
            return Reply("What?", valid=False, admissible=("add 1", "win"))
        return Reply(f"Now {self.totals[row]}.", admissible=("add 1", "win"), info={"pid": os.getpid()})

    def total(self, row: int, plus: int = 0) -> int:
        return self.totals[row] + plus

    def close(self) -> None:
        self.totals.clear()
