"""How long a worker takes to its first word, by one clock."""

from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from web_tier.controller.autoscaler.observe.boots import BootTimeEstimator
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.worker_registry import Word


def look(*alive: str, coming: tuple[str, ...] = ()) -> Observation:
    return Observation(QueueCounts(0, 0, 0), 0, tuple(instance(each) for each in alive), frozenset(coming))


def first_heard(at: float | None) -> Word:
    return Word(0, "ready", 0, EPOCH, at, at or 0)


def test_a_boot_lasts_from_the_launch_to_the_first_word() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.look(look(), {})
    boots.look(look(coming=("i-1",)), {})
    clock.now = 30
    boots.look(look("i-1"), {})
    assert boots.seconds is None
    clock.now = 50
    boots.look(look("i-1"), {"i-1": first_heard(42)})
    assert boots.seconds == 42


def test_the_median_of_several_boots_is_told() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(before=99, clock=clock)
    boots.look(look(), {})
    assert boots.seconds == 99
    boots.look(look(coming=("i-1", "i-2", "i-3")), {})
    boots.look(look(), {"i-1": first_heard(40), "i-2": first_heard(300), "i-3": first_heard(44)})
    assert boots.seconds == 44


def test_workers_that_were_there_at_the_first_look_and_those_that_never_spoke_are_not_measured() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.look(look("i-1"), {})
    boots.look(look("i-1", coming=("i-2",)), {"i-1": first_heard(5)})
    boots.look(look("i-1"), {})
    boots.look(look("i-1"), {"i-2": first_heard(7)})
    assert boots.seconds is None


def test_a_word_from_before_the_launch_is_not_the_first_one_after_it() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.look(look(), {})
    clock.now = 100
    boots.look(look(coming=("i-1",)), {"i-1": first_heard(20)})
    assert boots.seconds is None
    boots.look(look("i-1"), {"i-1": first_heard(None)})
    assert boots.seconds is None
