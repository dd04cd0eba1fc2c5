"""Stacks and their change sets: created and deleted in the background."""

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from tests.support.account.handlers import ClientOf, StackServices, handler_of
from tests.support.account.template import (
    Evaluation,
    Resource,
    StackError,
    Template,
    complete_parameters,
    in_order,
    needed_resources,
    resolve_parameters,
)

log = logging.getLogger(__name__)

NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."
"""CloudFormation's reason for a change set that would change nothing."""

UPDATES_UNSUPPORTED = (
    "The local cloud creates a stack once: delete it and create it again, since it plays no updates."
)
"""Reason of a rejected change set that would change a stack."""


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
    """One stack; `values` are those of its parameters and pseudo parameters, for ``Ref``."""

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
        self.events.append(StackEvent(self.name, self.id, "AWS::CloudFormation::Stack", status, reason))

    def set_resource_status(self, resource: Resource, status: str, reason: str | None = None) -> None:
        """Change the status of a resource and record an event."""
        resource.status, resource.reason, resource.changed_at = status, reason, datetime.now(UTC)
        self.events.append(StackEvent(resource.logical_id, resource.physical_id, resource.type, status, reason))


@dataclass
class ChangeSet:
    """A change set that creates a stack, or that would change nothing.

    Attributes:
        additions: logical id and type of each resource.
    """

    id: str
    name: str
    stack: Stack
    additions: list[tuple[str, str]]
    status: str
    execution_status: str
    reason: str | None = None


def in_background(work: Callable[[], None]) -> None:
    """Run `work` in a thread that ends with the process."""
    threading.Thread(target=work, daemon=True, name="stack").start()


