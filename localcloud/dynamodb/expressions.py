"""The expressions of DynamoDB's calls, which moto parses and evaluates.

A parsed condition is cached by its text. Its values are filled in for each call, which holds the lock of the store.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

from moto.dynamodb.comparisons import AttributeValue, ConditionExpressionParser, Func, Op
from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.models.dynamo_type import DynamoType, Item
from moto.dynamodb.models.table import Table
from moto.dynamodb.models.utilities import dynamo_json_dump
from moto.dynamodb.parsing.executors import UpdateExpressionExecutor
from moto.dynamodb.parsing.expressions import UpdateExpressionParser
from moto.dynamodb.parsing.key_condition_expression import parse_expression
from moto.dynamodb.parsing.validators import UpdateExpressionValidator

from localcloud.dynamodb.values import Attributes, size_of

EXPRESSIONS: Final = {"ConditionExpression", "FilterExpression", "KeyConditionExpression", "UpdateExpression"}

_MAX_CHARACTERS: Final = 4_096  # of an expression

_PLACEHOLDERS: Final = {"ExpressionAttributeNames": "#", "ExpressionAttributeValues": ":"}

_PARAMETERS: Final = EXPRESSIONS | _PLACEHOLDERS.keys()

_PLACEHOLDER: Final = re.compile(r"[#:]\w+", re.ASCII)

# moto raises these for an expression or an operand that is malformed.
_MALFORMED: Final = (
    *(ArithmeticError, AssertionError, AttributeError, KeyError, IndexError, NotImplementedError),
    *(RecursionError, StopIteration, TypeError, ValueError),
)


@contextmanager
def _in_moto(what: str) -> Iterator[None]:
    try:
        yield
    except _MALFORMED as error:
        raise MockValidationException(f"Invalid {what}: {error}") from error


@lru_cache(maxsize=512)
def _placeholders(what: str, expression: str) -> frozenset[str]:
    if not expression.strip() or len(expression) > _MAX_CHARACTERS:
        raise MockValidationException(f"Invalid {what}: it must have 1 to {_MAX_CHARACTERS} characters")
    return frozenset(_PLACEHOLDER.findall(expression))


def check_placeholders(given: Attributes) -> None:
    """Raise `MockValidationException` unless a call defines exactly the names and values that it uses."""
    if _PARAMETERS.isdisjoint(given):
        return
    used = set[str]().union(*(_placeholders(name, given[name]) for name in EXPRESSIONS & given.keys()))
    for member, mark in _PLACEHOLDERS.items():
        wanted, defined = {each for each in used if each[0] == mark}, given.get(member, {}).keys()
        if wanted != defined or (member in given and not defined):
            wrong = min(wanted ^ defined, default="it is empty")
            raise MockValidationException(f"{member} must define exactly what expressions use: {wrong}")
    if not all(type(name) is str for name in given.get("ExpressionAttributeNames", {}).values()):
        raise MockValidationException("ExpressionAttributeNames must be texts")
    size_of(given.get("ExpressionAttributeValues", {}))


@lru_cache(maxsize=512)
def _parsed_condition(
    what: str, expression: str, names: tuple[tuple[str, str], ...]
) -> tuple[Op | Func, list[tuple[str, AttributeValue]]]:
    marks = {each: {each: ""} for each in _placeholders(what, expression)}  # a value's type is its name
    with _in_moto(what):
        parsed = ConditionExpressionParser(" ".join(expression.split()), dict(names), marks).parse()
    return parsed, [(each.type, each) for each in _values_in(parsed)]


def _values_in(node: Any) -> Iterator[AttributeValue]:
    if isinstance(node, AttributeValue):
        yield node
    for each in (node.lhs, node.rhs) if isinstance(node, Op) else node.arguments if isinstance(node, Func) else ():
        yield from _values_in(each)


def conditions(given: Attributes, what: str, items: Iterable[Attributes | None]) -> list[bool]:
    """Return whether an expression of a call holds for each item, or its absence; the caller has the store's lock."""
    names = tuple(given.get("ExpressionAttributeNames", {}).items())
    parsed, values = _parsed_condition(what, given[what], names)
    for name, each in values:
        [(each.type, each.value)] = given["ExpressionAttributeValues"][name].items()
    with _in_moto(what):
        return [bool(parsed.expr(None if item is None else _moto_item(item))) for item in items]


def _moto_item(attributes: Attributes) -> Item:
    item = object.__new__(Item)  # the constructor measures the item for each attribute
    item.attrs = {name: DynamoType(value) for name, value in attributes.items()}
    return item


