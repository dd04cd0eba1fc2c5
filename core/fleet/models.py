"""What the controller tells of the fleet beside its snapshot: instances, decisions, and how it went over time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from core.config import MAX_WORKERS
from core.messages import WireModel, WorkerState
from services.ec2 import LaunchSpec

Span = Literal["hour", "day"]

MAX_REASON_CHARACTERS = 200
"""Maximum characters of the reason for a pause, or for limits that operators set."""


class FleetPause(WireModel):
    """Nothing is launched or started: since when, and why if the operator has said so."""

    version: Literal[1] = 1
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class WorkerLimits(WireModel):
    """The least and the most workers that there may be, in the bounds of config.yaml."""

    min_workers: int = Field(ge=0, le=MAX_WORKERS)
    max_workers: int = Field(ge=0, le=MAX_WORKERS)

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most max_workers ({self.max_workers})")
        return self


class LimitsOverride(WorkerLimits):
    """Limits that ops have set: since when, and why if they have said so.

    They hold in place of those of config.yaml until they are taken back.
    """

    version: Literal[1] = 1
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class BillingPeriod(WireModel):
    """A stretch in which the fleet had work, from one rest to the next, or an hour of it.

    All images that workers answered in it share what it cost: boots, idle time and the billed minimum included.

    Attributes:
        number: of the run; the next one has the next.
        images: answered by workers in it.
        billed_seconds: instance-seconds that were billed in it.
        cost: the same in US dollars.
        is_open: whether it goes on.
    """

    number: int = Field(ge=1)
    images: int = Field(default=0, ge=0)
    billed_seconds: float = 0.0
    cost: float = 0.0
    is_open: bool = True


class FleetSnapshot(WireModel):
    """What the autoscaler saw and decided at one look.

    Attributes:
        running, pending, stopped: instances of the fleet by state.
        visible, in_flight, delayed: messages of the request queue by state.
        dead_letters: messages that were received too often.
        min_workers, max_workers: the limits in force.
        policy: by which the size of the fleet is decided.
        limits_order: the limits in force, when ops have set them; None when they are those of config.yaml.
        configured: the limits of config.yaml.
        peak_workers: most running and pending at once since the fleet was last at zero and empty.
        billed_seconds: instance-seconds since the fleet's first launch, each instance at least the billed minimum.
        cost: the same in US dollars, each instance at the price of its type and market.
        images: answered by workers since then.
        run: the run that goes on, or the last one; None before the first.
        reason: the last decision in words.
        problem: why the last launch failed, in words; None when it did not.
        paused: since when nothing is launched, while the fleet is paused.
        image_seconds: that one worker takes for an image, as measured; None as long as that is not known.
        boot_seconds: from a launch to the worker's first word, as measured; None as long as that is not known.
    """

    version: Literal[1] = 1
    at: AwareDatetime
    running: int
    pending: int
    stopped: int = 0
    visible: int
    in_flight: int
    delayed: int = 0
    dead_letters: int = 0
    min_workers: int
    max_workers: int
    peak_workers: int
    billed_seconds: float
    cost: float = 0.0
    images: int = 0
    run: BillingPeriod | None = None
    reason: str
    problem: str | None = None
    paused: FleetPause | None = None
    image_seconds: float | None = None
    boot_seconds: float | None = None
    policy: str | None = None
    limits_order: LimitsOverride | None = None
    configured: WorkerLimits | None = None


class FleetInstance(WireModel):
    """An instance of the fleet, and what its worker has said of itself.

    Attributes:
        state: as EC2 names it.
        launched_at: by EC2's clock.
        worker: the worker's own state; None before its first heartbeat.
        images: answered so far; None before its first word.
        in_hand: images that it has received and not answered yet.
        images_per_second: answered between its last two heartbeats.
        heard_at: when a heartbeat or an answer of it came last, by the controller's clock; None before the first.
        draining: whether it was asked to finish what it has and end.
        spot: whether it is a Spot Instance.
        marked: why it is believed not to work, and what becomes of it, in words; None while it is not.
    """

    instance_id: str
    state: str
    instance_type: str
    zone: str
    launched_at: AwareDatetime
    worker: WorkerState | None = None
    images: int | None = None
    in_hand: int | None = None
    images_per_second: float | None = None
    heard_at: AwareDatetime | None = None
    draining: bool = False
    spot: bool = False
    marked: str | None = None


class FleetInstances(WireModel):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    version: Literal[1] = 1
    total: int = 0
    instances: tuple[FleetInstance, ...] = ()


class JournalEntry(WireModel):
    """A call that launches instances, or starts stopped ones, written down before it is made.

    Attributes:
        token: ClientToken of a launch; a name of its own for a start.
        count: how many instances it gives at most.
        at: when it was written, by the writer's wall clock.
        spec: what is launched, so that the very same call can be made again; None for a start, and once
            `instance_ids` are known.
        starts: ids of the stopped instances that it starts; empty for a launch.
        launched: when each of these was launched last, by EC2's clock: a start makes that later.
        instance_ids: what it gave; None as long as that is not known, or the call not made.
    """

    token: str
    count: int
    at: AwareDatetime
    spec: LaunchSpec | None = None
    starts: tuple[str, ...] = ()
    launched: tuple[AwareDatetime, ...] = ()
    instance_ids: tuple[str, ...] | None = None

    @property
    def former(self) -> dict[str, datetime]:
        """When each of `starts` was launched last, by its id."""
        return dict(zip(self.starts, self.launched, strict=True))


class LaunchJournal(WireModel):
    """The calls of the last minutes that gave, or may have given, instances; see `FleetStore.put_journal`.

    Attributes:
        revision: counts the writes of all processes; 0 before the first.
        writer: who wrote it last; a name that no two controllers share.
        entries: in the order in which they were first written.
    """

    version: Literal[1] = 1
    revision: int = 0
    writer: str = ""
    entries: tuple[JournalEntry, ...] = ()


class Decision(WireModel):
    """What the autoscaler decided, or what was in its way, at a time."""

    at: AwareDatetime
    words: str


class Decisions(WireModel):
    """The last decisions, newest first."""

    version: Literal[1] = 1
    decisions: tuple[Decision, ...] = ()


class HistoryPoint(WireModel):
    """Workers (running and starting) and images in the queue (waiting and in flight), from `at` to the next point.

    Where there was more within a few seconds, it is the most of each.
    """

    at: AwareDatetime
    workers: int
    queue: int


class HistoryBlock(WireModel):
    """Points of one stretch of time, in their order: what one item of the table holds.

    Attributes:
        number: of the stretch, counted from the epoch; an item is used again some stretches later.
        points: each as seconds since the epoch, workers, and images.
    """

    version: Literal[1] = 1
    number: int
    points: tuple[tuple[int, int, int], ...] = ()


def points_since(blocks: Sequence[HistoryBlock], start: datetime) -> list[HistoryPoint]:
    """Return the points of `blocks` in their order, from `start` on, and what held at `start` if that is known."""
    ordered = sorted({at: (workers, queue) for block in blocks for at, workers, queue in block.points}.items())
    first = int(start.timestamp())
    before = [figures for at, figures in ordered if at <= first][-1:]
    kept = [(first, figures) for figures in before] + [point for point in ordered if point[0] > first]
    return [
        HistoryPoint(at=datetime.fromtimestamp(at, start.tzinfo), workers=workers, queue=queue)
        for at, (workers, queue) in kept
    ]
