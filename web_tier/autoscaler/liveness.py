"""Liveness: what is known of each worker and each instance, from heartbeats, answers and EC2's descriptions.

Workers send a heartbeat every 10 s, or more often, through the response queue; an answer counts as a heartbeat. The
collector reads that queue and records them in the `WorkerRegistry`. The `InstanceTracker` joins them with what EC2
describes.

All times are monotonic seconds of this process, so clock skew between machines has no effect. A controller that takes
over the lease starts every allowance again.

**Heartbeat coverage.** A missing heartbeat counts only if the collector could have received it. Coverage is the time
up to which every heartbeat has been read. After an outage of the queue coverage jumps, and at most
`MAX_COVERAGE_STEP_SECONDS` of such a jump count as observed silence. So an outage never makes healthy workers look
dead.

**Lifecycle of an instance.** An instance that is started after a stop begins a new record: heartbeats of its previous
run do not count.

    launching --first heartbeat--> healthy --no heartbeat--> unhealthy (see `health`)
        |                             |
        +---------- missing from the fleet ----------> record dropped (see `circuit_breaker` for failed runs)
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby

from core.fleet.models import FleetInstance
from core.messages import ClassificationResult, Heartbeat, WorkerEnd, WorkerState
from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, Instance
from web_tier.autoscaler.observe import ENDED, LAUNCH_VISIBLE_SECONDS, FleetDescription

MAX_WORKERS = 2_000
"""Workers that the registry remembers: twice the largest fleet. Those that were seen last stay."""

ACTIVE_SECONDS = 30.0
"""Three heartbeats: a worker that was silent for longer is not expected to have a heartbeat in the queue."""

ENDED_SECONDS = 60.0
"""How long the status of an ended worker is kept: EC2 describes its instance for a while longer."""

MAX_COVERAGE_STEP_SECONDS = 10.0
"""Longest gap in coverage that counts as observed silence: the interval of heartbeats."""

LAST_HEARTBEAT_SECONDS = 5.0
"""How long a heartbeat may be in the queue that an instance sent just before it ended."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What is known of one worker.

    Attributes:
        images: images answered so far, by its heartbeats or by the answers seen, whichever is more.
        state: state in its last heartbeat; None before the first.
        in_flight: images it had received and not answered by its last heartbeat; None before the first.
        seen_at: time of its last heartbeat by this process's wall clock.
        first_heartbeat_at: monotonic time of its first heartbeat; None if another controller received that.
        last_heartbeat_at: monotonic time of its last heartbeat.
        images_per_second: its speed by its last heartbeat; None before that.
        models, failed_model: digests of what it has loaded, and could not load, by its last heartbeat.
        end, end_reason: how and why it has ended, by its last heartbeat.
        sent_at: time of its last heartbeat by the worker's own clock; None if another controller received that.
        receipts: of the requests that it held by its last heartbeat.
        receipts_at: monotonic time at which that was received.
    """

    images: int
    state: WorkerState | None
    in_flight: int | None
    seen_at: datetime
    first_heartbeat_at: float | None
    last_heartbeat_at: float
    images_per_second: float | None = None
    models: tuple[str, ...] = ()
    failed_model: str | None = None
    end: WorkerEnd | None = None
    end_reason: str = ""
    sent_at: datetime | None = None
    receipts: tuple[str, ...] = ()
    receipts_at: float = 0.0


@dataclass
class WorkerRegistry:
    """Keeps the last status of each worker.

    The collector writes it; the autoscaler and the reconciler read it, each in its own thread.

    Attributes:
        max_workers: bound of the number of workers that are remembered.
        answers: answers recorded so far, of all workers.
        produced: the answers that repeat no stored prediction.
        read_until: monotonic time before which every heartbeat has been recorded; None if that is not known yet.
    """

    clock: Clock = CLOCK
    max_workers: int = MAX_WORKERS
    answers: int = field(default=0, init=False)
    produced: int = field(default=0, init=False)
    read_until: float | None = field(default=None, init=False)
    _statuses: "OrderedDict[str, WorkerStatus]" = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def adopt(self, instances: Iterable[FleetInstance]) -> None:
        """Take over what the previous controller has stored of the fleet."""
        long_ago = self.clock.monotonic() - ACTIVE_SECONDS
        with self._lock:
            for each in instances:
                if each.heard_at is not None:
                    status = WorkerStatus(each.images or 0, each.worker, each.in_hand, each.heard_at, None, long_ago)
                    self._statuses.setdefault(each.instance_id, status)
            self._evict()

    def record(self, messages: Iterable[ClassificationResult | Heartbeat]) -> None:
        """Record answers and heartbeats from the response queue."""
        with self._lock:
            # The answers of a pack come one after another, from the same worker.
            for (worker, _), some in groupby(messages, key=lambda each: (each.worker, isinstance(each, Heartbeat))):
                produced = 0
                for each in some:
                    if isinstance(each, Heartbeat):
                        self._record_heartbeat(each)
                        continue
                    self.answers += 1
                    # A repeated one names the worker that stored the prediction, which may be gone.
                    produced += not each.repeated
                if produced:
                    self.produced += produced
                    status = self._seen(worker)
                    self._statuses[worker] = replace(status, images=status.images + produced)
            self._evict()

    def mark_read_until(self, until: float) -> None:
        """Note that everything sent before `until`, in monotonic seconds, has been recorded."""
        self.read_until = until if self.read_until is None else max(until, self.read_until)

    def statuses(self) -> dict[str, WorkerStatus]:
        """Return the status of each worker, by its id."""
        with self._lock:
            return dict(self._statuses)

    def has_ended(self, worker: str) -> bool:
        """Return whether a worker has reported its end."""
        with self._lock:
            return worker in self._statuses and self._statuses[worker].state == "ended"

    def held(self, max_seconds: float) -> dict[str, tuple[str, ...]]:
        """Return the receipts of the requests that workers hold, if they were named at most `max_seconds` ago."""
        oldest = self.clock.monotonic() - max_seconds
        with self._lock:
            return {
                worker: each.receipts
                for worker, each in self._statuses.items()
                if each.receipts and each.receipts_at >= oldest
            }

    def forget_held(self, worker: str, receipts: Sequence[str]) -> None:
        """Forget the requests of these receipts."""
        with self._lock:
            if (status := self._statuses.get(worker)) is not None:
                left = tuple(each for each in status.receipts if each not in receipts)
                self._statuses[worker] = replace(status, receipts=left)

    def active(self) -> int:
        """Return how many workers may have a heartbeat in the queue."""
        oldest = self.clock.monotonic() - ACTIVE_SECONDS
        with self._lock:
            return sum(each.last_heartbeat_at > oldest and each.state != "ended" for each in self._statuses.values())

    def _record_heartbeat(self, beat: Heartbeat) -> None:
        before = self._statuses.get(beat.worker)
        if before is not None and before.state == "ended":
            # A standard queue does not keep the order. Both times are by the clock of the worker's machine.
            if beat.at <= before.sent_at if before.sent_at is not None else beat.images:
                return  # the worker sent this heartbeat before its end
            del self._statuses[beat.worker]  # the instance was started again
        status = self._seen(beat.worker)
        if status.sent_at is None or status.sent_at <= beat.at:
            status = replace(status, receipts=beat.receipts, receipts_at=status.last_heartbeat_at)
        self._statuses[beat.worker] = replace(
            status,
            images=max(status.images, beat.images),
            state=beat.state,
            in_flight=beat.in_hand,
            images_per_second=beat.images_per_second,
            models=beat.models,
            failed_model=beat.failed_model,
            end=beat.end,
            end_reason=beat.reason,
            sent_at=beat.at,
        )

    def _seen(self, worker: str) -> WorkerStatus:
        """Remove the worker's status and return it as seen just now, so that it is stored behind all others."""
        at, clock = self.clock.utc_now(), self.clock.monotonic()
        before = self._statuses.pop(worker, None)
        if before is None:
            return WorkerStatus(0, None, None, at, clock, clock)
        return replace(before, seen_at=at, last_heartbeat_at=clock)

    def _evict(self) -> None:
        oldest = self.clock.monotonic() - ENDED_SECONDS
        ended = [
            key for key, each in self._statuses.items() if each.state == "ended" and each.last_heartbeat_at < oldest
        ]
        for worker in ended:
            del self._statuses[worker]
        while len(self._statuses) > self.max_workers:
            self._statuses.popitem(last=False)


