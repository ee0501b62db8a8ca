"""TextRooms, a small text game in pure Python: the task of ``CoLA-TextRooms-v0``."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from cola_envs.checks import check_choice, check_game_settings
from cola_envs.fields import Info
from cola_envs.segments import command_of, played
from cola_envs.task import Exchange, Turn
from cola_envs.tasks.arithmetic import SPLITS, Split, split_of

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
    """The size of a game: fewest and most rooms, numbers of items and containers, default command limit."""

    rooms: tuple[int, int]
    items: int
    containers: int
    commands: int


SHAPES = {1: Shape((2, 3), 3, 1, 8), 2: Shape((3, 4), 3, 2, 12), 3: Shape((5, 6), 5, 3, 24)}


class State(NamedTuple):
    """The state of a game.

    Attributes:
        room: index of the player's room.
        places: for each item a room's index, the number of rooms plus a container's index, or -1 if carried.
        opened: for each container whether it is open.
    """

    room: int
    places: tuple[int, ...]
    opened: tuple[bool, ...]


@dataclass(frozen=True)
class Game:
    """A game, immutable; its methods take and return a :class:`State`.

    Attributes:
        rooms, items, containers: their names.
        exits: for each room pairs of a direction and the index of the room there.
        container_rooms: for each container the index of its room.
        locked: for each container whether opening it needs the key.
        task_type: one of :data:`TASK_TYPES`.
        goal: the command that wins, e.g. ``put coin in box``.
        start: the first state: all containers closed, nothing carried.
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
        """The goal and the first observation."""
        return f"Goal: {self.goal}.\n{self.describe(self.start)}"

    def describe(self, state: State) -> str:
        """The description of the player's room, e.g. ``Hall. Exits: east. Here: key, closed box.``"""
        exits = ", ".join(direction for direction, _ in self.exits[state.room])
        things = [self.items[item] for item in self.visible(state)]
        for container in self._containers_here(state):
            things.append(("open " if state.opened[container] else "closed ") + self.containers[container])
        here = f" Here: {', '.join(things)}." if things else ""
        return f"{self.rooms[state.room].capitalize()}. Exits: {exits}.{here}"

    def visible(self, state: State) -> list[int]:
        """The items in the player's room or in an open container there."""
        within = {len(self.rooms) + c for c in self._containers_here(state) if state.opened[c]}
        return [item for item, place in enumerate(state.places) if place == state.room or place in within]

    def _carried(self, state: State) -> list[str]:
        return [item for item, place in zip(self.items, state.places, strict=True) if place == _CARRIED]

    def _containers_here(self, state: State) -> list[int]:
        return [c for c, room in enumerate(self.container_rooms) if room == state.room]

    def admissible(self, state: State) -> list[str]:
        """All commands that the game understands here; ``look`` is the last."""
        commands = [f"go {direction}" for direction, _ in self.exits[state.room]]
        commands += [f"take {self.items[item]}" for item in self.visible(state)]
        here = self._containers_here(state)
        commands += [f"open {self.containers[c]}" for c in here if not state.opened[c]]
        for container in here:
            if state.opened[container]:
                commands += [f"put {item} in {self.containers[container]}" for item in self._carried(state)]
        return [*commands, "look"]

    def act(self, state: State, command: str) -> tuple[State, str] | None:
        """Execute a command: return the next state and the response, or None if it is not admissible.

        Case, spaces and articles of the command do not matter.
        """
        command = " ".join(word for word in command.lower().split() if word not in _ARTICLES)
        return self._execute(state, command) if command in self.admissible(state) else None

    def _execute(self, state: State, command: str) -> tuple[State, str]:
        """The next state and the response of an admissible command."""
        words = command.split()
        following = self._following(state, words)
        return following, self._response(state, following, words)

    def _following(self, state: State, words: list[str]) -> State:
        """The next state after an admissible command."""
        verb = words[0]
        if verb == "look":
            return state
        if verb == "go":
            return state._replace(room=dict(self.exits[state.room])[words[1]])
        if verb == "open":
            container = self.containers.index(words[1])
            if self.locked[container] and KEY not in self._carried(state):
                return state
            return state._replace(opened=_set(state.opened, container, True))
        place = _CARRIED if verb == "take" else len(self.rooms) + self.containers.index(words[3])
        return state._replace(places=_set(state.places, self.items.index(words[1]), place))

    def _response(self, state: State, following: State, words: list[str]) -> str:
        """The response to an admissible command that leads from ``state`` to ``following``."""
        verb = words[0]
        if verb in ("look", "go"):
            return self.describe(following)
        if verb == "open":
            if following == state:
                return LOCKED
            place = len(self.rooms) + self.containers.index(words[1])
            inside = [self.items[i] for i, p in enumerate(state.places) if p == place]
            return f"Opened: {', '.join(inside) or 'empty'}."
        return "Taken." if verb == "take" else "Done."

    def won(self, state: State) -> bool:
        """Whether the goal is reached."""
        verb, *names = self.goal.split()
        if verb == "open":
            return state.opened[self.containers.index(names[0])]
        place = state.places[self.items.index(names[0])]
        return place == (_CARRIED if verb == "take" else len(self.rooms) + self.containers.index(names[2]))

    def plan(self, state: State) -> tuple[str, ...] | None:
        """A shortest list of commands that wins from ``state``; None if there is none.

        Breadth-first search that moves only the goal's item and the key.
        """
        relevant = {name for name in self.goal.split() if name in self.items} | {KEY}
        plans: dict[State, tuple[str, ...]] = {state: ()}
        queue = deque([state])
        while queue:
            current = queue.popleft()
            if self.won(current):
                return plans[current]
            for command in self.admissible(current):
                words = command.split()
                if words[0] == "look" or (words[0] in ("take", "put") and words[1] not in relevant):
                    continue
                following = self._following(current, words)
                if following not in plans:
                    plans[following] = (*plans[current], command)
                    queue.append(following)
        return None


