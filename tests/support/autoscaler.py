"""Fakes of EC2, SQS and the fleet's store, builders of observations, launches and snapshots, and prices."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

from botocore.exceptions import ClientError, ReadTimeoutError

from core.config import FleetSettings, PriceSettings
from core.fleet.models import FleetSnapshot, JournalEntry
from core.fleet.store import Commands, FleetStore
from core.messages import Heartbeat, WorkerState
from services.ec2 import Fleet, Instance
from services.metadata import DRAIN_TAG
from services.sqs import QueueCounts
from tests.conftest import shipped_values
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.waiting import ManualClock
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.launch_journal import Journal
from web_tier.autoscaler.launcher import MAX_BACKOFF_SECONDS, Launcher
from web_tier.autoscaler.observe import ENDED, LISTED, Observation, RecentLaunches

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


Clock = ManualClock


def instance(instance_id: str, state: str = "running", launched_at: datetime = EPOCH) -> Instance:
    """An instance in `state`."""
    return Instance(instance_id, state, "c7a.large", "us-east-1a", launched_at)


def refusal(code: str, operation: str = "RunInstances", retries: int = 0) -> ClientError:
    """The error with which AWS refuses, after botocore has made the call again `retries` times."""
    response = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"RetryAttempts": retries}}
    return ClientError(cast(Any, response), operation)


def fleet_settings(**changes: object) -> FleetSettings:
    """The shipped settings with few workers, and with these changes."""
    own = {"min_workers": 0, "max_workers": 19, "images_per_worker": 20}
    return FleetSettings.model_validate({**shipped_values()["fleet"], **own, **changes})


def observation(
    visible: int = 0, in_flight: int = 0, delayed: int = 0, *, states: tuple[str, ...] = (), launching: int = 0
) -> Observation:
    """A queue with so many messages, and instances `i-0`, `i-1` ... in these states."""
    instances = tuple(instance(f"i-{number}", state) for number, state in enumerate(states))
    launched = frozenset(f"c-{number}" for number in range(launching))
    return Observation(QueueCounts(visible, in_flight, delayed), 0, instances, launched)


def booting(*instance_ids: str, age: float = 0.0) -> dict[str, float]:
    """Workers that have sent no heartbeat, `age` seconds after their launch."""
    return dict.fromkeys(instance_ids, age)


def heartbeat(worker: str, images: int = 0, state: WorkerState = "busy", in_hand: int = 2) -> Heartbeat:
    """A heartbeat of a worker."""
    return Heartbeat(worker=worker, at=EPOCH, state=state, images=images, in_hand=in_hand, images_per_second=2.4)


class FakeSQS:
    """A queue with counts only, of which two messages are in flight and one is delayed; it counts the reads."""

    def __init__(self, visible: int = 0) -> None:
        self.visible, self.reads, self.error = visible, 0, cast(ClientError | None, None)
        self.in_flight, self.delayed = 2, 1

    def get_queue_attributes(self, **_call: Any) -> dict[str, Any]:
        """Return the counts."""
        self.reads += 1
        if self.error:
            raise self.error
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(self.visible),
                "ApproximateNumberOfMessagesNotVisible": str(self.in_flight),
                "ApproximateNumberOfMessagesDelayed": str(self.delayed),
            }
        }


class RecordingStore(FleetStore):
    """The real store over a table in memory; it keeps every snapshot."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())
        self.snapshots: list[FleetSnapshot] = []

    def put_snapshot(self, snapshot: FleetSnapshot) -> None:
        """Store a snapshot, and keep it."""
        super().put_snapshot(snapshot)
        self.snapshots.append(snapshot)


