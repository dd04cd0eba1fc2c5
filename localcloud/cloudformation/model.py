"""Stacks, their resources, events and change sets, and the evaluation of their templates' functions."""

import base64
import re
import secrets
import string
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from localcloud.cloudformation.template import PLACEHOLDER, StackError, Template

STACK_TYPE = "AWS::CloudFormation::Stack"

SUFFIX_LENGTH = 12

_LETTERS = string.ascii_uppercase + string.digits


@dataclass
class Resource:
    """One resource of a stack.

    Attributes:
        definition: its part of the template.
        properties: evaluated.
        needs: logical ids of the resources that must exist before it.
        physical_id: the value of ``Ref``; empty until the resource is created.
        attributes: the values of ``Fn::GetAtt``.
    """

    logical_id: str
    type: str
    definition: dict[str, Any]
    properties: dict[str, Any]
    needs: frozenset[str]
    physical_id: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    status: str = ""
    reason: str | None = None
    changed_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_retained(self) -> bool:
        """Whether the resource stays when its stack is deleted."""
        return self.definition.get("DeletionPolicy") in {"Retain", "RetainExceptOnCreate"}


@dataclass(frozen=True)
class StackEvent:
    """The change of a resource, or of the stack itself, to a status."""

    logical_id: str
    physical_id: str
    type: str
    status: str
    reason: str | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Stack:
    """One stack.

    Attributes:
        parameters: text of each parameter, by name.
        values: of the parameters and pseudo parameters, for ``Ref``.
        tags: of the stack, which its resources get, too.
        is_protected: whether its deletion is refused.
    """

    id: str
    name: str
    template: Template
    parameters: dict[str, str]
    values: dict[str, Any]
    tags: dict[str, str]
    status: str = ""
    reason: str | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    events: list[StackEvent] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    is_protected: bool = False
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def set_status(self, status: str, reason: str | None = None) -> None:
        """Change the stack's status and record an event."""
        self.status, self.reason = status, reason
        self.events.append(StackEvent(self.name, self.id, STACK_TYPE, status, reason))

    def set_resource_status(self, resource: Resource, status: str, reason: str | None = None) -> None:
        """Change the status of a resource and record an event."""
        resource.status, resource.reason, resource.changed_at = status, reason, datetime.now(UTC)
        self.events.append(StackEvent(resource.logical_id, resource.physical_id, resource.type, status, reason))


@dataclass
class ChangeSet:
    """A change set that creates a stack, or that would change nothing.

    Attributes:
        additions: logical id and type of each resource to create.
    """

    id: str
    name: str
    stack: Stack
    additions: list[tuple[str, str]]
    status: str
    execution_status: str
    reason: str | None = None


def name_for(stack: str, logical_id: str, max_length: int) -> str:
    """Return a new name for a resource without a name in the template."""
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(SUFFIX_LENGTH))
    return f"{stack}-{logical_id}"[: max_length - SUFFIX_LENGTH - 1] + f"-{suffix}"


NO_VALUE = object()
"""The value of ``AWS::NoValue``: a property with this value is left out."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluates values of a template.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html

    Args:
        template: its conditions.
        values: of its parameters and of CloudFormation's pseudo parameters.
        resources: the existing ones.
    """

    template: Template
    values: Mapping[str, Any]
    resources: Mapping[str, Resource]
    _functions: dict[str, Callable[[Any], Any]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Define the functions."""
        functions = {
            "Ref": lambda name: NO_VALUE if name == "AWS::NoValue" else self._ref(name),
            "Condition": self.condition,
            "Fn::GetAtt": lambda argument: self._attribute(*argument),
            "Fn::If": lambda argument: self.value(argument[1] if self.condition(argument[0]) else argument[2]),
            "Fn::Equals": lambda pair: self._text(pair[0]) == self._text(pair[1]),
            "Fn::Not": lambda one: not self.value(one[0]),
            "Fn::And": lambda all_of: all(self.value(one) for one in all_of),
            "Fn::Or": lambda any_of: any(self.value(one) for one in any_of),
            "Fn::Join": lambda pair: str(pair[0]).join(self._text(one) for one in self.value(pair[1])),
            "Fn::Split": lambda pair: self._text(pair[1]).split(pair[0]),
            "Fn::Select": self._select,
            "Fn::Sub": self._sub,
            "Fn::Base64": lambda one: base64.b64encode(self._text(one).encode()).decode(),
        }
        object.__setattr__(self, "_functions", functions)

    def value(self, value: Any) -> Any:
        """Return a value with its functions applied.

        Raises:
            StackError: a name in it does not exist, or a function is unknown.
        """
        if isinstance(value, list):
            return [found for one in value if (found := self.value(one)) is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            (name,) = value
            if function := self._functions.get(name):
                return function(value[name])
            if name.startswith("Fn::"):
                raise StackError(f"Template error: {name} is not known to the local cloud's CloudFormation")
        return {name: found for name, one in value.items() if (found := self.value(one)) is not NO_VALUE}

    def condition(self, name: str) -> bool:
        """Return True if a condition is met.

        Raises:
            StackError: the condition does not exist.
        """
        if name not in self.template.conditions:
            raise StackError(f"Template error: unresolved condition {name}")
        return bool(self.value(self.template.conditions[name]))

    def _ref(self, name: str) -> Any:
        return self.values[name] if name in self.values else self._resource(name).physical_id

    def _attribute(self, name: str, attribute: str) -> str:
        resource = self._resource(name)
        try:
            return resource.attributes[attribute]
        except KeyError:
            raise StackError(f"Template error: resource {name} does not support attribute type {attribute}") from None

    def _resource(self, name: str) -> Resource:
        if name not in self.resources:
            raise StackError(f"Template error: unresolved resource dependencies [{name}] in the template")
        return self.resources[name]

    def _text(self, value: Any) -> str:
        found = self.value(value)
        return str(found).lower() if isinstance(found, bool) else str(found)

    def _select(self, argument: list[Any]) -> Any:
        found, index = self.value(argument[1]), int(self._text(argument[0]))
        if not 0 <= index < len(found):
            raise StackError(f"Template error: Fn::Select cannot select nonexistent value at index {index}")
        return found[index]

    def _sub(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})

        def replaced(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return "${" + name[1:] + "}"
            if name in own:
                return self._text(own[name])
            resource, dot, attribute = name.partition(".")
            return self._text({"Fn::GetAtt": [resource, attribute]} if dot else {"Ref": name})

        return PLACEHOLDER.sub(replaced, text)
