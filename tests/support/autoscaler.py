"""Fakes of EC2, SQS and the fleet's store, builders of observations, launches and snapshots, and prices."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any, Final

from core.config import FleetSettings, PriceSettings
from core.fleet.models import FleetSnapshot, JournalEntry
from core.fleet.store import Commands, FleetStore
from core.messages import Heartbeat, WorkerState
from services.ec2 import Instance
from services.lease import Tenure
from services.sqs import QueueCounts
from tests.conftest import shipped_fleet
from tests.support.clocks import ManualClock
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from tests.support.memory_aws.sqs import MemorySQS
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.explain import explain
from web_tier.autoscaler.launch_journal import ControllerJournal
from web_tier.autoscaler.launcher import MAX_BACKOFF_SECONDS, Launcher
from web_tier.autoscaler.observe import ENDED, LISTED, Observation, RecentLaunches

Clock = ManualClock

POLICY_SETTINGS: Mapping[str, Mapping[str, object]] = {
    "backlog": {"images_per_worker": 20},
    "deadline": {"target_seconds": 120},
    "schedule": {"schedule": [{"from": "00:00", "to": "12:00", "min_workers": 3}]},
    "fixed": {"max_workers": 4},
}
"""Settings of each policy; one that is not named here is tested with the shipped ones."""


def instance(instance_id: str, state: str = "running", launched_at: datetime = EPOCH) -> Instance:
    """An instance in `state`."""
    return Instance(instance_id, state, "c7a.large", "us-east-1a", launched_at)


def fleet_settings(**changes: object) -> FleetSettings:
    """The shipped settings with few workers, and with these changes, also of what is constant in the product."""
    own = {"min_workers": 0, "max_workers": 19, "images_per_worker": 20}
    values = {**shipped_fleet(), **own, **changes}
    constants = {name: values.pop(name) for name in FleetSettings.__class_vars__ & values.keys()}
    return _kind(**constants).model_validate(values)


@cache  # pydantic takes longer to make a class than a test takes
def _kind(**constants: object) -> type[FleetSettings]:
    return type("FleetSettings", (FleetSettings,), {"__module__": __name__, **constants})


def observation(
    visible: int = 0, in_flight: int = 0, delayed: int = 0, *, states: tuple[str, ...] = (), launching: int = 0
) -> Observation:
    """A queue with so many messages, and instances `i-0`, `i-1` ... in these states."""
    instances = tuple(instance(f"i-{number}", state) for number, state in enumerate(states))
    launched = frozenset(f"c-{number}" for number in range(launching))
    return Observation(QueueCounts(visible, in_flight, delayed), 0, instances, launched)


def explained(seen: Observation, settings: FleetSettings) -> str:
    """Return the sentence on the decision for what was observed."""
    return explain(decide(seen, settings), seen, settings)


def booting(*instance_ids: str, age: float = 0.0) -> dict[str, float]:
    """Workers that have sent no heartbeat, `age` seconds after their launch."""
    return dict.fromkeys(instance_ids, age)


def heartbeat(worker: str, images: int = 0, state: WorkerState = "busy", in_hand: int = 2) -> Heartbeat:
    """A heartbeat of a worker."""
    return Heartbeat(worker=worker, at=EPOCH, state=state, images=images, in_hand=in_hand, images_per_second=2.4)


def counted_queue(visible: int = 0) -> MemorySQS:
    """The client of a queue that only counts: two messages are in flight, and one is delayed."""
    return MemorySQS(others_visible=visible, others_in_flight=2, others_delayed=1)


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
    """A store of the operators' commands that can fail."""

    def __init__(self) -> None:
        super().__init__(MemoryTable())
        self.stored = Commands()
        self.error: Exception | None = None

    def commands(self) -> Commands:
        """Return the commands."""
        if self.error:
            raise self.error
        return self.stored

    def delete_resume(self) -> None:
        """Delete the end of the last pause."""
        self.stored = replace(self.stored, resume=None)

    def delete_drains(self, instance_ids: Iterable[str]) -> None:
        """Delete commands to drain."""
        deleted = set(instance_ids)
        self.stored = replace(self.stored, drain=tuple(key for key in self.stored.drain if key not in deleted))


class Scaler:
    """One controller, or one of several that share EC2, table and clock."""

    def __init__(
        self, ec2: MemoryEC2 | None = None, table: MemoryTable | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.ec2 = ec2 or MemoryEC2()
        self.table = table or MemoryTable()
        self.launches = RecentLaunches(self.clock)
        self.active = True
        self.journal = ControllerJournal(FleetStore(self.table), clock=self.clock)
        tenure = Tenure(active=lambda: self.active)
        self.launcher = Launcher(self.ec2.fleet(), self.launches, self.journal, tenure, self.clock)

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


def failing(*failures: str | None) -> MemoryEC2:
    """Return an EC2 with these outcomes of its next launches."""
    left: Iterator[str | None] = iter(failures)
    return MemoryEC2(fail=lambda: next(left, None))


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
    disk_gb_month=0,
    snapshot_gb_month=0.05,
    public_address_hour=0,
    load_balancer_hour=0.0225,
    alarm_month=0.1,
    metric_month=0.3,
    log_gb=0.5,
    dashboard_month=3,
    object_gb_month=0.023,
    item_gb_month=0.45,
)


def flat_prices(hourly: float, **spot_hour: float) -> PriceSettings:
    """Return prices by which each instance-hour costs as much, but for Spot instances of the types of `spot_hour`."""
    return PRICES.model_copy(update={"instance_hour": {"any": hourly}, "spot_hour": spot_hour})