@dataclass(frozen=True)
class StackRequest:
    """The input of CreateChangeSet; a parameter has ``UsePreviousValue`` or a value."""

    template: Template
    parameters: list[Mapping[str, Any]]
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class Stacks:
    """The stacks and change sets of one account in one region; `start` runs a function in the background."""

    account: str
    region: str
    client: ClientOf
    start: Callable[[Callable[[], None]], None] = in_background
    stacks: dict[str, Stack] = field(default_factory=dict)
    change_sets: dict[str, ChangeSet] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def find(self, name_or_id: str) -> Stack:
        """Return a stack by its id, or by its name if it is not deleted; raise `StackError` if there is none."""
        if (found := self.stacks.get(name_or_id)) is not None:
            return found
        for stack in self.present():
            if stack.name == name_or_id:
                return stack
        raise StackError(f"Stack with id {name_or_id} does not exist")

    def present(self) -> list[Stack]:
        """Return the stacks that are not deleted."""
        return [stack for stack in list(self.stacks.values()) if stack.status != "DELETE_COMPLETE"]

    def create_change_set(self, name: str, stack_name: str, kind: str, request: StackRequest) -> ChangeSet:
        """Create a change set of a new stack, or a failed one if the request would not change a stack.

        Args:
            name: of the change set.
            stack_name: or id.
            kind: ``CREATE`` or ``UPDATE``.
            request: `StackError` is raised if it is invalid, or would change a stack.
        """
        with self.lock:
            if kind == "UPDATE":
                present = self.find(stack_name)
                stack = self._stack_of(present.name, present.id, request, present.parameters)
                wanted = (stack.template.text, stack.values, stack.tags)
                if wanted != (present.template.text, present.values, present.tags):
                    raise StackError(UPDATES_UNSUPPORTED)
                arn = self._arn(f"changeSet/{name}")
                created = ChangeSet(arn, name, present, [], "FAILED", "UNAVAILABLE", NO_CHANGES)
            else:
                if any(one.name == stack_name for one in self.present()):
                    raise StackError(f"Stack [{stack_name}] already exists and cannot be created again")
                stack = self._stack_of(stack_name, self._arn(f"stack/{stack_name}"), request, {})
                additions = [(each.logical_id, each.type) for each in self._wanted(stack)]
                self.stacks[stack.id] = stack
                stack.set_status("REVIEW_IN_PROGRESS", "User Initiated")
                arn = self._arn(f"changeSet/{name}")
                created = ChangeSet(arn, name, stack, additions, "CREATE_COMPLETE", "AVAILABLE")
            self.change_sets[created.id] = created
            return created

    def find_change_set(self, name_or_id: str, stack_name: str | None) -> ChangeSet:
        """Return a change set by its id, or by its name and its stack; raise ChangeSetNotFound if there is none."""
        for one in list(self.change_sets.values()):
            if name_or_id == one.id or (name_or_id == one.name and stack_name in {one.stack.name, one.stack.id}):
                return one
        raise StackError("ChangeSetNotFound", f"ChangeSet [{name_or_id}] does not exist")

    def execute_change_set(self, change_set: ChangeSet) -> None:
        """Begin to create the stack of a change set, which must not have failed or been executed."""
        with self.lock:
            if change_set.execution_status != "AVAILABLE":
                status = f"its current execution status of [{change_set.execution_status}]"
                raise StackError(
                    "InvalidChangeSetStatus", f"ChangeSet [{change_set.id}] cannot be executed in {status}"
                )
            change_set.execution_status = "EXECUTE_COMPLETE"
            stack = change_set.stack
            stack.set_status("CREATE_IN_PROGRESS", "User Initiated")
            self.start(lambda: self._create(stack))

    def delete(self, name: str) -> None:
        """Begin to delete a stack by its name or id; a stack that does not exist counts as deleted.

        Raises:
            StackError: an operation on the stack is in progress, or the stack is protected.
        """
        with self.lock:
            try:
                stack = self.find(name)
            except StackError:
                return
            if stack.status == "DELETE_COMPLETE":
                return
            if stack.is_protected:
                raise StackError(f"Stack [{stack.name}] cannot be deleted while TerminationProtection is enabled")
            if stack.status in {"CREATE_IN_PROGRESS", "DELETE_IN_PROGRESS"}:
                raise StackError(f"Stack [{stack.id}] cannot be deleted while in status {stack.status}")
            self.change_sets = {key: one for key, one in self.change_sets.items() if one.stack is not stack}
            stack.set_status("DELETE_IN_PROGRESS", "User Initiated")
            self.start(lambda: self._delete(stack))

    def _arn(self, resource: str) -> str:
        return f"arn:aws:cloudformation:{self.region}:{self.account}:{resource}/{uuid.uuid4()}"

    def _stack_of(self, name: str, stack_id: str, request: StackRequest, before: Mapping[str, str]) -> Stack:
        """Return the stack of a request, with checked parameters and conditions."""

        def stored_parameter(name: str) -> str:
            ssm = self.client("ssm")
            try:
                return str(ssm.get_parameter(Name=name)["Parameter"]["Value"])
            except ssm.exceptions.ParameterNotFound:
                reason = f"Unable to fetch parameters [{name}] from parameter store for this account."
                raise StackError(reason) from None

        given = {}
        for one in request.parameters:
            key = one["ParameterKey"]
            given[key] = before[key] if one.get("UsePreviousValue") else str(one["ParameterValue"])
        template = request.template
        texts = complete_parameters(template, given)
        values = resolve_parameters(template, texts, stored_parameter)
        values |= {
            "AWS::AccountId": self.account,
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackId": stack_id,
            "AWS::StackName": name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        stack = Stack(stack_id, name, template, texts, values, request.tags)
        in_order({each.logical_id: each.needs for each in self._wanted(stack)})
        return stack

    def _wanted(self, stack: Stack) -> list[Resource]:
        """Return the resources with a condition that is met; their properties are not evaluated yet."""
        evaluation = Evaluation(stack.template, stack.values, stack.resources)
        definitions = {
            name: one
            for name, one in stack.template.resources.items()
            if "Condition" not in one or evaluation.condition(one["Condition"])
        }
        known = set(definitions)
        return [
            Resource(name, one["Type"], one, {}, needed_resources(one, known)) for name, one in definitions.items()
        ]

    def _create(self, stack: Stack) -> None:
        """Create every resource of the stack; stop at the first failure and leave the existing ones."""
        evaluation = Evaluation(stack.template, stack.values, stack.resources)
        wanted = {each.logical_id: each for each in self._wanted(stack)}
        cloud = StackServices(self.account, self.region, stack.name, self.client, stack.tags)
        for name in in_order({each.logical_id: each.needs for each in wanted.values()}):
            resource = wanted[name]
            stack.set_resource_status(resource, "CREATE_IN_PROGRESS")
            try:
                resource.properties = evaluation.value(resource.definition.get("Properties") or {})
                created = handler_of(resource.type).create(cloud, resource)
            except Exception as error:  # noqa: BLE001 - the reason of the resource
                stack.set_resource_status(resource, "CREATE_FAILED", _reason(error))
                stack.set_status("CREATE_FAILED", f"The following resource(s) failed to create: [{name}].")
                return
            resource.physical_id, resource.attributes = created.physical_id, created.attributes
            stack.resources[name] = resource
            stack.set_resource_status(resource, "CREATE_COMPLETE")
        try:
            stack.outputs = [
                {"OutputKey": name, "OutputValue": str(evaluation.value(output["Value"]))}
                for name, output in evaluation.template.outputs.items()
                if "Condition" not in output or evaluation.condition(output["Condition"])
            ]
        except StackError as error:
            stack.set_status("CREATE_FAILED", _reason(error))
        else:
            stack.set_status("CREATE_COMPLETE")

    def _delete(self, stack: Stack) -> None:
        """Delete every resource that is not retained, each before the resources that it needs."""
        resources, failed = stack.resources, []
        cloud = StackServices(self.account, self.region, stack.name, self.client, stack.tags)
        for name in reversed(in_order({key: one.needs & set(resources) for key, one in resources.items()})):
            resource = resources[name]
            try:
                if not resource.is_retained:
                    stack.set_resource_status(resource, "DELETE_IN_PROGRESS")
                    handler_of(resource.type).delete(cloud, resource)
            except Exception as error:  # noqa: BLE001 - the reason of the resource
                stack.set_resource_status(resource, "DELETE_FAILED", _reason(error))
                failed.append(name)
            else:
                stack.set_resource_status(resource, "DELETE_SKIPPED" if resource.is_retained else "DELETE_COMPLETE")
                del resources[name]
        reason = f"The following resource(s) failed to delete: [{', '.join(sorted(failed))}]." if failed else None
        stack.set_status("DELETE_FAILED" if failed else "DELETE_COMPLETE", reason)


def _reason(error: Exception) -> str:
    """Return the reason of a failure, and log an unexpected error."""
    if isinstance(error, StackError):
        return str(error.message)
    if isinstance(error, BotoCoreError | ClientError):
        return str(error)
    log.exception("a resource of a stack could not be created or deleted")
    return f"the local cloud failed: {error!r}"
