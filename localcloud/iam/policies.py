"""Policy documents: statements, their wildcards and conditions, and the decision about one permission check.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html (wildcards)
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html (one account)

An explicit Deny wins, then any Allow; otherwise the action is denied. An element that is unknown here is an error: a
condition that was ignored would silently allow or deny.
"""

import functools
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any, Literal

Context = Mapping[str, tuple[str, ...]]
"""The values of a request by condition key in lower case; a key without values counts as missing."""

Test = Callable[[str, str], bool]
"""Returns True if a value of the request matches a value of the policy."""

_MEANINGS = {"*": ".*", "?": "."}

_ARN_PARTS = 6


def matches(pattern: str, text: str) -> bool:
    """Return True if a pattern matches all of `text`; ``*`` is any text, ``?`` any character, case matters."""
    return _compiled(pattern).fullmatch(text) is not None


def arn_matches(pattern: str, arn: str) -> bool:
    """Return True if a pattern matches an ARN part by part, as the operators ``ArnEquals`` and ``ArnLike`` do."""
    patterns, parts = pattern.split(":", _ARN_PARTS - 1), arn.split(":", _ARN_PARTS - 1)
    whole = len(patterns) == len(parts) == _ARN_PARTS
    return whole and all(matches(each, part) for each, part in zip(patterns, parts, strict=True))


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_MEANINGS.get(char, re.escape(char)) for char in pattern), re.DOTALL)


class UnsupportedPolicyError(ValueError):
    """Raised when a policy is invalid or has an element that is not evaluated here; the message names it."""


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
    "IpAddress": lambda value, wanted: ip_address(value) in ip_network(wanted, strict=False),
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
"""The known operators, without prefix and suffix."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: an operator, a key of the context, and values of which one must match.

    Attributes:
        operator: one of `OPERATORS`.
        key: in lower case.
        values: of the policy; with a negated operator none of them may match.
        of: ``ForAllValues`` or ``ForAnyValue`` for a key with several values in the request, else empty.
        if_exists: whether the condition is met if the request lacks the key.
    """

    operator: str
    key: str
    values: tuple[str, ...]
    of: str = ""
    if_exists: bool = False

    def holds(self, context: Context) -> bool:
        """Return True if a request meets the condition.

        Raises:
            UnsupportedPolicyError: this operator cannot compare a value, such as a numeric one a word.
        """
        found = context.get(self.key, ())
        if self.operator == _NULL:
            return ("true" if not found else "false") in (value.lower() for value in self.values)
        negated = self.operator in _NEGATED
        if not found:
            return self.if_exists or self.of == "ForAllValues" or (negated and self.of != "ForAnyValue")
        test, met = _TESTS[_NEGATED.get(self.operator, self.operator)], []
        for value in found:
            try:
                met.append(any(test(value, wanted) for wanted in self.values) != negated)
            except ValueError as error:
                message = f"{self.operator} cannot compare {self.key}={value!r}: {error}"
                raise UnsupportedPolicyError(message) from error
        # Without a prefix, a negated operator must hold for all values of the request, any other for one.
        return all(met) if self.of == "ForAllValues" or (not self.of and negated) else any(met)


def parse_conditions(element: Any) -> tuple[Condition, ...]:
    """Return the conditions of a statement's ``Condition``.

    Raises:
        UnsupportedPolicyError: an operator is unknown, a value has a policy variable, or the element is invalid.
    """
    if not isinstance(element, Mapping) or not all(isinstance(keys, Mapping) for keys in element.values()):
        raise UnsupportedPolicyError(f"Condition {element!r} is no map of operators to keys and values")
    conditions = []
    for name, key, values in ((name, *each) for name, keys in element.items() for each in keys.items()):
        texts = value_texts(values)
        of, colon, bare = name.rpartition(":")
        known = bare.removesuffix("IfExists")
        if (colon and of not in {"ForAllValues", "ForAnyValue"}) or known not in OPERATORS:
            raise UnsupportedPolicyError(
                f"the condition operator {name!r} is not known; there are {sorted(OPERATORS)}"
            )
        if known == _NULL and (of or bare != known):
            raise UnsupportedPolicyError(f"{name!r}: Null stands alone")
        conditions.append(Condition(known, key.lower(), texts, of, bare != known))
    return tuple(conditions)


def value_texts(values: Any) -> tuple[str, ...]:
    """Return one value of a policy, or a list of them, as texts; policy variables are not supported."""
    listed = values if isinstance(values, list | tuple) else [values]
    if not all(isinstance(value, str | int | float) for value in listed):
        raise UnsupportedPolicyError(f"{values!r} is no value, and no list of them")
    texts = tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in listed)
    if variables := [text for text in texts if "${" in text]:
        raise UnsupportedPolicyError(f"policy variables are not evaluated here: {variables}")
    return texts


Effect = Literal["Allow", "Deny"]