def _set(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    return (*values[:index], value, *values[index + 1 :])


def generate(seed: int, *, difficulty: int = 1, split: Split = "train") -> Game:
    """Generate game number ``seed`` of a split; equal arguments give the same game on every machine.

    Every game takes at least two commands to win, and at most half of its difficulty's command limit. A hash
    of the opening determines the split, so that two splits never share one.

    Raises:
        ValueError: for an unknown difficulty or split.
    """
    game, _ = _generate(seed, difficulty, split)
    return game


def _generate(seed: int, difficulty: int, split: Split) -> tuple[Game, tuple[str, ...]]:
    """The game that :func:`generate` returns, and its plan."""
    difficulty = check_choice("difficulty", difficulty, SHAPES)
    check_choice("split", split, SPLITS)
    rng = random.Random(seed * 4 + difficulty)
    limit = SHAPES[difficulty].commands // 2
    while True:
        game = _draw(rng, SHAPES[difficulty])
        if split_of(f"rooms {game.opening}") != split:
            continue
        plan = game.plan(game.start)
        if plan is not None and 2 <= len(plan) <= limit:
            return game, plan


def _draw(rng: random.Random, shape: Shape) -> Game:
    """Draw a game, which may be too short, too long or impossible to win."""
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
    """Exits of ``count`` rooms on a grid, connected as a tree: each new room is joined to an earlier one."""
    rooms = {(0, 0): 0}  # grid position -> room
    exits: list[dict[str, int]] = [{}]
    while len(rooms) < count:
        (x, y), room = rng.choice(list(rooms.items()))
        direction = rng.choice(list(DIRECTIONS))
        dx, dy = DIRECTIONS[direction]
        if (x + dx, y + dy) not in rooms:
            exits[room][direction] = len(rooms)
            exits.append({_OPPOSITE[direction]: room})
            rooms[x + dx, y + dy] = len(rooms)
    return tuple(tuple(sorted(doors.items())) for doors in exits)


class TextRooms:
    r"""Take an item, put an item in a container or open a locked container in a few rooms, by text commands.

    **Prompt.** The goal, the first room and a line with ``>``::

        Goal: put coin in box.
        Hall. Exits: east. Here: coin.
        >

    **Prompt formats.** Plain text: ``"Goal: open box.\nCellar. Exits: west. Here: key, closed box.\n>"``.
    In a chat, the user's message: ``"Goal: open box.\nCellar. Exits: west. Here: key, closed box."``.
    Each later text of the game is a user's message too.

    With ``admissible="list"`` a line ``You can:`` with the admissible commands comes before the ``>``.

    **Actions.** A command, ended by a newline or the model's end-of-text token: ``go east``, ``take coin``,
    ``open box``, ``put coin in box`` or ``look``. Case, spaces and articles do not matter, nor do newlines in
    front of the command that share its first token, or what the token that ends it holds after the newline.
    A newline that is a token of its own is an empty command, as at a terminal: it is not possible, and counts
    and costs as any other that is not. ``go`` needs an exit; ``take`` an item in the room or in an open
    container there; ``open`` a closed container in the room; ``put`` a carried item and an open container in
    the room.

    **Observation.** After each command a new line with the game's response and a line with ``>``. The
    response is the room's description after ``go`` and ``look``, else ``Taken.``, ``Opened: coin.``,
    ``Done.``, ``Locked.`` (the player does not carry the key) or ``Nothing happens.`` (not a command that is
    possible here). No space follows ``>``, because most tokenizers put the space at the front of the next
    word.

    **Task types.** ``take`` an item, ``put`` an item in a container, ``open`` a locked container. All
    containers are closed at the start and may hold items. Every game can be won.

    **Reward.** 1.0 when the goal is reached; ``-invalid_penalty`` for each command that is not possible here
    (``Nothing happens.``). ``look``, and ``open`` with the answer ``Locked.``, cost nothing.

    **Episode end.** Terminated when the goal is reached (``You win!``); truncated after ``max_commands``
    commands (``Time is up.``). When the token budget is spent, the text so far is the last command.

    **Info.** After each command ``command`` (spaces normalised), ``valid``, ``commands`` and ``invalid``
    (counts so far) and ``success``; at reset and at the end also ``task_type``, ``goal``, ``plan_length``
    (number of commands of a shortest solution), ``difficulty``, ``split``, ``dataset`` and ``unique_id`` (a
    hash of the whole game, which tells games with equal openings apart).

    **Worked examples.** ``shots=1`` puts a game of the train split in front, of this difficulty, won by a
    shortest list of commands.

    **Data and licence.** Generated; no licence applies.

    **Versions.** v0: first version.

    Args:
        difficulty: 1 (2 to 3 rooms, 3 items, 1 container, 8 commands), 2 (3 to 4, 3, 2, 12) or
            3 (5 to 6, 5, 3, 24). Every game can be won in half its commands.
        split: ``"train"`` or ``"test"``, which share no opening (goal and first room).
        admissible: ``"list"`` adds the admissible commands to every observation, ``"none"`` does not.
        invalid_penalty: subtracted from the reward for each command that is not possible, >= 0.
        max_commands: limit of commands in an episode; None for the difficulty's.

    Raises:
        ValueError: for an invalid argument.
    """

    stop = ("\n",)
    plain_frame = ("", "\n>")

    def __init__(
        self,
        difficulty: int = 1,
        split: Split = "train",
        admissible: Literal["none", "list"] = "none",
        invalid_penalty: float = 0.0,
        max_commands: int | None = None,
    ) -> None:
        self.difficulty = check_choice("difficulty", difficulty, SHAPES)
        self.split: Split = check_choice("split", split, SPLITS)
        self.max_commands, self.invalid_penalty = check_game_settings(
            max_commands=SHAPES[self.difficulty].commands if max_commands is None else max_commands,
            invalid_penalty=invalid_penalty,
            admissible=admissible,
        )
        self.admissible = admissible
        self.info: Info = {}

    def reset(self, rng: np.random.Generator) -> str:
        seed = int(rng.integers(1 << 60))
        return self._begin(*_generate(seed, self.difficulty, self.split))

    def worked_example(self, rng: np.random.Generator) -> list[Exchange]:
        """A game of the train split, won by a shortest list of commands."""
        task = TextRooms(self.difficulty, admissible=self.admissible)
        prompt, commands = task.reset(rng), task.game.plan(task.game.start)
        assert commands  # every game can be won
        return played(prompt, commands, task.step)

    def begin(self, game: Game) -> str:
        """Start an episode of a given game and return the prompt.

        Raises:
            ValueError: for a game that is already won or cannot be won.
        """
        plan = game.plan(game.start)
        if not plan:
            raise ValueError(f"a game must take at least one command to win; this one has the plan {plan}")
        return self._begin(game, plan)

    def _begin(self, game: Game, plan: tuple[str, ...]) -> str:
        self.game, self.state, self.commands, self.invalid = game, game.start, 0, 0
        self.info = {
            "task_type": game.task_type,
            "goal": game.goal,
            "plan_length": len(plan),
            "difficulty": self.difficulty,
            "split": self.split,
            "dataset": "cola-textrooms-v0",
            "unique_id": hashlib.sha256(repr(game).encode()).hexdigest()[:16],
        }
        return f"{game.opening}{self._input_line()}"

    def step(self, text: str) -> Turn:
        command = " ".join(command_of(text).split())
        result = self.game.act(self.state, command)
        self.commands += 1
        reward = 0.0
        if result is None:
            self.invalid += 1
            response, reward = NOTHING, -self.invalid_penalty
        else:
            self.state, response = result
        won = self.game.won(self.state)
        over = not won and self.commands >= self.max_commands
        if won:
            response, reward = WON, 1.0
        elif over:
            response = f"{response} {OVER}"
        else:
            response += self._input_line()
        info = {
            "command": command,
            "valid": result is not None,
            "commands": self.commands,
            "invalid": self.invalid,
            "success": won,
        }
        text = response if text.endswith("\n") else f"\n{response}"
        return Turn(text=text, reward=reward, done=won or over, truncated=over, info=info)

    def _input_line(self) -> str:
        """The admissible commands, if they are listed, and the ``>`` of the next command."""
        if self.admissible == "none":
            return "\n>"
        return f"\nYou can: {', '.join(self.game.admissible(self.state))}.\n>"

    def snapshot(self) -> object:
        return self.game, self.state, self.commands, self.invalid, self.info

    def restore(self, state: object) -> None:
        assert isinstance(state, tuple)
        self.game, self.state, self.commands, self.invalid, self.info = state
