"""Stacks, their resources, events and change sets."""

import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from localcloud.stacks.template import Template

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
class Event:
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
        tags: its own, which are also set on its resources.
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
    events: list[Event] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    is_protected: bool = False
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def set_status(self, status: str, reason: str | None = None) -> None:
        """Change the stack's status and record an event."""
        self.status, self.reason = status, reason
        self.events.append(Event(self.name, self.id, STACK_TYPE, status, reason))

    def set_resource_status(self, resource: Resource, status: str, reason: str | None = None) -> None:
        """Change the status of a resource and record an event."""
        resource.status, resource.reason, resource.changed_at = status, reason, datetime.now(UTC)
        self.events.append(Event(resource.logical_id, resource.physical_id, resource.type, status, reason))


@dataclass
class ChangeSet:
    """A change set of a stack: one that creates it, or one that would change nothing.

    Attributes:
        additions: logical id and type of each resource that it creates.
    """

    id: str
    name: str
    stack: Stack
    additions: list[tuple[str, str]]
    status: str
    execution_status: str
    reason: str | None = None


def name_for(stack: str, logical_id: str, max_length: int) -> str:
    """Return a name for a resource that has none in the template."""
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(SUFFIX_LENGTH))
    return f"{stack}-{logical_id}"[: max_length - SUFFIX_LENGTH - 1] + f"-{suffix}"
