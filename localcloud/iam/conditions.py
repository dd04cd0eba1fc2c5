"""The conditions of a statement, and whether a request meets them.

As https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html
say. What is not known here is an error: a condition that is passed over would allow, or deny, in silence.
"""

import ipaddress
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from localcloud.iam.wildcards import arn_matches, matches

Context = Mapping[str, tuple[str, ...]]
"""What is known of a request, by condition keys in lower case; a key without values is as one that is missing."""

Test = Callable[[str, str], bool]
"""Whether a value of the request is what a value of the policy asks for."""


class UnsupportedPolicyError(ValueError):
    """Raised when a policy says what is not evaluated here, or is none; the message names it."""


def _numbers(compare: Callable[[float, float], bool]) -> Test:
    return lambda value, wanted: compare(float(value), float(wanted))


def _moment(text: str) -> datetime:
    if text.lstrip("-").isdigit():
        return datetime.fromtimestamp(int(text), UTC)
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _dates(compare: Callable[[datetime, datetime], bool]) -> Test:
    return lambda value, wanted: compare(_moment(value), _moment(wanted))


def _same_letters(value: str, wanted: str) -> bool:
    return value.casefold() == wanted.casefold()


def _in_network(value: str, wanted: str) -> bool:
    return ipaddress.ip_address(value) in ipaddress.ip_network(wanted, strict=False)


_NULL = "Null"
_TESTS: dict[str, Test] = {
    "StringEquals": operator.eq,
    "StringEqualsIgnoreCase": _same_letters,
    "StringLike": lambda value, wanted: matches(wanted, value),
    "NumericEquals": _numbers(operator.eq),
    "NumericLessThan": _numbers(operator.lt),
    "NumericLessThanEquals": _numbers(operator.le),
    "NumericGreaterThan": _numbers(operator.gt),
    "NumericGreaterThanEquals": _numbers(operator.ge),
    "DateEquals": _dates(operator.eq),
    "DateLessThan": _dates(operator.lt),
    "DateLessThanEquals": _dates(operator.le),
    "DateGreaterThan": _dates(operator.gt),
    "DateGreaterThanEquals": _dates(operator.ge),
    "Bool": _same_letters,
    "IpAddress": _in_network,
    "ArnEquals": lambda value, wanted: arn_matches(wanted, value),
    "ArnLike": lambda value, wanted: arn_matches(wanted, value),
}
_NEGATED = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnEquals",
    "ArnNotLike": "ArnLike",
}
OPERATORS = frozenset({*_TESTS, *_NEGATED, _NULL})
"""Those that are known, without what stands before or behind them."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: an operator, a key of the context, and values of which one is enough.

    Attributes:
        operator: one of `OPERATORS`.
        key: in lower case.
        values: what the policy names; with a negated operator none of them may be met.
        of: ``ForAllValues`` or ``ForAnyValue`` for a key with several values in the request, else empty.
        if_exists: the condition is met where the request lacks the key.
    """

    operator: str
    key: str
    values: tuple[str, ...]
    of: str = ""
    if_exists: bool = False

    def holds(self, context: Context) -> bool:
        """Return True if a request meets it.

        Raises:
            UnsupportedPolicyError: a value cannot be compared by this operator, such as a word by a numeric one.
        """
        found = context.get(self.key, ())
        if self.operator == _NULL:
            return ("true" if not found else "false") in (value.lower() for value in self.values)
        if not found:
            return self._holds_of_nothing()
        met = [self._is_met(value) for value in found]
        # Without a word before it, a negated operator must hold of every value that there is, any other of one.
        every = self.of == "ForAllValues" or (not self.of and self.operator in _NEGATED)
        return all(met) if every else any(met)

    def _holds_of_nothing(self) -> bool:
        if self.if_exists or self.of == "ForAllValues":
            return True
        return self.operator in _NEGATED and self.of != "ForAnyValue"

    def _is_met(self, value: str) -> bool:
        negated = self.operator in _NEGATED
        test = _TESTS[_NEGATED.get(self.operator, self.operator)]
        try:
            return any(test(value, wanted) for wanted in self.values) != negated
        except ValueError as error:
            raise UnsupportedPolicyError(f"{self.operator} cannot compare {self.key}={value!r}: {error}") from error


def parse_conditions(element: Any) -> tuple[Condition, ...]:
    """Return the conditions of a statement's ``Condition``.

    Raises:
        UnsupportedPolicyError: an operator that is not known, a policy variable, or no conditions at all.
    """
    if not isinstance(element, Mapping) or not all(isinstance(keys, Mapping) for keys in element.values()):
        raise UnsupportedPolicyError(f"Condition {element!r} is no map of operators to keys and values")
    return tuple(
        _condition(name, key, value_texts(values)) for name, keys in element.items() for key, values in keys.items()
    )


def _condition(name: str, key: str, values: tuple[str, ...]) -> Condition:
    of, colon, bare = name.rpartition(":")
    known = bare.removesuffix("IfExists")
    if (colon and of not in {"ForAllValues", "ForAnyValue"}) or known not in OPERATORS:
        raise UnsupportedPolicyError(f"the condition operator {name!r} is not known; there are {sorted(OPERATORS)}")
    if known == _NULL and (of or bare != known):
        raise UnsupportedPolicyError(f"{name!r}: Null stands alone")
    return Condition(known, key.lower(), values, of, bare != known)


def value_texts(values: Any) -> tuple[str, ...]:
    """Return one value of a policy, or a list of them, as texts.

    Raises:
        UnsupportedPolicyError: it is neither, or holds a policy variable.
    """
    listed = values if isinstance(values, list | tuple) else [values]
    if not all(isinstance(value, str | int | float) for value in listed):
        raise UnsupportedPolicyError(f"{values!r} is no value, and no list of them")
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in listed)
    if variables := [text for text in texts if "${" in text]:
        raise UnsupportedPolicyError(f"policy variables are not evaluated here: {variables}")
    return texts
