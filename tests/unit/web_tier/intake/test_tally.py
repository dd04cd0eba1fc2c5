"""How many images this process has accepted for a job."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from core.job_records import Said
from tests.support.jobs import NOW
from web_tier.intake.tally import Tally


def test_the_count_of_a_job_is_absolute_and_its_writer_stays() -> None:
    tally = Tally()
    first, said = tally.add("job", 3, 0, NOW)
    assert said == Said(3)
    assert tally.add("job", 2, 0, NOW) == (first, Said(5))
    assert tally.add("other", 1, 0, NOW)[0] != first


def test_images_that_were_answered_at_once_are_counted_with_the_first_and_last_time() -> None:
    tally, later = Tally(), NOW + timedelta(seconds=7)
    tally.add("job", 3, 1, NOW)
    tally.add("job", 1, 0, later)
    assert tally.add("job", 2, 2, later)[1] == Said(6, 3, NOW, later)


def test_threads_that_add_at_once_lose_nothing() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        counts = sorted(said.accepted for _, said in pool.map(lambda _: tally.add("job", 1, 0, NOW), range(200)))
    assert counts == list(range(1, 201))


def test_a_job_that_was_dropped_begins_a_new_count_under_a_new_writer() -> None:
    # A count that began again under the old writer would be lower than the one stored, and be refused.
    tally = Tally(max_jobs=1)
    first, _ = tally.add("job", 3, 0, NOW)
    tally.add("other", 1, 0, NOW)
    again, said = tally.add("job", 2, 0, NOW)
    assert (said, again != first) == (Said(2), True)
