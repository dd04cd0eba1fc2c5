"""Jobs from S3: each image of the source is accepted once, whatever is interrupted, and users see how far it is."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from core.config import Config
from core.ids import new_id
from core.images import FORMATS
from core.jobs.buckets import UNKEPT, InputBucket
from core.jobs.lifecycle import Cancellations, DeletedJobs
from core.jobs.listings import ListingStore
from core.jobs.models import Job, JobStatus, SourceListing
from core.jobs.pack_objects import MAX_PACK_BYTES
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from core.messages import RequestMessage
from core.model_catalog import JobModel
from services.errors import ObjectRefusedError
from services.lease import Tenure
from services.s3 import ListedObject
from tests.conftest import ConfigMaker
from tests.support.autoscaler import Clock
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.jobs import NOW, client_error, done, put_results
from tests.support.memory_aws.calls import failing_writes, run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.tars import tar_of
from tests.support.unsandboxed import inspect
from tests.support.worker import key_of
from web_tier.api.schemas import ResultsCopyBody
from web_tier.controller.source_importer import (
    MAX_PAUSE_SECONDS,
    MAX_REFUSALS,
    MAX_REQUEST_BYTES,
    ORPHAN_SECONDS,
    FoundImage,
    SourceEntry,
    SourceImporter,
    packs_of,
)
from web_tier.http.quotas import Quotas
from web_tier.results.progress import JobProgress, listing_sentence
from web_tier.uploads.cancellation import cancel_job, resume_job
from web_tier.uploads.ingest import ImageIngest

BUCKET = "photos"


@dataclass
class Site:
    """A source, an importer with pages of three objects, and the services that it writes to."""

    config: Config
    active: bool = True
    clock: Clock = field(default_factory=Clock)
    table: MemoryTable = field(default_factory=MemoryTable)
    inputs: MemoryBucket = field(default_factory=MemoryBucket)
    queue: MemoryQueue = field(default_factory=MemoryQueue)
    sizes: PackSizes = field(default_factory=PackSizes)
    sources: MemorySource = field(default_factory=MemorySource)
    token: int = 0
    late: timedelta = timedelta()

    def __post_init__(self) -> None:
        self.store = JobStore(self.table)
        self.start()

    def start(self) -> None:
        """Start a controller that remembers nothing, as after a crash."""
        self.token += 1
        self.ingest = ImageIngest(
            self.config.web.image_limits,
            InputBucket(self.inputs),
            self.store,
            self.queue,
            inspect,
            sizes=self.sizes,
        )
        self.importer = SourceImporter(
            self.sources,
            self.ingest,
            self.config,
            Tenure(token=self.token, active=lambda: self.active),
            PlayedClock(self.clock, lambda: NOW + self.late),
            page_objects=3,
        )

    def put(self, *keys: str, size: int = 10) -> None:
        for key in keys:
            self.sources.objects[BUCKET, key] = b"x" * size

    def job(
        self,
        source: str = f"s3://{BUCKET}/day1",
        *,
        keep: bool = False,
        caller: str = "",
        model: JobModel | None = None,
        pattern: str = "",
    ) -> Job:
        job = Job(new_id(), "day 1", NOW, keep, source=source, source_pattern=pattern, model=model)
        ListingStore(self.store).create_job(job, caller, NOW)
        return job

    def run(self) -> None:
        """Run rounds until no job has more that can be accepted now."""
        while self.importer.tick() == 0.0:
            pass

    def status(self, job: Job) -> JobStatus:
        return self.store.status(job.job_id)

    def listing(self, job: Job) -> SourceListing:
        listing = self.status(job).listing
        assert listing is not None
        return listing

    def filenames(self, job: Job) -> list[str]:
        return [image.filename for image in self.store.images(job.job_id)]

    def is_pending(self, job: Job) -> bool:
        return ListingStore(self.store).is_pending(job.job_id)


SiteMaker = Callable[..., Site]


@pytest.fixture
def make_site(make_config: ConfigMaker) -> SiteMaker:
    def make(**limits: Any) -> Site:
        return Site(make_config(imports={"sources": [{"location": f"s3://{BUCKET}/day1"}]}, limits=limits))

    return make


@pytest.fixture
def site(make_site: SiteMaker) -> Site:
    return make_site()


def test_the_images_of_a_source_are_accepted_in_the_order_of_their_keys(site: Site) -> None:
    site.put(*(f"day1/{number}.JPG" for number in range(7)), "day1/b/c.png", "day10/no.jpg", "day1.jpg")
    job = site.job()
    assert site.status(job).state == "running"
    site.run()
    assert site.filenames(job) == [*(f"{number}.JPG" for number in range(7)), "b/c.png"]
    images = list(site.store.images(job.job_id))
    assert {RequestMessage.from_json(body).refs[0] for body in site.queue.bodies} == {image.ref for image in images}
    assert len(site.queue.bodies) == 8
    assert {image.content_type for image in images} == {"image/jpeg", "image/png"}
    status = site.status(job)
    assert (status.accepted, status.state, site.listing(job).state) == (8, "running", "complete")
    assert not site.is_pending(job)
    put_results(site.store, *map(done, images))
    assert site.status(job).state == "finished"


def test_the_requests_of_a_source_name_the_model_of_its_job(site: Site) -> None:
    site.put("day1/a.jpg", "day1/b.png")
    model = JobModel("signs", "a" * 64, "s3://outputs/models/signs")
    site.job(model=model)
    site.run()
    assert [RequestMessage.from_json(body).model for body in site.queue.bodies] == [model.requested] * 2


def test_images_are_read_where_they_are_in_packs_with_one_request_each(site: Site) -> None:
    site.sizes = PackSizes(50, lambda: 0.001)
    site.start()
    site.importer.page_objects = 1_000
    site.put(*(f"day1/{number:04}.jpg" for number in range(700)), "day1/\n.jpg", "day1/notes.txt")
    job = site.job()
    site.run()
    assert site.inputs.objects == {}
    images = {image.ref: image for image in site.store.images(job.job_id)}
    requests = sorted(map(RequestMessage.from_json, site.queue.bodies), key=lambda request: request.pack_id)
    assert [ref for request in requests for ref in request.refs] == list(images)
    assert (len(images), site.status(job).accepted, site.status(job).counts.packs) == (701, 701, len(requests))
    assert len(requests) < 130, "packs of few images are the first and the last ones"
    assert max(len(request.sizes) for request in requests) > 20
    found = dict[str, bytes]()
    for request in requests:
        assert request.source is not None
        for place, ref in enumerate(request.refs):
            name, etag = request.source.objects[place]
            key = request.source.prefix + name
            found[key] = site.sources.read(request.source.bucket, key, etag, request.sizes[place])
            assert images[ref].source == request.source
            assert images[ref].original_at == f"s3://{BUCKET}/{key}"
    assert found == {key: body for (_, key), body in site.sources.objects.items() if key.endswith(".jpg")}
    assert site.store.image(next(iter(images))).filename == ".jpg"


def test_images_of_a_job_that_keeps_them_are_copied_each_for_itself(site: Site) -> None:
    site.sizes = PackSizes(50, lambda: 0.001)
    site.start()
    site.put(*(f"day1/{number:02}.jpg" for number in range(40)))
    job = site.job(keep=True)
    site.run()
    images = list(site.store.images(job.job_id))
    assert [image.source for image in images] == [None] * 40
    assert {image.key for image in images} == set(site.inputs.objects)
    assert set(site.inputs.tags.values()) == {None}
    assert {key_of(RequestMessage.from_json(body)) for body in site.queue.bodies} == set(site.inputs.objects)


def test_a_request_is_small_whatever_the_keys_and_is_not_sent_where_none_fits(make_site: SiteMaker) -> None:
    for max_bytes, is_in_place in ((1_048_576, True), (16_384, True), (2_048, False)):
        site = make_site()
        site.sizes = PackSizes(50, lambda: 0.001)
        queues = site.config.queues.model_copy(update={"max_message_bytes": max_bytes})
        site.config = site.config.model_copy(update={"queues": queues})
        site.start()
        site.importer.page_objects = 1_000
        tail = "\x01" * 700 + ".jpg"
        site.put(*(f"day1/{number:04}{tail}" for number in range(300)))
        job = site.job()
        site.run()
        assert len(site.filenames(job)) == 300
        requests = [RequestMessage.from_json(body) for body in site.queue.bodies]
        assert {request.source is not None for request in requests} == {is_in_place}
        assert max(len(body.encode()) for body in site.queue.bodies) <= min(max_bytes, MAX_REQUEST_BYTES + 1_024)
        assert len(site.inputs.objects) == (0 if is_in_place else 300)
        assert all(tags == UNKEPT for tags in site.inputs.tags.values())


def test_objects_that_are_no_images_are_counted_by_the_reason(site: Site) -> None:
    site.put("day1/a.jpg", "day1/b.txt", "day1/c", "day1/.jpg/d", "day1/old.jpg", "day1/secret.jpg")
    site.put("day1/empty.jpg", "day1/folder.png/", size=0)
    site.put("day1/large.jpg", size=site.config.web.max_image_bytes + 1)
    site.sources.archived.add((BUCKET, "day1/old.jpg"))
    site.sources.unreadable.add((BUCKET, "day1/secret.jpg"))
    job = site.job(keep=True)
    site.run()
    listing = site.listing(job)
    assert site.filenames(job) == ["a.jpg"]
    assert dict(listing.skipped) == {
        "not_an_image": 4,
        "empty": 1,
        "too_large": 1,
        "archived": 1,
        "not_readable": 1,
    }
    assert listing.listed == listing.accepted + sum(listing.skipped.values()) == 9


def test_objects_with_names_that_do_not_match_the_pattern_are_neither_copied_nor_refused(site: Site) -> None:
    site.put("day1/a.jpg", "day1/x/b.jpg", "day1/x/y/c.jpg", "day1/x/d.png", "day1/n.txt")
    job = site.job(pattern="x/**/*.jpg")
    site.run()
    assert site.filenames(job) == ["x/b.jpg", "x/y/c.jpg"]
    assert dict(site.listing(job).skipped) == {"not_matched": 3}
    assert listing_sentence("it", site.listing(job)) == "Listed it: 5 objects, 3 with other names."


def test_an_object_without_a_suffix_is_taken_by_its_first_bytes(site: Site) -> None:
    site.put("day1/a.JFIF", "day1/b.mpo", "day1/README", "day1/unreadable")
    site.sources.objects[BUCKET, "day1/scan"] = b"\x89PNG\r\n\x1a\n rest"
    site.sources.unreadable.add((BUCKET, "day1/unreadable"))
    job = site.job(keep=True)
    site.run()
    stored = {image.filename: site.inputs.types[image.key] for image in site.store.images(job.job_id)}
    assert stored == {"a.JFIF": "image/jpeg", "b.mpo": "image/jpeg", "scan": "image/png"}
    assert dict(site.listing(job).skipped) == {"not_an_image": 1, "not_readable": 1}


def test_no_image_is_skipped_if_the_input_bucket_refuses_its_copy(site: Site) -> None:
    site.put("day1/a.jpg")
    site.sources.refuses_copies = True
    job = site.job(keep=True)
    site.run()
    assert site.listing(job) == SourceListing()
    site.sources.refuses_copies = False
    site.clock.now += MAX_PAUSE_SECONDS
    site.run()
    assert (site.filenames(job), site.listing(job).state) == (["a.jpg"], "complete")


@pytest.mark.parametrize("keep", [False, True])
def test_each_image_is_accepted_once_whatever_write_is_interrupted(make_site: SiteMaker, keep: bool) -> None:
    keys = [f"day1/{number}.jpg" for number in range(5)]
    interruption, is_interrupted = 0, True
    while is_interrupted:  # at each write of the table, before or after its effect, until there is none left
        interruption += 1
        site, seen = make_site(), 0

        def interrupt(_when: str, stop: int = interruption) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise HTTPClientError(error="killed")

        site.put(*keys)
        job = site.job(keep=keep)
        site.table.call = failing_writes(interrupt)
        site.run()
        site.start()  # another controller
        site.put("day1/!.jpg")  # the source has changed meanwhile
        site.clock.now += MAX_PAUSE_SECONDS
        site.run()
        is_interrupted = seen >= interruption
        names = site.filenames(job)
        assert len(names) == len(set(names)), f"doubled at write {interruption}"
        assert {f"{number}.jpg" for number in range(5)} <= set(names), f"lost at write {interruption}"
        status = site.status(job)
        assert (status.accepted, status.listing and status.listing.state) == (len(names), "complete")
        assert len(site.queue.bodies) == len(site.queue.image_ids), "no request is sent twice"
        assert not site.is_pending(job)
    assert interruption > 6


def test_a_frozen_controller_accepts_nothing_again_of_its_successor(make_site: SiteMaker) -> None:
    """Row 15: it thaws before each of its writes, after its successor was killed at each of its own."""
    frozen_at, is_frozen = 0, True
    while is_frozen:
        frozen_at, killed_at, is_killed, is_frozen = frozen_at + 1, 0, True, False
        while is_killed:
            killed_at += 1
            is_killed, was_frozen = _freeze_and_kill(make_site(), frozen_at, killed_at)
            is_frozen |= was_frozen
    assert frozen_at > 3


def _freeze_and_kill(site: Site, frozen_at: int, killed_at: int) -> tuple[bool, bool]:
    """Return whether the successor was killed at its write, and the first controller frozen before its own."""
    site.put(*(f"day1/{number}.jpg" for number in range(5)))
    job, writes = site.job(), dict[str, int](first=0, successor=0)

    def kill(when: str) -> None:
        writes["successor"] += when == "before"
        if writes["successor"] >= killed_at:
            raise HTTPClientError(error="killed")

    def freeze(when: str) -> None:
        writes["first"] += when == "before"
        if when == "before" and writes["first"] == frozen_at:
            site.table.call = failing_writes(kill)
            site.put("day1/!.jpg")  # the source has changed meanwhile
            site.start()
            site.run()
            site.table.call, site.active = run_effect, False

    site.table.call = failing_writes(freeze)
    site.run()
    site.table.call, site.active = run_effect, True
    site.start()
    site.run()
    names = site.filenames(job)
    place = f"frozen at write {frozen_at}, and its successor killed at write {killed_at}"
    assert len(names) == len(set(names)), f"doubled: {place}"
    assert {f"{number}.jpg" for number in range(5)} <= set(names), f"lost: {place}"
    assert len(site.queue.bodies) >= len(site.queue.image_ids) == len(names), f"not requested: {place}"
    assert not site.is_pending(job)
    return writes["successor"] >= killed_at, writes["first"] >= frozen_at


def test_an_object_that_is_gone_after_it_was_listed_is_skipped(site: Site) -> None:
    site.put("day1/a.jpg", "day1/b.jpg")
    job = site.job(keep=True)

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        found = effect()
        if operation == "list":
            site.sources.objects.pop((BUCKET, "day1/a.jpg"), None)
        return found

    site.sources.call = call
    site.run()
    assert site.filenames(job) == ["b.jpg"]
    assert dict(site.listing(job).skipped) == {"gone": 1}


@pytest.mark.parametrize(("gap", "of_shard", "most"), [(0, False, 24), (0, True, 24), (6 * 2**20, True, 6)])
def test_what_is_read_for_a_pack_is_limited(gap: int, of_shard: bool, most: int) -> None:
    images, size = list[FoundImage](), 2 * 2**20
    for position in range(100):
        found = ListedObject("a.tar" if of_shard else f"{position}.jpg", size, etag="e")
        name, start = (f"{position}.jpg", position * (size + gap)) if of_shard else (None, 0)
        entry = SourceEntry(found, size, None, member=name, start=start)
        images.append(FoundImage(position, entry, found.key, FORMATS["JPEG"], is_in_place=True))
    packs = packs_of(images, PackSizes(50, lambda: 0.001), 1_000, 30_000, is_rest=False)
    assert [image for pack in packs for image in pack] == images
    assert {len(pack) for pack in packs[:-1]} == {most}


def test_images_of_shards_are_accepted_where_they_are_with_their_places(site: Site) -> None:
    site.sizes = PackSizes(50, lambda: 0.001)
    site.start()
    members = [
        (f"{number:03}.{suffix}", f"{number} {suffix}".encode() * number)
        for number in range(1, 60)
        for suffix in ("jpg", "cls")
    ]
    site.importer.page_objects = 40
    first, second = tar_of(members[:90]), tar_of([*members[90:], ("d/large.jpg", bytes(3 * MAX_PACK_BYTES // 4))])
    for key, data in (("a.tar", first), ("b.tar", second), ("c.tar", first[:9_740]), ("d.tar", b""), ("e.txt", b"")):
        site.sources.objects[BUCKET, f"day1/{key}"] = data
    site.sources.objects[BUCKET, "day1/d.tar"] = first
    site.sources.unreadable.add((BUCKET, "day1/d.tar"))
    job = site.job(pattern="*.tar")
    for _ in range(MAX_REFUSALS):
        site.run()
        site.clock.now += MAX_PAUSE_SECONDS
    listing, names = site.listing(job), site.filenames(job)
    large = ["b.tar/d/large.jpg"] if site.config.web.max_image_bytes >= 3 * MAX_PACK_BYTES // 4 else []
    of_members = [name for name, _ in members if name.endswith(".jpg")]
    of_a, of_b = [f"a.tar/{name}" for name in of_members[:45]], [f"b.tar/{name}" for name in of_members[45:]]
    assert names[: len(of_a + of_b + large)] == of_a + of_b + large
    of_c = names[len(of_a + of_b + large) :]
    assert of_c == [name.replace("a.tar", "c.tar") for name in of_a[: len(of_c)]]
    assert 0 < len(of_c) < 45
    assert (listing.state, listing.accepted) == ("complete", len(names))
    assert {reason: listing.skipped[reason] for reason in ("damaged", "not_readable", "not_matched")} == {
        "damaged": 1,
        "not_readable": 1,
        "not_matched": 1,
    }
    found = dict[str, bytes]()
    records = {image.ref: image for image in site.store.images(job.job_id)}
    for body in site.queue.bodies:
        request = RequestMessage.from_json(body)
        source = request.source
        assert source is not None
        for place, ref in enumerate(request.refs):
            start, size = source.starts[place], request.sizes[place]
            found[records[ref].filename] = site.sources.read(source.bucket, *source.object_of(0), size, start)
            assert records[ref].source == source
    contents = dict(members)
    assert {name: found[name] for name in of_a + of_b + of_c} == {
        name: contents[name.partition("/")[2]] for name in of_a + of_b + of_c
    }
    assert len(site.queue.bodies) < len(names)
    assert site.inputs.objects == {}


def test_each_image_of_a_shard_is_accepted_once_whatever_write_is_interrupted(make_site: SiteMaker) -> None:
    interruption, is_interrupted = 0, True
    while is_interrupted:
        interruption += 1
        site, seen = make_site(), 0

        def interrupt(_when: str, stop: int = interruption) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise HTTPClientError(error="killed")

        for key in ("a.tar", "b.tar"):
            site.sources.objects[BUCKET, f"day1/{key}"] = tar_of([(f"{number}.jpg", b"1") for number in range(4)])
        job = site.job(pattern="*.tar")
        site.table.call = failing_writes(interrupt)
        site.run()
        site.start()
        site.clock.now += MAX_PAUSE_SECONDS
        site.run()
        is_interrupted = seen >= interruption
        assert site.filenames(job) == [f"{key}.tar/{number}.jpg" for key in "ab" for number in range(4)]
        assert (site.listing(job).state, site.listing(job).accepted) == ("complete", 8)


@pytest.mark.parametrize("gap", ["before", "deleted", "overwritten"])
def test_a_shard_is_listed_further_only_as_it_was_whatever_changes_in_the_source(
    make_site: SiteMaker, gap: str
) -> None:
    site = make_site(images_per_day=2, bytes_per_day=0)
    other = tar_of([(f"other-{number}.jpg", bytes(number)) for number in range(1, 5)])
    for key in ("b.tar", "c.tar"):
        site.sources.objects[BUCKET, f"day1/{key}"] = tar_of([(f"{number}.jpg", b"1") for number in range(4)])
    job = site.job(caller="ann", pattern="*.tar")
    site.run()
    if gap == "deleted":
        del site.sources.objects[BUCKET, "day1/b.tar"]
    else:
        site.sources.objects[BUCKET, f"day1/{'a' if gap == 'before' else 'b'}.tar"] = other
    for day in range(1, 5):
        site.start()
        site.late = timedelta(days=day)
        site.run()
    listed = 4 if gap == "before" else 2
    assert site.filenames(job) == [
        *(f"b.tar/{number}.jpg" for number in range(listed)),
        *(f"c.tar/{number}.jpg" for number in range(4)),
    ]
    assert dict(site.listing(job).skipped) == ({} if gap == "before" else {"changed": 1})
    assert site.listing(job).state == "complete"


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState"])
def test_no_shard_is_skipped_because_of_a_refusal_that_passes(site: Site, code: str) -> None:
    members = [(f"{number}.jpg", bytes(9 << 20)) for number in range(3)]
    for key in ("a.tar", "b.tar"):
        site.sources.objects[BUCKET, f"day1/{key}"] = tar_of(members)
    reads = 0

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        nonlocal reads
        reads += operation == "get"
        if operation == "get" and reads in {2, 3}:
            raise ObjectRefusedError(code)
        return effect()

    site.sources.call = call
    job = site.job(pattern="*.tar")
    for _ in range(3):
        site.run()
        site.clock.now += MAX_PAUSE_SECONDS
    is_passing = code == "AccessDenied"
    of_a, of_b = ([f"{key}.tar/{number}.jpg" for number in range(3)] for key in "ab")
    assert site.filenames(job) == [*of_a[: 3 if is_passing else 1], *of_b]
    assert dict(site.listing(job).skipped) == ({} if is_passing else {"archived": 1})


def test_shards_that_may_not_be_read_are_skipped_together_until_one_can_be_read(site: Site) -> None:
    for number in range(31):
        site.sources.objects[BUCKET, f"day1/{number:02}.tar"] = tar_of([("0.jpg", b"1")])
    site.sources.unreadable.update((BUCKET, f"day1/{number:02}.tar") for number in (*range(1, 29), 30))
    job = site.job(pattern="*.tar")
    for _ in range(MAX_REFUSALS):
        assert site.listing(job).state == "listing"
        site.run()
        site.clock.now += MAX_PAUSE_SECONDS
    assert site.filenames(job) == ["00.tar/0.jpg", "29.tar/0.jpg"]
    assert (site.listing(job).state, dict(site.listing(job).skipped)) == ("listing", {"not_readable": 28})


def test_shards_are_refused_where_images_are_kept(site: Site) -> None:
    site.put("day1/a.tar")
    job = site.job(pattern="*.tar", keep=True)
    site.run()
    assert (site.listing(job).state, site.filenames(job)) == ("failed", [])


def test_a_short_job_does_not_wait_for_a_long_one(site: Site) -> None:
    site.put(*(f"day1/long/{number:03}.jpg" for number in range(60)), "day1/short/a.jpg")
    long, short = site.job("s3://photos/day1/long"), site.job("s3://photos/day1/short")
    site.importer.tick()
    assert site.listing(short).state == "complete"
    assert site.listing(long).listed == 3


def test_a_source_that_fails_delays_no_other_job(make_config: ConfigMaker) -> None:
    sources = [{"location": f"s3://{bucket}"} for bucket in ("broken", BUCKET)]
    site = Site(make_config(imports={"sources": sources}))
    site.sources.fails = lambda bucket: client_error(503, "SlowDown") if bucket == "broken" else None
    site.put("day1/a.jpg")
    broken, good = site.job("s3://broken/day1"), site.job()
    site.run()
    assert site.filenames(good) == ["a.jpg"]
    assert site.listing(broken).state == "listing", "a fault of S3 is not the job's failure"
    assert site.status(broken).state == "running"
    site.sources.objects["broken", "day1/b.jpg"] = b"b"
    site.sources.fails = lambda _bucket: None
    site.importer.tick()
    assert site.filenames(broken) == [], "it has a pause"
    site.clock.now += MAX_PAUSE_SECONDS
    site.run()
    assert site.filenames(broken) == ["b.jpg"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (client_error(403, "AccessDenied"), "s3:ListBucket"),
        (client_error(404, "NoSuchBucket"), "does not exist"),
    ],
)
def test_a_refused_source_ends_the_listing_with_the_reason(site: Site, error: ClientError, words: str) -> None:
    site.put(*(f"day1/{number}.jpg" for number in range(4)))
    job = site.job()
    site.importer.tick()
    site.sources.fails = lambda _bucket: error
    for _ in range(MAX_REFUSALS):
        assert site.listing(job).state == "listing"
        site.run()
        site.clock.now += MAX_PAUSE_SECONDS
    listing = site.listing(job)
    assert (listing.state, listing.accepted) == ("failed", 3)
    assert words in listing.error
    assert not site.is_pending(job)
    put_results(site.store, *map(done, site.store.images(job.job_id)))
    assert site.status(job).state == "finished", "its images have their results"
    assert words in listing_sentence(job.source, listing)


def test_a_source_that_was_never_listed_is_refused_at_once(site: Site) -> None:
    job = site.job()
    site.sources.fails = lambda _bucket: client_error(403, "AccessDenied")
    site.run()
    assert site.listing(job).state == "failed"


def test_a_source_that_is_not_allowed_any_more_is_not_listed(make_config: ConfigMaker) -> None:
    site = Site(make_config())
    site.put("day1/a.jpg")
    job = site.job()
    site.run()
    assert "imports.sources" in site.listing(job).error
    assert site.filenames(job) == []


def test_the_rest_of_a_source_that_is_not_allowed_any_more_is_not_accepted(
    make_site: SiteMaker, make_config: ConfigMaker
) -> None:
    site = make_site(images_per_day=1, bytes_per_day=0)
    site.put("day1/a.jpg", "day1/b.jpg")
    job = site.job(caller="ann")
    site.run()
    site.config, site.late = make_config(), timedelta(days=1)
    site.start()
    site.clock.now += MAX_PAUSE_SECONDS
    site.run()
    assert site.filenames(job) == ["a.jpg"]
    assert "imports.sources" in site.listing(job).error


def test_an_empty_source_finishes_the_job(site: Site) -> None:
    job = site.job()
    site.run()
    status = site.status(job)
    assert (status.state, status.is_answered, status.accepted) == ("finished", True, 0)
    assert JobProgress.from_status(status).settled
    copy = ResultsCopyBody.from_status(replace(status, job=replace(status.job, results="s3://theirs/day1")))
    assert copy is not None
    assert (copy.state, copy.error) == ("failed", "the job has no images")


def test_a_job_is_not_answered_before_its_source_is_listed(site: Site) -> None:
    site.put(*(f"day1/{number}.jpg" for number in range(4)))
    job = site.job()
    site.importer.tick()
    put_results(site.store, *map(done, site.store.images(job.job_id)))
    status = site.status(job)
    assert (status.waiting, status.state, status.is_answered) == (0, "running", False)
    assert listing_sentence(job.source, site.listing(job)) == "Listing s3://photos/day1: 3 objects so far."


def test_a_cancelled_job_is_listed_no_further_also_after_a_retry(site: Site) -> None:
    site.put(*(f"day1/{number}.jpg" for number in range(7)))
    job = site.job()
    site.importer.tick()
    cancel_job(site.ingest, site.status(job))
    assert site.status(job).state == "cancelled"
    site.run()
    assert (site.listing(job).state, len(site.filenames(job))) == ("cancelled", 3)
    Cancellations(site.store.table).remove(job.job_id)
    ListingStore(site.store).put_pending(job.job_id, "")  # the controller died before it ended it
    site.run()
    assert (len(site.filenames(job)), site.is_pending(job)) == (3, False)


def test_a_job_that_the_controller_stopped_is_listed_further_after_a_retry(site: Site) -> None:
    site.put(*(f"day1/{number}.jpg" for number in range(7)))
    job = site.job()
    site.importer.tick()
    Cancellations(site.store.table).cancel(job.job_id, NOW, "6 of 100 images failed")
    site.run()
    assert (site.listing(job).state, len(site.filenames(job)), site.is_pending(job)) == ("cancelled", 3, False)
    resume_job(site.ingest, job, "u1")
    site.run()
    assert (site.listing(job).state, len(site.filenames(job))) == ("complete", 7)
    assert not site.is_pending(job)


def test_a_deleted_job_is_listed_no_further(site: Site) -> None:
    site.put(*(f"day1/{number}.jpg" for number in range(7)))
    job = site.job()
    site.importer.tick()
    DeletedJobs(site.store.table).delete(job)
    site.run()
    assert len(site.filenames(job)) == 3
    assert not site.is_pending(job)


def test_a_listing_without_a_job_is_dropped_after_an_hour(site: Site) -> None:
    job = Job(new_id(), "never made", NOW, source="s3://photos/day1")
    ListingStore(site.store).create_job(job, "", NOW)
    site.table.items.pop(("JOBS", job.job_id))
    site.run()
    assert site.is_pending(job), "the web tier may be about to make it"
    site.clock.now += ORPHAN_SECONDS
    site.run()
    assert not site.is_pending(job)


def test_the_listing_pauses_when_the_quota_is_used_up(make_site: SiteMaker) -> None:
    site = make_site(images_per_day=2, bytes_per_day=0)
    site.put(*(f"day1/{number}.jpg" for number in range(3)))
    job = site.job(caller="ann")
    site.run()
    status, listing = site.status(job), site.listing(job)
    assert (status.accepted, listing.state) == (2, "listing")
    assert listing.paused_until == (NOW + timedelta(days=1)).replace(hour=0)
    assert "quota" in listing_sentence(job.source, listing)
    site.clock.now += MAX_PAUSE_SECONDS
    site.run()
    assert site.filenames(job) == ["0.jpg", "1.jpg"]
    site.late = timedelta(days=1)
    site.clock.now += MAX_PAUSE_SECONDS
    site.run()
    assert site.filenames(job) == ["0.jpg", "1.jpg", "2.jpg"]
    assert (site.listing(job).state, site.listing(job).paused_until) == ("complete", None)


def test_an_image_that_could_not_be_recorded_uses_no_quota(make_site: SiteMaker) -> None:
    site = make_site(images_per_day=3, bytes_per_day=0)
    site.put(*(f"day1/{number}.jpg" for number in range(3)))
    job, failures = site.job(caller="ann"), [HTTPClientError(error="busy")] * 5

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "TransactWriteItems" and failures:
            raise failures.pop()
        return effect()

    site.table.call = call
    for _ in range(6):
        site.run()
        site.clock.now += MAX_PAUSE_SECONDS
    assert (len(site.filenames(job)), site.listing(job).state) == (3, "complete")
    assert Quotas(site.table, site.config.limits, ManualClock(0.0, NOW)).remaining("ann").images == 0


def test_keys_of_any_characters_are_data(site: Site) -> None:
    keys = [
        "day1/a b+c&d=e.jpg",
        "day1/'\"<b>.jpg",
        "day1/\x01\n.jpg",
        "day1/../up.jpg",
        "day1/日本.jpg",
        "day1/\ufffe\uffff.jpg",
    ]
    site.put(*keys)
    job = site.job()
    site.run()
    assert sorted(site.filenames(job)) == sorted(
        ["a b+c&d=e.jpg", "'\"<b>.jpg", ".jpg", "up.jpg", "日本.jpg", "\ufffe\uffff.jpg"]
    )
    sources = [RequestMessage.from_json(body).source for body in site.queue.bodies]
    assert {source.prefix + source.objects[0][0] for source in sources if source} == {*keys}


def test_long_keys_make_small_pages(site: Site) -> None:
    site.importer.page_objects = 250
    tail = "\x01" * 900 + ".jpg"
    site.put(*(f"day1/{number:04}{tail}" for number in range(100)))
    job = site.job()
    site.run()
    assert len(site.filenames(job)) == site.listing(job).listed == 100
