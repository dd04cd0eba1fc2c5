"""Templates are read and evaluated as CloudFormation does; stacks are created in the order of their references."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import botocore.session
import pytest
from botocore.exceptions import ClientError

from tests.support.account.handlers import HANDLERS, PhysicalResource, ResourceHandler, StackServices, coerce
from tests.support.account.stacks import NO_CHANGES, ChangeSet, Stack, StackRequest, Stacks
from tests.support.account.template import (
    NO_VALUE,
    Evaluation,
    Resource,
    StackError,
    complete_parameters,
    read_template,
    references,
    resolve_parameters,
)


def test_short_functions_are_the_long_ones() -> None:
    template = read_template(
        """
        Resources:
          Queue:
            Type: AWS::SQS::Queue
            Condition: Wanted
            Properties:
              Name: !Sub "${Prefix}-requests"
              Arn: !GetAtt Other.Arn
              Nested: !GetAtt Other.Endpoint.Address
              Ref: !If [Wanted, !Ref Prefix, !Ref AWS::NoValue]
        Conditions:
          Wanted: !Not [!Condition Unwanted]
        """
    )
    assert template.conditions == {"Wanted": {"Fn::Not": [{"Condition": "Unwanted"}]}}
    assert template.resources["Queue"]["Properties"] == {
        "Name": {"Fn::Sub": "${Prefix}-requests"},
        "Arn": {"Fn::GetAtt": ["Other", "Arn"]},
        "Nested": {"Fn::GetAtt": ["Other", "Endpoint.Address"]},
        "Ref": {"Fn::If": ["Wanted", {"Ref": "Prefix"}, {"Ref": "AWS::NoValue"}]},
    }


def test_json_is_read_too_and_a_date_stays_text() -> None:
    assert read_template('{"Resources": {"A": {"Type": "T"}}}').resources == {"A": {"Type": "T"}}
    assert read_template("Resources: {A: {Type: T, Version: 2012-10-17}}").resources["A"]["Version"] == "2012-10-17"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: [", "not well-formed"),
        ("Parameters: {}", "At least one Resources member"),
        ("just text", "At least one Resources member"),
        ("Resources: {A: {Properties: {}}}", r"\[/Resources/A\] Every Resources object must contain a Type"),
    ],
)
def test_invalid_template_is_rejected_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        read_template(text)


TEXT = """
Parameters:
  Image: {Type: "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>", Default: /image/web}
  Prefix: {Type: String}
  Subnets: {Type: "List<AWS::EC2::Subnet::Id>", Default: "a, b"}
  Origins: {Type: CommaDelimitedList, Default: ""}
  Days: {Type: Number, Default: 30}
