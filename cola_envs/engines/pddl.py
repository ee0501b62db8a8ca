"""Play ALFWorld's games on TextWorld's PDDL engine, many rows in one process.

Only engine workers import this module: it needs TextWorld, and reads domain and grammar from ALFWorld's
installation. (It does not import ``alfworld``, which would create a folder in the user's cache and set an
environment variable.)

It makes the steps of TextWorld's ``PddlEnv`` in the same order with the same library, so that responses,
admissible commands and ends are the same, but caches repeated work:

* the grammar is parsed once, not once per game; :mod:`cola_envs.engines.grammar` derives the texts;
* a problem is translated to SAS once (``PddlEnv`` translates it four times for the first episode), and again
  only for the planner; the last translations are kept;
* the command of an operator is derived once per game if its template depends on nothing that changes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from ctypes import CDLL
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import fast_downward
import textworld.logic
from fast_downward.translate.pddl.conditions import Atom as InitialAtom
from fast_downward.translate.pddl.tasks import Task
from mementos.core import _memento_cache as remembered
from textworld.envs.pddl import logic as pddl_logic
from textworld.envs.pddl import textgen
from textworld.generator.game import EntityInfo
from textworld.logic import Placeholder, Proposition, Variable

from cola_envs.engines.grammar import Grammar, parse_query, parse_symbols
from cola_envs.engines.protocol import GameError, Opening, Reply
from cola_envs.household.naming import display_names
from cola_envs.jsonl import parsed

NOTHING = "Nothing happens."
#: The goal in the grammar's rule "task", a sentence without symbols of the grammar.
_TASK = re.compile(r'(?<="rhs": ")Your task is to: ([^"#{}\[\]\\|\n]+)\.(?=")')
_GOAL = "Your task is to: {}."
_PLACE = _GOAL.format("UNKNOWN GOAL")  # the text in ALFWorld's grammar
_KEYS = ("pddl_domain", "grammar", "pddl_problem")


@dataclass(frozen=True)
class _Problem:
    """A translated problem, immutable."""

    domain: str
    text: str
    task: Task
    sas: bytes
    changing: frozenset[str]  # predicates that an action changes or an axiom derives


@dataclass
class _Game:
    """A row's game and its current state."""

    problem: _Problem
    state: _State
    grammar: Grammar
    entities: dict[str, EntityInfo]
    walkthrough: tuple[str, ...]
    operators: dict[str, _Operator] = field(default_factory=dict)
    valid: dict[str, tuple[fast_downward.Operator, _Operator]] = field(
        default_factory=dict
    )  # command -> (the library's operator, ours)
    admissible: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Operator:
    """An action with its arguments; ``command`` is None if it must be derived at every step."""

    template: str
    feedback: str
    mapping: dict[Placeholder, Variable]
    command: str | None


class _State(pddl_logic.PddlState):  # type: ignore[misc]  # TextWorld comes without types
    """TextWorld's state of a game, created from an existing translation."""

    def __init__(self, library: CDLL, problem: _Problem, logic: pddl_logic.GameLogic) -> None:
        # The parent's __init__ would translate the problem twice.
        textworld.logic.State.__init__(self, textworld.logic.GameLogic())
        self._logic = logic
        self.downward_lib = library
        self._actions = {action.name: action for action in problem.task.actions}
        self.name2type = {entity.name: entity.type_name for entity in problem.task.objects}
        library.load_sas(problem.sas)
        self.add_facts(
            Proposition(atom.predicate, [Variable(name, self.name2type[name]) for name in atom.args])
            for atom in problem.task.init
            if isinstance(atom, InitialAtom) and atom.predicate != "="
        )
        atoms = (pddl_logic.Atom * library.get_state_size())()
        library.get_state(atoms)
        facts = [atom.get_fact(self.name2type) for atom in atoms]
        self.add_facts(fact for fact in facts if not fact.is_negation)

    def applicable(self) -> Iterable[fast_downward.Operator]:
        """The operators that are applicable now, in the engine's order."""
        count = self.downward_lib.get_applicable_operators_count()
        operators: Iterable[fast_downward.Operator] = (fast_downward.Operator * count)()
        self.downward_lib.get_applicable_operators(operators)
        return operators

    def apply_operator(self, operator: fast_downward.Operator) -> None:
        """Apply an operator to this state and the library's."""
        effects = (pddl_logic.Atom * operator.nb_effect_atoms)()
        self.downward_lib.apply_operator(operator.id, effects)
        for effect in effects:
            fact = effect.get_fact(self.name2type)
            self.remove_fact(fact.negate())
            self.add_fact(fact)


