"""ALFWorld's games on TextWorld's PDDL engine: one engine for many rows.

Imported in a worker alone: it needs TextWorld, and reads ALFWorld's domain and grammar where that is
installed. (Importing ``alfworld`` itself would make a folder in the user's cache and set an environment
variable; nothing here needs it.)

What TextWorld's ``PddlEnv`` does is done here in the same order and with the same library, so that
feedback, admissible commands and ends are the same; only what it does again and again is kept instead:

* the grammar is parsed once, not once a game; feedback is derived by :mod:`cola_envs.engines.grammar`;
* a problem is translated to SAS once where it is played (``PddlEnv`` translates four times for its first
  episode), again for the planner only when that is asked; the last translations are kept;
* the command of an operator is derived once a game where its template depends on nothing that changes.
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
#: The goal in a grammar's rule "task": a plain sentence, which the grammar would leave as it is.
_TASK = re.compile(r'(?<="rhs": ")Your task is to: ([^"#{}\[\]\\|\n]+)\.(?=")')
_GOAL = "Your task is to: {}."
_PLACE = _GOAL.format("UNKNOWN GOAL")  # as the grammar is shipped
_KEYS = ("pddl_domain", "grammar", "pddl_problem")


@dataclass(frozen=True)
class _Problem:
    """A translated problem; nothing changes it."""

    domain: str
    text: str
    task: Task
    sas: bytes
    changing: frozenset[str]  # predicates that an action changes or an axiom derives


@dataclass
class _Game:
    """A row's game as it stands."""

    problem: _Problem
    state: _State
    grammar: Grammar
    entities: dict[str, EntityInfo]
    walkthrough: tuple[str, ...]
    operators: dict[str, _Operator] = field(default_factory=dict)
    valid: dict[str, tuple[fast_downward.Operator, _Operator]] = field(
        default_factory=dict
    )  # by command, the library's and ours
    admissible: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Operator:
    """An action with its arguments; ``command`` is None where it must be derived at every step."""

    template: str
    feedback: str
    mapping: dict[Placeholder, Variable]
    command: str | None


class _State(pddl_logic.PddlState):  # type: ignore[misc]  # TextWorld comes without types
    """TextWorld's state of a game, begun from a translation that is there already."""

    def __init__(self, library: CDLL, problem: _Problem, logic: pddl_logic.GameLogic) -> None:
        # Not the parent's, which would translate twice; and the grandparent takes no logic of this kind.
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
        """The operators that can be applied now, in the engine's order."""
        count = self.downward_lib.get_applicable_operators_count()
        found: Iterable[fast_downward.Operator] = (fast_downward.Operator * count)()
        self.downward_lib.get_applicable_operators(found)
        return found

    def apply_operator(self, operator: fast_downward.Operator) -> None:
        """Apply one of them, here and in the library."""
        effects = (pddl_logic.Atom * operator.nb_effect_atoms)()
        self.downward_lib.apply_operator(operator.id, effects)
        for effect in effects:
            fact = effect.get_fact(self.name2type)
            self.remove_fact(fact.negate())
            self.add_fact(fact)


