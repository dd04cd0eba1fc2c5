"""Fakes with a clock: EC2 as far as a fleet needs it, and a table in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from botocore.exceptions import ClientError, ReadTimeoutError

from services.ec2 import Fleet, Instance
from services.table import Item, Table

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Clock:
    """Seconds that pass when told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


def instance(instance_id: str, state: str = "running", launched_at: datetime = EPOCH) -> Instance:
    """An instance in `state`."""
    return Instance(instance_id, state, "c7a.large", "us-east-1a", launched_at)


def refusal(code: str, operation: str = "RunInstances") -> ClientError:
    """The error with which AWS refuses."""
    return ClientError({"Error": {"Code": code, "Message": "no"}}, cast(Any, operation))


@dataclass
class FakeEC2:
    """EC2's promises about ClientToken, capacity and states, and its ways to fail.

    Attributes:
        room: how many instances there is capacity for.
        fail: asked before each launch: None lets it through; `lost` loses the reply of a launch that took place;
            `timeout` loses the request; any other word refuses with that code.
        hidden: ids that DescribeInstances does not know of yet.
        stale: states that DescribeInstances still shows instead of the true ones.
    """

    room: int = 1_000_000
    fail: Callable[[], str | None] = lambda: None
    states: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    stale: dict[str, str] = field(default_factory=dict)
    by_token: dict[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    start_fails: str | None = None
    most_alive: int = 0

    def fleet(self) -> Fleet:
        """The fleet that has this EC2 as its client."""
        return Fleet(cast(Any, self), "worker")

    def alive(self) -> list[str]:
        """Ids of pending and running instances, seen or not."""
        return [key for key, state in self.states.items() if state in {"pending", "running"}]

    def run_instances(self, **call: Any) -> dict[str, Any]:
        """Launch between MinCount and MaxCount instances, once for each token."""
        self.calls.append(call)
        failure = self.fail()
        if failure == "timeout":
            raise ReadTimeoutError(endpoint_url="ec2")
        if failure not in {None, "lost"}:
            raise refusal(str(failure))
        ids = self._launch(call)
        if failure == "lost":
            raise refusal("500")
        return {"Instances": [self._described(key) for key in ids]}

    def _launch(self, call: dict[str, Any]) -> list[str]:
        token = call["ClientToken"]
        if token in self.by_token:
            first, ids = self.by_token[token]
            if first != call:
                raise refusal("IdempotentParameterMismatch")
            return ids
        count = min(call["MaxCount"], self.room - len(self.alive()))
        if count < call["MinCount"]:
            raise refusal("InsufficientInstanceCapacity")
        ids = [f"i-{len(self.states) + number}" for number in range(count)]
        self.states |= dict.fromkeys(ids, "pending")
        self.by_token[token] = (call, ids)
        self.most_alive = max(self.most_alive, len(self.alive()))
        return ids

    def start_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803 (EC2's name)
        """Start stopped instances."""
        failure = self.start_fails or self.fail()
        if failure == "timeout":
            raise ReadTimeoutError(endpoint_url="ec2")
        if failure not in {None, "lost"}:
            raise refusal(str(failure), "StartInstances")
        self.states |= dict.fromkeys(InstanceIds, "pending")
        self.most_alive = max(self.most_alive, len(self.alive()))
        if failure == "lost":
            raise refusal("500", "StartInstances")
        return {}

    def get_paginator(self, _operation: str) -> "FakeEC2":
        """Return itself: it paginates."""
        return self

    def paginate(self, Filters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:  # noqa: N803 (EC2's name)
        """Describe the instances that are in the states asked for and not hidden."""
        states = next(each["Values"] for each in Filters if each["Name"] == "instance-state-name")
        described = {key: self.stale.get(key, state) for key, state in self.states.items() if key not in self.hidden}
        shown = [key for key, state in described.items() if state in states]
        yield {"Reservations": [{"Instances": [self._described(key, described[key])]} for key in shown]}

    def _described(self, key: str, shown_state: str | None = None) -> dict[str, Any]:
        state = {"Name": shown_state or self.states[key]}
        return {"InstanceId": key, "State": state, "InstanceType": "c7a.large", "LaunchTime": EPOCH}


class MemoryTable(Table):
    """A table in memory that can fail before or after any write: `fail` is asked at each with `before` or `after`."""

    def __init__(self, fail: Callable[[str], None] = lambda _when: None) -> None:
        super().__init__(cast(Any, None), "memory")
        object.__setattr__(self, "items", {})
        object.__setattr__(self, "fail", fail)

    items: dict[tuple[str, str], Item]
    fail: Callable[[str], None]

    def put_all(self, items: Sequence[Item]) -> None:
        """Put items; a key may stand only once in 25, as BatchWriteItem demands."""
        for start in range(0, len(items), 25):
            self.fail("before")
            keys = [(str(item["pk"]), str(item["sk"])) for item in items[start : start + 25]]
            assert len(set(keys)) == len(keys), "BatchWriteItem refuses duplicates"
            self.items.update(zip(keys, items[start : start + 25], strict=True))
            self.fail("after")

    def put_if(self, item: Item, condition: str, values: Item | None = None) -> bool:
        """Put an item where there is none, or one that failed."""
        assert condition == "attribute_not_exists( #pk ) OR #status = :failed"
        self.fail("before")
        key = (str(item["pk"]), str(item["sk"]))
        if key in self.items and self.items[key]["status"] != "failed":
            return False
        self.items[key] = item
        self.fail("after")
        return True

    def get(self, pk: str, sk: str) -> Item | None:
        """Return an item."""
        return self.items.get((pk, sk))

    def get_all(self, keys: Sequence[tuple[str, str]]) -> list[Item]:
        """Return those that are there."""
        return [self.items[key] for key in keys if key in self.items]

    def query(
        self, pk: str, low: str, high: str, *, limit: int | None = None, newest_first: bool = False
    ) -> Iterator[Item]:
        """Yield items in order."""
        found = sorted(key for key in self.items if key[0] == pk and low <= key[1] <= high)
        yield from (self.items[key] for key in found[:limit])

    def count(self, pk: str, prefix: str) -> int:
        """Count items."""
        return sum(key[0] == pk and key[1].startswith(prefix) for key in self.items)
