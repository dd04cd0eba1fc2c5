"""The images that messages request: SQS counts messages, and one requests a whole pack."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from core.ids import PLACES, ImageRef, image_id_at, new_id, positioned_id
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Counts, Job
from core.jobs.store import JobStore
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, UNKNOWN_ID, done, failed, put_counts, put_results, record
from web_tier.autoscaler.outstanding import MAX_JOBS, READ_SECONDS, OutstandingPacks, requested_images

_numbers = st.integers(0, 2_000)
_counts = st.builds(
    Counts, done=_numbers, failed=_numbers, images=_numbers, packs=_numbers, answered_packs=_numbers
)  # also such as no job has: what is wrong must not take the demand away
_messages = st.builds(QueueCounts, _numbers, _numbers, _numbers)
_lone = st.tuples(_numbers, _numbers).map(
    lambda both: Counts(done=min(both), images=max(both), packs=max(both), answered_packs=min(both))
)


@given(_messages, st.lists(_counts, max_size=4))
def test_each_message_requests_between_one_image_and_a_whole_pack(
    messages: QueueCounts, jobs: Sequence[Counts]
) -> None:
    images = requested_images(messages, jobs)
    for name in ("visible", "in_flight", "delayed"):
        assert getattr(messages, name) <= getattr(images, name) <= PLACES * getattr(messages, name)


@given(_messages, st.lists(_lone, max_size=4))
def test_messages_of_lone_images_are_as_many_images(messages: QueueCounts, jobs: Sequence[Counts]) -> None:
    assert requested_images(messages, jobs) == messages


def test_messages_have_the_mean_of_the_outstanding_packs_and_further_ones_an_image() -> None:
    jobs = [
        Counts(done=700, failed=100, images=1_800, packs=45, answered_packs=25),
        Counts(images=200, packs=11),
        Counts(done=5_000, images=5_000, packs=100, answered_packs=100),
    ]
    assert requested_images(QueueCounts(20, 11, 0), jobs) == QueueCounts(774, 426, 0), "1,200 images in 31 packs"
    assert requested_images(QueueCounts(20, 0, 0), jobs).total == 774, "answers that are not recorded are no demand"
    assert requested_images(QueueCounts(62, 0, 0), jobs).total == 1_231, "further messages: images that are retried"
    assert requested_images(QueueCounts(0, 0, 0), jobs).total == 0
    assert requested_images(QueueCounts(9, 0, 0), jobs[2:]).total == 9


def test_retried_images_are_outstanding_until_they_are_answered_again(store: JobStore) -> None:
    job = Job(new_id(), "a", NOW)
    store.create(job)
    OpenJobs(store.table).reopen(job.job_id, NOW)
    pack_ids = [positioned_id(job.job_id, 50 * number) for number in range(3)]
    ids = [[image_id_at(pack_id, place) for place in range(50)] for pack_id in pack_ids]
    packs = [[replace(record(job), ref=ImageRef(job.job_id, each), attempt=1) for each in of_pack] for of_pack in ids]
    put_counts(store, job.job_id, Counts(images=150, packs=3))
    clock = Clock()
    outstanding = OutstandingPacks(store.table, PlayedClock(clock))

    def images_in(messages: int) -> int:
        clock.now += READ_SECONDS
        return outstanding.images_of(QueueCounts(messages, 0, 0)).total

    assert images_in(3) == 150
    put_results(store, *(failed(image) for pack in packs for image in pack))
    assert images_in(3) == 3, "messages without outstanding images"
    store.put_retried(job.job_id, NOW, [*packs[0], *packs[1][:10]])
    assert images_in(2) == 60
    put_results(store, *(failed(image, attempt=1) for image in packs[0]))
    assert images_in(1) == 10
    put_results(store, *(done(image).model_copy(update={"attempt": 1}) for image in packs[1][:10]))
    assert images_in(1) == 1


def test_open_jobs_are_read_in_turns_while_there_are_messages(store: JobStore) -> None:
    clock = Clock()
    packs = OutstandingPacks(store.table, PlayedClock(clock))
    # One more than are read at a time, each with a pack of ten images.
    for number in range(MAX_JOBS + 1):
        job_id = f"{UNKNOWN_ID[:-3]}{number:03}"
        store.table.put_all([{"pk": "OPEN", "sk": job_id, "touched_at": NOW.isoformat()}])
        put_counts(store, job_id, Counts(images=10, packs=1))
    assert packs.images_of(QueueCounts(0, 0, 0)).total == 0
    assert packs.images_of(QueueCounts(500, 0, 0)).total == 500 + 9 * MAX_JOBS
    clock.now += READ_SECONDS / 2
    assert packs.images_of(QueueCounts(1_000, 0, 0)).total == 1_000 + 9 * MAX_JOBS, "not read again yet"
    clock.now += READ_SECONDS / 2
    assert packs.images_of(QueueCounts(500, 0, 0)).total == 500 + 9 * (MAX_JOBS + 1), "the last one has its turn"
    store.table.delete_all([("OPEN", f"{UNKNOWN_ID[:-3]}{number:03}") for number in range(MAX_JOBS)])
    clock.now += READ_SECONDS
    assert packs.images_of(QueueCounts(500, 0, 0)).total == 500 + 9, "closed jobs are forgotten"
