"""Orphans: wherever a web process dies, and however often a form is sent, no object stays without an image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast

import pytest
from werkzeug.exceptions import RequestTimeout

from core.ids import ImageRef, image_id_at, new_id, place_of
from core.images import FORMATS, ImageLimits
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.keys import input_key
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes, pack_object
from core.jobs.store import JobStore
from core.jobs.sweeps import SweepMarks, SweptError
from services.errors import FleetsightError
from services.lease import Tenure
from services.s3 import UploadForm
from services.table import CLOUD_ERRORS, TableBusyError
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, client_error, done, failed, member, picture, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.result_path import InlineExecutor
from tests.support.unsandboxed import inspect
from web_tier.controller.cleanup import JobCleanup
from web_tier.controller.orphans import DAY, MARK_LIFETIME, TOLERANCE, OrphanSweep
from web_tier.uploads.idempotency import ReusedKeyError, ingest_idempotent
from web_tier.uploads.ingest import MARKED_FOR, MAX_PUT_AGE, ImageIngest, UploadResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.presigned import FileSpec, PresignedOffer, PresignedUploads
from web_tier.uploads.single import SingleImages
from web_tier.uploads.turns import TurnExecutor

FORM_SECONDS = 600
PICTURES = (picture(shade=1), picture(shade=200, size=(40, 30)))
T = TypeVar("T")
Way = Literal["plain", "keyed", "single", "forms"]

SENT_MANY = (*PICTURES, b"no image", *PICTURES, PICTURES[0])
BY_FORM = tuple(each.ljust(2_000) for each in (*PICTURES, PICTURES[0]))
SENT: dict[Way, tuple[bytes, ...]] = {"plain": SENT_MANY, "keyed": SENT_MANY, "single": PICTURES, "forms": BY_FORM}
"""The files of an upload."""

IMAGES = {way: sum(each != b"no image" for each in files) for way, files in SENT.items()}

MAX_CALLS = 40
"""More than any upload here makes."""


class KilledError(Exception):
    """A process was killed."""


@dataclass
class Process:
    """A web process over services in memory: something may happen at one of its calls.

    Attributes:
        at: the call at which `happens` is called, or its operation; those of other processes do not count.
    """

    site: "Site"
    at: int | str = 0
    happens: Callable[[], None] = lambda: None
    calls: int = 0
    is_dead: bool = False

    def __post_init__(self) -> None:
        site = self.site
        bucket, table = MemoryBucket(self.call, now=site.now), MemoryTable(self.call)
        bucket.objects, bucket.types, bucket.tags = site.bucket.objects, site.bucket.types, site.bucket.tags
        bucket.put_at = site.bucket.put_at
        table.items = site.table.items
        self.queue = MemoryQueue()
        self.queue.memory.call = self.call
        self.ingest = ImageIngest(
            ImageLimits(),
            InputBucket(bucket),
            JobStore(table),
            self.queue,
            inspect,
            clock=PlayedClock(utc_now=site.now),
            pool=TurnExecutor(1, "ingest"),
            sizes=PackSizes(2, lambda: 0.01),
        )
        self.direct = PresignedUploads(self.ingest, cast(Any, Forms()), FORM_SECONDS, MemorySource())

    def call(self, operation: str, effect: Callable[[], T]) -> T:
        """Make a call; what happens at it happens before its effect."""
        self.calls += 1
        if self.at in {self.calls, operation}:
            self.happens()
        if self.is_dead:
            raise KilledError
        return effect()

    def die(self) -> None:
        self.is_dead = True

    def upload(self, way: Way, job: Job) -> None:
        """Upload images: in packs of two and one, or each alone."""
        files = [Upload(f"{number}.jpg", data, len(data)) for number, data in enumerate(SENT[way])]
        if way == "plain":
            self.ingest.ingest(job, files, so_far=100)
        elif way == "keyed":
            ingest_idempotent(self.ingest, job, "key", files, so_far=100)
        elif way == "single":
            singles = SingleImages(self.ingest, keep=True)
            for file in files:
                singles.ingest_one("", [file])
        else:
            offer = self.offer(job)
            self.site.send(offer, 0, 1)
            self.direct.commit(job, offer.upload_id)

    def offer(self, job: Job) -> PresignedOffer:
        """Ask for forms: one for a pack of two images, and one for a lone image."""
        files = [FileSpec("a.jpg", len(each), "image/jpeg") for each in BY_FORM]
        offer, _ = self.direct.offer(job, files, so_far=100)
        assert offer is not None
        return offer

    def end(self) -> None:
        """Complete what the process does in the background."""
        self.ingest.pool.shutdown()


class Forms:
    """Makes forms of which only the key matters."""

    def form(self, key: str, *_: object, **__: object) -> UploadForm:
        return UploadForm("memory", {"key": key})


@dataclass
class Site:
    """The services, and a controller."""

    table: MemoryTable = field(default_factory=MemoryTable)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.bucket, self.store = MemoryBucket(now=self.now), JobStore(self.table)
        self.marks = SweepMarks(self.table)
        clock, inputs = PlayedClock(lambda: self.seconds, self.now), InputBucket(self.bucket)
        self.sweep = OrphanSweep(self.store, inputs, MemorySource(), Tenure(), clock)
        pool, outputs = cast(Any, InlineExecutor()), OutputBucket(MemoryBucket())
        self.cleanup = JobCleanup(self.store, inputs, outputs, 5.0, Tenure(), clock, pool)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def job(self, *, keep: bool = True) -> Job:
        job = Job(new_id(), "job", NOW, keep)
        self.store.create(job)
        return job

    @contextmanager
    def process(self, at: int | str = 0, happens: Callable[["Process"], None] = Process.die) -> Iterator[Process]:
        """Yield a process; if it is killed, that is the end of the block."""
        process = Process(self, at)
        process.happens = lambda: happens(process)
        try:
            yield process
        except KilledError:
            assert process.is_dead
        finally:
            process.end()

    def send(self, offer: PresignedOffer, *numbers: int, version: int = 0) -> None:
        """Send forms, with the content of other images in another version."""
        for form, images in (offer.packs[number] for number in numbers):
            contents = [("jpg", BY_FORM[index - version]) for index in images]
            kind = next(iter(images.values())).object_type
            self.bucket.put(form.fields["key"], bytes(pack_object(contents, len(contents))), kind)

    def wait(self, time: timedelta) -> None:
        """Let the controller work for so long; no object goes that is younger than a day."""
        until = self.seconds + time.total_seconds()
        while self.seconds < until:
            self.seconds = min(until, self.seconds + STRIDE_SECONDS)
            before = set(self.bucket.objects)
            while not self.sweep.tick():
                pass
            assert all(self.now() - self.bucket.put_at[key] > DAY for key in before - set(self.bucket.objects))
            self.cleanup.tick()

    def images(self) -> list[ImageRecord]:
        return [image for job in self.store.jobs(10) for image in self.store.images(job.job_id)]

    def check_clean(self) -> None:
        """Check that the objects are those of the images."""
        assert sorted(self.bucket.objects) == sorted({image.key for image in self.images()})
        contents = [
            member(image.sizes, self.bucket.objects[image.key], place_of(image.ref.image_id))
            for image in self.images()
        ]
        assert [len(content) for content in contents] == [image.size for image in self.images()]

    def put_stray(self, job: Job) -> str:
        """Put an object of which the process died."""
        self.marks.put(job.job_id, self.now())
        self.bucket.put(key := input_key(ImageRef(job.job_id, new_id()), "jpg"), PICTURES[0], "image/jpeg")
        return key

    def accept(self, job: Job) -> ImageRecord:
        """Accept an image."""
        with self.process() as process:
            [image] = process.ingest.ingest(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))])
        assert isinstance(image, ImageRecord)
        return image


STRIDE_SECONDS = 3 * 3_600.0
MAX_STAY = MARK_LIFETIME + timedelta(hours=6)
"""An object goes with the second sweep after it was put, that of a job which was never created with the fourth."""

WAYS: tuple[Way, ...] = ("plain", "keyed", "single", "forms")


@pytest.mark.parametrize("is_repeated", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_row_69_wherever_a_web_process_dies_no_object_without_an_image_stays(way: Way, is_repeated: bool) -> None:
    orphaned = 0
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job()
        with site.process(at) as process:
            process.upload(way, job)
        orphaned += len(site.bucket.objects) > len({image.key for image in site.images()})
        assert len(site.images()) in {0, IMAGES[way]} or way == "single"
        if is_repeated:
            with site.process() as again:
                again.upload(way, job)
            assert len(site.images()) == IMAGES[way] or way != "keyed"
        site.wait(MAX_STAY)
        site.check_clean()
        if not process.is_dead:
            break
    assert orphaned, "some kills leave objects without a record"
    assert not process.is_dead, "the last one was not killed"


@pytest.mark.parametrize("time", [MAX_PUT_AGE, DAY, 1.5 * DAY], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_process_that_stood_still_at_any_call_accepts_no_image_without_an_object(way: Way, time: timedelta) -> None:
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job()

        def freeze(_: Process, site: Site = site) -> None:
            site.wait(time)

        with site.process(at, freeze) as process, suppress(*CLOUD_ERRORS, FleetsightError, RequestTimeout):
            process.upload(way, job)
        assert len(site.images()) == IMAGES[way] or time > MAX_PUT_AGE
        assert {image.key for image in site.images()} <= set(site.bucket.objects)
        site.wait(MAX_STAY)
        site.check_clean()
        if process.calls < at:
            return


def test_images_that_were_put_before_a_sweep_are_refused_and_later_ones_are_not() -> None:
    site = Site()
    job = site.job()
    files = [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))]
    with site.process() as process:
        results = process.ingest.put_objects(job, files)
        records = [each for each in results if isinstance(each, ImageRecord)]
        site.wait(MAX_STAY)
        assert not site.bucket.objects
        with pytest.raises(TableBusyError):
            process.ingest.check_age(records[0].accepted_at)
        with pytest.raises(SweptError):
            process.ingest.complete(records, job.group)
        assert site.store.status(job.job_id).accepted == 0
        later = process.ingest.ingest(job, files)
        # What is recorded already is not refused, however old it is.
        site.wait(MAX_STAY)
        site.put_stray(job)
        site.wait(MAX_STAY)
        process.ingest.complete([each for each in later if isinstance(each, ImageRecord)], job.group)
    assert site.store.status(job.job_id).accepted == 1
    site.check_clean()


def test_images_that_are_recorded_during_a_sweep_keep_their_objects() -> None:
    for at in range(1, MAX_CALLS):
        site = Site()
        job, calls = site.job(), iter(range(MAX_CALLS))
        with site.process() as process:
            [image] = process.ingest.put_objects(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))])
            assert isinstance(image, ImageRecord)
        site.seconds += DAY.total_seconds() + 1

        def call(_: str, effect: Callable[[], T]) -> T:
            if next(calls) == at:  # noqa: B023 - of this turn
                with suppress(SweptError):
                    process.ingest.store.record_images([image], site.now())  # noqa: B023
            return effect()

        cast(Any, site.table).call = site.bucket.call = call
        site.sweep.tick()
        is_recorded = bool(site.store.images_of([image.ref]))
        assert is_recorded is (image.key in site.bucket.objects)
        if next(calls) <= at:
            return


def test_a_web_process_with_a_clock_that_is_ahead_accepts_nothing_that_was_swept() -> None:
    site = Site()
    job = site.job()
    ahead = PlayedClock(utc_now=lambda: site.now() + TOLERANCE - timedelta(minutes=5))
    with site.process() as process:
        ingest = replace(process.ingest, clock=ahead)
        [image] = ingest.put_objects(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))])
        assert isinstance(image, ImageRecord)
        site.seconds += DAY.total_seconds() + 1
        site.sweep.tick()
        assert not site.bucket.objects
        with pytest.raises(SweptError):
            ingest.complete([image], job.group)


def test_a_commit_that_finds_the_copy_of_another_one_accepts_it_unless_it_is_swept() -> None:
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job()
        with site.process() as process:
            offer = process.offer(job)
        site.send(offer, 0, 1)
        with site.process("TransactWriteItems") as process:
            process.direct.commit(job, offer.upload_id)
        copies = {image.key for _, images in offer.packs for image in images.values()}
        assert copies < set(site.bucket.objects)
        site.wait(DAY - timedelta(hours=1))

        def freeze(_: Process, site: Site = site) -> None:
            site.wait(timedelta(hours=7))

        with site.process(at, freeze) as process, suppress(TableBusyError):
            process.direct.commit(job, offer.upload_id)
        assert {image.key for image in site.images()} <= set(site.bucket.objects)
        if process.calls < at:
            assert {image.key for image in site.images()} == set(site.bucket.objects) == copies
            return


def test_a_copy_that_a_late_commit_leaves_goes_although_the_forms_are_old() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        offer = process.offer(job)
    site.wait(timedelta(hours=3))
    site.seconds += FORM_SECONDS
    site.send(offer, 0, 1)
    site.seconds += (MARK_LIFETIME - timedelta(hours=1)).total_seconds()  # without a controller
    with site.process("TransactWriteItems") as process:
        process.direct.commit(job, offer.upload_id)
    assert len(site.bucket.objects) == 4
    site.wait(2 * MARK_LIFETIME)
    site.check_clean()


def test_a_repeat_that_comes_after_the_sweep_is_refused_and_says_why() -> None:
    site = Site()
    job = site.job()
    with site.process("TransactWriteItems") as process:
        process.upload("keyed", job)
    assert (len(site.bucket.objects), site.images()) == (3, [])
    site.wait(MAX_STAY)
    with site.process() as process, pytest.raises(ReusedKeyError, match="are deleted; use a new key"):
        process.upload("keyed", job)
    site.check_clean()


def test_only_what_no_image_needs_is_deleted() -> None:
    site = Site()
    kept, unkept = site.job(), site.job(keep=False)
    stays = [site.accept(job) for job in (kept, unkept, kept, unkept)]
    labelled = site.accept(unkept)
    put_results(site.store, done(labelled), done(stays[0]), failed(stays[1]))
    InputBucket(site.bucket).set_tombstone(unkept.job_id, exists=True)
    other = input_key(stays[0].ref, FORMATS["PNG"].extension)
    site.bucket.put(other, PICTURES[1], "image/png")
    tombstone = f"{unkept.job_id}/cancelled"
    assert {labelled.key, other, tombstone} < set(site.bucket.objects)
    site.wait(3 * MARK_LIFETIME)
    assert set(site.bucket.objects) == {tombstone, *(image.key for image in stays)}


@pytest.mark.parametrize("last", ["done", "failed for good", "failed", "without a result"])
def test_the_object_of_a_pack_stays_as_long_as_one_of_its_images_may_need_it(last: str) -> None:
    site, pack_id = Site(), new_id()
    job = site.job(keep=False)
    refs = [ImageRef(job.job_id, image_id_at(pack_id, place)) for place in range(2)]
    images = [ImageRecord(ref, "a.jpg", "jpg", (1, 1), site.now()) for ref in refs]
    site.put_stray(job)
    site.bucket.put(images[0].key, b"pixels", "application/x-tar")
    site.store.record_images(images, site.now())
    put_results(site.store, done(images[0]))
    results = {
        "done": done(images[1]),
        "failed for good": failed(images[1], code="truncated"),
        "failed": failed(images[1]),
    }
    if last in results:
        put_results(site.store, results[last])
    site.wait(3 * MARK_LIFETIME)
    assert [*site.bucket.objects] == [images[0].key] * (last in {"failed", "without a result"})


def accepted(results: dict[int, UploadResult]) -> list[bool]:
    return [isinstance(results[index], ImageRecord) for index in sorted(results)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("is_classified", [False, True])
@pytest.mark.parametrize("is_sent_again", [False, True])
def test_row_65_two_commits_and_a_form_that_is_sent_again_make_each_image_once(
    keep: bool, is_classified: bool, is_sent_again: bool
) -> None:
    """At each call of a commit the forms are sent again with other images, and another commit is made."""
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job(keep=keep)
        sent = dict[str, bytes]()
        with site.process() as first:
            offer = first.offer(job)

        def other(
            _: Process,
            site: Site = site,
            job: Job = job,
            sent: dict[str, bytes] = sent,
            offer: PresignedOffer = offer,
        ) -> None:
            site.send(offer, 0, 1, version=1)
            with site.process() as process:
                assert accepted(process.direct.commit(job, offer.upload_id)) == [True] * 3
            sent |= {image.key: site.bucket.objects[image.key] for image in site.images()}
            if is_classified:
                put_results(site.store, *[done(image) for image in site.images()])
                if not keep:
                    site.bucket.delete_all([image.key for image in site.images()])
            if is_sent_again:
                site.send(offer, 0, 1, version=1)

        site.send(offer, 0, 1)
        with site.process(at, other) as process:
            assert accepted(process.direct.commit(job, offer.upload_id)) == [True] * 3
        if process.calls < at:
            return
        site.send(offer, 0)
        assert len(site.images()) == 3
        if keep or not is_classified:
            assert {image.key: site.bucket.objects[image.key] for image in site.images()} == sent
        site.wait(MAX_STAY)
        assert sorted(site.bucket.objects) == (sorted(sent) if keep or not is_classified else [])


def test_forms_that_are_not_committed_or_whose_job_is_deleted_leave_nothing() -> None:
    for is_deleted in (False, True):
        site = Site()
        job = site.job()
        with site.process() as process:
            offer = process.offer(job)
            site.send(offer, 0)
            if is_deleted:
                DeletedJobs(site.table).delete(job)
            site.send(offer, 1)
            site.wait(MAX_STAY)
            assert site.bucket.objects == {}
            assert not site.marks.find_all() or not is_deleted


def test_a_commit_within_a_day_accepts_what_was_sent_and_a_later_one_finds_nothing() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        offer = process.offer(job)
        site.send(offer, 0)
        site.wait(DAY - timedelta(hours=1))
        assert accepted(process.direct.commit(job, offer.upload_id)) == [True, True, False]
        site.send(offer, 1)
        assert offer.packs[1][0].fields["key"] in site.bucket.objects
        site.wait(MAX_STAY)
        assert accepted(process.direct.commit(job, offer.upload_id)) == [True, True, False]
    site.check_clean()
    assert len(site.images()) == 2


def test_a_folder_of_several_pages_is_swept_whole() -> None:
    site = Site()
    job = site.job()
    first = site.accept(job)
    for _ in range(2_300):
        site.put_stray(job)
    last = site.accept(job)
    site.wait(DAY + timedelta(hours=6))
    assert set(site.bucket.objects) == {first.key, last.key}


def test_a_job_that_cannot_be_swept_delays_no_other_and_a_deposed_controller_stops() -> None:
    site = Site()
    strays = [site.put_stray(site.job()) for _ in range(3)]
    site.seconds += DAY.total_seconds() + 1
    replace(site.sweep, tenure=Tenure(active=lambda: False)).tick()
    assert len(site.bucket.objects) == 3
    refused = iter([client_error(503)])

    def call(operation: str, effect: Callable[[], T]) -> T:
        for error in refused if operation == "delete" else ():
            raise error
        return effect()

    site.bucket.call = call
    with pytest.raises(type(client_error(503))):
        site.sweep.tick()
    assert set(site.bucket.objects) == {strays[0]}
    site.wait(timedelta(hours=1))
    assert not site.bucket.objects


def test_a_mark_stays_while_its_job_is_open_and_three_days_and_if_it_is_renewed() -> None:
    site = Site()
    job = site.job()
    site.accept(job)
    assert [mark.job_id for mark in site.marks.find_all()] == [job.job_id]
    site.wait(2 * MARK_LIFETIME)
    [mark] = site.marks.find_all()
    [opened] = OpenJobs(site.table).find_all()
    OpenJobs(site.table).close(opened)
    site.marks.put(job.job_id, site.now())
    site.marks.remove(mark)
    site.wait(MARK_LIFETIME)
    assert site.marks.find_all()
    site.wait(2 * DAY)
    assert not site.marks.find_all()


def test_a_job_is_marked_before_its_first_object_and_once_an_hour() -> None:
    site, writes = Site(), list[str]()
    job, files = site.job(), [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))]
    with site.process() as process:
        made = process.call

        def call(operation: str, effect: Callable[[], T]) -> T:
            writes.append(operation)
            return made(operation, effect)

        cast(Any, process.ingest.store.table).call = cast(Any, process.ingest.bucket)._bucket.call = call
        for seconds in (0.0, MARKED_FOR.total_seconds() - 1, 1.0):
            site.seconds += seconds
            process.ingest.put_objects(job, files)
        assert writes == ["BatchWriteItem", "put", "put", "BatchWriteItem", "put"]
        cast(Any, process.ingest.store.table).call = lambda *_: (_ for _ in ()).throw(client_error(503))
        site.seconds += MARKED_FOR.total_seconds()
        with pytest.raises(type(client_error(503))):
            process.ingest.put_objects(job, files)
    assert len(site.bucket.objects) == 3


def test_a_sweep_of_a_controller_that_was_frozen_allows_nothing_again() -> None:
    site = Site()
    job = site.job()
    later, earlier = site.now() + DAY, site.now() - DAY
    assert site.marks.refuse_older(job.job_id, later)
    assert site.marks.refuse_older(job.job_id, earlier)
    with site.process() as process, pytest.raises(SweptError):
        results = process.ingest.put_objects(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))])
        process.ingest.complete([each for each in results if isinstance(each, ImageRecord)], job.group)
    DeletedJobs(site.table).delete(job)
    assert not site.marks.refuse_older(job.job_id, later)
