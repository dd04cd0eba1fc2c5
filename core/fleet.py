"""What the controller tells of the fleet beside its snapshot: instances, decisions, and how it went over time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime

from core.messages import Wire, WorkerState
from services.ec2 import LaunchSpec

Span = Literal["hour", "day"]


class FleetInstance(Wire):
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


class FleetInstances(Wire):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    version: Literal[1] = 1
    total: int = 0
    instances: tuple[FleetInstance, ...] = ()


class JournalEntry(Wire):
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


class LaunchJournal(Wire):
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


class Decision(Wire):
    """What the autoscaler decided, or what was in its way, at a time."""

    at: AwareDatetime
    words: str


class Decisions(Wire):
    """The last decisions, newest first."""

    version: Literal[1] = 1
    decisions: tuple[Decision, ...] = ()


class HistoryPoint(Wire):
    """Workers (running and starting) and images in the queue (waiting and in flight), from `at` to the next point.

    Where there was more within a few seconds, it is the most of each.
    """

    at: AwareDatetime
    workers: int
    queue: int


class HistoryBlock(Wire):
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
