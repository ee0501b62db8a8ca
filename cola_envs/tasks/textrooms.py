"""TextRooms: a small text game in pure Python, played in commands over several turns."""

from __future__ import annotations

import hashlib
import math
import random
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from cola_envs.fields import Info
from cola_envs.task import Turn
from cola_envs.tasks.arithmetic import Split, split_of

ROOMS = ("hall", "kitchen", "garden", "cellar", "attic", "study")
ITEMS = ("coin", "ring", "apple", "book", "cup", "lamp")
T = TypeVar("T")
CONTAINERS = ("box", "chest", "desk")
KEY = "key"
TASK_TYPES = ("take", "put", "open")
DIRECTIONS = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}
_OPPOSITE = {"north": "south", "east": "west", "south": "north", "west": "east"}

NOTHING = "Nothing happens."
LOCKED = "Locked."
WON = "You win!"
OVER = "Time is up."

_CARRIED = -1
_ARTICLES = ("the", "a", "an")


class Shape(NamedTuple):
    """What a difficulty means: fewest and most rooms, items and containers in all, default command limit."""

    rooms: tuple[int, int]
    items: int
    containers: int
    commands: int


SHAPES = {1: Shape((2, 3), 3, 1, 8), 2: Shape((3, 4), 3, 2, 12), 3: Shape((5, 6), 5, 3, 24)}


class State(NamedTuple):
    """What a game changes.

    Attributes:
        room: index of the room that the player is in.
        places: per item a room's index, the number of rooms plus a container's index, or -1 where carried.
        opened: per container whether it is open.
    """

    room: int
    places: tuple[int, ...]
    opened: tuple[bool, ...]


@dataclass(frozen=True)
class Game:
    """A game that does not change; its methods take and return a :class:`State`.

    Attributes:
        rooms, items, containers: their names.
        exits: per room pairs of a direction and the index of the room there.
        container_rooms: per container the index of its room.
        locked: per container whether opening it takes the key.
        task_type: one of :data:`TASK_TYPES`.
        goal: the last command of every game that is won, e.g. ``put coin in box``.
        start: the state at the beginning: all containers closed, nothing carried.
    """

    rooms: tuple[str, ...]
    exits: tuple[tuple[tuple[str, int], ...], ...]
    items: tuple[str, ...]
    containers: tuple[str, ...]
    container_rooms: tuple[int, ...]
    locked: tuple[bool, ...]
    task_type: str
    goal: str
    start: State

    @property
    def opening(self) -> str:
        """Goal and first observation."""
        return f"Goal: {self.goal}.\n{self.describe(self.start)}"

    def describe(self, state: State) -> str:
        """The room that the player is in, e.g. ``Hall. Exits: east. Here: key, closed box.``"""
        exits = ", ".join(direction for direction, _ in self.exits[state.room])
        things = [self.items[item] for item in self.visible(state)]
        for container in self._containers_here(state):
            things.append(("open " if state.opened[container] else "closed ") + self.containers[container])
        here = f" Here: {', '.join(things)}." if things else ""
        return f"{self.rooms[state.room].capitalize()}. Exits: {exits}.{here}"

    def visible(self, state: State) -> list[int]:
        """Items that lie in the player's room or in an open container there."""
        within = {len(self.rooms) + c for c in self._containers_here(state) if state.opened[c]}
        return [item for item, place in enumerate(state.places) if place == state.room or place in within]

    def _carried(self, state: State) -> list[str]:
        return [item for item, place in zip(self.items, state.places, strict=True) if place == _CARRIED]

    def _containers_here(self, state: State) -> list[int]:
        return [c for c, room in enumerate(self.container_rooms) if room == state.room]

    def admissible(self, state: State) -> list[str]:
        """Every command that the game understands here, ``look`` the last."""
        commands = [f"go {direction}" for direction, _ in self.exits[state.room]]
        commands += [f"take {self.items[item]}" for item in self.visible(state)]
        here = self._containers_here(state)
        commands += [f"open {self.containers[c]}" for c in here if not state.opened[c]]
        for container in here:
            if state.opened[container]:
                commands += [f"put {item} in {self.containers[container]}" for item in self._carried(state)]
        return [*commands, "look"]

    def act(self, state: State, command: str) -> tuple[State, str] | None:
        """Carry out a command: the next state and the response; None for a command without effect.

        A command is one of :meth:`admissible`, in any case, with any spaces and articles.
        """
        command = " ".join(word for word in command.lower().split() if word not in _ARTICLES)
        return self._carry_out(state, command) if command in self.admissible(state) else None

    def _carry_out(self, state: State, command: str) -> tuple[State, str]:
        """The next state and the response, for one of the admissible commands."""
        words = command.split()
        verb = words[0]
        if verb == "look":
            return state, self.describe(state)
        if verb == "go":
            state = state._replace(room=dict(self.exits[state.room])[words[1]])
            return state, self.describe(state)
        if verb == "open":
            container = self.containers.index(words[1])
            if self.locked[container] and KEY not in self._carried(state):
                return state, LOCKED
            state = state._replace(opened=_set(state.opened, container, True))
            inside = [self.items[i] for i, p in enumerate(state.places) if p == len(self.rooms) + container]
            return state, f"Opened: {', '.join(inside) or 'empty'}."
        item = self.items.index(words[1])
        if verb == "take":
            return state._replace(places=_set(state.places, item, _CARRIED)), "Taken."
        place = len(self.rooms) + self.containers.index(words[3])
        return state._replace(places=_set(state.places, item, place)), "Done."

    def won(self, state: State) -> bool:
        """Whether the goal is reached."""
        verb, *names = self.goal.split()
        if verb == "open":
            return state.opened[self.containers.index(names[0])]
        place = state.places[self.items.index(names[0])]
        return place == (_CARRIED if verb == "take" else len(self.rooms) + self.containers.index(names[2]))

    def plan(self, state: State) -> tuple[str, ...] | None:
        """A shortest list of commands that wins from ``state``; None where there is none.

        Breadth first over the commands that can matter: items that are neither the goal's nor the key are
        left where they are.
        """
        wanted = {name for name in self.goal.split() if name in self.items} | {KEY}
        came: dict[State, tuple[State, str] | None] = {state: None}
        queue = deque([state])
        while queue:
            at = queue.popleft()
            if self.won(at):
                return _path(came, at)
            for command in self.admissible(at):
                words = command.split()
                if words[0] == "look" or (words[0] in ("take", "put") and words[1] not in wanted):
                    continue
                after, _ = self._carry_out(at, command)
                if after not in came:
                    came[after] = at, command
                    queue.append(after)
        return None


