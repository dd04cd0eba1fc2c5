"""The fleet's history as it is read."""

from datetime import UTC, datetime

from services.fleet import HistoryBlock, points_since


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
