"""Which images are requested again, and which are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, new_id
from core.jobs.models import Counts, ImageRecord
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.controller import lost_images
from web_tier.controller.job_counts import JobCounts, MissingImages
from web_tier.controller.lost_images import (
    BUSY_FACTOR,
    MAX_REQUESTS,
    MAX_WAIT_SECONDS,
    BacklogTracker,
    FirstSeen,
    WaitTimes,
    find_lost,
)

LOST_AFTER = 60.0
REFS = sorted((ImageRef(new_id(), new_id()) for _ in range(20)), key=lambda ref: ref.image_id)
WAITS = {ref: FirstSeen(0, 0.0) for ref in reversed(REFS)}
"""Images of many jobs, all missing since the beginning."""
BUSY_SECONDS = BUSY_FACTOR * LOST_AFTER


def balance(*samples: tuple[float, int, int]) -> BacklogTracker:
    """What was counted: seconds, missing images, messages."""
    made = BacklogTracker(LOST_AFTER)
    for sample in samples:
        made.add(*sample)
    return made


def steady(until: float, missing: int, messages: int) -> BacklogTracker:
    """The same counts at each sample up to `until`."""
    return balance((until - LOST_AFTER, missing, messages), (until, missing, messages))


def lost(waits: dict[ImageRef, FirstSeen], counted: BacklogTracker, now: float) -> list[ImageRef]:
    return find_lost(waits.items(), counted, now, LOST_AFTER)


def test_nothing_is_lost_before_the_samples_span_the_age_of_a_count() -> None:
    assert lost(WAITS, balance((9_990, 20, 0), (10_000, 20, 0)), 10_000) == []
    assert lost(WAITS, steady(10_000, 20, 0), 10_000) == REFS


def test_while_the_queues_are_empty_an_image_is_lost_once_it_is_old() -> None:
    assert lost(WAITS, steady(59, 20, 0), 59) == []
    assert lost(WAITS, steady(60, 20, 0), 60) == REFS


def test_one_sample_that_found_a_message_makes_the_queues_busy() -> None:
    for messages in ((5, 0, 0), (0, 5, 0), (0, 0, 5)):
        samples = [(10.0 + 30 * number, 20, count) for number, count in enumerate(messages)]
        assert lost(WAITS, balance(*samples), 70) == []


def test_as_many_of_the_oldest_are_lost_over_all_jobs_as_messages_are_missing() -> None:
    assert lost(WAITS, steady(BUSY_SECONDS, 20, 17), BUSY_SECONDS) == REFS[:3]
    assert lost(WAITS, steady(BUSY_SECONDS - 1, 20, 17), BUSY_SECONDS - 1) == []


def test_none_is_lost_while_there_are_as_many_messages_as_missing_images() -> None:
    assert lost(WAITS, steady(1e9, 20, 20), 1e9) == []
    assert lost(WAITS, steady(1e9, 20, 500), 1e9) == []


def test_messages_must_be_missing_in_every_sample() -> None:
    counted = balance((1e6 - 60, 20, 20), (1e6 - 30, 20, 1), (1e6, 20, 1))
    assert lost(WAITS, counted, 1e6) == []


def test_the_patience_doubles_with_each_request_up_to_half_a_day() -> None:
    ages = []
    for requests in (1, 2, 3, 30):
        wait = {REFS[0]: FirstSeen(0, 0.0, requests)}
        ages.append(next(age for age in range(0, 10**6, 60) if lost(wait, steady(age, 1, 0), age)))
    assert ages == [60, 120, 240, MAX_WAIT_SECONDS]


def test_an_image_that_was_requested_three_times_waits_until_the_queues_are_empty() -> None:
    wait = {REFS[0]: FirstSeen(0, 0.0, MAX_REQUESTS)}
    assert lost(wait, steady(1e9, 20, 1), 1e9) == []
    assert lost(wait, steady(1e9, 20, 0), 1e9) == REFS[:1]


NEVER_SEEN = "Z" * 26
_IDS = sorted(new_id() for _ in range(30))
_steps = st.lists(
    st.tuples(st.sampled_from(("add", "add", "done", "sweep", "again")), st.sampled_from(_IDS)), max_size=80
)


@given(_steps, st.sampled_from((2, 4, 1_000)))
def test_images_wait_since_their_first_sweep_without_result_or_their_last_request(
    steps: list[tuple[str, str]], max_seen: int
) -> None:
    job, waits, now = JobCounts(Counts(), keep=True, owner=""), WaitTimes(), 0.0
    known, since, newest = set[str](), dict[str, float](), set[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lost_images, "MAX_SEEN", max_seen)
        for step, image_id in steps:
            now += 1
            if step == "add" and image_id not in known:
                known.add(image_id)
                job.add_image(ImageRecord(ImageRef("job", image_id), "a.jpg", "key", 1, EPOCH))
            elif step == "done" and image_id in known:
                job.statuses[image_id] = "done"
            elif step == "again" and image_id in since and job.statuses[image_id] is None:
                waits.request_again(image_id, now)
                since[image_id] = now
            elif step == "sweep":
                missing = job.observe_missing(waits.own)
                waits.update(missing, now)
                newest.add(missing.newest)
                assert waits.of(NEVER_SEEN, now).since == now
                waiting = set(job.statuses.ids(None))
                assert missing.count == len(waiting)
                since = {each: since.get(each, now) for each in waiting}
                for each in waiting:
                    found = waits.of(each, now).since
                    assert found == since[each] or (len(newest) > max_seen and since[each] <= found <= now)


def test_a_job_that_grows_for_long_takes_bounded_memory_and_knows_what_is_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost_images, "MAX_SEEN", 64)
    waits = WaitTimes()
    for now in range(2_000):
        waits.update(MissingImages(1, f"{now:026}"), now)
        assert now - waits.of(f"{0:026}", now).since >= min(0.8 * now, 2 * 64)
        assert len(waits._seen) <= 64


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=100))
def test_samples_count_as_long_as_a_count_may_be_old_and_are_forgotten_then(
    steps: list[tuple[int, int, int]],
) -> None:
    made, now, seen = BacklogTracker(100), 0, list[tuple[int, int, int]]()
    for step, missing, messages in steps:
        now += step
        seen.append((now, missing, messages))
        made.add(now, missing, messages)
    # The last sample that is as old as a count may be, and all that follow.
    counting = seen[max((at for at, sample in enumerate(seen) if sample[0] <= now - 100), default=0) :]
    assert made.lost == max(0, min(missing - messages for _, missing, messages in counting))
    assert made.is_empty == (not any(messages for _, _, messages in counting))
    assert made.is_known == (now - counting[0][0] >= 100)
    assert len(made._samples) == len(counting)