def _set(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _path(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    commands: list[str] = []
    while (step := came[state]) is not None:
        state, command = step
        commands.append(command)
    return tuple(reversed(commands))


def generate(seed: int, *, difficulty: int = 1, split: Split = "train") -> Game:
    """Game number ``seed`` of a split: the same arguments give the same game on every machine.

    Every game can be won within half of its difficulty's command limit, and takes two commands
    at least. A hash of goal and first observation determines the split, so no two splits share an opening.

    Raises:
        ValueError: for an unknown difficulty or split.
    """
    if difficulty not in SHAPES:
        raise ValueError(f"difficulty {difficulty!r} is not one of 1, 2, 3")
    if split not in ("train", "test"):
        raise ValueError(f"split {split!r} is neither 'train' nor 'test'")
    rng = random.Random(seed * 4 + difficulty)
    limit = SHAPES[difficulty].commands // 2
    while True:
        game = _draw(rng, SHAPES[difficulty])
        if split_of(f"rooms {game.opening}") != split:
            continue
        plan = game.plan(game.start)
        if plan is not None and 2 <= len(plan) <= limit:
            return game


def _draw(rng: random.Random, shape: Shape) -> Game:
    """A game that may be too short, too long or impossible."""
    exits = _layout(rng, rng.randint(*shape.rooms))
    count = len(exits)
    containers = rng.sample(CONTAINERS, shape.containers)
    items = rng.sample(ITEMS, shape.items)
    item, container = rng.randrange(shape.items), rng.randrange(shape.containers)
    task_type = rng.choice(TASK_TYPES)
    if task_type == "open":
        items[item] = KEY
    goal = {
        "take": f"take {items[item]}",
        "put": f"put {items[item]} in {containers[container]}",
        "open": f"open {containers[container]}",
    }[task_type]
    places = [rng.randrange(count + shape.containers) for _ in items]
    return Game(
        rooms=tuple(rng.sample(ROOMS, count)),
        exits=exits,
        items=tuple(items),
        containers=tuple(containers),
        container_rooms=tuple(rng.randrange(count) for _ in containers),
        locked=tuple(task_type == "open" and c == container for c in range(shape.containers)),
        task_type=task_type,
        goal=goal,
        start=State(rng.randrange(count), tuple(places), (False,) * shape.containers),
    )


def _layout(rng: random.Random, count: int) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Exits of ``count`` rooms on a grid, joined as a tree: each room opens to one that was there before."""
    at = {(0, 0): 0}
    exits: list[dict[str, int]] = [{}]
    while len(at) < count:
        (x, y), room = rng.choice(list(at.items()))
        direction = rng.choice(list(DIRECTIONS))
        dx, dy = DIRECTIONS[direction]
        if (x + dx, y + dy) not in at:
            exits[room][direction] = len(at)
            exits.append({_OPPOSITE[direction]: room})
            at[x + dx, y + dy] = len(at)
    return tuple(tuple(sorted(doors.items())) for doors in exits)


class TextRooms:
    """Find things in a few rooms: a game of commands, with an answer to each.

    Prompt: the goal and the first room, then a line with ``>``::

        Goal: put coin in box.
        Hall. Exits: east. Here: coin.
        >

    Actions: a command, sent by a newline (or the end-of-sequence token): ``go east``, ``take coin``,
    ``open box``, ``put coin in box``, ``look``. Case, spaces and articles do not matter. What is named must
    be here: an exit, an item that lies in the room or in an open container of it, a container of the room
    that is closed (to open) or open (to put something in), an item that was taken (to put).

    Observation: a new line of feedback and a line with ``>``: the room after ``go`` and ``look``, ``Taken.``,
    ``Opened: coin.``, ``Done.``, ``Locked.`` (a container that opens only to who carries the key), or
    ``Nothing happens.`` for anything that is no command here. There is no space behind ``>``: commands
    begin with one, as words do in most tokenizers, and a transcript reads the same in one piece or several.

    Task types: ``take`` an item, ``put`` an item in a container, ``open`` a locked container. All other
    containers are closed at the start, and may hold what is looked for. Every game can be won.

    Reward: 1.0 when the goal is reached; ``-invalid_penalty`` for each command that does nothing.

    Episode end: terminated when the goal is reached (``You win!``); truncated after ``max_commands``
    commands without it (``Time is up.``). A spent token budget sends what is written so far as the last
    command.

    ``info`` after each command: ``command`` (as it was read), ``valid``, ``commands`` and ``invalid`` (how
    many so far), ``success``; at the start and the end also ``task_type``, ``goal``, ``plan_length`` (how
    many commands the shortest solution takes), ``difficulty``, ``split``, ``dataset``, ``unique_id``.

    Args:
        difficulty: 1 (2 to 3 rooms, 3 items, 1 container, 8 commands), 2 (3 to 4, 3, 2, 12) or
            3 (5 to 6, 5, 3, 24). Every game can be won in half its commands.
        split: ``"train"`` or ``"test"``; the two share no goal with its first observation.
        admissible: ``"list"`` adds to every observation the commands that would do something, ``"none"``
            does not.
        invalid_penalty: taken off the reward for each command that does nothing, >= 0.
        max_commands: how many commands an episode may take; None for the difficulty's.

    Raises:
        ValueError: an argument outside what is written above.

    Data: generated; no licence applies. Version history: v0, first release.
    """

    stop = ("\n",)

    def __init__(
        self,
        difficulty: int = 1,
        split: Split = "train",
        admissible: Literal["none", "list"] = "none",
        invalid_penalty: float = 0.0,
        max_commands: int | None = None,
    ) -> None:
        generate(0, difficulty=difficulty, split=split)  # refuses what is unknown
        if admissible not in ("none", "list"):
            raise ValueError(f"admissible must be 'none' or 'list', got {admissible!r}")
        if not (math.isfinite(invalid_penalty) and invalid_penalty >= 0.0):
            raise ValueError(f"invalid_penalty must be a finite number, 0 or above, got {invalid_penalty!r}")
        limit = SHAPES[difficulty].commands if max_commands is None else max_commands
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"max_commands must be an integer of 1 or more, or None, got {max_commands!r}")
        self.difficulty = difficulty
        self.split: Split = split
        self.admissible = admissible
        self.invalid_penalty = float(invalid_penalty)
        self.max_commands = limit
        self.info: Info = {}

    def reset(self, rng: np.random.Generator) -> str:
        seed = int(rng.integers(1 << 60))
        return self.begin(generate(seed, difficulty=self.difficulty, split=self.split))

    def begin(self, game: Game) -> str:
        """Start an episode of a game of one's own and return the prompt.

        Raises:
            ValueError: for a game that is won already or cannot be won.
        """
        plan = game.plan(game.start)
        if not plan:
            raise ValueError(f"a game must take a command or more to win, and this one has the plan {plan}")
        self.game, self.state, self.commands, self.invalid = game, game.start, 0, 0
        self.info = {
            "task_type": game.task_type,
            "goal": game.goal,
            "plan_length": len(plan),
            "difficulty": self.difficulty,
            "split": self.split,
            "dataset": "cola-textrooms-v0",
            "unique_id": hashlib.sha256(game.opening.encode()).hexdigest()[:16],
        }
        return f"{game.opening}{self._asked()}"

    def step(self, text: str) -> Turn:
        command = " ".join(text.split())
        done = self.game.act(self.state, command)
        self.commands += 1
        reward = 0.0
        if done is None:
            self.invalid += 1
            response, reward = NOTHING, -self.invalid_penalty
        else:
            self.state, response = done
        won = self.game.won(self.state)
        over = not won and self.commands >= self.max_commands
        if won:
            response, reward = WON, 1.0
        elif over:
            response = f"{response} {OVER}"
        response = response if won or over else response + self._asked()
        info = {
            "command": command,
            "valid": done is not None,
            "commands": self.commands,
            "invalid": self.invalid,
            "success": won,
        }
        text = response if text.endswith("\n") else f"\n{response}"
        return Turn(text=text, reward=reward, done=won or over, truncated=over, info=info)

    def _asked(self) -> str:
        if self.admissible == "none":
            return "\n>"
        return f"\nYou can: {', '.join(self.game.admissible(self.state))}.\n>"

    def snapshot(self) -> object:
        return self.game, self.state, self.commands, self.invalid, self.info

    def restore(self, state: object) -> None:
        assert isinstance(state, tuple)
        self.game, self.state, self.commands, self.invalid, self.info = state
