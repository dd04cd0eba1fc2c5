"""What is presumed lost, and what is not."""

from hypothesis import given
from hypothesis import strategies as st

from web_tier.controller.lost import OLDEST, QueueWatch, Sightings, presumed_lost

OLD = [f"image-{number:03}" for number in range(200)]


def test_nothing_is_lost_before_the_queues_were_looked_at_twice() -> None:
    watch = QueueWatch()
    assert presumed_lost(OLD, OLD, watch.most) == []
    watch.note(0)
    assert presumed_lost(OLD, OLD, watch.most) == []
    watch.note(0)
    assert presumed_lost(OLD, OLD, watch.most) == OLD


def test_queues_that_were_not_empty_at_one_of_two_looks_are_not_empty() -> None:
    watch = QueueWatch()
    for total in (5, 0):
        watch.note(total)
    assert watch.most == 5
    watch.note(0)
    assert watch.most == 0


def test_while_messages_wait_only_very_old_images_are_presumed_lost() -> None:
    assert presumed_lost(OLD, [], 1) == []
    assert presumed_lost(OLD, OLD[:3], 1) == OLD[:3]


def test_of_a_long_backlog_only_a_few_of_the_oldest_are_asked_for_again() -> None:
    assert presumed_lost(OLD, OLD, 100_000) == OLD[:OLDEST]
    assert presumed_lost(OLD, OLD, 50) == OLD[:150]


def test_an_image_is_as_old_as_its_first_sighting() -> None:
    sightings = Sightings(1000)
    sightings.note(0, "b")
    sightings.note(10, "d")
    assert sightings.older_than(60, 59, ["a", "b", "c", "d"]) == []
    assert sightings.older_than(60, 60, ["a", "b", "c", "d"]) == ["a", "b"]
    assert sightings.older_than(60, 70, ["a", "b", "c", "d", "e"]) == ["a", "b", "c", "d"]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_sightings_are_bounded_and_forget_nothing_within_their_horizon(steps: list[int]) -> None:
    sightings, now, seen = Sightings(100), 0, {}
    for number, step in enumerate(steps):
        now += step
        seen[f"{number:03}"] = now
        sightings.note(now, f"{number:03}")
    for age in (0, 50, 100):
        assert sightings.older_than(age, now, list(seen)) == [key for key, at in seen.items() if at <= now - age]
    assert len(sightings._seen) <= 102