class CommandStore(FleetStore):
    """A store of the operators' commands; it counts the reads and can fail."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())
        self.stored = Commands()
        self.error: Exception | None = None
        self.reads = 0

    def commands(self) -> Commands:
        """Return the commands."""
        self.reads += 1
        if self.error:
            raise self.error
        return self.stored

    def delete_drains(self, instance_ids: Iterable[str]) -> None:
        """Delete commands to drain."""
        deleted = set(instance_ids)
        self.stored = replace(self.stored, drain=tuple(key for key in self.stored.drain if key not in deleted))


@dataclass
class FakeEC2:
    """EC2 as far as ClientToken, capacity, states and tags go, and its ways to fail.

    Attributes:
        room: capacity, as a number of instances.
        fail: called before each launch: None accepts it; `lost` loses the reply of a launch that took place, and
            `lost CODE` has botocore's own retry of it refused; `timeout` loses the request; any other word refuses
            with that code.
        offer: called for each new launch: None launches all, a number only so many, a word refuses.
        reached: called with `call` when a call is received, and with `reply` before its reply is sent.
        hidden: ids that DescribeInstances omits.
        stale: states that DescribeInstances still shows instead of the true ones.
        error: the error that DescribeInstances raises.
        describe_cpu: CPU seconds that a description takes.
        cpu_seconds: CPU seconds that all descriptions have taken.
        refuses: whether tags and terminations are refused.
        protected: ids that cannot be terminated.
        consoles: console output by instance id; of other instances it cannot be read.
        terminated: the ids of each call that terminated instances.
    """

    room: int = 1_000_000
    fail: Callable[[], str | None] = lambda: None
    states: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    stale: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    describe_cpu: float = 0.0
    cpu_seconds: float = 0.0
    by_token: dict[str, tuple[dict[str, Any], list[str]]] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    start_fails: str | None = None
    offer: Callable[[dict[str, Any]], int | str | None] = lambda _call: None
    reached: Callable[[str], None] = lambda _where: None
    max_alive: int = 0
    drained: list[str] = field(default_factory=list)
    tags: dict[str, set[str]] = field(default_factory=dict)
    refuses: bool = False
    protected: set[str] = field(default_factory=set)
    consoles: dict[str, str] = field(default_factory=dict)
    terminated: list[list[str]] = field(default_factory=list)
    starts: Counter[str] = field(default_factory=Counter)

    def fleet(self) -> Fleet:
        """The fleet that has this EC2 as its client."""
        return Fleet(cast(Any, self), "worker")

    def alive(self) -> list[str]:
        """Ids of pending and running instances, seen or not."""
        return [key for key, state in self.states.items() if state in {"pending", "running"}]

    def run_instances(self, **call: Any) -> dict[str, Any]:
        """Launch between MinCount and MaxCount instances, once for each token."""
        self.reached("call")
        self.calls.append(call)
        failure = self.fail() or ""
        lost, _, code = failure.partition(" ")
        if failure == "timeout":
            raise ReadTimeoutError(endpoint_url="ec2")
        if failure and lost != "lost":
            raise refusal(failure)
        ids = self._launch(call)
        self.reached("reply")
        if failure:
            raise refusal(code or "500", retries=2)
        return {"Instances": [self._described(key) for key in ids]}

    def _launch(self, call: dict[str, Any]) -> list[str]:
        token = call["ClientToken"]
        if token in self.by_token:
            first, ids = self.by_token[token]
            if first != call:
                raise refusal("IdempotentParameterMismatch")
            if all(self.states[key] == "terminated" for key in ids):
                raise refusal("IdempotentInstanceTerminated")
            return ids
        offered = self.offer(call)
        if isinstance(offered, str):
            raise refusal(offered)
        most = call["MaxCount"] if offered is None else min(offered, call["MaxCount"])
        count = min(most, self.room - len(self.alive()))
        if count < call["MinCount"]:
            raise refusal("InsufficientInstanceCapacity")
        ids = [f"i-{len(self.states) + number}" for number in range(count)]
        self.states |= dict.fromkeys(ids, "pending")
        self.by_token[token] = (call, ids)
        self.max_alive = max(self.max_alive, len(self.alive()))
        return ids

    def start_instances(self, InstanceIds: list[str]) -> dict[str, Any]:  # noqa: N803 (EC2's name)
        """Start stopped instances."""
        self.reached("call")
        failure = self.start_fails or self.fail()
        if failure == "timeout":
            raise ReadTimeoutError(endpoint_url="ec2")
        if failure not in {None, "lost"}:
            raise refusal(str(failure), "StartInstances")
        self.states |= dict.fromkeys(InstanceIds, "pending")
        self.starts.update(InstanceIds)
        self.max_alive = max(self.max_alive, len(self.alive()))
        if failure == "lost":
            raise refusal("500", "StartInstances")
        return {}

    def create_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> None:  # noqa: N803 (EC2's names)
        """Add tags, and record the instances that were drained."""
        self._may_change("CreateTags")
        if [tag["Key"] for tag in Tags] == [DRAIN_TAG]:
            self.drained += Resources
        for key in Resources:
            self.tags.setdefault(key, set()).update(tag["Key"] for tag in Tags)

    def delete_tags(self, Resources: list[str], Tags: list[dict[str, str]]) -> None:  # noqa: N803 (EC2's names)
        """Remove tags."""
        self._may_change("DeleteTags")
        for key in Resources:
            self.tags.get(key, set()).difference_update(tag["Key"] for tag in Tags)

    def terminate_instances(self, InstanceIds: list[str]) -> None:  # noqa: N803 (EC2's name)
        """Terminate instances; if one of them is protected, EC2 refuses the whole call."""
        self._may_change("TerminateInstances")
        if self.protected.intersection(InstanceIds):
            raise refusal("OperationNotPermitted", "TerminateInstances")
        self.terminated.append(InstanceIds)
        self.states |= dict.fromkeys(InstanceIds, "shutting-down")

    def get_console_output(self, InstanceId: str, Latest: bool) -> dict[str, str]:  # noqa: N803 (EC2's names)
        """Return the console output of an instance."""
        if InstanceId not in self.consoles:
            raise refusal("InvalidInstanceID.NotFound", "GetConsoleOutput")
        return {"Output": self.consoles[InstanceId]}

    def _may_change(self, operation: str) -> None:
        if self.refuses:
            raise refusal("RequestLimitExceeded", operation)

    def get_paginator(self, _operation: str) -> "FakeEC2":
        """Return itself: it paginates."""
        return self

    def paginate(self, Filters: list[dict[str, Any]], **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803 (EC2's name)
        """Describe the instances that are in the requested states and not hidden."""
        self.cpu_seconds += self.describe_cpu
        if self.error:
            raise self.error
        states = next(each["Values"] for each in Filters if each["Name"] == "instance-state-name")
        described = {key: self.stale.get(key, state) for key, state in self.states.items() if key not in self.hidden}
        shown = [key for key, state in described.items() if state in states]
        yield {"Reservations": [{"Instances": [self._described(key, described[key])]} for key in shown]}

    def _described(self, key: str, shown_state: str | None = None) -> dict[str, Any]:
        state = {"Name": shown_state or self.states[key]}
        tags = [{"Key": tag, "Value": "yes"} for tag in sorted(self.tags.get(key, ()))]
        # A start makes it later; a stale description is older than the start.
        launched = EPOCH if key in self.stale else EPOCH + timedelta(seconds=self.starts[key])
        described = {"InstanceId": key, "State": state, "InstanceType": "c7a.large", "LaunchTime": launched}
        described["Tags"] = tags
        for token, (call, ids) in self.by_token.items():
            if key in ids:
                described |= {"ClientToken": token, "InstanceType": call["InstanceType"]}
                described |= {"InstanceLifecycle": "spot"} if "InstanceMarketOptions" in call else {}
        return described


class Scaler:
    """One controller, or one of several that share EC2, table and clock."""

    def __init__(
        self, ec2: FakeEC2 | None = None, table: MemoryTable | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.ec2 = ec2 or FakeEC2()
        self.table = table or MemoryTable()
        self.launches = RecentLaunches(self.clock)
        self.active = True
        self.journal = Journal(
            FleetStore(self.table), clock=self.clock, now=lambda: EPOCH + timedelta(seconds=self.clock.now)
        )
        self.launcher = Launcher(self.ec2.fleet(), self.launches, self.journal, lambda: self.active, self.clock)

    def round(self, images: int, fleet: FleetSettings | None = None, *, after: float = MAX_BACKOFF_SECONDS) -> None:
        """Run a round `after` so many seconds."""
        self.clock.now += after
        self.launcher.sync_from_store()
        instances = self.ec2.fleet().instances((*LISTED, *ENDED))
        seen = Observation(QueueCounts(images, 0, 0), 0, tuple(instances), self.launches.launching(instances))
        fleet = fleet or fleet_settings()
        self.launcher.apply(decide(seen, fleet), seen, fleet)

    def problem(self) -> str | None:
        """Return why the last call failed, or None."""
        return self.launcher.last_error

    def tokens(self) -> list[str]:
        """Return the token of each launch."""
        return [call["ClientToken"] for call in self.ec2.calls]

    def journal_entries(self) -> tuple[JournalEntry, ...]:
        """Return the journal's entries, as they are stored."""
        return FleetStore(self.table).journal().entries

    def hide_launches(self) -> None:
        """Let DescribeInstances omit every instance that is launched from now on."""
        self.ec2.hidden.update(f"i-{number}" for number in range(100))


