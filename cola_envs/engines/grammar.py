"""Evaluate TextWorld's grammar of feedback: the same text, several times faster, and without ``eval``.

TextWorld's ``ContextSensitiveGrammar`` parses a template at every use, copies the whole context at every
symbol and passes expressions of a game file to ``eval``. Here each text is parsed once (by TextWorld's
parser), a context is two dicts that are never changed, and only a few forms of expressions are allowed.

Only engine workers import this module, because it needs TextWorld.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from textworld.envs.pddl import textgen
from textworld.generator.game import EntityInfo
from textworld.logic import Placeholder, Rule, State, Variable

from cola_envs.engines.protocol import GameError
from cola_envs.shown import shown_line

#: The context of a symbol: (placeholder -> variable, placeholder's name -> entity).
Context = tuple[Mapping[Placeholder, Variable], Mapping[str, EntityInfo]]
#: Variable's name -> entity.
Entities = Mapping[str, EntityInfo]
Expression = Callable[[Mapping[str, EntityInfo]], Any]


@lru_cache(maxsize=4096)
def parse_query(text: str) -> Rule:
    """Parse a condition such as ``holds(a:agent, o:object)``; cached."""
    return Rule.parse_conjunctive_query(text)


@lru_cache(maxsize=4096)
def parse_symbols(text: str) -> Sequence[textgen.Symbol]:
    """Parse a template; cached, so the symbols must not be changed."""
    symbols: Sequence[textgen.Symbol] = textgen._parse_and_convert(text, rule_name="symbols")
    return symbols


@lru_cache(maxsize=4096)
def compile_expression(text: str) -> Expression:
    """Compile an expression of names, attributes, strings, ``+`` and ``or``; cached.

    Raises:
        GameError: for any other form, because a game file must not run code.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise GameError(f"the grammar's expression {text!r} is not well formed: {error}") from error
    return _compiled(tree, text)


def _compiled(node: ast.expr, text: str) -> Expression:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        constant = node.value
        return lambda names: constant
    if isinstance(node, ast.Name):
        name = node.id
        return lambda names: names[name]
    if isinstance(node, ast.Attribute) and not node.attr.startswith("_"):
        owner, attribute = _compiled(node.value, text), node.attr
        return lambda names: getattr(owner(names), attribute)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _compiled(node.left, text), _compiled(node.right, text)
        return lambda names: left(names) + right(names)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        parts = [_compiled(value, text) for value in node.values]

        def either(names: Mapping[str, EntityInfo]) -> Any:
            value = None
            for part in parts:
                value = part(names)
                if value:
                    break
            return value

        return either
    raise GameError(
        f"the grammar's expression {text!r} is not allowed: use names, attributes, strings, + and or"
    )


class Grammar:
    """The grammar rules of one game.

    Args:
        rules: name -> alternatives, each with ``rhs`` (symbols) and ``condition`` (text, or empty), from
            TextWorld's parser. They are shared between games and never changed.
        own: name -> text of the rules that this game replaces.
    """

    def __init__(self, rules: Mapping[str, Sequence[textgen.ProductionRule]], own: Mapping[str, str]) -> None:
        self._rules = rules
        self._own = own

    def derive(
        self, template: str, state: State, mapping: Mapping[Placeholder, Variable], entities: Entities
    ) -> str:
        """The text of a template.

        Args:
            template: such as ``#look.feedback#`` or ``open {r}``.
            state: answers queries about the facts (``all_assignments``).
            mapping: placeholder -> variable.
            entities: variable's name -> entity.

        Raises:
            GameError: for a missing rule, or an expression that is not allowed.
        """
        context = (mapping, {placeholder.name: entities[var.name] for placeholder, var in mapping.items()})
        return "".join(self._text(symbol, context, state, entities) for symbol in parse_symbols(template))

    def _text(self, symbol: textgen.Symbol, context: Context, state: State, entities: Entities) -> str:
        if isinstance(symbol, textgen.TerminalSymbol):
            return str(symbol.symbol)
        if isinstance(symbol, textgen.NonterminalSymbol):
            return self._rule(str(symbol.symbol), context, state, entities)
        if isinstance(symbol, textgen.EvalSymbol):
            return self._value(symbol.expression, context)
        if isinstance(symbol, textgen.ListSymbol):
            return self._list(self._each(symbol.symbol, context, state, entities), context, state, entities)
        if isinstance(symbol, textgen.ConditionalSymbol):
            return "".join(self._each(symbol, context, state, entities))
        raise GameError(f"the grammar has a symbol of the unknown kind {type(symbol).__name__}")

    def _value(self, expression: str, context: Context) -> str:
        try:
            return str(compile_expression(expression)(context[1]))
        except (KeyError, AttributeError, TypeError) as error:
            raise GameError(
                f"the grammar's expression {expression!r} has no value here: {error!r}"
            ) from error

    def _rule(self, name: str, context: Context, state: State, entities: Entities) -> str:
        if name in self._own:
            return self._own[name]
        for rule in self._rules.get(name, ()):
            if not rule.condition or any(
                True for _ in state.all_assignments(parse_query(rule.condition), context[0])
            ):
                return "".join(self._text(symbol, context, state, entities) for symbol in rule.rhs)
        raise GameError(f"the grammar has no rule #{shown_line(name)}# that applies")

    def _each(self, symbol: textgen.Symbol, context: Context, state: State, entities: Entities) -> list[str]:
        """The texts of a symbol, one for each assignment that fulfils its condition."""
        if isinstance(symbol, textgen.EvalSymbol):
            return [self._value(symbol.expression, context)]
        if isinstance(symbol, textgen.NonterminalSymbol):
            raise GameError(f"the grammar lists #{symbol.symbol}# without a condition")
        contexts = [context]
        if symbol.given:
            contexts = []
            for assignment in state.all_assignments(parse_query(symbol.given), context[0]):
                named = {placeholder.name: entities[var.name] for placeholder, var in assignment.items()}
                contexts.append(({**context[0], **assignment}, {**context[1], **named}))
        return [self._text(symbol.expression, each, state, entities) for each in contexts]

    def _list(self, parts: list[str], context: Context, state: State, entities: Entities) -> str:
        if not parts:
            return self._rule("list_empty", context, state, entities)
        if len(parts) == 1:
            return parts[0]
        last = self._rule("list_last_separator", context, state, entities)
        if len(parts) == 2:
            return parts[0] + last + parts[1]
        return self._rule("list_separator", context, state, entities).join(parts[:-1]) + last + parts[-1]