_parsed_update = lru_cache(maxsize=512)(UpdateExpressionParser.make)

_SETTING: Final = r"(#\w+) = (?:if_not_exists\((#\w+), )?(:\w+)\)?"
_ADDITION: Final = r"(#\w+) (:\w+)"
_PLAIN_UPDATE: Final = re.compile(
    rf"(?:ADD ({_ADDITION}(?:, {_ADDITION})*))?(?: ?SET ({_SETTING}(?:, {_SETTING})*))?", re.ASCII
)
_INTEGER: Final = re.compile(r"-?\d{1,30}", re.ASCII)


@lru_cache(maxsize=512)
def _plain_actions(expression: str) -> tuple[tuple[str, str, str], ...] | None:
    """Return each attribute, `+`, `=` or `?` for how it changes, and the value; None if the update is not so plain.

    moto takes a hundred times as long for an update as for the rest of its call.
    """
    if (found := _PLAIN_UPDATE.fullmatch(expression)) is None:
        return None
    additions = [(name, "+", value) for name, value in re.findall(_ADDITION, found[1] or "")]
    settings = re.findall(_SETTING, expression.partition("SET ")[2])
    if any(other not in {"", name} for name, other, _ in settings):
        return None
    return (*additions, *((name, "?" if other else "=", value) for name, other, value in settings))


def _plainly_updated(table: Table, given: Attributes, old: Attributes) -> Attributes | None:
    """Return what a plain update makes of an item, or None if moto must tell."""
    names, values = given.get("ExpressionAttributeNames", {}), given.get("ExpressionAttributeValues", {})
    actions = [
        (names[name], how, values[value]) for name, how, value in _plain_actions(given["UpdateExpression"]) or ()
    ]
    new, attributes = dict(old), {name for name, *_ in actions}
    if not actions or len(attributes) < len(actions) or attributes.intersection(table.table_key_attrs):
        return None
    for name, how, value in actions:
        if how == "+":
            numbers = [each.get("N", "") for each in (old.get(name, {"N": "0"}), value)]
            if not all(map(_INTEGER.fullmatch, numbers)):
                return None
            new[name] = {"N": str(sum(map(int, numbers)))}
        elif how == "=" or name not in old:
            new[name] = value
    return new


def updated(table: Table, given: Attributes, old: Attributes) -> Attributes:
    """Return what an update makes of an item; one that does not exist has its key only."""
    if (new := _plainly_updated(table, given, old)) is not None:
        return new
    names, values = given.get("ExpressionAttributeNames", {}), given.get("ExpressionAttributeValues", {})
    item = _moto_item(json.loads(json.dumps(old)))  # moto changes sets and lists in place
    with _in_moto("UpdateExpression"):
        parsed = _parsed_update(given["UpdateExpression"].strip())
        valid = UpdateExpressionValidator(parsed, names, values, item, table).validate()
        valid.normalize()
        UpdateExpressionExecutor(valid, item, names).execute()
    return dict(json.loads(dynamo_json_dump(item.attrs)))


def key_conditions(given: Attributes, schema: list[dict[str, str]]) -> list[tuple[str, str, list[Attributes]]]:
    """Return the conditions of a query on keys: name, comparison in capitals, and values."""
    elements = tuple((each["AttributeName"], each["KeyType"]) for each in schema)
    names, values = (
        tuple(given.get("ExpressionAttributeNames", {}).items()),
        given.get("ExpressionAttributeValues", {}),
    )
    found = _parsed_keys(given["KeyConditionExpression"], names, elements)
    return [(name, comparison, [values[each] for each in marks]) for name, comparison, marks in found]


@lru_cache(maxsize=512)
def _parsed_keys(
    expression: str, names: tuple[tuple[str, str], ...], schema: tuple[tuple[str, str], ...]
) -> list[tuple[str, str, list[str]]]:
    elements = [{"AttributeName": name, "KeyType": kind} for name, kind in schema]
    placeholders = _placeholders("KeyConditionExpression", expression)
    marks = {each: {each: ""} for each in placeholders if each.startswith(":")}  # a value's type is its name
    with _in_moto("KeyConditionExpression"):
        equal, last, _ = parse_expression(" ".join(expression.split()), marks, dict(names), elements)
    found = [(name, "=", [value]) for name, value in equal] + last
    if any(each not in marks.values() for *_, compared in found for each in compared):  # moto takes a name as one
        raise MockValidationException("Invalid KeyConditionExpression: keys can be compared with values only")
    return [(name, comparison, [min(each) for each in compared]) for name, comparison, compared in found]
