"""What CloudFormation keeps: stacks, their resources and events, and change sets."""

import secrets
import string
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services.embedded.stacks.parameters import Parameters
from services.embedded.stacks.template import Template

if TYPE_CHECKING:
    from services.embedded.stacks.wishes import Examined

STACK_TYPE = "AWS::CloudFormation::Stack"
SUFFIX_LENGTH = 12
_LETTERS = string.ascii_uppercase + string.digits


@dataclass
class Resource:
    """One resource of a stack, as it stands.

    Attributes:
        physical_id: what ``Ref`` of it is; empty until it is made.
        properties: evaluated, with which it was made or changed last.
        attributes: what ``Fn::GetAtt`` finds.
        definition: its part of the template.
        needs: logical ids of the resources that must be there before it.
    """

    logical_id: str
    type: str
    definition: dict[str, Any]
    properties: dict[str, Any]
    needs: frozenset[str]
    physical_id: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    status: str = ""
    reason: str | None = None
    changed_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def kept(self, policy: str) -> bool:
        """Say whether it stays when it leaves the stack, by its ``DeletionPolicy`` or ``UpdateReplacePolicy``."""
        return self.definition.get(policy) in {"Retain", "RetainExceptOnCreate"}


@dataclass(frozen=True)
class Event:
    """That a resource, or the stack itself, has taken a state."""

    logical_id: str
    physical_id: str
    type: str
    status: str
    reason: str | None
    properties: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Stack:
    """One stack.

    Attributes:
        template: what it is made of; None while a change set that is to make it is reviewed.
        tags: its own, which the resources get that take tags.
        adopts: whether a bucket or a table that is there already becomes its own.
    """

    id: str
    name: str
    tags: dict[str, str]
    status: str
    template: Template | None = None
    parameters: Parameters = field(default_factory=lambda: Parameters({}, {}))
    capabilities: list[str] = field(default_factory=list)
    reason: str | None = None
    resources: dict[str, Resource] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    outputs: list[dict[str, str]] = field(default_factory=list)
    role_arn: str | None = None
    adopts: bool = False
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    changed_at: datetime | None = None
    deleted_at: datetime | None = None

    def is_busy(self) -> bool:
        """Say whether something is being done with it."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    def turn(self, status: str, reason: str | None = None) -> None:
        """Take a state, with an event that says so."""
        self.status, self.reason = status, reason
        self.events.append(Event(self.name, self.id, STACK_TYPE, status, reason, ""))

    def turn_resource(self, resource: Resource, status: str, reason: str | None = None) -> None:
        """Let a resource take a state, with an event that says so."""
        resource.status, resource.reason, resource.changed_at = status, reason, datetime.now(UTC)
        self.events.append(
            Event(resource.logical_id, resource.physical_id, resource.type, status, reason, str(resource.properties))
        )


@dataclass
class ChangeSet:
    """Changes of a stack that are looked at before they are made.

    Attributes:
        kind: ``CREATE`` or ``UPDATE``.
        examined: what is wanted, and what would change.
    """

    id: str
    name: str
    stack: Stack
    kind: str
    examined: "Examined"
    status: str
    execution_status: str
    reason: str | None = None
    description: str | None = None
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def random_suffix() -> str:
    """Return what ends a name that CloudFormation makes up."""
    return "".join(secrets.choice(_LETTERS) for _ in range(SUFFIX_LENGTH))


def name_for(stack: str, logical_id: str, longest: int) -> str:
    """Return a name for a resource that the template gives none, of at most so many characters."""
    head = f"{stack}-{logical_id}"[: longest - SUFFIX_LENGTH - 1]
    return f"{head}-{random_suffix()}"