@dataclass(frozen=True, slots=True)
class HeartbeatCoverage:
    """How completely the response queue has been read.

    Attributes:
        until: every heartbeat sent before this time has been read; None if that is not known.
        observed_seconds: total time covered so far; differences of it measure silence.
    """

    until: float | None = None
    observed_seconds: float = 0.0

    def advance(self, until: float | None) -> "HeartbeatCoverage":
        """Return the coverage after every heartbeat sent before `until` was read."""
        if until is None or self.until is None:
            return HeartbeatCoverage(until, self.observed_seconds)
        step = min(max(0.0, until - self.until), MAX_COVERAGE_STEP_SECONDS)
        return HeartbeatCoverage(until, self.observed_seconds + step)

    def is_read(self, at: float) -> bool:
        """Return whether every heartbeat sent before `at`, and a moment after it, has been read."""
        return self.until is not None and self.until > at

    def silence_since(self, at: float, observed_seconds: float) -> float:
        """Return the seconds of observed silence since `at`, when coverage stood at `observed_seconds`."""
        if self.until is None:
            return 0.0
        return min(self.until - at, self.observed_seconds - observed_seconds)


@dataclass(slots=True)
class InstanceRecord:
    """One run of an instance, from its launch or start until it is gone. Times are monotonic seconds.

    Attributes:
        valid_from: earlier heartbeats belong to a previous run and do not count.
        first_seen_at: when this controller first saw it, launching or alive.
        observed_at_first_seen: the coverage's `observed_seconds` at that time.
        is_alive: whether EC2 describes it as pending or running.
        first_heartbeat_at, last_heartbeat_at: times of its first and last heartbeat; None before the first.
        observed_at_heartbeat: the coverage's `observed_seconds` at that heartbeat.
        end, end_reason: how and why its worker has ended, by its last heartbeat.
        images_waited: whether the queue had messages in each round of the run.
        images_held: whether in some round a worker that was not draining held images.
        is_excused: whether it is no failed run, however it ends: an answer has come since its end, or the previous
            controller has counted it.
        is_read: whether every heartbeat that it can have sent has been read since it is missing.
        drain_requested_at: when it was first seen to be draining; None while it is not.
        missing_since: when it was first missing from the fleet; None while it is there.
    """

    valid_from: float
    first_seen_at: float
    observed_at_first_seen: float
    launched_at: float
    is_alive: bool = False
    first_heartbeat_at: float | None = None
    last_heartbeat_at: float | None = None
    observed_at_heartbeat: float = 0.0
    worker_state: WorkerState | None = None
    images: int = 0
    end: WorkerEnd | None = None
    end_reason: str = ""
    images_waited: bool = True
    images_held: bool = False
    is_excused: bool = False
    is_read: bool = False
    drain_requested_at: float | None = None
    missing_since: float | None = None


