"""How many images this process has accepted for a job."""

from concurrent.futures import ThreadPoolExecutor

from web_tier.intake.tally import Tally


def test_the_count_of_a_job_is_absolute_and_its_writer_stays() -> None:
    tally = Tally()
    first, images = tally.add("job", 3)
    assert images == 3
    assert tally.add("job", 2) == (first, 5)
    assert tally.add("other", 1)[0] != first


def test_threads_that_add_at_once_lose_nothing() -> None:
    tally = Tally()
    with ThreadPoolExecutor(8) as pool:
        counts = sorted(images for _, images in pool.map(lambda _: tally.add("job", 1), range(200)))
    assert counts == list(range(1, 201))


def test_a_job_that_was_dropped_begins_a_new_count_under_a_new_writer() -> None:
    # A count that began again under the old writer would be lower than the one stored, and be refused.
    tally = Tally(max_jobs=1)
    first, _ = tally.add("job", 3)
    tally.add("other", 1)
    again, images = tally.add("job", 2)
    assert (images, again != first) == (2, True)
