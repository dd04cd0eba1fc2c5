"""What CloudFormation tells of stacks, resources, events and change sets, in the fields of its API."""

from typing import Any

from services.embedded.stacks.model import ChangeSet, Event, Resource, Stack
from services.embedded.stacks.parameters import Parameters
from services.embedded.stacks.plan import Change
from services.embedded.stacks.template import Template

Answer = dict[str, Any]


def stack(of: Stack) -> Answer:
    """Return all of a stack but its resources and events."""
    return {
        **stack_summary(of),
        "Description": of.template.description if of.template else None,
        "Parameters": _parameters(of.parameters),
        "Outputs": of.outputs,
        "Capabilities": of.capabilities,
        "Tags": _tags(of.tags),
        "RoleARN": of.role_arn,
        "DisableRollback": False,
        "NotificationARNs": [],
        "EnableTerminationProtection": False,
    }


def stack_summary(of: Stack) -> Answer:
    """Return what a list says of a stack."""
    return {
        "StackId": of.id,
        "StackName": of.name,
        "StackStatus": of.status,
        "StackStatusReason": of.reason,
        "CreationTime": of.made_at,
        "LastUpdatedTime": of.changed_at,
        "DeletionTime": of.deleted_at,
        "DriftInformation": {"StackDriftStatus": "NOT_CHECKED"},
    }


def event(of: Stack, one: Event) -> Answer:
    """Return an event."""
    return {
        "StackId": of.id,
        "StackName": of.name,
        "EventId": one.id,
        "LogicalResourceId": one.logical_id,
        "PhysicalResourceId": one.physical_id,
        "ResourceType": one.type,
        "ResourceStatus": one.status,
        "ResourceStatusReason": one.reason,
        "ResourceProperties": one.properties,
        "Timestamp": one.at,
    }


def resource(of: Stack, one: Resource) -> Answer:
    """Return a resource with its stack."""
    return {"StackId": of.id, "StackName": of.name, "Timestamp": one.changed_at, **_resource(one)}


def resource_detail(of: Stack, one: Resource) -> Answer:
    """Return a resource as lists and details have it."""
    return {"StackId": of.id, "StackName": of.name, "LastUpdatedTimestamp": one.changed_at, **_resource(one)}


def _resource(one: Resource) -> Answer:
    return {
        "LogicalResourceId": one.logical_id,
        "PhysicalResourceId": one.physical_id,
        "ResourceType": one.type,
        "ResourceStatus": one.status,
        "ResourceStatusReason": one.reason,
        "DriftInformation": {"StackResourceDriftStatus": "NOT_CHECKED"},
    }


def change_set(of: ChangeSet) -> Answer:
    """Return a change set with its changes."""
    return {
        **change_set_summary(of),
        "Parameters": _parameters(of.examined.parameters),
        "Tags": _tags(of.stack.tags if of.examined.wish.tags is None else of.examined.wish.tags),
        "Capabilities": of.examined.wish.capabilities,
        "NotificationARNs": [],
        "Changes": [{"Type": "Resource", "ResourceChange": _change(one)} for one in of.examined.changes],
    }


def change_set_summary(of: ChangeSet) -> Answer:
    """Return what a list says of a change set."""
    return {
        "ChangeSetId": of.id,
        "ChangeSetName": of.name,
        "StackId": of.stack.id,
        "StackName": of.stack.name,
        "Description": of.description,
        "CreationTime": of.made_at,
        "Status": of.status,
        "StatusReason": of.reason,
        "ExecutionStatus": of.execution_status,
    }


def _change(one: Change) -> Answer:
    tags, others = {"Tags"} & set(one.properties), set(one.properties) - {"Tags"}
    scope = [*(["Properties"] if others else []), *(["Tags"] if tags or not others else [])]
    return {
        "Action": one.action,
        "LogicalResourceId": one.logical_id,
        "PhysicalResourceId": one.physical_id or None,
        "ResourceType": one.type,
        "Replacement": one.replacement or None,
        "Scope": scope if one.action == "Modify" else [],
        "Details": [_detail(one, name) for name in one.properties],
    }


def _detail(one: Change, name: str) -> Answer:
    recreation = {"True": "Always", "Conditional": "Conditionally"}.get(one.replacement, "Never")
    if name == "Tags":
        target = {"Attribute": "Tags", "RequiresRecreation": "Never"}
    else:
        target = {"Attribute": "Properties", "Name": name, "RequiresRecreation": recreation}
    return {"Target": target, "Evaluation": "Dynamic" if name in one.dynamic else "Static"}


def summary(of: Template) -> Answer:
    """Return what a template asks for."""
    needed = of.capabilities()
    return {
        "Description": of.description,
        "Parameters": [_declared(name, one) for name, one in of.parameters.items()],
        "Capabilities": needed,
        "CapabilitiesReason": "The following resource(s) require capabilities: [AWS::IAM]" if needed else None,
        "ResourceTypes": sorted({one["Type"] for one in of.resources.values()}),
    }


def _declared(name: str, definition: dict[str, Any]) -> Answer:
    default = definition.get("Default")
    return {
        "ParameterKey": name,
        "ParameterType": definition["Type"],
        "DefaultValue": None if default is None else str(default),
        "Description": definition.get("Description"),
        "NoEcho": bool(definition.get("NoEcho", False)),
    }


def _parameters(of: Parameters) -> list[Answer]:
    return [
        {"ParameterKey": name, "ParameterValue": text, "ResolvedValue": of.resolved.get(name)}
        for name, text in of.given.items()
    ]


def _tags(of: dict[str, str]) -> list[Answer]:
    return [{"Key": key, "Value": value} for key, value in of.items()]
