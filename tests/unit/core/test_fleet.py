"""The fleet's history as it is read, and the journal as it is written."""

from datetime import UTC, datetime

from core.fleet.models import HistoryBlock, JournalEntry, LaunchJournal, points_since
from services.ec2 import LaunchSpec


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


BLOCKS = [
    HistoryBlock(number=2, points=((1200, 4, 40), (1300, 0, 0))),
    HistoryBlock(number=1, points=((600, 1, 10), (700, 2, 20))),
]


def test_points_are_told_in_their_order_whatever_that_of_the_items() -> None:
    points = points_since(BLOCKS, at(0))
    assert [(point.at, point.workers, point.queue) for point in points] == [
        (at(600), 1, 10),
        (at(700), 2, 20),
        (at(1200), 4, 40),
        (at(1300), 0, 0),
    ]


def test_what_held_at_the_beginning_is_told_first_however_old_it_is() -> None:
    points = points_since(BLOCKS, at(1000))
    assert [(point.at, point.workers) for point in points] == [(at(1000), 2), (at(1200), 4), (at(1300), 0)]
    assert points_since(BLOCKS, at(1200))[0].workers == 4
    assert [(point.at, point.queue) for point in points_since(BLOCKS, at(90_000))] == [(at(90_000), 0)]


def test_where_nothing_was_written_there_are_no_points() -> None:
    assert points_since([], at(1000)) == []


def test_a_journal_is_read_as_it_was_written() -> None:
    by_image = LaunchSpec("c7a.large", "stop", "ami-1", "#!/bin/sh\n", "profile", "subnet-1", ("sg-1", "sg-2"))
    by_template = LaunchSpec("c7a.large", "terminate", market="spot", launch_template="workers")
    entries = (
        JournalEntry(token="a", count=5, at=at(1), spec=by_image),
        JournalEntry(token="b", count=5, at=at(2), spec=by_template),
        JournalEntry(token="c", count=2, at=at(3), starts=("i-1", "i-2")),
        JournalEntry(token="d", count=2, at=at(4), instance_ids=("i-3",)),
    )
    journal = LaunchJournal(revision=7, writer="me", entries=entries)
    assert LaunchJournal.from_json(journal.to_json()) == journal