_ELEMENTS = frozenset(
    {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal"}  # no NotPrincipal
)


@dataclass(frozen=True, slots=True)
class PermissionCheck:
    """A permission that a request needs.

    Attributes:
        action: such as ``s3:GetObject``.
        resource: an ARN, or ``*`` for an action without resources.
        context: the values of condition keys.
    """

    action: str
    resource: str
    context: Context


@dataclass(frozen=True, slots=True)
class PatternMatcher:
    """Patterns of which one must match, or, with `other_than`, none may match."""

    patterns: tuple[str, ...]
    other_than: bool = False

    def selects(self, text: str) -> bool:
        """Return True if the text is selected."""
        return any(matches(pattern, text) for pattern in self.patterns) != self.other_than


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        sid: its name, or ``#2`` for the second statement of a document if it has no name.
        effect: Allow or Deny.
        actions: in lower case, since case does not matter there.
        resources: ARNs; all resources in the trust policy of a role.
        conditions: all must hold.
        principals: of a trust policy, each as kind and value: ``("AWS", "arn:…")``.
    """

    sid: str
    effect: Effect
    actions: PatternMatcher
    resources: PatternMatcher
    conditions: tuple[Condition, ...] = ()
    principals: tuple[tuple[str, str], ...] = ()

    def applies_to(self, check: PermissionCheck) -> bool:
        """Return True if the statement applies to a check, without regard to its principal."""
        return (
            self.actions.selects(check.action.lower())
            and self.resources.selects(check.resource)
            and all(condition.holds(check.context) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class IamPolicy:
    """A policy of a role, with its name."""

    name: str
    statements: tuple[Statement, ...]


@functools.lru_cache(maxsize=512)
def parse_policy(name: str, document: str) -> IamPolicy:
    """Return the policy of a JSON document.

    Raises:
        UnsupportedPolicyError: the policy is invalid or cannot be evaluated; the message names policy and reason.
    """
    try:
        parsed = json.loads(document)
        statements = parsed["Statement"]
        listed = statements if isinstance(statements, list) else [statements]
        return IamPolicy(name, tuple(_statement(number, each) for number, each in enumerate(listed, 1)))
    except UnsupportedPolicyError as error:
        raise UnsupportedPolicyError(f"the policy {name!r} cannot be evaluated: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedPolicyError(f"the policy {name!r} is no policy document: {error!r}") from error


def _statement(number: int, element: Mapping[str, Any]) -> Statement:
    if unknown := sorted(set(element) - _ELEMENTS):
        raise UnsupportedPolicyError(f"the elements {unknown} of a statement are not known here")
    if element["Effect"] not in {"Allow", "Deny"}:
        raise UnsupportedPolicyError(f"the effect {element['Effect']!r} must be Allow or Deny")
    principals = element.get("Principal", {})
    if principals == "*":
        principals = {"AWS": "*"}
    return Statement(
        sid=element.get("Sid") or f"#{number}",
        effect=element["Effect"],
        actions=_selection(element, "Action", str.lower),
        resources=PatternMatcher(("*",)) if "Principal" in element else _selection(element, "Resource", str),
        conditions=parse_conditions(element.get("Condition", {})),
        principals=tuple((kind, each) for kind, values in principals.items() for each in value_texts(values)),
    )


def _selection(element: Mapping[str, Any], name: str, spelling: Any) -> PatternMatcher:
    if (name in element) == (f"Not{name}" in element):
        raise UnsupportedPolicyError(f"a statement must have either {name} or Not{name}")
    other_than = name not in element
    values = value_texts(element[f"Not{name}" if other_than else name])
    return PatternMatcher(tuple(spelling(value) for value in values), other_than)


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """The decision about a permission check.

    Attributes:
        rests_on: policy and Sid of each statement that decided it: all that deny, or else all that allow.
        why: for a denial, the end of AWS's error message.
    """

    check: PermissionCheck
    allowed: bool
    rests_on: tuple[tuple[str, str], ...] = ()
    why: str = ""


def decide(policies: Sequence[IamPolicy], check: PermissionCheck) -> PolicyDecision:
    """Return the decision of a role's policies; raise `UnsupportedPolicyError` if one cannot be evaluated."""
    effects: tuple[tuple[Effect, str], ...] = (
        ("Deny", "with an explicit deny in an identity-based policy"),
        ("Allow", ""),
    )
    for effect, why in effects:
        statements = ((policy.name, each) for policy in policies for each in policy.statements)
        rests_on = tuple(
            (name, each.sid) for name, each in statements if each.effect == effect and each.applies_to(check)
        )
        if rests_on:
            return PolicyDecision(check, effect == "Allow", rests_on, why)
    why = f"because no identity-based policy allows the {check.action} action"
    return PolicyDecision(check, allowed=False, why=why)


def decide_assuming(
    policies: Sequence[IamPolicy], trust: IamPolicy, arns: Sequence[str], check: PermissionCheck
) -> PolicyDecision:
    """Return the decision about assuming a role, which the role's trust policy must allow; raises as `decide` does.

    A trust policy that names the caller is enough. If it names the account, the caller's own policies decide
    (https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html).

    The policies are the caller's, `arns` those of its session and role.
    """
    own = decide(policies, check)
    _, partition, _, _, account, *_ = arns[0].split(":")
    named, delegated = set(), set()
    for statement in trust.statements:
        if statement.applies_to(check):
            principals = {arn for kind, arn in statement.principals if kind == "AWS"}
            if principals & {*arns, "*"}:
                named.add(statement.effect)
            if principals & {account, f"arn:{partition}:iam::{account}:root"}:
                delegated.add(statement.effect)
    if "Deny" in named | delegated:
        return PolicyDecision(check, allowed=False, why="with an explicit deny in the role trust policy")
    denied_by_own = bool(own.rests_on) and not own.allowed
    if "Allow" in named and not denied_by_own:
        return PolicyDecision(check, allowed=True, rests_on=((trust.name, "Principal"),))
    if "Allow" in named | delegated:
        return own
    why = f"because no role trust policy allows the {check.action} action"
    return PolicyDecision(check, allowed=False, why=why)
