"""The part of CloudFormation's API that the local cloud implements: moto's core parses requests, `Stacks` answers."""

import functools
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError
from moto.core.request import Request
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from werkzeug.wrappers import Response

from localcloud.clients import loopback
from tests.support.account.stacks import ChangeSet, Stack, StackEvent, StackRequest, Stacks
from tests.support.account.template import Resource, StackError, read_template

Answer = dict[str, Any]


@functools.cache
def stacks_of(account: str, region: str) -> Stacks:
    """Return the stacks of an account in a region."""
    return Stacks(account, region, lambda service: loopback.client(service, region))


class _Request(Request):  # type: ignore[misc]
    from_wsgi_server = True


class StacksApplication:
    """WSGI application: CloudFormation's API."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        request = _Request(environ)
        status, headers, body = StacksResponse.dispatch(request, request.url, request.headers)
        answer = Response(body, status=int(status), headers={str(k): str(v) for k, v in headers.items()})
        return answer(environ, start_response)


class StacksResponse(BaseResponse):  # type: ignore[misc]
    """One request; each public method is an operation of CloudFormation."""

    def __init__(self) -> None:
        super().__init__(service_name="cloudformation")
        self.automated_parameter_parsing = True

    @property
    def _stacks(self) -> Stacks:
        return stacks_of(self.current_account, self.region)

    @property
    def _change_set(self) -> ChangeSet:
        return self._stacks.find_change_set(self.params["ChangeSetName"], self.params.get("StackName"))

    def create_change_set(self) -> Any:
        """Create a change set; the template is in a bucket."""
        given = self.params
        request = StackRequest(
            read_template(_stored_template(given["TemplateURL"], self._stacks.client("s3"))),
            given.get("Parameters") or [],
            {tag["Key"]: tag["Value"] for tag in given.get("Tags") or []},
        )
        kind = given.get("ChangeSetType") or "UPDATE"
        created = self._stacks.create_change_set(given["ChangeSetName"], given["StackName"], kind, request)
        return ActionResult({"Id": created.id, "StackId": created.stack.id})

    def describe_change_set(self) -> Any:
        """Return a change set and its changes."""
        found = self._change_set
        changes = [
            {"Action": "Add", "LogicalResourceId": name, "ResourceType": kind} for name, kind in found.additions
        ]
        listed = [{"Type": "Resource", "ResourceChange": one} for one in changes]
        return ActionResult({**_change_set_summary(found), "Changes": listed})

    def execute_change_set(self) -> Any:
        """Begin to create the stack of a change set."""
        self._stacks.execute_change_set(self._change_set)
        return EmptyResult()

    def delete_change_set(self) -> Any:
        """Delete a change set."""
        self._stacks.change_sets.pop(self._change_set.id, None)
        return EmptyResult()

    def list_change_sets(self) -> Any:
        """Return a stack's change sets."""
        stack = self._stacks.find(self.params["StackName"])
        found = [_change_set_summary(one) for one in self._stacks.change_sets.values() if one.stack is stack]
        return ActionResult({"Summaries": found})

    def delete_stack(self) -> Any:
        """Begin to delete a stack."""
        self._stacks.delete(self.params["StackName"])
        return EmptyResult()

    def describe_stacks(self) -> Any:
        """Return one stack, or all that are not deleted."""
        name = self.params.get("StackName")
        found = [self._stacks.find(name)] if name else self._stacks.present()
        return ActionResult({"Stacks": [_stack(one) for one in found]})

    def describe_stack_events(self) -> Any:
        """Return the events of a stack, the newest first."""
        stack = self._stacks.find(self.params["StackName"])
        of_stack = {"StackId": stack.id, "StackName": stack.name}
        events = [
            {**of_stack, "EventId": one.id, "Timestamp": one.at, **_resource_status(one)}
            for one in reversed(list(stack.events))
        ]
        return ActionResult({"StackEvents": events})

    def list_stack_resources(self) -> Any:
        """Return the resources of a stack."""
        resources = [
            {**_resource_status(one), "LastUpdatedTimestamp": one.changed_at}
            for one in list(self._stacks.find(self.params["StackName"]).resources.values())
        ]
        return ActionResult({"StackResourceSummaries": resources})

    def validate_template(self) -> Any:
        """Accept a template, with resources of any type."""
        read_template(self.params["TemplateBody"])
        return EmptyResult()

    def update_termination_protection(self) -> Any:
        """Turn the protection of a stack from deletion on or off."""
        stack = self._stacks.find(self.params["StackName"])
        stack.is_protected = bool(self.params["EnableTerminationProtection"])
        return ActionResult({"StackId": stack.id})

    def signal_resource(self) -> Any:
        """Accept a signal, which has no effect here."""
        self._stacks.find(self.params["StackName"])
        return EmptyResult()


def _resource_status(one: Resource | StackEvent) -> Answer:
    return {
        "LogicalResourceId": one.logical_id,
        "PhysicalResourceId": one.physical_id,
        "ResourceType": one.type,
        "ResourceStatus": one.status,
        "ResourceStatusReason": one.reason,
    }


def _stack(stack: Stack) -> Answer:
    return {
        "StackId": stack.id,
        "StackName": stack.name,
        "StackStatus": stack.status,
        "StackStatusReason": stack.reason,
        "CreationTime": stack.created_at,
        "EnableTerminationProtection": stack.is_protected,
        "Parameters": [{"ParameterKey": key, "ParameterValue": text} for key, text in stack.parameters.items()],
        "Outputs": stack.outputs,
        "Tags": [{"Key": key, "Value": value} for key, value in stack.tags.items()],
    }


def _change_set_summary(change_set: ChangeSet) -> Answer:
    return {
        "ChangeSetId": change_set.id,
        "ChangeSetName": change_set.name,
        "StackId": change_set.stack.id,
        "StackName": change_set.stack.name,
        "Status": change_set.status,
        "StatusReason": change_set.reason,
        "ExecutionStatus": change_set.execution_status,
    }


def _stored_template(url: str, s3: Any) -> str:
    """Return the text of a template in a bucket, by a URL of either style."""
    parts = urlsplit(url)
    host, path = parts.hostname or "", unquote(parts.path.lstrip("/"))
    bucket, dot, service = host.partition(".s3")
    if not (dot and (service == "" or service[0] in ".-")):
        bucket, _, path = path.partition("/")
    if not (bucket and path):
        raise StackError(f"TemplateURL must be a supported URL: {url!r} names no object of a bucket")
    try:
        return str(s3.get_object(Bucket=bucket, Key=path)["Body"].read().decode())
    except ClientError as error:
        raise StackError(f"S3 error: {error.response['Error'].get('Message', error)}") from error
