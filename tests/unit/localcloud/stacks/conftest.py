"""Stacks with resources that only record the calls of their handler."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from localcloud.stacks.errors import StackError
from localcloud.stacks.handlers import HANDLERS, Cloud, Created, Handler
from localcloud.stacks.model import ChangeSet, Resource, Stack
from localcloud.stacks.stacks import StackRequest, Stacks
from localcloud.stacks.template import read

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

    def _create(self, cloud: Cloud, resource: Resource) -> Created:
        self._call(f"create {resource.logical_id}")
        self.tags[resource.logical_id] = cloud.tags_of(resource.properties)
        physical_id = f"{resource.logical_id}-id"
        return Created(physical_id, {"Arn": f"arn:{physical_id}"})

    def _delete(self, _cloud: Cloud, resource: Resource) -> None:
        self._call(f"delete {resource.logical_id}")

    def _call(self, call: str) -> None:
        if call in self.fails:
            raise StackError(f"no {call}")
        self.done.append(call)

    @property
    def handler(self) -> Handler:
        return Handler(self._create, self._delete)

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
    return StackRequest(read(text), given, tags={"of": "stack"})


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setitem(HANDLERS, TYPE, world.handler)
    return world
