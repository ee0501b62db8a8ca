"""ScienceWorld's engine in a worker process: many isolated games on one Java machine.

The simulator (Scala) keeps its random generator, its counter of object ids and its simplifications in global
variables, so that two games in one Java machine would disturb each other. Each row therefore gets its own
Java *class loader*, which has its own global variables, and with it a separate simulator. A further row takes
about 40 MB and a second; a Java machine takes 190 MB.

The simulator also iterates over hash sets of objects whose hash code is their identity, a random number. The
order of a list, of the choices of an ambiguous command, or of heat flow between objects therefore differs
between plays. ``repeatable=True`` makes all identity hash codes equal: sets then keep their insertion order,
and the same commands always have the same effects.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cola_envs.engines.protocol import GameError, Opening, Reply

if TYPE_CHECKING:
    from py4j.java_gateway import JavaGateway, JavaObject

#: The engine's methods that list a task's variations in each split.
SPLITS = {"train": "getVariationsTrain", "dev": "getVariationsDev", "test": "getVariationsTest"}
#: Beginnings of the engine's response to a command that it does not understand.
NOT_UNDERSTOOD = ("No known action matches that input.", "Unknown action.")
_HEAP_FULL = 3  # Java's exit code under -XX:+ExitOnOutOfMemoryError
_STOP_WORDS = frozenset(("a", "an", "the"))  # the engine's parser drops them


@dataclass
class _Row:
    """A row's simulator; the fields with defaults belong to its current game."""

    simulator: Simulator
    game: JavaObject = None
    parser: JavaObject = None
    score: int = 0
    choices: int = 0  # number of choices of an ambiguous command that waits for a number
    over: bool = True


@dataclass(frozen=True)
class Simulator:
    """A ScienceWorld simulator with its own global variables.

    Attributes:
        gateway: the connection to it; a connection's thread in Java uses the classes of one loader.
        server: the simulator's interface.
        chance: Java's handle of the field with Scala's global random generator.
        holder: the object with that field.
    """

    gateway: JavaGateway
    server: JavaObject
    chance: JavaObject
    holder: JavaObject

    def commands(self) -> set[str]:
        """The commands that are sensible now.

        Listing them draws random numbers, which would change the rest of the game, so a separate generator
        with a fixed seed is used.
        """
        jvm = self.gateway.jvm
        generator = self.chance.get(self.holder)
        self.chance.set(self.holder, jvm.java.util.Random(0))
        try:
            commands = self.server.getValidActionObjectCombinations()
            return set(jvm.java.lang.String.join("\n", commands).split("\n"))  # one message, not hundreds
        finally:
            self.chance.set(self.holder, generator)


