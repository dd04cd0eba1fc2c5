"""The part of CloudFormation's API that rehearsals call: moto's core parses requests, and stacks live in a thread."""

import logging
import threading
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any
from urllib.parse import urlsplit

from moto.core.request import Request
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from werkzeug.wrappers import Response

from services.cloudformation import parse_template
from tests.support.account import loopback
from tests.support.account.handlers import StackServices, create, delete
from tests.support.account.template import Evaluation, Resource, StackError, complete_parameters, resolve_parameters

log = logging.getLogger(__name__)

_parsed = lru_cache(maxsize=16)(parse_template)
"""Each `up` sends the template of its stack several times; reading it takes longer than most calls."""

Answer = dict[str, Any]
"""A part of an answer, with the names of the API."""

NO_CHANGES = "The submitted information didn't contain changes. Submit different information to create a change set."
"""CloudFormation's reason for a change set that would change nothing."""

UPDATES_UNSUPPORTED = (
    "The local cloud creates a stack once: delete it and create it again, since it plays no updates."
)
"""Reason of a rejected change set that would change a stack."""


@dataclass
class Stack:
    """A stack, which is created once and deleted.

    Attributes:
        template: its text.
        values: those of its parameters and pseudo parameters, for ``Ref``.
        about: what DescribeStacks returns.
        resources: by their names in the template, in the order of their creation.
        statuses: what ListStackResources returns of the resources that were created, or are being created.
        events: what DescribeStackEvents returns, the oldest first.
    """

    template: str
    values: dict[str, Any]
    about: Answer
    services: StackServices
    resources: dict[str, Resource] = field(default_factory=dict)
    statuses: dict[str, Answer] = field(default_factory=dict)
    events: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the template."""
        self.parsed = _parsed(self.template)
        self._evaluation = Evaluation(self.parsed["Conditions"], self.values, self._resource)
        self.wanted = self._included(self.parsed["Resources"])

    @property
    def status(self) -> str:
        """Such as CREATE_COMPLETE."""
        return str(self.about["StackStatus"])

    def set_status(self, status: str, reason: str | None = None) -> None:
        """Change the stack's status and record an event."""
        self.about |= {"StackStatus": status, "StackStatusReason": reason}
        itself = Resource(self.about["StackName"], "AWS::CloudFormation::Stack", {}, self.about["StackId"])
        self._record(itself, status, reason)

    def create(self) -> None:
        """Create every resource; stop at the first failure and leave the existing ones."""
        try:
            for name in self.wanted:
                self._resource(name)
            self.about["Outputs"] = [
                {"OutputKey": name, "OutputValue": str(self._evaluation.value(output["Value"]))}
                for name, output in self._included(self.parsed["Outputs"]).items()
            ]
        except Exception as error:  # noqa: BLE001 - the reason of the stack
            self.set_status("CREATE_FAILED", _reason(error))
        else:
            self.set_status("CREATE_COMPLETE")

    def delete(self) -> None:
        """Delete every resource that is not retained, each before the resources that it needs."""
        failed = []
        for name, resource in reversed(list(self.resources.items())):
            status = "DELETE_COMPLETE"
            try:
                if self.wanted[name].get("DeletionPolicy") == "Retain":
                    status = "DELETE_SKIPPED"
                else:
                    delete(self.services, resource)
            except Exception as error:  # noqa: BLE001 - the reason of the resource
                failed.append(name)
                self._set_resource_status(resource, "DELETE_FAILED", _reason(error))
            else:
                self._set_resource_status(resource, status)
                del self.resources[name], self.statuses[name]
        reason = f"The following resource(s) failed to delete: {sorted(failed)}." if failed else None
        self.set_status("DELETE_FAILED" if failed else "DELETE_COMPLETE", reason)

    def _included(self, definitions: Mapping[str, Any]) -> dict[str, Any]:
        """Return the resources or outputs with a condition that is met; they are not evaluated yet."""
        return {
            name: one
            for name, one in definitions.items()
            if "Condition" not in one or self._evaluation.condition(one["Condition"])
        }

    def _resource(self, name: str) -> Resource:
        """Return a resource; the first reference to it, or its turn in the template, creates it."""
        if name in self.resources:
            return self.resources[name]
        if name not in self.wanted or not self.status.startswith("CREATE_"):
            raise StackError(f"Template error: unresolved resource dependencies [{name}] in the template")
        definition = self.wanted[name]
        for needed in self.wanted.keys() & definition.get("DependsOn", []):
            self._resource(needed)
        resource = Resource(name, definition["Type"], self._evaluation.value(definition.get("Properties", {})))
        self._set_resource_status(resource, "CREATE_IN_PROGRESS")
        try:
            create(self.services, resource)
        except Exception as error:
            self._set_resource_status(resource, "CREATE_FAILED", _reason(error))
            raise StackError(f"The following resource(s) failed to create: [{name}].") from error
        self._set_resource_status(resource, "CREATE_COMPLETE")
        self.resources[name] = resource
        return resource

    def _set_resource_status(self, resource: Resource, status: str, reason: str | None = None) -> None:
        self.statuses[resource.logical_id] = self._record(resource, status, reason)

    def _record(self, resource: Resource, status: str, reason: str | None) -> Answer:
        now = datetime.now(UTC)
        event = {
            "StackId": self.about["StackId"],
            "StackName": self.about["StackName"],
            "EventId": str(uuid.uuid4()),
            "Timestamp": now,
            "LastUpdatedTimestamp": now,
            "LogicalResourceId": resource.logical_id,
            "PhysicalResourceId": resource.physical_id,
            "ResourceType": resource.type,
            "ResourceStatus": status,
            "ResourceStatusReason": reason,
        }
        self.events.append(event)
        return event


