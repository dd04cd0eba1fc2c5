"""Workers and queue over time: bounded, and silent at rest."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core.fleet import HistoryBlock, Span
from web_tier.controller.autoscaler.tell.history import GRAINS, History, Track

FINE = GRAINS[0]
DAY_SECONDS = 86_400
START = 1_700_000_000


@dataclass
class Items:
    """The items of the table."""

    stored: dict[tuple[Span, int], HistoryBlock] = field(default_factory=dict)
    writes: int = 0

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        self.writes += 1
        self.stored[span, slot] = block

    def blocks(self, span: Span | None = None) -> list[HistoryBlock]:
        return [block for (of, _), block in self.stored.items() if span in {None, of}]

    def points(self, span: Span = "hour") -> list[tuple[int, int, int]]:
        return sorted(point for block in self.blocks(span) for point in block.points)


def test_a_fleet_at_rest_writes_nothing() -> None:
    items, now = Items(), START
    history = History(items, lambda: now)
    for _ in range(500):
        history.look(0, 0)
        now += 10
    assert items.writes == 0


def test_a_change_is_a_point_that_holds_until_the_next_one() -> None:
    items = Items()
    track = Track(items, FINE)
    for second in range(60):
        track.look(START + second, 2 if second >= 20 else 0, 0)
    assert items.points() == [(START + 20, 2, 0)]
    assert items.writes == 1


def test_what_was_over_within_a_step_is_told_with_the_most_there_was() -> None:
    items = Items()
    track = Track(items, FINE)
    for second, (workers, queue) in enumerate(
        [(0, 0), (0, 100), (2, 60), (2, 0), (0, 0), (0, 0), (0, 0)] + [(0, 0)] * 9
    ):
        track.look(START + second, workers, queue)
    assert items.points() == [(START, 2, 100), (START + 5, 0, 0)]


def test_an_hour_is_kept_finely_and_a_day_coarsely_in_a_few_items() -> None:
    items, now = Items(), START
    history = History(items, lambda: now)
    for second in range(2 * DAY_SECONDS // 5):
        now = START + 5 * second
        history.look(second % 7, second % 100)
    assert len(items.stored) <= sum(grain.items for grain in GRAINS)
    assert max(len(block.to_json()) for block in items.stored.values()) < 4_000
    fine, coarse = items.points("hour"), items.points("day")
    assert fine[0][0] <= now - 3_600
    assert coarse[0][0] <= now - DAY_SECONDS
    assert max(len(fine), len(coarse)) <= 7 * 120
    assert min(after[0] - before[0] for before, after in pairwise(fine)) >= FINE.step


def test_a_new_controller_goes_on_where_the_last_one_ended() -> None:
    items = Items()
    first = Track(items, FINE)
    for second in range(0, 30, 5):
        first.look(START + second, second, 0)
    second_one = Track(items, FINE)
    second_one.look(START + 40, 20, 0)
    second_one.look(START + 45, 3, 0)
    second_one.look(START + 50, 3, 0)
    assert items.points()[-2:] == [(START + 20, 20, 0), (START + 45, 3, 0)]
    assert len(items.points()) == 5


@given(st.lists(st.tuples(st.integers(-50, 900), st.integers(0, 9), st.integers(0, 999)), max_size=60))
def test_whatever_the_clock_does_the_history_stays_bounded(steps: list[tuple[int, int, int]]) -> None:
    items, now = Items(), START
    track = Track(items, FINE)
    for step, workers, queue in steps:
        now += step
        track.look(now, workers, queue)
    assert len(items.stored) <= FINE.items
    assert items.writes <= len(steps)