Resources: {A: {Type: T}}
"""
STORE = {"/image/web": "ami-1"}


def lookup(name: str) -> str:
    if name not in STORE:
        raise StackError(f"no {name}")
    return STORE[name]


def test_defaults_complete_parameters_and_store_names_are_resolved() -> None:
    texts = complete_parameters(read_template(TEXT), {"Prefix": "p"})
    assert texts == {"Image": "/image/web", "Prefix": "p", "Subnets": "a, b", "Origins": "", "Days": "30"}
    values = resolve_parameters(read_template(TEXT), texts, lookup)
    assert values == {"Image": "ami-1", "Prefix": "p", "Subnets": ["a", "b"], "Origins": [""], "Days": "30"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"\['Prefix'\] must have values"),
        ({"Prefix": "p", "Prefx": "q"}, r"\['Prefx'\] do not exist"),
        ({"Prefix": "p", "Image": "/nothing"}, "no /nothing"),
    ],
)
def test_missing_or_unknown_parameter_is_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(StackError, match=message):
        resolve_parameters(read_template(TEXT), complete_parameters(read_template(TEXT), given), lookup)


def test_parameter_accepts_only_allowed_values() -> None:
    text = "{Parameters: {P: {Type: String, AllowedValues: ['on', false]}}, Resources: {A: {Type: T}}}"
    assert complete_parameters(read_template(text), {"P": "false"}) == {"P": "false"}
    with pytest.raises(StackError, match=r"'P' must be one of AllowedValues \(on, false\)"):
        complete_parameters(read_template(text), {"P": "no"})


QUEUE = Resource("Queue", "T", {}, {}, frozenset(), "url", {"Arn": "Queue.Arn!"})
EVALUATION = Evaluation(
    read_template(
        "{Conditions: {'Yes': !Equals [1, 1], 'No': !Not [!Condition 'Yes']}, Resources: {Queue: {Type: T}}}"
    ),
    {"Prefix": "p", "Subnets": ["a", "b"], "Empty": ""},
    {"Queue": QUEUE},
)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"Ref": "Prefix"}, "p"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "Queue.Arn!"),
        ({"Ref": "Queue"}, "url"),
        ({"Ref": "AWS::NoValue"}, NO_VALUE),
        ({"Fn::Sub": "${Prefix}-${Queue.Arn}-${!Literal}-$HOME"}, "p-Queue.Arn!-${Literal}-$HOME"),
        ({"Fn::Sub": ["${Own}/${Prefix}", {"Own": {"Fn::Join": ["+", {"Ref": "Subnets"}]}}]}, "a+b/p"),
        ({"Fn::Join": [",", ["x", {"Ref": "Prefix"}]]}, "x,p"),
        ({"Fn::Split": ["/", "a/b"]}, ["a", "b"]),
        ({"Fn::Select": ["1", {"Fn::Split": ["s3://", "s3://bucket/key"]}]}, "bucket/key"),
        ({"Fn::Base64": {"Fn::Sub": "#!${Prefix}"}}, "IyFw"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", 1, 2]}, 2),
        ({"Fn::Equals": [{"Ref": "Empty"}, ""]}, True),
        ({"Fn::Equals": ["true", True]}, True),
        ({"Fn::Not": [{"Condition": "Yes"}]}, False),
        ({"Fn::And": [{"Condition": "Yes"}, {"Condition": "No"}]}, False),
        ({"Fn::Or": [{"Condition": "Yes"}, {"Condition": "No"}]}, True),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}]}, {"b": [1]}),
    ],
)
def test_a_function_comes_to(value: Any, found: Any) -> None:
    assert EVALUATION.value(value) == found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"Fn::Cidr": []}, "Fn::Cidr is not known"),
        ({"Fn::Select": [2, ["a"]]}, "nonexistent value at index 2"),
        ({"Ref": "Other"}, r"dependencies \[Other\]"),
        ({"Fn::GetAtt": ["Queue", "Name"]}, "resource Queue does not support attribute type Name"),
    ],
)
def test_value_that_cannot_be_evaluated_is_rejected(value: Any, message: str) -> None:
    with pytest.raises(StackError, match=message):
        EVALUATION.value(value)


def test_everything_that_a_value_needs_is_found() -> None:
    value = {
        "a": {"Fn::Sub": ["${Queue.Arn} ${Own} ${!No} ${Prefix}", {"Own": {"Ref": "Inner"}}]},
        "b": [{"Fn::If": ["Yes", {"Ref": "Then"}, {"Fn::GetAtt": ["Else", "Id"]}]}],
    }
    assert set(references(value)) == {"Queue", "Prefix", "Inner", "Then", "Else"}


SESSION = botocore.session.Session()


@pytest.mark.parametrize(
    ("service", "operation", "value", "found"),
    [
        ("logs", "PutRetentionPolicy", {"retentionInDays": "30"}, {"retentionInDays": 30}),
        ("sqs", "CreateQueue", {"Attributes": {"Delay": 30}}, {"Attributes": {"Delay": "30"}}),
        ("cloudwatch", "PutMetricAlarm", {"Threshold": 1, "Period": "60"}, {"Threshold": 1.0, "Period": 60}),
        ("ec2", "RunInstances", {"EbsOptimized": "true"}, {"EbsOptimized": True}),
        ("ssm", "PutParameter", {"Value": True, "Tags": [{"Key": 1}]}, {"Value": "true", "Tags": [{"Key": "1"}]}),
        ("s3", "PutBucketPolicy", {"Policy": {"a": 1}}, {"Policy": '{"a": 1}'}),
        ("sqs", "CreateQueue", {"NoSuchThing": "1"}, {"NoSuchThing": "1"}),
    ],
)
def test_a_value_is_coerced(service: str, operation: str, value: Any, found: Any) -> None:
    shape = SESSION.get_service_model(service).operation_model(operation).input_shape
    converted = coerce(value, shape)
    assert converted == found
    assert {name: type(one) for name, one in converted.items()} == {name: type(one) for name, one in found.items()}


# ---- Stacks

TYPE = "Test::Thing::Thing"


@dataclass
class World:
    """Stacks of things; work in the background is done when `work` is called.

    Attributes:
        done: calls of the handler, such as ``create B``.
        fails: calls that fail.
        tags: of each thing.
    """

    done: list[str] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stacks = Stacks("1", "us-east-1", lambda service: None, self.waiting.append)

    def _create(self, cloud: StackServices, resource: Resource) -> PhysicalResource:
        self._call(f"create {resource.logical_id}")
        self.tags[resource.logical_id] = cloud.tags_of(resource.properties)
        physical_id = f"{resource.logical_id}-id"
        return PhysicalResource(physical_id, {"Arn": f"arn:{physical_id}"})

    def _delete(self, _cloud: StackServices, resource: Resource) -> None:
        self._call(f"delete {resource.logical_id}")

    def _call(self, call: str) -> None:
        if call in self.fails:
            raise StackError(f"no {call}")
        self.done.append(call)

    @property
    def handler(self) -> ResourceHandler:
        return ResourceHandler(self._create, self._delete)

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def propose(self, resources: str, kind: str = "CREATE", **parameters: str) -> ChangeSet:
        return self.stacks.create_change_set("c", "s", kind, request(resources, **parameters))

    def create(self, resources: str, **parameters: str) -> Stack:
        """Create a stack and wait until that has ended."""
        proposed = self.propose(resources, **parameters)
        self.stacks.execute_change_set(proposed)
        self.work()
        return proposed.stack

    def delete(self) -> None:
        self.stacks.delete("s")
        self.work()


def request(resources: str, **parameters: str) -> StackRequest:
    """Return a request: resources of a template with a parameter, a condition and an output, in YAML's flow style."""
    text = f"""
    Parameters: {{Size: {{Type: String, Default: "1"}}}}
    Conditions: {{IsLarge: !Equals [!Ref Size, large]}}
    Resources: {resources}
    Outputs: {{Where: {{Value: !GetAtt A.Arn}}}}
    """.replace("Thing,", f"{TYPE},").replace("Thing}", f"{TYPE}}}")
    given: list[Any] = [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]
    return StackRequest(read_template(text), given, tags={"of": "stack"})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setitem(HANDLERS, TYPE, world.handler)
    return world