def _reason(error: Exception) -> str:
    if isinstance(error, StackError):
        return str(error.message)
    log.exception("a resource of a stack could not be created or deleted")
    return repr(error)


_stacks: dict[str, Stack] = {}
"""All stacks of this process by their ids; a local cloud has one account and region."""

_change_sets: dict[str, Answer] = {}
"""What DescribeChangeSet returns, by id."""


def _find(name_or_id: str) -> Stack:
    """Return a stack by its id, or by its name if it is not deleted; raise `StackError` if there is none."""
    for stack_id, stack in list(_stacks.items()):
        is_named = stack.about["StackName"] == name_or_id and stack.status != "DELETE_COMPLETE"
        if stack_id == name_or_id or is_named:
            return stack
    raise StackError(f"Stack with id {name_or_id} does not exist")


class StacksResponse(BaseResponse):  # type: ignore[misc]
    """One request; each public method is an operation of CloudFormation."""

    def __init__(self) -> None:
        super().__init__(service_name="cloudformation")
        self.automated_parameter_parsing = True

    @property
    def _stack(self) -> Stack:
        return _find(self.params["StackName"])

    def create_change_set(self) -> Any:
        """Create a change set of a new stack, or a failed one if the request would not change a stack."""
        name, change_set_id = self.params["StackName"], self._arn("changeSet", self.params["ChangeSetName"])
        if self.params["ChangeSetType"] == "CREATE":
            stack = self._requested(name, self._arn("stack", name), {})
            stack.set_status("REVIEW_IN_PROGRESS")
            _stacks[stack.about["StackId"]] = stack
            state = {"Status": "CREATE_COMPLETE", "ExecutionStatus": "AVAILABLE"}
        else:
            stack = self._stack
            before = {one["ParameterKey"]: one["ParameterValue"] for one in stack.about["Parameters"]}
            wanted = self._requested(stack.about["StackName"], stack.about["StackId"], before)
            if any(getattr(wanted, part) != getattr(stack, part) for part in ("template", "values", "services")):
                raise StackError(UPDATES_UNSUPPORTED)
            state = {"Status": "FAILED", "ExecutionStatus": "UNAVAILABLE", "StatusReason": NO_CHANGES}
        changes = [
            {"Action": "Add", "LogicalResourceId": name, "ResourceType": one["Type"]}
            for name, one in stack.wanted.items()
        ]
        _change_sets[change_set_id] = {
            **state,
            "ChangeSetId": change_set_id,
            "ChangeSetName": self.params["ChangeSetName"],
            "StackId": stack.about["StackId"],
            "StackName": stack.about["StackName"],
            "Changes": [{"Type": "Resource", "ResourceChange": one} for one in changes],
        }
        return ActionResult({"Id": change_set_id, "StackId": stack.about["StackId"]})

    def _arn(self, kind: str, name: str) -> str:
        return f"arn:aws:cloudformation:{self.region}:{self.current_account}:{kind}/{name}/{uuid.uuid4()}"

    def _requested(self, name: str, stack_id: str, before: Mapping[str, str]) -> Stack:
        """Return the stack that the request describes, with checked parameters and conditions."""
        given = {
            one["ParameterKey"]: before[one["ParameterKey"]] if one.get("UsePreviousValue") else one["ParameterValue"]
            for one in self.params.get("Parameters", [])
        }
        client = partial(loopback.client, region=self.region)
        place = urlsplit(self.params["TemplateURL"])
        stored = client("s3").get_object(Bucket=place.netloc.partition(".s3.")[0], Key=place.path[1:])
        template = stored["Body"].read().decode()
        parsed = _parsed(template)
        texts = complete_parameters(parsed, given)
        values = resolve_parameters(
            parsed, texts, lambda name: str(client("ssm").get_parameter(Name=name)["Parameter"]["Value"])
        )
        values |= {
            "AWS::AccountId": self.current_account,
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackId": stack_id,
            "AWS::StackName": name,
            "AWS::URLSuffix": "amazonaws.com",
        }
        tags = self.params.get("Tags", [])
        about = {
            "StackId": stack_id,
            "StackName": name,
            "CreationTime": datetime.now(UTC),
            "EnableTerminationProtection": False,
            "Parameters": [{"ParameterKey": key, "ParameterValue": text} for key, text in texts.items()],
            "Tags": tags,
        }
        own = {tag["Key"]: tag["Value"] for tag in tags}
        return Stack(template, values, about, StackServices(self.current_account, self.region, name, own))

    def describe_change_set(self) -> Any:
        """Return a change set and its changes."""
        return ActionResult(_change_sets[self.params["ChangeSetName"]])

    def list_change_sets(self) -> Any:
        """Return a stack's change sets."""
        stack_id = self._stack.about["StackId"]
        return ActionResult({"Summaries": [one for one in _change_sets.values() if one["StackId"] == stack_id]})

    def delete_change_set(self) -> Any:
        """Delete a change set."""
        del _change_sets[self.params["ChangeSetName"]]
        return EmptyResult()

    def execute_change_set(self) -> Any:
        """Begin to create the stack of a change set."""
        change_set = _change_sets[self.params["ChangeSetName"]]
        change_set["ExecutionStatus"] = "EXECUTE_COMPLETE"
        stack = _stacks[change_set["StackId"]]
        stack.set_status("CREATE_IN_PROGRESS")
        threading.Thread(target=stack.create, daemon=True).start()
        return EmptyResult()

    def delete_stack(self) -> Any:
        """Begin to delete a stack."""
        stack = self._stack
        if stack.about["EnableTerminationProtection"]:
            raise StackError(f"Stack {self.params['StackName']} cannot be deleted: TerminationProtection is enabled")
        for change_set in [one for one in _change_sets.values() if one["StackId"] == stack.about["StackId"]]:
            del _change_sets[change_set["ChangeSetId"]]
        stack.set_status("DELETE_IN_PROGRESS")
        threading.Thread(target=stack.delete, daemon=True).start()
        return EmptyResult()

    def describe_stacks(self) -> Any:
        """Return a stack."""
        return ActionResult({"Stacks": [self._stack.about]})

    def describe_stack_events(self) -> Any:
        """Return the events of a stack, the newest first."""
        return ActionResult({"StackEvents": self._stack.events[::-1]})

    def list_stack_resources(self) -> Any:
        """Return the resources of a stack."""
        return ActionResult({"StackResourceSummaries": list(self._stack.statuses.values())})

    def validate_template(self) -> Any:
        """Accept a template, with resources of any type."""
        return EmptyResult()

    def update_termination_protection(self) -> Any:
        """Turn the protection of a stack from deletion on or off."""
        stack = self._stack
        stack.about["EnableTerminationProtection"] = bool(self.params["EnableTerminationProtection"])
        return ActionResult({"StackId": stack.about["StackId"]})

    def signal_resource(self) -> Any:
        """Accept a signal to a stack, which has no effect here."""
        _find(self.params["StackName"])
        return EmptyResult()


class _Request(Request):  # type: ignore[misc]
    from_wsgi_server = True


def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer one request: a WSGI application."""
    request = _Request(environ)
    status, headers, body = StacksResponse.dispatch(request, request.url, request.headers)
    answered = Response(body, status=int(status), headers={str(key): str(value) for key, value in headers.items()})
    return answered(environ, start_response)