class ScienceWorldEngine:
    """An :class:`~cola_envs.engines.protocol.Engine` of ScienceWorld games.

    A game is ``(task name, variation, simplifications)``. The reward of a command is the change of the
    score (0 to 100, or -100 for a lost game) divided by 100. A game is won only at score 100 and lost at any
    score below 0. The engine's own limit of steps is not used.

    If a command fits several objects, the response is a numbered list. A number of that list as the next
    command chooses; any other command cancels the choice without taking time, and is executed as usual. (The
    unchanged engine would drop that command and let time pass.) ``reset task`` is not available.

    The game ``None`` starts no game; its opening's ``info`` has ``variations``, the engine's lists by task
    and split.

    Args:
        heap: the Java heap of all rows together, as for ``java -Xmx``; a row uses about 13 MB.
        admissible: whether openings and replies list the sensible commands, which takes about 50 ms for each
            command.
        repeatable: whether the same commands always have the same effects (see the module's docstring);
            needs a HotSpot (OpenJDK) Java machine.

    Raises:
        RuntimeError: if Java does not start with these options.
    """

    def __init__(self, *, heap: str = "512m", admissible: bool = False, repeatable: bool = True) -> None:
        self._machine = JavaMachine(heap, repeatable)
        self._admissible = admissible
        self._rows: dict[int, _Row] = {}

    @property
    def java_pid(self) -> int:
        """Process id of the Java machine."""
        return int(self._machine.process.pid)

    def reset(self, row: int, game: tuple[str, int, str] | None) -> Opening:
        """Load a game and look around.

        Raises:
            GameError: for an unknown task, variation or simplification.
        """
        with self._machine.explained():
            return self._reset(row, game)

    def step(self, row: int, command: str) -> Reply:
        """Execute a command.

        Raises:
            RuntimeError: if the engine fails, or the game is over.
        """
        with self._machine.explained():
            return self._step(self._rows[row], command)

    def commands(self, row: int) -> tuple[str, ...]:
        """The sensible commands in ``row``, sorted; numbers if it waits for a choice; none without a game."""
        with self._machine.explained():
            return self._listed(self._rows[row])

    def close(self) -> None:
        """End the Java machine."""
        rows, self._rows = self._rows, {}
        for state in rows.values():
            _disconnect(state.simulator.gateway)
        self._machine.close()

    def _reset(self, row: int, game: tuple[str, int, str] | None) -> Opening:
        state = self._rows.get(row)
        if state is None:
            state = self._rows[row] = _Row(self._machine.simulator())
        server = state.simulator.server
        state.over = True
        if game is None:
            return Opening("", info={"variations": _variations(server)})
        task, variation, simplifications = game
        if variation < 0:  # the engine checks only the upper bound
            raise GameError(f"ScienceWorld refuses {game!r}: variations are counted from 0")
        problem = server.load(task, variation, simplifications, False)
        state.game = server.agentInterface().get()
        if problem or state.game.isInErrorState():
            raise GameError(f"ScienceWorld refuses {game!r}: {problem or state.game.getErrorStateMessage()}")
        state.parser = state.game.inputParser()
        text = server.step("look around")  # takes no time, and updates the score
        state.score, state.choices, state.over = self._score(state), 0, False
        return Opening(
            f"{server.getTaskDescription()}\n\n{text.rstrip()}",
            self._commands(state),
            {"baseline": state.score, "java": self._machine.version},
        )

    def _step(self, state: _Row, command: str) -> Reply:
        if state.over:
            raise RuntimeError("this game is over; begin another")
        if state.choices:
            digits = command.strip()
            if digits.isascii() and digits.isdigit() and len(digits) < 6 and int(digits) < state.choices:
                command = str(int(digits))
            else:
                state.parser.clearAmbiguousState()
            state.choices = 0
        refused = _resets_task(command)
        text = "That command is not available." if refused else self._send(state, command)
        before, state.score = state.score, self._score(state)
        if text.startswith("Ambiguous request"):
            state.choices = state.parser.getNumAmbiguousMatches()
        state.over = state.score < 0 or state.simulator.server.getCompleted()
        return Reply(
            text.rstrip(),
            reward=(state.score - before) / 100,
            done=state.over,
            success=state.score == 100,
            valid=not refused and not text.startswith(NOT_UNDERSTOOD),
            admissible=self._commands(state),
            info={
                "score": state.score,
                "moves": state.simulator.server.getNumMoves(),
                "ambiguous": state.choices > 0,
            },
        )

    def _send(self, state: _Row, command: str) -> str:
        # A lone surrogate cannot be sent to Java; it is in no game's words.
        text: str = state.simulator.server.step(command.encode(errors="replace").decode())
        if state.game.isInErrorState():
            # The engine catches its own exceptions and then always answers with score -1.
            raise RuntimeError(f"ScienceWorld failed at {command!r}: {state.game.getErrorStateMessage()}")
        return text

    @staticmethod
    def _score(state: _Row) -> int:
        score: float = state.simulator.server.getScore()
        return round(100 * score)

    def _commands(self, state: _Row) -> tuple[str, ...]:
        return self._listed(state) if self._admissible else ()

    @staticmethod
    def _listed(state: _Row) -> tuple[str, ...]:
        if state.over:
            return ()
        if state.choices:
            return tuple(map(str, range(state.choices)))
        commands = state.simulator.commands()
        return tuple(sorted(command for command in commands if not _resets_task(command)))


