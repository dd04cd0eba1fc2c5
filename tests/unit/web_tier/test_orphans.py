"""Orphans: wherever a web process dies, and however often a form is sent, no object stays without an image."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast

import pytest

from core.images import ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.keys import form_key
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.put_intents import PutIntents
from core.jobs.store import JobStore
from services.lease import Tenure
from services.s3 import UploadForm
from services.table import TableBusyError
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, client_error, done, picture, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.controller.orphans import PATIENCE_SECONDS, ROUND_SECONDS, OrphanCleanup
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import MAX_PUT_AGE, ImageIngest, RejectedUpload, UploadResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.presigned import FileSpec, PresignedOffer, PresignedUploads
from web_tier.uploads.single import SingleImages
from web_tier.uploads.turns import TurnExecutor

FORM_SECONDS = 600
PICTURES = (picture(shade=1), picture(shade=200, size=(40, 30)))
MAX_CALLS = 40
"""More than any upload here makes."""

T = TypeVar("T")
Way = Literal["plain", "keyed", "single", "forms"]


class KilledError(Exception):
    """A process was killed."""


@dataclass
class Process:
    """A web process over services in memory: something may happen at one of its calls.

    Attributes:
        at: the call at which `happens` is called; those of other processes do not count.
    """

    site: "Site"
    at: int = 0
    happens: Callable[[], None] = lambda: None
    calls: int = 0
    is_dead: bool = False

    def __post_init__(self) -> None:
        site = self.site
        bucket, table = MemoryBucket(self.call), MemoryTable(self.call)
        bucket.objects, bucket.types, bucket.tags = site.bucket.objects, site.bucket.types, site.bucket.tags
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
        )
        self.direct = PresignedUploads(self.ingest, cast(Any, Forms()), FORM_SECONDS, MemorySource())

    def call(self, _operation: str, effect: Callable[[], T]) -> T:
        """Make a call; what happens at it happens before its effect."""
        self.calls += 1
        if self.calls == self.at:
            self.happens()
        if self.is_dead:
            raise KilledError
        return effect()

    def die(self) -> None:
        self.is_dead = True

    def upload(self, way: Way, job: Job) -> None:
        """Upload two images."""
        files = [Upload(f"{number}.jpg", data, len(data)) for number, data in enumerate(PICTURES)]
        if way == "plain":
            self.ingest.ingest(job, files)
        elif way == "keyed":
            ingest_idempotent(self.ingest, job, "key", files)
        elif way == "single":
            singles = SingleImages(self.ingest, keep=True)
            for file in files:
                singles.ingest_one("", [file])
        else:
            offer = self.offer(job)
            self.site.send(offer, 0, 1)
            self.direct.commit(job, offer.upload_id)

    def offer(self, job: Job) -> PresignedOffer:
        offer, _ = self.direct.offer(job, [FileSpec("a.jpg", 10**6, "image/jpeg")] * 2)
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
    """The services, and a controller with a clock of its own."""

    bucket: MemoryBucket = field(default_factory=MemoryBucket)
    table: MemoryTable = field(default_factory=MemoryTable)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.store = JobStore(self.table)
        self.queue = MemoryQueue()
        ingest = ImageIngest(
            ImageLimits(),
            InputBucket(self.bucket),
            self.store,
            self.queue,
            inspect,
            clock=PlayedClock(utc_now=self.now),
        )
        self.cleanup = OrphanCleanup(ingest, FORM_SECONDS, Tenure(), PlayedClock(lambda: self.seconds))

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def job(self, *, keep: bool = True) -> Job:
        job = Job("01KAH8Z9M5J6C0Q2V4T7W1X3YD", "job", NOW, keep)
        self.store.create(job)
        return job

    @contextmanager
    def process(self, at: int = 0, happens: Callable[["Process"], None] = Process.die) -> Iterator[Process]:
        """Yield a process; if it is killed, that is the end of the block."""
        process = Process(self, at)
        process.happens = lambda: happens(process)
        try:
            yield process
        except KilledError:
            assert process.is_dead
        finally:
            process.end()

    def send(self, offer: PresignedOffer, *indexes: int, version: int = 0) -> None:
        """Send forms, with the content of another image in another version."""
        for index in indexes:
            self.bucket.put(offer.forms[index].fields["key"], PICTURES[index - version], "image/jpeg")

    def clean(self, seconds: float) -> None:
        """Let the controller clean up for so long."""
        until = self.seconds + seconds
        while self.seconds < until:
            self.cleanup.tick()
            self.seconds += ROUND_SECONDS

    def images(self) -> list[ImageRecord]:
        return [image for job in self.store.jobs(10) for image in self.store.images(job.job_id)]

    def check_clean(self) -> None:
        """Check that the objects are those of the images, and that no intent is left."""
        assert sorted(self.bucket.objects) == sorted(image.key for image in self.images())
        assert [len(self.bucket.objects[image.key]) for image in self.images()] == [
            image.size for image in self.images()
        ]
        assert list(PutIntents(self.table).find_all()) == []


WAYS: tuple[Way, ...] = ("plain", "keyed", "single", "forms")


@pytest.mark.parametrize("way", WAYS)
def test_row_69_wherever_a_web_process_dies_no_object_without_an_image_stays_an_hour(way: Way) -> None:
    orphaned = 0
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job()
        with site.process(at) as process:
            process.upload(way, job)
        orphaned += len(site.bucket.objects) > len(site.images())
        site.clean(PATIENCE_SECONDS + 2 * ROUND_SECONDS + FORM_SECONDS * (way == "forms"))
        site.check_clean()
        with site.process() as again:
            again.upload(way, job)
        site.clean(3_600 + FORM_SECONDS)
        site.check_clean()
        assert len(site.images()) == 2 or way != "keyed"
    assert orphaned, "some kills leave objects without a record"
    assert not process.is_dead, "the last one was not killed"


@pytest.mark.parametrize("way", ["plain", "keyed", "single"])
def test_no_object_is_deleted_while_its_record_may_still_come(way: Way) -> None:
    """The process is frozen at each of its calls, for as long as it may accept images afterwards."""
    for at in range(1, MAX_CALLS):
        site = Site()
        job = site.job()

        def freeze(_: Process, site: Site = site) -> None:
            site.clean(MAX_PUT_AGE.total_seconds())

        with site.process(at, freeze) as process:
            process.upload(way, job)
        assert len(site.images()) == 2
        site.check_clean()
        if process.calls < at:
            return


def test_a_process_that_thaws_later_accepts_nothing() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        for key in ("", "key"):
            results = process.ingest.put_objects(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))], key)
            site.clean(MAX_PUT_AGE.total_seconds() + 1)
            assert [type(each) for each in process.ingest.commit(results, job.group)] == [RejectedUpload]
            with pytest.raises(TableBusyError):
                process.ingest.check_age(each for each in results if isinstance(each, ImageRecord))
    site.check_clean()
    assert site.bucket.objects == {}


def accepted(results: dict[int, UploadResult]) -> list[bool]:
    return [isinstance(results[index], ImageRecord) for index in sorted(results)]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("is_classified", [False, True])
def test_row_65_two_commits_and_a_form_that_is_sent_again_make_each_image_once(
    keep: bool, is_classified: bool
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
                assert accepted(process.direct.commit(job, offer.upload_id)) == [True, True]
            sent |= {image.key: site.bucket.objects[image.key] for image in site.images()}
            if is_classified:
                put_results(site.store, *[done(image) for image in site.images()])
                if not keep:
                    site.bucket.delete_all([image.key for image in site.images()])
            site.send(offer, 0, 1, version=1)

        site.send(offer, 0, 1)
        with site.process(at, other) as process:
            assert accepted(process.direct.commit(job, offer.upload_id)) == [True, True]
        if process.calls < at:
            return
        site.send(offer, 0)
        assert len(site.images()) == 2
        if keep or not is_classified:
            assert {image.key: site.bucket.objects[image.key] for image in site.images()} == sent
            assert [image.size for image in site.images()] == [len(sent[image.key]) for image in site.images()]
        site.clean(2 * 3_600 + FORM_SECONDS)
        stays = sorted(sent) if keep or not is_classified else []
        assert (sorted(site.bucket.objects), list(PutIntents(site.table).find_all())) == (stays, [])


def test_forms_that_are_not_committed_or_whose_job_is_deleted_leave_nothing() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        offer = process.offer(job)
        site.send(offer, 0)
        site.clean(FORM_SECONDS)
        DeletedJobs(site.store.table).delete(job)
        site.send(offer, 1)
        assert len(site.bucket.objects) == 2
        site.clean(3_600)
    site.check_clean()
    assert site.bucket.objects == {}


def test_a_commit_prolongs_the_time_and_one_that_comes_too_late_finds_nothing() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        offer = process.offer(job)
        site.send(offer, 0)
        site.clean(PATIENCE_SECONDS + FORM_SECONDS)
        assert accepted(process.direct.commit(job, offer.upload_id)) == [True, False]
        site.send(offer, 1)
        site.clean(PATIENCE_SECONDS + FORM_SECONDS)
        assert form_key(offer.images[1].ref, "jpg") in site.bucket.objects
        site.clean(3_600)
        site.check_clean()
        assert accepted(process.direct.commit(job, offer.upload_id)) == [True, False]
    assert len(site.images()) == 1


def test_a_commit_waits_for_a_controller_that_has_begun_to_delete() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        offer = process.offer(job)
        site.send(offer, 0)
        site.bucket.call = lambda *_: (_ for _ in ()).throw(client_error(503))
        with pytest.raises(type(client_error(503))):
            site.clean(2 * 3_600)
        with pytest.raises(TableBusyError):
            process.direct.commit(job, offer.upload_id)
        site.bucket.call = lambda _, effect: effect()
        site.clean(ROUND_SECONDS)
        assert accepted(process.direct.commit(job, offer.upload_id)) == [False, False]
    site.check_clean()


def test_a_failed_intent_delays_no_other_and_a_deposed_controller_stops() -> None:
    site = Site()
    job = site.job()
    with site.process() as process:
        for _ in range(3):
            process.ingest.put_objects(job, [Upload("a.jpg", PICTURES[0], len(PICTURES[0]))])
    site.cleanup.tick()
    site.seconds += PATIENCE_SECONDS
    replace(site.cleanup, tenure=Tenure(active=lambda: False)).tick()
    refused = iter([client_error(503)])

    def call(operation: str, effect: Callable[[], T]) -> T:
        for error in refused if operation == "delete" else ():
            raise error
        return effect()

    site.bucket.call = call
    assert len(site.bucket.objects) == 3
    with pytest.raises(type(client_error(503))):
        site.cleanup.tick()
    assert len(site.bucket.objects) == 1
    site.cleanup.tick()
    site.check_clean()
