"""EC2 in memory with instances that boot, work and end, and with bad days.

What is called is called as `services.ec2.Fleet` calls botocore's client, so the very code of the product is run.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from services.ec2 import TEMPLATE_TAG, VERSION_TAG
from tests.simulation.faults.machines import FailureMode, Shown, SimulatedInstance, SimulatedQueues
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.ec2 import ENDED, EPOCH, MemoryEC2

OPERATIONS: Final = {
    "RunInstances": "run",
    "StartInstances": "start",
    "DescribeInstances": "describe",
    "DescribeLaunchTemplates": "describe",
    "CreateTags": "tag",
    "DeleteTags": "tag",
    "TerminateInstances": "end",
    "GetConsoleOutput": "console",
}
"""What schedules call the operations of EC2."""

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


@dataclass(kw_only=True)
class Cloud(MemoryEC2):
    """EC2.

    Attributes:
        now: the time, in seconds.
        queue: what the workers work on.
        next_failure_mode: of the next boot.
        before_call: called before each call takes effect; it may kill or freeze the process.
        launched: called after each launch or start with the number of live instances.
        ended: called with each instance that the controller terminates, before it is terminated.
        late: calls that are still to be carried out, and when.
        cpu_seconds: CPU seconds that all descriptions have taken.
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
    after_call: Callable[[str], None] = lambda _operation: None
    cpu_seconds: float = 0.0

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

    def alive(self) -> list[str]:
        """Return the ids of the instances that are pending or running."""
        return [key for key, each in self.instances.items() if each.alive]

    # What instances are, and what befalls calls

    def _before(self, operation: str) -> None:
        self.before_call(OPERATIONS[operation])

    def _after(self, operation: str) -> None:
        self.after_call(OPERATIONS[operation])

    def _next_fault(self, _operation: str, effect: Callable[[], object]) -> str | None:
        fault, self.faults.launch = self.faults.launch, None
        if fault == "late":
            self.late.append((self.now() + LATE_SECONDS, effect))
            return "timeout"
        return fault

    def _is_refused(self, operation: str) -> bool:
        return self.faults.ends_fail if operation == "TerminateInstances" else self.faults.tags_fail

    def _offered(self, call: dict[str, Any]) -> int:
        return self._room(call["InstanceType"], spot="InstanceMarketOptions" in call)

    def _room(self, instance_type: str, *, spot: bool) -> int:
        alive = [self.instances[key] for key in self.alive()]
        alike = [each for each in alive if each.instance_type == instance_type and each.spot == spot]
        rooms = [self.faults.room.get((instance_type, spot), 1_000) - len(alike)]
        if self.faults.quota is not None:
            rooms.append(self.faults.quota - len(alive))
        return min(rooms)

    def _create(self, call: dict[str, Any], count: int) -> list[str]:
        ids = [f"i-{len(self.instances) + number:05d}" for number in range(count)]
        version = {}
        if "LaunchTemplate" in call:
            template = f"lt-{call['LaunchTemplate']['LaunchTemplateName']}"
            version = {TEMPLATE_TAG: template, VERSION_TAG: str(self.default_version)}
        for key in ids:
            self.instances[key] = SimulatedInstance(
                instance_id=key,
                instance_type=call["InstanceType"],
                spot="InstanceMarketOptions" in call,
                stops=call["InstanceInitiatedShutdownBehavior"] == "stop",
                fate=self.next_failure_mode(),
                launched_at=self.now(),
                image_seconds=self.image_seconds,
                idle_seconds=self.idle_seconds,
                tags=version
                | {tag["Key"]: tag["Value"] for each in call["TagSpecifications"] for tag in each["Tags"]},
                client_token=call["ClientToken"],
            )
        return ids

    def _count_alive(self) -> None:
        self.launched(len(self.alive()))

    def _state(self, key: str) -> str:
        return self.instances[key].state

    def _start(self, ids: list[str]) -> None:
        if any(self._state(key) not in {"stopped", "pending", "running"} for key in ids):
            raise refusal("IncorrectInstanceState", "StartInstances")
        stopped = [self.instances[key] for key in ids if self._state(key) == "stopped"]
        if any(self._room(each.instance_type, spot=each.spot) < len(stopped) for each in stopped):
            raise refusal("InsufficientInstanceCapacity", "StartInstances")
        for instance in stopped:
            instance.boot(self.now(), self.next_failure_mode())
        self._count_alive()

    def _tag(self, ids: list[str], tags: dict[str, str]) -> None:
        for instance in [self.instances[key] for key in ids]:
            instance.tags.update(tags)
            instance.remember(self.now())

    def _untag(self, ids: list[str], names: list[str]) -> None:
        for instance in [self.instances[key] for key in ids]:
            for name in names:
                instance.tags.pop(name, None)
            instance.remember(self.now())

    def _terminate(self, ids: list[str]) -> None:
        for instance in [self.instances[key] for key in ids]:
            if instance.state not in ENDED:
                self.ended(instance)
                instance.end(self.now(), self.queue)

    def _console(self, key: str) -> str:
        return f"console of {key}"

    def _shown(self, _name: str, states: Iterable[str]) -> Iterator[dict[str, Any]]:
        """Return the instances in these states, as they were when the description was made."""
        self.cpu_seconds += self.faults.describe_cpu
        if self.faults.describe_fails:
            raise refusal("RequestLimitExceeded", "DescribeInstances")
        moment = self.now() - self.faults.describe_lag
        for instance in self.instances.values():
            then = instance.as_of(moment)
            if then is not None and then.state in states:
                yield _as_described(instance, then)

    def _described(self, key: str, _shown_state: str | None = None) -> dict[str, Any]:
        return _as_described(self.instances[key], self.instances[key].history[-1])


def _as_described(instance: SimulatedInstance, shown: Shown) -> dict[str, Any]:
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
