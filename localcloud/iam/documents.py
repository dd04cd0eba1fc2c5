"""Policy documents, read into statements.

The grammar is https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from localcloud.iam.conditions import (
    Condition,
    Context,
    UnsupportedPolicyError,
    parse_conditions,
    value_texts,
)
from localcloud.iam.wildcards import matches

Effect = Literal["Allow", "Deny"]

_ELEMENTS = frozenset(
    {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition", "Principal"}  # no NotPrincipal
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a request: may it do `action`, such as ``s3:GetObject``, with the resource of this ARN?

    `context` is what conditions may ask about; `resource` is ``*`` where AWS knows none for the action.
    """

    action: str
    resource: str
    context: Context


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns of which one must match, or with `other_than` none may."""

    patterns: tuple[str, ...]
    other_than: bool = False

    def selects(self, text: str) -> bool:
        """Return True if the text is among them."""
        return any(matches(pattern, text) for pattern in self.patterns) != self.other_than


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement.

    Attributes:
        sid: its name, or ``#2`` for the second of a document that gives it none.
        effect: Allow or Deny.
        actions: in lower case, since capitals do not matter there.
        resources: ARNs; all, in the trust policy of a role.
        conditions: all of which must hold.
        principals: of a trust policy, each as its kind and itself: ``("AWS", "arn:…")``.
    """

    sid: str
    effect: Effect
    actions: Selection
    resources: Selection
    conditions: tuple[Condition, ...] = ()
    principals: tuple[tuple[str, str], ...] = ()

    def speaks_of(self, asked: Asked) -> bool:
        """Return True if the statement is about what is asked; who asks is not looked at.

        Raises:
            UnsupportedPolicyError: a condition cannot be evaluated.
        """
        return (
            self.actions.selects(asked.action.lower())
            and self.resources.selects(asked.resource)
            and all(condition.holds(asked.context) for condition in self.conditions)
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy by the name under which its role has it."""

    name: str
    statements: tuple[Statement, ...]


@functools.lru_cache(maxsize=512)
def parse_policy(name: str, document: str) -> Policy:
    """Return the policy that a document of JSON holds.

    Raises:
        UnsupportedPolicyError: it is none, or says what is not evaluated here; the message names policy and reason.
    """
    try:
        parsed = json.loads(document)
        statements = parsed["Statement"]
        listed = statements if isinstance(statements, list) else [statements]
        return Policy(name, tuple(_statement(number, each) for number, each in enumerate(listed, 1)))
    except UnsupportedPolicyError as error:
        raise UnsupportedPolicyError(f"the policy {name!r} cannot be evaluated: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedPolicyError(f"the policy {name!r} is no policy document: {error!r}") from error


def _statement(number: int, element: Mapping[str, Any]) -> Statement:
    if unknown := sorted(set(element) - _ELEMENTS):
        raise UnsupportedPolicyError(f"the elements {unknown} of a statement are not known here")
    if element["Effect"] not in {"Allow", "Deny"}:
        raise UnsupportedPolicyError(f"the effect {element['Effect']!r} must be Allow or Deny")
    return Statement(
        sid=element.get("Sid") or f"#{number}",
        effect=element["Effect"],
        actions=_selection(element, "Action", str.lower),
        resources=Selection(("*",)) if "Principal" in element else _selection(element, "Resource", str),
        conditions=parse_conditions(element.get("Condition", {})),
        principals=_principals(element.get("Principal", {})),
    )


def _selection(element: Mapping[str, Any], name: str, spelling: Any) -> Selection:
    if (name in element) == (f"Not{name}" in element):
        raise UnsupportedPolicyError(f"a statement must have either {name} or Not{name}")
    other_than = name not in element
    values = value_texts(element[f"Not{name}" if other_than else name])
    return Selection(tuple(spelling(value) for value in values), other_than)


def _principals(element: Any) -> tuple[tuple[str, str], ...]:
    if element == "*":
        return (("AWS", "*"),)
    return tuple((kind, each) for kind, values in element.items() for each in value_texts(values))
