"""Stacks whose resources are of a kind that only remembers what was asked of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from services.embedded.stacks.change_sets import ChangeSets
from services.embedded.stacks.errors import ResourceError
from services.embedded.stacks.kinds import PLAYED
from services.embedded.stacks.kinds.kind import Cloud, Made, Place
from services.embedded.stacks.model import Resource, Stack
from services.embedded.stacks.service import Stacks
from services.embedded.stacks.template import read
from services.embedded.stacks.wishes import Wish

TYPE = "Test::Thing::Thing"


@dataclass
class Things:
    """A kind of resources: what was asked of it, and what of that fails.

    Attributes:
        there: properties by physical id.
        fails: names of calls, such as ``create B``.
    """

    done: list[str] = field(default_factory=list)
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    fails: set[str] = field(default_factory=set)
    fixed: frozenset[str] = frozenset({"Name"})
    moving: frozenset[str] = frozenset({"Version"})
    versions: int = 0

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        self._note("create", resource)
        physical_id = f"{resource.logical_id}-{len(self.done)}"
        self.there[physical_id] = {**resource.properties, **cloud.all_tags(resource.properties)}
        return Made(physical_id, self._attributes(physical_id))

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        self._note("update", resource)
        self.there[resource.physical_id] = {**properties, **cloud.all_tags(properties)}
        return Made(resource.physical_id, self._attributes(resource.physical_id))

    def delete(self, _cloud: Cloud, resource: Resource) -> None:
        self._note("delete", resource)
        del self.there[resource.physical_id]

    def _note(self, verb: str, resource: Resource) -> None:
        call = f"{verb} {resource.logical_id}"
        if call in self.fails:
            raise ResourceError(f"no {call}")
        self.done.append(call)

    def _attributes(self, physical_id: str) -> dict[str, str]:
        self.versions += 1
        return {"Arn": f"arn:{physical_id}", "Version": str(self.versions)}


@dataclass
class World:
    """Stacks, change sets, and the things that they are made of; work is done when `work` says so."""

    things: Things
    waiting: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.stacks = Stacks(Place("1", "us-east-1"), lambda service: None, self.waiting.append)
        self.change_sets = ChangeSets(self.stacks)

    def work(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()

    def create(self, resources: str, **parameters: str) -> Stack:
        stack = self.stacks.create("s", wish(resources, None, **parameters))
        self.work()
        return stack

    def update(self, resources: str, **parameters: str) -> Stack:
        stack = self.stacks.update("s", wish(resources, None, **parameters))
        self.work()
        return stack

    def delete(self) -> None:
        self.stacks.delete("s", [])
        self.work()


def wish(resources: str, tags: dict[str, str] | None = None, **parameters: str) -> Wish:
    """Return what is wanted: resources of a template with a parameter, a condition and an output, in YAML's flow."""
    text = f"""
    Parameters: {{Size: {{Type: String, Default: "1"}}}}
    Conditions: {{IsLarge: !Equals [!Ref Size, large]}}
    Resources: {resources}
    Outputs: {{Where: {{Value: !GetAtt A.Arn}}}}
    """.replace("Thing,", f"{TYPE},").replace("Thing}", f"{TYPE}}}")
    return Wish(read(text), parameters, [], tags)


def states(stack: Stack) -> list[str]:
    """Return the stack's own states."""
    return [one.status for one in stack.events if one.logical_id == stack.name]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    things = Things()
    monkeypatch.setitem(PLAYED, TYPE, things)
    yield World(things)