@dataclass
class InstanceTracker:
    """Keeps a record of every instance of the fleet.

    Attributes:
        coverage: how completely the heartbeats have been read.
        records: of the present runs, by instance id.
        ended: records that the last update has dropped.
    """

    registry: WorkerRegistry
    coverage: HeartbeatCoverage = field(default_factory=HeartbeatCoverage, init=False)
    records: dict[str, InstanceRecord] = field(default_factory=dict, init=False)
    ended: list[InstanceRecord] = field(default_factory=list, init=False)
    _stopped: set[str] = field(default_factory=set, init=False)
    _is_first_update: bool = field(default=True, init=False)

    def update(self, fleet: FleetDescription, draining: frozenset[str]) -> Mapping[str, InstanceRecord]:
        """Apply a description of the fleet and all heartbeats recorded by now; return the records by instance id."""
        # Coverage is read first: a heartbeat that arrives in between is then known, and counts as sent in time.
        self.coverage = self.coverage.advance(self.registry.read_until)
        statuses, at = self.registry.statuses(), self.registry.clock.monotonic()
        described = {instance.instance_id: instance for instance in fleet.instances}
        capacity_ids = fleet.capacity_ids
        available = capacity_ids - draining
        is_held = any(each.in_flight and each.state != "ended" for key, each in statuses.items() if key in available)
        self.ended = []
        # An instance may end before its first description. The previous controller has counted those of its own.
        self._add_records(capacity_ids if self._is_first_update else capacity_ids | fleet.launched, described, at)
        for instance_id, record in list(self.records.items()):
            instance = described.get(instance_id)
            record.is_alive = instance is not None and instance.state in ALIVE
            self._apply_heartbeat(record, statuses.get(instance_id))
            if instance_id in capacity_ids:
                record.images_waited = record.images_waited and fleet.requests.total > 0
                record.images_held = record.images_held or is_held
                record.missing_since = None
                if instance_id not in draining:
                    record.drain_requested_at = None
                elif record.drain_requested_at is None:
                    record.drain_requested_at = at
                continue
            # DescribeInstances is eventually consistent, so a missing instance may come back; it is gone for good
            # after a while, or once its last heartbeats have been read.
            if record.missing_since is None:
                record.missing_since = at
            record.is_read = self.coverage.is_read(record.missing_since + LAST_HEARTBEAT_SECONDS)
            if record.is_read or at - record.missing_since > LAUNCH_VISIBLE_SECONDS:
                self.ended.append(self.records.pop(instance_id))
        self._stopped = {key for key, each in described.items() if each.state not in ALIVE}
        self._is_first_update = False
        return self.records

    def unregistered(self, workers: Iterable[str]) -> frozenset[str]:
        """Return those of `workers` that have sent no heartbeat in their present run."""
        records = ((worker, self.records.get(worker)) for worker in workers)
        return frozenset(key for key, record in records if record is None or record.last_heartbeat_at is None)

    def past_lifetime(self, max_seconds: float) -> tuple[str, ...]:
        """Return the instances that were launched `max_seconds` ago or earlier, oldest first; 0 is no limit."""
        if max_seconds <= 0:
            return ()
        before = self.registry.clock.monotonic() - max_seconds
        old = sorted(
            (record.launched_at, key) for key, record in self.records.items() if record.launched_at <= before
        )
        return tuple(instance_id for _, instance_id in old)

    def _add_records(self, present_ids: frozenset[str], described: Mapping[str, Instance], at: float) -> None:
        not_alive = self._stopped | {
            key for key in present_ids if key in described and described[key].state not in (*ALIVE, *ENDED)
        }
        for instance_id in present_ids:
            is_restart = instance_id in not_alive
            if previous := self.records.get(instance_id):
                if not is_restart or previous.missing_since is None:
                    continue
                # A heartbeat of the last seconds may be of this run or of the next.
                previous.is_read = self.coverage.is_read(previous.missing_since - LAST_HEARTBEAT_SECONDS)
                self.ended.append(previous)
            age = 0.0
            if self._is_first_update and instance_id in described:  # another controller launched it
                age = max(0.0, (self.registry.clock.utc_now() - described[instance_id].launched_at).total_seconds())
            self.records[instance_id] = InstanceRecord(
                valid_from=at if is_restart else float("-inf"),
                first_seen_at=at,
                observed_at_first_seen=self.coverage.observed_seconds,
                launched_at=at - age,
                is_excused=self._is_first_update and self.registry.has_ended(instance_id),
            )

    def _apply_heartbeat(self, record: InstanceRecord, status: WorkerStatus | None) -> None:
        if status is None or status.last_heartbeat_at < record.valid_from:
            return
        if record.last_heartbeat_at is not None and status.last_heartbeat_at <= record.last_heartbeat_at:
            return
        if record.first_heartbeat_at is None:
            record.first_heartbeat_at = status.last_heartbeat_at
        record.last_heartbeat_at, record.worker_state = status.last_heartbeat_at, status.state
        record.images, record.end, record.end_reason = status.images, status.end, status.end_reason
        record.observed_at_heartbeat = self.coverage.observed_seconds