THREE = "{C: {Type: Thing, DependsOn: B}, A: {Type: Thing}, B: {Type: Thing, Properties: {At: !Ref A}}}"


def test_resources_are_created_in_order_and_deleted_in_reverse(world: World) -> None:
    proposed = world.propose(THREE)
    stack = proposed.stack
    assert (proposed.status, stack.status, world.done) == ("CREATE_COMPLETE", "REVIEW_IN_PROGRESS", [])
    assert proposed.additions == [("C", TYPE), ("A", TYPE), ("B", TYPE)]
    world.stacks.execute_change_set(proposed)
    assert stack.status == "CREATE_IN_PROGRESS"
    world.work()
    assert world.done == ["create A", "create B", "create C"]
    assert stack.resources["B"].properties == {"At": "A-id"}
    assert world.tags["A"] == {"of": "stack"}
    assert (stack.status, stack.outputs) == ("CREATE_COMPLETE", [{"OutputKey": "Where", "OutputValue": "arn:A-id"}])
    world.delete()
    assert world.done[3:] == ["delete C", "delete B", "delete A"]
    assert stack.status == "DELETE_COMPLETE"


def test_a_creation_that_fails_stops_there_with_its_reason_and_can_be_deleted(world: World) -> None:
    world.fails = {"create B"}
    stack = world.create(THREE)
    events = [(one.logical_id, one.status, one.reason) for one in stack.events[2:]]
    assert events == [
        ("A", "CREATE_IN_PROGRESS", None),
        ("A", "CREATE_COMPLETE", None),
        ("B", "CREATE_IN_PROGRESS", None),
        ("B", "CREATE_FAILED", "no create B"),
        ("s", "CREATE_FAILED", "The following resource(s) failed to create: [B]."),
    ]
    world.delete()
    assert (stack.status, world.done) == ("DELETE_COMPLETE", ["create A", "delete A"])


def test_a_condition_decides_about_a_resource_and_a_retained_resource_stays(world: World) -> None:
    large = "{A: {Type: Thing, DeletionPolicy: Retain}, B: {Type: Thing, Condition: IsLarge}}"
    assert set(world.create(large).resources) == {"A"}
    world.delete()
    stack = world.create(large, Size="large")
    assert set(stack.resources) == {"A", "B"}
    world.delete()
    assert (stack.status, world.done) == ("DELETE_COMPLETE", ["create A", "create A", "create B", "delete B"])