def failing(*failures: str | None) -> FakeEC2:
    """Return an EC2 with these outcomes of its next launches."""
    left: Iterator[str | None] = iter(failures)
    return FakeEC2(fail=lambda: next(left, None))


_EMPTY: Final = {
    "running": 0,
    "pending": 0,
    "visible": 0,
    "in_flight": 0,
    "min_workers": 0,
    "max_workers": 19,
    "peak_workers": 0,
    "billed_seconds": 0,
    "reason": "",
}


def fleet_snapshot(at: datetime, **fields: Any) -> FleetSnapshot:
    """Return the report at `at` about an empty fleet without messages, with other values in `fields`."""
    return FleetSnapshot.model_validate({"at": at, **_EMPTY, **fields})


PRICES = PriceSettings(
    instance_hour={"c7a.large": 0.36, "g4dn.xlarge": 0.72},
    spot_hour={"c7a.large": 0.18},
    minimum_billed_seconds=60,
    s3_put_thousand=0.005,
    s3_get_thousand=0.0004,
    sqs_million=0.4,
    dynamodb_write_million=0.625,
    dynamodb_read_million=0.125,
    disk_gb_month=0.08,
    snapshot_gb_month=0.05,
    public_address_hour=0.005,
    load_balancer_hour=0.0225,
    alarm_month=0.1,
    metric_month=0.3,
    log_gb=0.5,
    dashboard_month=3,
    object_gb_month=0.023,
    item_gb_month=0.45,
)