class PddlEngine:
    """Games of ALFWorld, from their files or as dicts.

    A game is a path of a ``game.tw-pddl`` file, or a dict with ``pddl_problem`` and, either, ``goal`` (the
    sentence; domain and grammar are ALFWorld's), or ``pddl_domain`` and ``grammar``. ``walkthrough`` (a list
    of commands) may be there too.

    Args:
        keep: how many translated problems are kept beside those that are played.
        most_remembered: how many propositions TextWorld may remember before it is made to forget them when
            a game begins; 20,000 are about 20 MB.
    """

    def __init__(self, keep: int = 4, most_remembered: int = 20_000) -> None:
        self._keep = keep
        self._most_remembered = most_remembered
        self._problems: OrderedDict[tuple[str, str], _Problem] = OrderedDict()
        self._logics: dict[tuple[str, str], pddl_logic.GameLogic] = {}
        self._libraries: dict[int, CDLL] = {}
        self._games: dict[int, _Game] = {}

    # ---------------------------------------------------------------- the engine's verbs

    def reset(self, row: int, game: object) -> Opening:
        """Begin a game.

        Raises:
            GameError: a file that cannot be read or is no game, or a problem that the engine refuses.
        """
        data, where = _read(game)
        self._games.pop(row, None)
        if len(remembered) > self._most_remembered:
            # TextWorld shares equal propositions, and never lets go of one: some thousands a game.
            remembered.clear()
        if row not in self._libraries:
            # One a row for good: every library that is loaded stays in memory, and it holds one game.
            self._libraries[row] = fast_downward.load_lib()
        try:
            begun = self._begin(self._libraries[row], data)
        except GameError as error:
            raise GameError(f"{where}: {error}") from error
        except (Exception, SystemExit) as error:  # whatever the translator makes of a broken problem
            raise GameError(f"{where}: the engine refuses it: {type(error).__name__}: {error}") from error
        self._games[row] = begun
        text = begun.grammar.derive("#intro#", begun.state, {}, begun.entities)
        goal = text.rpartition("Your task is to: ")[2].rstrip().rstrip(".")
        return Opening(text, begun.admissible, {"goal": goal})

    def step(self, row: int, command: str) -> Reply:
        """Send a command; one that is not admissible changes nothing."""
        game = self._games[row]
        found = game.valid.get(command.strip())
        if found is None:
            return Reply(NOTHING, valid=False, admissible=game.admissible)
        applicable, operator = found
        game.state.apply_operator(applicable)
        text = game.grammar.derive(operator.feedback, game.state, operator.mapping, game.entities)
        self._look_round(game)
        won = bool(game.state.check_goal())
        return Reply(text, float(won), won, won, True, game.admissible)

    def walkthrough(self, row: int) -> tuple[str, ...]:
        """The commands from the beginning that the game's own data name; empty where they name none."""
        return self._games[row].walkthrough

    def plan(self, row: int) -> tuple[str, ...]:
        """Commands that win from here, by the planner; empty where it finds none. May take long."""
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
        logic, own = self._logic(data)
        problem = self._problem(data["pddl_domain"], data["pddl_problem"])
        for kind in problem.task.types:
            with contextlib.suppress(ValueError):  # known already; a domain may declare "object" once more
                logic.types.add(textworld.logic.Type(kind.name, kind.supertype_names))
        state = _State(library, problem, logic)
        entities = {
            var.name: EntityInfo(var.name, var.type) for fact in state.facts for var in fact.arguments
        }
        for name, shown in display_names(entities).items():
            entity = entities[name]
            entity.name, entity.definite, entity.indefinite = shown, "the", "a"
        grammar = Grammar(logic.grammar._rules, own)
        game = _Game(problem, state, grammar, entities, tuple(data.get("walkthrough") or ()))
        self._look_round(game)
        return game

    def _logic(self, data: Mapping[str, Any]) -> tuple[pddl_logic.GameLogic, dict[str, str]]:
        """The parsed grammar, and the one rule in which this game's differs from others of its kind."""
        text = data["grammar"]
        goals = _TASK.findall(text)
        own = {}
        if len(goals) == 1:
            text = _TASK.sub(_PLACE, text)
            own = {"task": _GOAL.format(goals[0])}
        key = (data["pddl_domain"], text)
        if key not in self._logics:
            self._logics[key] = pddl_logic.GameLogic(domain=key[0], grammar=text)
        return self._logics[key], own

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

    # ---------------------------------------------------------------- what can be done now

    def _look_round(self, game: _Game) -> None:
        """Find the commands that are understood now; of two with one text the engine's first counts."""
        game.valid = {}
        seen = set()
        for applicable in game.state.applicable():
            name = applicable.name
            if name in seen:
                continue
            seen.add(name)
            known = game.operators.get(name)
            if known is None:
                known = game.operators[name] = self._operator(game, name)
            command = known.command
            if command is None:
                command = game.grammar.derive(known.template, game.state, known.mapping, game.entities)
            game.valid.setdefault(command, (applicable, known))
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
    """Whether a template's text can never change in the course of a game."""
    for symbol in symbols:
        if isinstance(symbol, textgen.ListSymbol):
            if not _is_static([symbol.symbol], changing):
                return False
        elif isinstance(symbol, textgen.ConditionalSymbol):
            asked = parse_query(symbol.given).preconditions if symbol.given else ()
            if any(predicate.name.removeprefix("not_") in changing for predicate in asked):
                return False
            if not _is_static([symbol.expression], changing):
                return False
        elif not isinstance(symbol, (textgen.TerminalSymbol, textgen.EvalSymbol)):
            return False
    return True


def _read(game: object) -> tuple[Mapping[str, Any], str]:
    """A game's data, complete, and what to call it in an error."""
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
    """The texts of ALFWorld's domain and grammar."""
    spec = importlib.util.find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("ALFWorld is not installed: pip install 'cola-rl[alfworld]'")
    data = Path(next(iter(spec.submodule_search_locations))) / "data"
    domain, grammar = (data / name for name in ("alfred.pddl", "alfred.twl2"))
    return domain.read_text(encoding="utf-8"), grammar.read_text(encoding="utf-8")