class PddlEngine:
    """An :class:`~cola_envs.engines.protocol.Engine` of ALFWorld games.

    A game is the path of a ``game.tw-pddl`` file, or a dict with ``pddl_problem`` and either ``goal`` (the
    sentence; domain and grammar are ALFWorld's) or ``pddl_domain`` and ``grammar``, and optionally
    ``walkthrough`` (a list of commands).

    Args:
        keep: number of translated problems to cache.
        most_remembered: number of cached propositions above which TextWorld's cache is cleared when a game
            begins; 20,000 are about 20 MB.
    """

    def __init__(self, keep: int = 4, most_remembered: int = 20_000) -> None:
        self._keep = keep
        self._most_remembered = most_remembered
        self._problems: OrderedDict[tuple[str, str], _Problem] = OrderedDict()
        self._logics: dict[tuple[str, str], pddl_logic.GameLogic] = {}
        self._libraries: dict[int, CDLL] = {}
        self._games: dict[int, _Game] = {}

    # ---------------------------------------------------------------- the engine's interface

    def reset(self, row: int, game: object) -> Opening:
        """Begin a game.

        Raises:
            GameError: for a file that cannot be read or is not a game, or a problem that the engine refuses.
        """
        data, where = _read(game)
        self._games.pop(row, None)
        if len(remembered) > self._most_remembered:
            # TextWorld caches propositions without limit, thousands for each game.
            remembered.clear()
        if row not in self._libraries:
            # One library for each row: it holds one game, and a loaded library is never freed.
            self._libraries[row] = fast_downward.load_lib()
        try:
            current = self._begin(self._libraries[row], data)
        except GameError as error:
            raise GameError(f"{where}: {error}") from error
        except (Exception, SystemExit) as error:  # the translator raises many kinds of errors
            raise GameError(f"{where}: the engine refuses it: {type(error).__name__}: {error}") from error
        self._games[row] = current
        text = current.grammar.derive("#intro#", current.state, {}, current.entities)
        goal = text.rpartition("Your task is to: ")[2].rstrip().rstrip(".")
        return Opening(text, current.admissible, {"goal": goal})

    def step(self, row: int, command: str) -> Reply:
        """Execute a command; one that is not admissible changes nothing."""
        game = self._games[row]
        operators = game.valid.get(command.strip())
        if operators is None:
            return Reply(NOTHING, valid=False, admissible=game.admissible)
        applicable, operator = operators
        game.state.apply_operator(applicable)
        text = game.grammar.derive(operator.feedback, game.state, operator.mapping, game.entities)
        self._update_commands(game)
        won = bool(game.state.check_goal())
        return Reply(text, float(won), won, won, True, game.admissible)

    def walkthrough(self, row: int) -> tuple[str, ...]:
        """The game's ``walkthrough``, commands that win from the start; empty if the game has none."""
        return self._games[row].walkthrough

    def plan(self, row: int) -> tuple[str, ...]:
        """The planner's commands that win from the current state, or none. May take long."""
        game = self._games[row]
        problem = game.problem
        _, sas = fast_downward.pddl2sas(problem.domain, problem.text, optimize=True)
        game.state.downward_lib.load_sas_replan(sas.encode())
        return tuple(game.state.replan(game.entities))

    def close(self) -> None:
        """Unload the libraries."""
        self._games.clear()
        while self._libraries:
            fast_downward.close_lib(self._libraries.popitem()[1])

    # ---------------------------------------------------------------- beginning a game

    def _begin(self, library: CDLL, data: Mapping[str, Any]) -> _Game:
        logic, rules = self._logic(data)
        problem = self._problem(data["pddl_domain"], data["pddl_problem"])
        for kind in problem.task.types:
            with contextlib.suppress(ValueError):  # already added; a domain may declare "object" again
                logic.types.add(textworld.logic.Type(kind.name, kind.supertype_names))
        state = _State(library, problem, logic)
        entities = {
            var.name: EntityInfo(var.name, var.type) for fact in state.facts for var in fact.arguments
        }
        for name, shown in display_names(entities).items():
            entity = entities[name]
            entity.name, entity.definite, entity.indefinite = shown, "the", "a"
        grammar = Grammar(logic.grammar._rules, rules)
        game = _Game(problem, state, grammar, entities, tuple(data.get("walkthrough") or ()))
        self._update_commands(game)
        return game

    def _logic(self, data: Mapping[str, Any]) -> tuple[pddl_logic.GameLogic, dict[str, str]]:
        """The parsed grammar, shared by games that differ only in the rule "task", and this game's rule."""
        text = data["grammar"]
        goals = _TASK.findall(text)
        rules = {}
        if len(goals) == 1:
            text = _TASK.sub(_PLACE, text)
            rules = {"task": _GOAL.format(goals[0])}
        key = (data["pddl_domain"], text)
        if key not in self._logics:
            self._logics[key] = pddl_logic.GameLogic(domain=key[0], grammar=text)
        return self._logics[key], rules

    def _problem(self, domain: str, text: str) -> _Problem:
        key = (domain, text)
        if key not in self._problems:
            task, sas = fast_downward.pddl2sas(domain, text)
            changed = {effect.literal.predicate for action in task.actions for effect in action.effects}
            derived = {axiom.name for axiom in task.axioms}
            self._problems[key] = _Problem(domain, text, task, sas.encode(), frozenset(changed | derived))
        self._problems.move_to_end(key)
        while len(self._problems) > self._keep:
            self._problems.popitem(last=False)
        return self._problems[key]

    # ---------------------------------------------------------------- admissible commands

    def _update_commands(self, game: _Game) -> None:
        """Derive the admissible commands; of operators with the same text the engine's first counts."""
        game.valid = {}
        seen = set()
        for applicable in game.state.applicable():
            name = applicable.name
            if name in seen:
                continue
            seen.add(name)
            operator = game.operators.get(name)
            if operator is None:
                operator = game.operators[name] = self._operator(game, name)
            command = operator.command
            if command is None:
                command = game.grammar.derive(operator.template, game.state, operator.mapping, game.entities)
            game.valid.setdefault(command, (applicable, operator))
        game.admissible = tuple(sorted(game.valid))

    def _operator(self, game: _Game, name: str) -> _Operator:
        action, *arguments = name.split()
        parameters = game.state._actions[action].parameters
        mapping = {
            Placeholder(parameter.name.strip("?"), parameter.type_name): Variable(
                argument, parameter.type_name
            )
            for parameter, argument in zip(parameters, arguments, strict=False)
        }
        rule = game.state._logic.actions[action]
        command = None
        if _is_static(parse_symbols(rule.template), game.problem.changing):
            command = game.grammar.derive(rule.template, game.state, mapping, game.entities)
        return _Operator(rule.template, rule.feedback_rule, mapping, command)


