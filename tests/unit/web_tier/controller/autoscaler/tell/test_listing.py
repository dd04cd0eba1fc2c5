"""The instances as they are stored for the pages."""

from dataclasses import dataclass, field
from dataclasses import replace as replaced
from datetime import timedelta

from core.fleet import FleetInstances
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.listing import MAX_LISTED, MIN_SECONDS, InstanceListWriter, listed
from web_tier.controller.worker_registry import Word

WORD = Word(images=68, state="busy", in_hand=3, heard_at=EPOCH, since=1.0, until=1.0)


@dataclass
class Shown:
    """Keeps what is stored."""

    stored: list[FleetInstances] = field(default_factory=list)

    def put_instances(self, instances: FleetInstances) -> None:
        self.stored.append(instances)


def look(*states: str) -> Observation:
    """One instance for each state, the last of them the newest."""
    instances = [
        instance(f"i-{number}", state, EPOCH + timedelta(seconds=number)) for number, state in enumerate(states)
    ]
    return Observation(QueueCounts(0, 0, 0), 0, tuple(instances))


def test_an_instance_is_told_with_what_its_worker_says() -> None:
    [told] = listed(look("running"), {"i-0": WORD, "local-7": WORD}).instances
    assert (told.instance_id, told.state, told.instance_type, told.launched_at) == (
        "i-0", "running", "c7a.large", EPOCH,
    )  # fmt: skip
    assert (told.worker, told.images, told.in_hand, told.heard_at) == ("busy", 68, 3, EPOCH)


def test_one_that_is_marked_is_told_with_the_reason() -> None:
    [other, told] = listed(look("running", "running"), {}, {"i-0": "silent for 60 s"}).instances
    assert (told.marked, other.marked) == ("silent for 60 s", None)


def test_a_spot_instance_is_told_as_one() -> None:
    spot = replaced(instance("i-1"), spot=True)
    told = listed(Observation(QueueCounts(0, 0, 0), 0, (instance("i-0"), spot)), {}).instances
    assert [(each.instance_id, each.spot) for each in told] == [("i-1", True), ("i-0", False)]


def test_one_that_has_not_been_heard_of_is_told_as_such() -> None:
    [told] = listed(look("pending"), {}).instances
    assert (told.worker, told.images, told.heard_at) == (None, None, None)


def test_the_newest_come_first_the_ended_not_at_all_and_the_rest_is_counted() -> None:
    told = listed(look("running", "terminated", "stopped"), {})
    assert [each.instance_id for each in told.instances] == ["i-2", "i-0"]
    many = listed(look(*["running"] * (MAX_LISTED + 3)), {})
    assert (many.total, len(many.instances)) == (MAX_LISTED + 3, MAX_LISTED)
    assert len(many.to_json()) < 30_000


def test_only_changes_are_stored_and_at_most_one_a_second() -> None:
    clock, shown = Clock(), Shown()
    listing = InstanceListWriter(shown, clock=clock)
    listing.look(look(), {})
    assert shown.stored == []
    for images in range(9):
        listing.look(look("running"), {"i-0": replaced(WORD, images=images)})
    assert len(shown.stored) == 1
    clock.now += MIN_SECONDS
    for _ in range(9):
        listing.look(look("running"), {"i-0": WORD})
        clock.now += MIN_SECONDS
    assert [each.instances[0].images for each in shown.stored] == [0, 68]