class JavaMachine:
    """A Java process with simulators, which ends with this process, even if this one is killed.

    Args:
        heap: as for ``java -Xmx``.
        repeatable: see :class:`ScienceWorldEngine`.

    Raises:
        FileNotFoundError: without Java.
        RuntimeError: if it does not start with these options.
    """

    def __init__(self, heap: str, repeatable: bool) -> None:
        from py4j.java_gateway import launch_gateway
        from scienceworld.constants import JAR_PATH

        options = [f"-Xmx{check_heap(heap)}", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        if repeatable:
            options += ["-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2"]
        java = find_java()
        self.heap = heap
        self._jar = JAR_PATH
        try:
            self._port, self._token, self.process = launch_gateway(
                classpath=JAR_PATH,
                javaopts=options,
                java_path=java,
                die_on_exit=True,  # Java ends at the end of the pipe from this process
                enable_auth=True,  # else every user of this machine could run code in it
                return_proc=True,
                cwd=tempfile.gettempdir(),  # where Java writes its report of a crash
            )
        except ValueError:  # py4j could not read a port from Java's first line
            # Java writes errors to either stream.
            result = subprocess.run([java, *options, "-version"], capture_output=True, text=True, check=False)
            output = " ".join((result.stdout + result.stderr).split())[:400]
            cause = output or f"exit code {result.returncode}"
            raise RuntimeError(f"Java does not start: {java} {' '.join(options)}: {cause}") from None
        self._gateway = self._connect()
        java_lang = self._gateway.jvm.java.lang
        self.version: str = java_lang.System.getProperty("java.version")
        if repeatable and java_lang.System.identityHashCode(java_lang.Object()) != 1:
            name = java_lang.System.getProperty("java.vm.name")
            self.close()
            raise RuntimeError(
                f"this Java machine ({name}) does not fix identity hash codes, without which ScienceWorld is "
                "not repeatable: use a HotSpot (OpenJDK) Java machine, or pass repeatable=False"
            )
        # The simulator prints every step, which a thread of this process would have to read.
        jvm = self._gateway.jvm
        java_lang.System.setOut(jvm.java.io.PrintStream(jvm.java.io.FileOutputStream(os.devnull)))

    def _connect(self) -> JavaGateway:
        from py4j.java_gateway import GatewayParameters, JavaGateway

        return JavaGateway(
            gateway_parameters=GatewayParameters(port=self._port, auth_token=self._token, auto_field=False)
        )

    def simulator(self) -> Simulator:
        """Create another simulator."""
        gateway = self._connect()
        jvm = gateway.jvm
        urls = gateway.new_array(jvm.java.net.URL, 1)
        urls[0] = jvm.java.io.File(self._jar).toURI().toURL()
        # A loader without a parent loads everything again, including Scala's own classes.
        loader = jvm.java.net.URLClassLoader(urls, None)
        chance = loader.loadClass("scala.util.Random").getDeclaredField("self")
        chance.setAccessible(True)
        holder = loader.loadClass("scala.util.Random$").getField("MODULE$").get(None)
        server = loader.loadClass("scienceworld.runtime.pythonapi.PythonInterface").newInstance()
        return Simulator(gateway, server, chance, holder)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn py4j's errors into a RuntimeError with the state of the Java machine."""
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            yield
        except Py4JJavaError as error:
            raise RuntimeError(f"ScienceWorld failed: {error.java_exception.toString()}") from error
        except Py4JError as error:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
            code = self.process.poll()
            if code == _HEAP_FULL:
                cause = f"its heap of {self.heap} is full: pass a larger heap="
            elif code is None:
                cause = f"it does not answer: {error}"
            else:
                cause = f"it ended by signal {-code}" if code < 0 else f"it ended with code {code}"
            raise RuntimeError(f"the Java machine failed: {cause}") from error

    def close(self) -> None:
        """End the Java process; kill it after two seconds. May be called more than once."""
        _disconnect(self._gateway)
        if self.process.poll() is None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(2.0)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def find_java() -> str:
    """The path of ``java``: on PATH, or below ``$JAVA_HOME``.

    Raises:
        FileNotFoundError: without Java.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java") or (shutil.which("java", path=os.path.join(home, "bin")) if home else None)
    if java is None:
        raise FileNotFoundError(
            "ScienceWorld needs Java 8 or later, and there is no 'java' on PATH: install a Java runtime "
            "(Debian and Ubuntu: apt-get install default-jre-headless; conda: openjdk) or set JAVA_HOME"
        )
    return java


def check_heap(heap: str) -> str:
    """Return ``heap``; ValueError unless ``java -Xmx`` accepts it."""
    if not isinstance(heap, str) or not re.fullmatch(r"[1-9]\d*[kKmMgG]", heap):
        raise ValueError(f"heap must be a size such as '512m' or '2g', got {heap!r}")
    return heap


def _disconnect(gateway: JavaGateway) -> None:
    client = gateway._gateway_client
    client.is_connected = False  # so that objects collected later do not call the closed machine
    client.close()


def _variations(server: JavaObject) -> dict[str, dict[str, list[int]]]:
    lists: dict[str, dict[str, list[int]]] = {}
    for task in server.getTaskNames():
        getattr(server, "taskStr_$eq")(task)  # sets the task a hundred times faster than loading it
        lists[task] = {
            split: json.loads(getattr(server, name)().toString()) for split, name in SPLITS.items()
        }
    return lists


def _resets_task(command: str) -> bool:
    """Whether the engine's parser would read ``reset task``, which resets the score's progress."""
    words = [word for word in command.lower().split() if word not in _STOP_WORDS]
    return "".join(words) == "resettask"
