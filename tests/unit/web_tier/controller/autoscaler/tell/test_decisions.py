"""The last decisions: what is new is noted, what is decided again is not."""

from dataclasses import dataclass, field
from datetime import timedelta

from core.fleet import Decisions
from tests.support.controller import EPOCH, Clock
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.decide.reasons import Kind
from web_tier.controller.autoscaler.tell.decisions import MAX_DECISIONS, TOGETHER_SECONDS, EventLog, News


@dataclass
class Stored:
    """Keeps what is stored."""

    writes: list[Decisions] = field(default_factory=list)

    def put_decisions(self, decisions: Decisions) -> None:
        self.writes.append(decisions)

    def decisions(self) -> Decisions:
        return self.writes[-1] if self.writes else Decisions()

    @property
    def words(self) -> list[str]:
        return [decision.words for decision in self.decisions().decisions]


class Bench:
    """A log that looks at decisions some seconds apart."""

    def __init__(self, stored: Stored | None = None) -> None:
        self.clock, self.stored = Clock(), stored or Stored()
        self.log = EventLog(self.stored, self.clock, lambda: EPOCH)

    def decide(
        self, kind: Kind, words: str, launch: int = 0, supply: int = 0, problem: str | None = None, after: float = 5
    ) -> None:
        self.clock.now += after
        self.log.look(Plan(launch, (), kind, words), supply, problem)


def test_a_batch_is_told_by_its_start_and_its_end() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    for left in range(100, 0, -10):
        bench.decide("enough", f"5 workers, enough: {left} images", supply=5)
    for left in range(100, 80, -10):
        bench.decide("most", "5 workers, the most allowed", supply=5)
        bench.decide("enough", f"5 workers, enough: {left} images", supply=5)
    bench.decide("idle", "5 workers: no images waiting", supply=5)
    bench.decide("idle", "2 workers: no images waiting", supply=2)
    assert bench.stored.words == ["5 workers: no images waiting", "5 workers, the most allowed", "starting 5"]


def test_a_launch_that_is_tried_again_and_again_is_one_decision_and_its_problem_another() -> None:
    bench = Bench()
    for tries in range(5):
        bench.decide(
            "starting", f"starting 5: {100 + tries} images", launch=5, problem="no capacity" if tries else None
        )
    assert bench.stored.words == ["no capacity", "starting 5: 100 images"]


def test_while_images_come_in_the_last_of_many_launches_is_told() -> None:
    bench = Bench()
    for supply in range(4):
        bench.decide("starting", f"starting 1, {supply} there", launch=1, supply=supply, after=TOGETHER_SECONDS / 3)
    bench.decide("enough", "enough", supply=4)
    assert bench.stored.words == ["starting 1, 3 there"]


def test_a_problem_between_two_launches_stays_told() -> None:
    bench = Bench()
    bench.decide("starting", "starting 1", launch=1, problem="no capacity")
    bench.decide("starting", "starting 2", launch=2, problem="no capacity", after=TOGETHER_SECONDS / 3)
    assert bench.stored.words == ["starting 2", "no capacity", "starting 1"]


def test_a_pause_and_its_end_are_told() -> None:
    bench = Bench()
    bench.decide("enough", "1 worker, enough", supply=1)
    bench.decide("paused", "paused: 3 images", supply=1)
    bench.decide("paused", "paused: 2 images", supply=1)
    bench.decide("enough", "1 worker, enough again", supply=1)
    assert bench.stored.words == ["1 worker, enough again", "paused: 3 images", "1 worker, enough"]


def test_the_list_is_bounded_and_written_once_a_second_at_most() -> None:
    bench = Bench()
    kinds: list[Kind] = ["paused", "too_many", "most"]
    for number in range(100):
        bench.decide(kinds[number % 3], f"number {number}", after=0.1)
    bench.decide("most", "last", after=1)
    assert len(bench.stored.words) == MAX_DECISIONS
    assert bench.stored.words[:2] == ["last", "number 99"]
    assert len(bench.stored.writes) <= 12


def test_a_new_controller_goes_on_with_the_list_and_does_not_repeat_its_first_line() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    bench.decide("idle", "no workers: no images waiting")
    other = Bench(bench.stored)
    other.decide("idle", "no workers: no images waiting")
    assert len(other.stored.writes) == 2
    other.decide("paused", "paused")
    assert other.stored.words == ["paused", "no workers: no images waiting", "starting 5"]


def test_news_stand_among_the_decisions_and_nothing_takes_their_place() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    bench.log.note(News("limits 1..5, set by ops", EPOCH))
    bench.decide("starting", "starting 6", launch=6, after=TOGETHER_SECONDS / 2)
    assert bench.stored.words == ["starting 6", "limits 1..5, set by ops", "starting 5"]


def test_news_that_the_controller_before_has_noted_are_not_noted_again_but_later_ones_of_the_same_words_are() -> None:
    bench = Bench()
    bench.log.note(News("limits 1..5", EPOCH))
    bench.decide("idle", "no workers")
    later = Bench(bench.stored)
    later.log.note(News("limits 1..5", EPOCH))
    later.decide("idle", "no workers")
    assert later.stored.words == ["no workers", "limits 1..5"]
    later.log.note(News("limits 1..5", EPOCH + timedelta(hours=1)))
    later.decide("enough", "enough")
    assert later.stored.words == ["limits 1..5", "no workers", "limits 1..5"]
