"""Stacks are created in the order of their references, and deleted in the opposite order."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from localcloud.cloudformation.handlers import HANDLERS, PhysicalResource, ResourceHandler, StackServices
from localcloud.cloudformation.stacks import NO_CHANGES, ChangeSet, Stack, StackRequest, Stacks
from localcloud.cloudformation.template import Resource, StackError, read_template

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


def test_a_condition_decides_whether_a_resource_exists(world: World) -> None:
    large = "{A: {Type: Thing}, B: {Type: Thing, Condition: IsLarge}}"
    assert set(world.create(large).resources) == {"A"}
    world.delete()
    assert set(world.create(large, Size="large").resources) == {"A", "B"}


def test_a_retained_resource_stays_when_its_stack_is_deleted(world: World) -> None:
    stack = world.create("{A: {Type: Thing, DeletionPolicy: Retain}, B: {Type: Thing}}")
    world.delete()
    assert (stack.status, world.done[2:]) == ("DELETE_COMPLETE", ["delete B"])


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
    with pytest.raises(StackError, match="plays no updates"):
        world.propose(THREE, kind="UPDATE", Size="3")


def test_parameter_can_use_its_previous_value(world: World) -> None:
    world.create(THREE, Size="2")
    wanted = request(THREE)
    wanted.parameters.append({"ParameterKey": "Size", "UsePreviousValue": True})
    assert world.stacks.create_change_set("c", "s", "UPDATE", wanted).reason == NO_CHANGES


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