def test_a_deletion_that_fails_is_repeated_with_the_rest(world: World) -> None:
    stack = world.create("{A: {Type: Thing}, B: {Type: Thing}}")
    world.fails = {"delete A"}
    world.delete()
    assert (stack.status, stack.reason) == ("DELETE_FAILED", "The following resource(s) failed to delete: [A].")
    world.fails = set()
    world.delete()
    assert (stack.status, world.done[2:]) == ("DELETE_COMPLETE", ["delete B", "delete A"])


def test_same_template_has_no_changes_and_another_is_rejected(world: World) -> None:
    world.create(THREE, Size="2")
    again = world.propose(THREE, kind="UPDATE", Size="2")
    assert (again.status, again.execution_status, again.reason) == ("FAILED", "UNAVAILABLE", NO_CHANGES)
    with pytest.raises(StackError, match=r"cannot be executed .* \[UNAVAILABLE\]"):
        world.stacks.execute_change_set(again)
    assert world.stacks.find_change_set(again.id, None) is again
    with pytest.raises(StackError, match="plays no updates"):
        world.propose(THREE, kind="UPDATE", Size="3")
    as_before = request(THREE)
    as_before.parameters.append({"ParameterKey": "Size", "UsePreviousValue": True})
    assert world.stacks.create_change_set("c", "s", "UPDATE", as_before).reason == NO_CHANGES


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("{A: {Type: Thing, DependsOn: B}, B: {Type: Thing, DependsOn: A}}", r"Circular dependency .*\[A, B\]"),
        ("{A: {Type: Thing, Condition: None}}", "unresolved condition None"),
    ],
)
def test_a_template_that_cannot_be_applied_is_refused(world: World, resources: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        world.create(resources)
    assert world.stacks.present() == []


def test_a_protected_stack_is_not_deleted(world: World) -> None:
    stack = world.create(THREE)
    stack.is_protected = True
    with pytest.raises(StackError, match=r"\[s\] cannot be deleted while TerminationProtection is enabled"):
        world.delete()
    with pytest.raises(StackError, match=r"ChangeSet \[c2\] does not exist"):
        world.stacks.find_change_set("c2", "s")


def test_each_failure_has_its_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, reason in (
        (ClientError({"Error": {"Code": "Full", "Message": "no room"}}, "Create"), "(Full) when calling the Create"),
        (KeyError("Size"), "the local cloud failed: KeyError('Size')"),
    ):
        monkeypatch.setattr(world, "_call", Mock(side_effect=error))
        failed = world.create("{A: {Type: Thing}}")
        assert reason in str(failed.events[-2].reason)
        world.stacks.delete(failed.id)
        world.work()


def test_an_unknown_attribute_fails_the_resource_that_needs_it(world: World) -> None:
    stack = world.create("{A: {Type: Thing}, B: {Type: Thing, Properties: {At: !GetAtt A.Nothing}}}")
    assert stack.status == "CREATE_FAILED"
    assert "does not support attribute type Nothing" in str(stack.events[-2].reason)


def test_a_resource_without_a_handler_has_an_id_and_attributes(world: World) -> None:
    stack = world.create("{A: {Type: AWS::SNS::Topic, Properties: {}}}")
    assert stack.outputs[0]["OutputValue"].startswith("arn:aws:sns:us-east-1:1:s-A-")
    world.delete()
    assert stack.status == "DELETE_COMPLETE"


def test_no_operation_begins_during_another_and_a_deleted_stack_is_found_by_its_id_only(world: World) -> None:
    proposed = world.propose(THREE)
    world.stacks.execute_change_set(proposed)
    with pytest.raises(StackError, match="cannot be deleted while in status CREATE_IN_PROGRESS"):
        world.stacks.delete("s")
    with pytest.raises(StackError, match="already exists"):
        world.propose(THREE)
    world.work()
    world.delete()
    assert world.stacks.find(proposed.stack.id).status == "DELETE_COMPLETE"
    with pytest.raises(StackError, match="Stack with id s does not exist"):
        world.stacks.find("s")
    world.stacks.delete("s")
    assert world.create(THREE).id != proposed.stack.id