def _is_static(symbols: Iterable[textgen.Symbol], changing: frozenset[str]) -> bool:
    """Whether a template's text stays the same during a game."""
    for symbol in symbols:
        if isinstance(symbol, textgen.ListSymbol):
            if not _is_static([symbol.symbol], changing):
                return False
        elif isinstance(symbol, textgen.ConditionalSymbol):
            conditions = parse_query(symbol.given).preconditions if symbol.given else ()
            if any(predicate.name.removeprefix("not_") in changing for predicate in conditions):
                return False
            if not _is_static([symbol.expression], changing):
                return False
        elif not isinstance(symbol, (textgen.TerminalSymbol, textgen.EvalSymbol)):
            return False
    return True


def _read(game: object) -> tuple[Mapping[str, Any], str]:
    """A game's complete data, and its name for error messages."""
    where = "this game"
    data = game
    if isinstance(game, str):
        where = game
        try:
            data = parsed(Path(game).read_bytes(), "it")
        except (OSError, ValueError) as error:
            raise GameError(f"{where}: not a readable game file: {error}") from error
    if not isinstance(data, Mapping):
        raise GameError(f"{where}: a game must be an object with {', '.join(_KEYS)}, got {data!r:.60}")
    if "goal" in data:
        domain, grammar = _shipped()
        data = {"pddl_domain": domain, "grammar": grammar.replace("UNKNOWN GOAL", data["goal"]), **data}
    for key in _KEYS:
        if not isinstance(data.get(key), str):
            raise GameError(f"{where}: the field {key!r} must be a string; a game has {', '.join(_KEYS)}")
    return data, where


@lru_cache(maxsize=1)
def _shipped() -> tuple[str, str]:
    """The texts of the domain and grammar in ALFWorld's installation."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("ALFWorld is not installed: pip install 'cola-rl[alfworld]'")
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    domain, grammar = (data / name for name in ("alfred.pddl", "alfred.twl2"))
    return domain.read_text(encoding="utf-8"), grammar.read_text(encoding="utf-8")
