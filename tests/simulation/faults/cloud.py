"""EC2's API over simulated instances, with its promises (ClientToken, states, partial launches) and its bad days.

What is called is called as `services.ec2.Fleet` calls botocore's client, so the very code of the product is run.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError, ReadTimeoutError

from tests.simulation.faults.machines import FailureMode, Shown, SimulatedInstance, SimulatedQueues, refusal

EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
LATE_SECONDS: Final = 4.0
"""A request that was given up may be carried out so much later."""


@dataclass
class Faults:
    """How EC2 behaves just now.

    Attributes:
        describe_lag: DescribeInstances returns the state of so many seconds ago.
        describe_cpu: CPU seconds that a description takes, as one of many instances does.
        describe_fails, tags_fail, ends_fail: whether these calls are refused.
        launch: of the next launch or start: `lost` reply of a call that took place, `timeout` of one that did not,
            `late` for a time-out of one that takes place a little later, an error code, or None.
        room: instances there is capacity for, by `(type, is Spot)`; others have plenty.
        quota: the most that may be alive at all.
    """

    describe_lag: float = 0.0
    describe_cpu: float = 0.0
    describe_fails: bool = False
    tags_fail: bool = False
    ends_fail: bool = False
    launch: str | None = None
    room: dict[tuple[str, bool], int] = field(default_factory=dict)
    quota: int | None = None


@dataclass
class Cloud:
    """EC2.

    Attributes:
        now: the time, in seconds.
        queue: what the workers work on.
        next_failure_mode: of the next boot.
        before_call: called before each call takes effect; it may kill or freeze the process.
        launched: called after each launch or start with the number of live instances.
        ended: called with each instance that the controller terminates, before it is terminated.
        late: calls that are still to be carried out, and when.
        cpu_seconds: CPU time that all descriptions have taken.
    """

    now: Callable[[], float]
    queue: SimulatedQueues
    next_failure_mode: Callable[[], FailureMode]
    before_call: Callable[[str], None]
    launched: Callable[[int], None]
    ended: Callable[[SimulatedInstance], None]
    image_seconds: float
    idle_seconds: float
    faults: Faults = field(default_factory=Faults)
    instances: dict[str, SimulatedInstance] = field(default_factory=dict)
    late: list[tuple[float, Callable[[], object]]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    after_call: Callable[[str], None] = lambda _operation: None
    _by_token: dict[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict)

    def live(self) -> None:
        """Let everything that was due by now take place."""
        due = [call for at, call in self.late if at <= self.now()]
        self.late = [each for each in self.late if each[0] > self.now()]
        for call in due:
            try:
                call()
            except ClientError:
                continue  # refused, and no caller waits for the reply any more
        for instance in self.instances.values():
            instance.live(self.now(), self.queue)

    def alive(self) -> list[SimulatedInstance]:
        """Return who is pending or running."""
        return [each for each in self.instances.values() if each.alive]

    # The client, with the names of botocore

    def get_paginator(self, _operation: str) -> "Cloud":
        """Return itself, which paginates DescribeInstances."""
        return self

    def paginate(self, Filters: list[dict[str, Any]], **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803
        """Describe the instances in the states asked for, as they were when the description was made."""
        self.before_call("describe")
        self.cpu_seconds += self.faults.describe_cpu
        if self.faults.describe_fails:
            raise refusal("RequestLimitExceeded", "DescribeInstances")
        states = next(each["Values"] for each in Filters if each["Name"] == "instance-state-name")
        moment, shown = self.now() - self.faults.describe_lag, []
        for instance in self.instances.values():
            then = instance.as_of(moment)
            if then is not None and then.state in states:
                shown.append(_described(instance, then))
        yield {"Reservations": [{"Instances": shown}]}

    def run_instances(self, **call: Any) -> dict[str, Any]:
        """Launch between MinCount and MaxCount instances, once for each token."""
        ids = self._change("run", lambda: self._launch(call))
        return {"Instances": [_described(self.instances[key], self.instances[key].history[-1]) for key in ids]}

    def start_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803
        """Start stopped instances."""
        self._change("start", lambda: self._start(InstanceIds))
        return {}

    def create_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Tag instances."""
        tags = {tag["Key"]: tag["Value"] for tag in Tags}
        return self._tag("CreateTags", Resources, lambda instance: instance.tags.update(tags))

    def delete_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> dict[str, Any]:  # noqa: N803
        """Take tags away."""
        keys = [tag["Key"] for tag in Tags]
        return self._tag("DeleteTags", Resources, lambda instance: [instance.tags.pop(key, None) for key in keys])

    def terminate_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803
        """End instances for good."""
        self.before_call("end")
        if self.faults.ends_fail:
            raise refusal("RequestLimitExceeded", "TerminateInstances")
        for key in InstanceIds:
            instance = self.instances[key]
            if instance.state not in {"shutting-down", "terminated"}:
                self.ended(instance)
                instance.end(self.now(), self.queue)
        self.after_call("end")
        return {}

    def get_console_output(self, InstanceId: str, Latest: bool) -> dict[str, Any]:  # noqa: N803
        """Return what an instance wrote."""
        self.before_call("console")
        return {"Output": f"console of {InstanceId}"}

    # Outcomes

    def _change(self, operation: str, effect: Callable[[], list[str]]) -> list[str]:
        """Carry a launch or a start out, or not, as the faults have it."""
        self.before_call(operation)
        fault, self.faults.launch = self.faults.launch, None
        if fault == "late":
            self.late.append((self.now() + LATE_SECONDS, effect))
        if fault in {"late", "timeout"}:
            raise ReadTimeoutError(endpoint_url="ec2")
        if fault not in {None, "lost"}:
            raise refusal(str(fault), operation)
        ids = effect()
        self.after_call(operation)
        if fault == "lost":
            raise refusal("InternalError", operation)
        return ids

    def _launch(self, call: dict[str, Any]) -> list[str]:
        token = call["ClientToken"]
        if token in self._by_token:
            first, ids = self._by_token[token]
            if first != call:
                raise refusal("IdempotentParameterMismatch", "RunInstances")
            if all(self.instances[key].state == "terminated" for key in ids):
                raise refusal("IdempotentInstanceTerminated", "RunInstances")
            return ids
        spot = "InstanceMarketOptions" in call
        count = min(call["MaxCount"], self._room(call["InstanceType"], spot=spot))
        if count < call["MinCount"]:
            raise refusal("InsufficientInstanceCapacity", "RunInstances")
        ids = [f"i-{len(self.instances) + number:05d}" for number in range(count)]
        for key in ids:
            self.instances[key] = SimulatedInstance(
                instance_id=key,
                instance_type=call["InstanceType"],
                spot=spot,
                stops=call["InstanceInitiatedShutdownBehavior"] == "stop",
                fate=self.next_failure_mode(),
                launched_at=self.now(),
                image_seconds=self.image_seconds,
                idle_seconds=self.idle_seconds,
                tags={tag["Key"]: tag["Value"] for each in call["TagSpecifications"] for tag in each["Tags"]},
                client_token=token,
            )
        self._by_token[token] = (call, ids)
        self.launched(len(self.alive()))
        return ids

    def _room(self, instance_type: str, *, spot: bool) -> int:
        alike = [each for each in self.alive() if each.instance_type == instance_type and each.spot == spot]
        rooms = [self.faults.room.get((instance_type, spot), 1_000) - len(alike)]
        if self.faults.quota is not None:
            rooms.append(self.faults.quota - len(self.alive()))
        return min(rooms)

    def _start(self, instance_ids: list[str]) -> list[str]:
        if any(self.instances[key].state not in {"stopped", *("pending", "running")} for key in instance_ids):
            raise refusal("IncorrectInstanceState", "StartInstances")
        stopped = [self.instances[key] for key in instance_ids if self.instances[key].state == "stopped"]
        if any(self._room(each.instance_type, spot=each.spot) < len(stopped) for each in stopped):
            raise refusal("InsufficientInstanceCapacity", "StartInstances")
        for instance in stopped:
            instance.boot(self.now(), self.next_failure_mode())
        self.launched(len(self.alive()))
        return instance_ids

    def _tag(self, operation: str, keys: list[str], change: Callable[[SimulatedInstance], object]) -> dict[str, Any]:
        self.before_call("tag")
        if self.faults.tags_fail:
            raise refusal("RequestLimitExceeded", operation)
        for key in keys:
            change(self.instances[key])
            self.instances[key].remember(self.now())
        self.after_call("tag")
        return {}


def _described(instance: SimulatedInstance, shown: Shown) -> dict[str, Any]:
    described = {
        "InstanceId": instance.instance_id,
        "InstanceType": instance.instance_type,
        "ClientToken": instance.client_token,
        "State": {"Name": shown.state},
        "LaunchTime": EPOCH + timedelta(seconds=shown.booted_at),
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": key, "Value": value} for key, value in shown.tags.items()],
    }
    return described | ({"InstanceLifecycle": "spot"} if instance.spot else {})
