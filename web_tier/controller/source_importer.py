"""The importer: lists the sources of jobs in S3, and accepts their images.

A source is listed page by page:

1. list the next objects, and choose those that may be images and that the quota of the job's caller allows;
2. only if the job keeps its images, copy these into the input bucket; the bytes stay within S3;
3. record the packs of the images and how far the source is listed, in one transaction, then send their requests.

A controller that ends before the transaction has accepted nothing, and a sweep deletes its copies. After it, the
reconciler sends the requests. Workers read the objects where they are, as they were listed: one that is changed,
deleted, archived or no image fails alone.

Each job has a turn of one page, so a long listing does not delay a short one. An error of a service delays its job
with a backoff. If S3 refuses to list the source, the listing has failed, and the user creates another job. A
cancelled job is not listed any further, also after a retry, except if the controller had cancelled it.
"""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, chain, takewhile
from typing import Final

from botocore.exceptions import ClientError

from core.config import MIN_MESSAGE_BYTES, Config, is_granted
from core.ids import MAX_POSITION, ImageRef, image_id_at, positioned_id
from core.images import FORMATS, ImageFormat, ImageRejectedError, sniff
from core.jobs.lifecycle import Cancellations, DeletedJobs
from core.jobs.listings import ListingStore, PendingListing, listing_put
from core.jobs.models import ImageRecord, Job, ShardPosition, SourceListing
from core.jobs.pack_objects import MAX_PACK_BYTES
from core.jobs.packs import PackSizes
from core.messages import SourceObjects
from core.s3_locations import MAX_LOCATION_CHARACTERS, S3Location, matches_pattern
from core.telemetry import SPANS
from core.tracing import new_traceparent, use_traceparent
from services.backoff import pause_seconds
from services.clock import CLOCK, Clock
from services.errors import NotFoundError, ObjectRefusedError
from services.lease import Tenure
from services.s3 import CHANGED, ListedObject, SourceBuckets, is_refusal
from services.table import ConditionsFailedError
from web_tier.controller.shards import ShardMember, ShardPage, list_members
from web_tier.http.parameters import clean_filename
from web_tier.http.quotas import UNLIMITED, QuotaExceededError, Quotas, QuotaScope, Reservation
from web_tier.uploads.ingest import BATCH_PACKS, CONCURRENCY, ImageIngest

CHECK_SECONDS: Final = 2.0
"""Time between two checks for jobs with a source, while none is listed; each reads a list that is mostly empty."""

ORPHAN_SECONDS: Final = 3_600.0
"""Time after which a listing without a job, or of one that is still cancelled, is dropped: the web tier records the
listing first, and a process may have ended then."""

FIRST_PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 60.0
"""Longest pause after errors in a row, and between two checks of a job that waits for its quota."""

MAX_SOURCE_ERROR_CHARACTERS: Final = 300

REFUSALS: Final[Mapping[str, str]] = {
    "AccessDenied": "S3 does not let Fleetsight list it: the controller's role needs s3:ListBucket there",
    "AllAccessDisabled": "S3 has disabled all access to it",
    "NoSuchBucket": "this bucket does not exist",
}
"""Error codes with which S3 refuses a listing, with their meaning for the user."""

MAX_PAGE_OBJECTS: Final = 1_000
"""Objects of a page: the most that S3 lists in one call."""

MAX_PAGE_BYTES: Final = 300_000
"""Bytes of the keys of a page, as they are stored, so that a transaction fits into 4 MB."""

MAX_REQUEST_BYTES: Final = 32 * 1024
"""Bytes of the objects of a pack in its request: two packs are in what SQS bills as one message."""

OBJECT_BYTES: Final = 16
"""Bytes that a request has for an object besides its key and its ETag."""

MAX_OBJECT_BYTES: Final = 8 * 1024
"""Bytes that a request has for an object, at most: each byte of a key may take six."""

HEAD_BYTES: Final = 64
"""Bytes of an object that show its format."""

MAX_REFUSALS: Final = 10
"""A listing that has listed a page ends after so many refusals in a row, some minutes: rights may be missing for a
moment. Any other one ends after the first refusal, since its user waits for the reason. After so many reads of shards
that are refused in a row, these shards are skipped, until one can be read."""

LASTING_REFUSALS: Final[Mapping[str, str]] = {
    CHANGED: "changed",
    "InvalidObjectState": "archived",
    "InvalidRange": "changed",
    "NoSuchBucket": "not_readable",
    "NoSuchKey": "changed",
}
"""Error codes with which S3 refuses to read a shard for good, with the reason for which it is skipped."""

_FORMAT_OF: Final = {suffix: each for each in FORMATS.values() for suffix in each.suffixes}

_log = logging.getLogger(__name__)


class OutdatedTenureError(Exception):
    """Raised when this process may no longer act, or another write has replaced the listing that it has read."""


@dataclass
class ImportTurns:
    """What a controller remembers of a listing; times are monotonic seconds.

    `refusals` are of reads of shards, in a row.
    """

    first_seen: float
    due: float
    failures: int = 0
    refusals: int = 0


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """An object of a source, or a member of a shard.

    Attributes:
        size: of the object or the member, in bytes.
        skipped: the reason if it is skipped.
        shard: where the members of the object go on after it; None if the listing goes on with the next object.
        member: its name in the shard; None for an object.
        start: of the member, in the shard.
    """

    object: ListedObject
    size: int
    skipped: str | None
    shard: ShardPosition | None = None
    member: str | None = None
    start: int = 0

    @property
    def after(self) -> str:
        """The key after which the listing goes on."""
        return self.object.key


@dataclass(frozen=True, slots=True)
class ListedPage:
    """Entries of a source in order; `after` and `shard` are where the listing goes on after all of them."""

    entries: Sequence[SourceEntry]
    is_last: bool
    after: str
    shard: ShardPosition | None = None


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An entry of a source that may be an image.

    Attributes:
        position: its number in the listing.
        key: of its object, after the prefix of the source.
        is_in_place: whether it is read from its object, and not copied.
    """

    position: int
    entry: SourceEntry
    key: str
    format: ImageFormat
    is_in_place: bool

    @property
    def request_bytes(self) -> int:
        """The bytes that a request has for it, at most."""
        return OBJECT_BYTES + len(json.dumps(self.key)) + len(self.entry.object.etag)


@dataclass
class SourceImporter:
    """Imports the images of jobs with a source.

    Attributes:
        ingest: records and enqueues images; its bucket is the input bucket.
        config: the configuration: which sources are allowed, and the limits of an image and of a day.
    """

    sources: SourceBuckets
    ingest: ImageIngest
    config: Config
    tenure: Tenure
    clock: Clock = CLOCK
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="import")
    )
    page_objects: int = MAX_PAGE_OBJECTS
    _turns: dict[str, ImportTurns] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Share the stores of the ingest."""
        self._listings = ListingStore(self.ingest.store)
        self._quotas = Quotas(self.ingest.store.table, self.config.limits, self.clock)

    def tick(self) -> float:
        """Accept a page of each job that is due; return the seconds until the next round, 0 if some have more."""
        pending, now = self._listings.pending(), self.clock.monotonic()
        self._turns = {each.job_id: self._turns.get(each.job_id) or ImportTurns(now, now) for each in pending}
        has_more = False
        for each in pending:
            if not self.tenure.active():
                break
            turns = self._turns[each.job_id]
            if turns.due <= self.clock.monotonic():
                with use_traceparent(new_traceparent(is_sampled=SPANS.samples())):
                    has_more |= self._import_safely(each, turns)
        return 0.0 if has_more else CHECK_SECONDS

    def is_done_with(self, job_id: str) -> bool:
        """Return whether the job has no source that may have to be listed."""
        return not self._listings.is_pending(job_id)

    def _import_safely(self, pending: PendingListing, turns: ImportTurns) -> bool:
        """Accept the next page of a job; return whether it has more that can be accepted now."""
        job_id = pending.job_id
        try:
            has_more = self._import(pending, turns)
        except OutdatedTenureError:
            return False
        except Exception:  # noqa: BLE001 (it must not delay other jobs; it is logged and tried again)
            turns.failures += 1
            pause = pause_seconds(turns.failures, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
            turns.due = self.clock.monotonic() + pause
            extra = {"job": job_id, "next_try_seconds": round(pause, 2)}
            _log.warning("a page of a source could not be accepted", extra=extra, exc_info=True)
            return False
        finally:
            if not self.tenure.active():
                # This controller may have been frozen, and the job may have been removed meanwhile.
                DeletedJobs(self.ingest.store.table).mark_if_removed(job_id)
        turns.failures = 0
        return has_more

    def _import(self, pending: PendingListing, turns: ImportTurns) -> bool:
        job_id = pending.job_id
        is_orphan = self.clock.monotonic() - turns.first_seen >= ORPHAN_SECONDS
        try:
            job, reason, _ = self.ingest.store.job_intake(job_id)
        except NotFoundError:
            if is_orphan:
                self._listings.end(job_id)
            return False
        listing = self._cancelled_or_resumed(job_id, reason)
        if listing.state != "listing":
            # A web process that resumes the job records that first, and deletes the mark last.
            if is_orphan or not (reason and Cancellations(self.ingest.store.table).is_resumed(job_id)):
                self._listings.end(job_id)
            return False
        try:
            page = self._next_page(job, listing, turns)
        except _SourceRefusedError as error:
            _log.warning("a source could not be listed", extra={"job": job_id, "reason": str(error)})
            self._put(job_id, listing, replace(listing, state="failed", error=str(error), paused_until=None))
            self._listings.end(job_id)
            return False
        self._check_active()
        try:
            return self._accept(job, pending, listing, page, turns)
        except NotFoundError:
            return False  # the job is being deleted

    def _cancelled_or_resumed(self, job_id: str, reason: str | None) -> SourceListing:
        """Return the listing of a job after it was cancelled, or resumed after the controller had cancelled it."""
        listing, cancellations = self._listings.find(job_id), Cancellations(self.ingest.store.table)
        if listing.state == "listing" and reason is not None:
            return self._put(job_id, listing, replace(listing, state="cancelled", paused_until=None))
        if listing.state == "cancelled" and reason is None and cancellations.is_resumed(job_id):
            return self._put(job_id, listing, replace(listing, state="listing"))
        return listing

    def _next_page(self, job: Job, listing: SourceListing, turns: ImportTurns) -> ListedPage:
        """List the objects after those that are listed."""
        location = S3Location.parse(job.source)
        limit = min(self.page_objects, BATCH_PACKS * self.ingest.sizes.max_images)
        self._check_source(job, location, listing.listed + limit)
        max_objects = limit if listing.shard is None else 1
        try:
            found, is_truncated = self.sources.page(location.bucket, location.prefix, listing.after, max_objects)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in REFUSALS and (not listing.listed or turns.failures + 1 >= MAX_REFUSALS):
                raise _SourceRefusedError(f"{location}: {REFUSALS[code]} ({code})") from error
            raise
        if (at := listing.shard) is not None:
            shard = ListedObject(listing.after, at.size, etag=at.etag)
            return self._shard_page(location, shard, at.offset, limit, turns, is_last=not found)

        def reason(found: ListedObject) -> str | None:
            name = found.key.removeprefix(location.prefix)
            if job.source_pattern and not matches_pattern(name, job.source_pattern):
                return "not_matched"
            return None if job.has_shards else skip_reason(found, self._max_bytes)

        sizes = accumulate(len(json.dumps(each.key)) for each in found)
        objects = [each for each, size in zip(found, sizes, strict=True) if size <= MAX_PAGE_BYTES]
        entries = [SourceEntry(each, each.size, reason(each)) for each in objects]
        if job.has_shards:
            entries = [*takewhile(lambda each: each.skipped, entries)]
            if objects and not entries:
                is_last = len(found) == 1 and not is_truncated
                return self._shard_page(location, objects[0], 0, limit, turns, is_last=is_last)
        is_last = not is_truncated and len(entries) == len(found)
        return ListedPage(entries, is_last, entries[-1].after if entries else listing.after)

    def _check_source(self, job: Job, location: S3Location, objects: int) -> None:
        """Check that the source may be listed, and that the job may have so many objects.

        Raises:
            _SourceRefusedError: it may not.
        """
        # A user who was an operator when the job was created has the right to its rest.
        if not is_granted(self.config.imports.sources, location, to_operator=True):
            raise _SourceRefusedError(f"{location}: imports.sources in config.yaml does not allow it any more")
        if job.has_shards and (job.keep or self._room(job) < MAX_OBJECT_BYTES):
            raise _SourceRefusedError(
                f"{location}: images of shards are not kept, and their requests need larger queues.max_message_bytes"
            )
        if objects > MAX_POSITION:
            raise _SourceRefusedError(f"a job takes {MAX_POSITION:,} objects at most: create a job for the others")

    def _shard_page(
        self, location: S3Location, shard: ListedObject, offset: int, limit: int, turns: ImportTurns, *, is_last: bool
    ) -> ListedPage:
        """List the members of a shard from `offset` on; it is the last object of its source if it `is_last`."""

        def read_range(start: int, size: int) -> bytes:
            return self.sources.read(location.bucket, shard.key, shard.etag, size, start)

        def reason(member: ShardMember) -> str | None:
            if not member.is_file or not suffix_of(member.name):
                return "not_an_image"
            return skip_reason(ListedObject(member.name, member.size), self._max_bytes)

        try:
            page = list_members(read_range, shard.size, offset, limit)
            reason_of_shard, turns.refusals = "damaged" if page.is_damaged else None, 0
        except ObjectRefusedError as error:
            if error.code not in LASTING_REFUSALS:
                turns.refusals += 1
                if turns.refusals < MAX_REFUSALS:
                    raise
            page, reason_of_shard = ShardPage([], is_last=True), LASTING_REFUSALS.get(error.code, "not_readable")
        entries = [
            SourceEntry(
                shard,
                each.size,
                reason(each),
                ShardPosition(each.end, shard.size, shard.etag),
                each.name,
                each.start,
            )
            for each in page.members
        ]
        if reason_of_shard is not None:
            entries.append(SourceEntry(shard, shard.size, reason_of_shard))
        if not page.is_last:
            return ListedPage(entries, is_last=False, after=shard.key, shard=entries[-1].shard)
        return ListedPage(entries, is_last, shard.key)

    @property
    def _max_bytes(self) -> int:
        """The largest object that is accepted; one that exceeds the quota of a day never would be."""
        of_day = self.config.limits.bytes_per_day
        return min(self.ingest.limits.max_bytes, of_day or self.ingest.limits.max_bytes)

    def _accept(
        self, job: Job, pending: PendingListing, listing: SourceListing, page: ListedPage, turns: ImportTurns
    ) -> bool:
        """Accept the first images of a page, as many as the quota and a transaction allow.

        Returns whether more can be accepted now. The next page gets the quota of objects that cannot be copied.

        Raises:
            NotFoundError: the job is being deleted.
        """
        allowed, renewed_at = self._within_quota(pending, page)
        found = self._found_images(job, listing, page.entries[:allowed])
        is_rest = page.is_last and allowed == len(page.entries)
        packs = packs_of(found, self.ingest.sizes, listing.accepted, self._room(job), is_rest=is_rest)
        left = found[sum(map(len, packs)) :]
        entries = page.entries[: left[0].position - listing.listed if left else allowed]
        images = {image.position for pack in packs for image in pack}
        skipped = Counter(
            each.skipped or "not_an_image"
            for position, each in enumerate(entries, listing.listed)
            if position not in images
        )
        is_whole = len(entries) == len(page.entries)
        end = page if is_whole else entries[-1] if entries else listing
        records = [self._records(job, pack) for pack in packs]
        quota = QuotaScope(self._quotas, pending.caller) if pending.caller else UNLIMITED
        is_end = page.is_last and is_whole
        try:
            with quota.reserve([*chain(*records)]) as reservation:
                reasons = self._copy_all(job, zip(packs, records, strict=True))
                accepted = [record for record in chain(*records) if record.ref not in reasons]
                after = SourceListing(
                    state="complete" if is_end else "listing",
                    listed=listing.listed + len(entries),
                    accepted=listing.accepted + len(accepted),
                    skipped=dict(Counter(listing.skipped) + skipped + Counter(reasons.values())),
                    after=end.after,
                    shard=end.shard,
                    paused_until=None if left or allowed == len(page.entries) else renewed_at,
                )
                self._complete(job, listing, after, accepted, reservation)
        except QuotaExceededError:  # other requests of the user came first
            after = self._put(job.job_id, listing, replace(listing, paused_until=renewed_at))
        if after.paused_until is not None:
            until = (after.paused_until - self.clock.utc_now()).total_seconds()
            turns.due = self.clock.monotonic() + max(0.0, min(until, MAX_PAUSE_SECONDS))
            return False
        if is_end:
            self._listings.end(job.job_id)
            extra = {"job": job.job_id, "objects": after.listed, "images": after.accepted}
            _log.info("listed a source", extra=extra)
        return not is_end

    def _complete(
        self,
        job: Job,
        before: SourceListing,
        after: SourceListing,
        images: list[ImageRecord],
        reservation: Reservation,
    ) -> None:
        """Record images and the listing, and enqueue the images; after an error only recorded ones stay charged."""
        self._check_active()
        if not images:
            self._put(job.job_id, before, after)
            return
        reservation.commit(images)
        try:
            self.ingest.complete(images, job.group, [listing_put(job.job_id, before, after, self.tenure.token)])
        except Exception as error:
            recorded = self.ingest.store.images_of([each.ref for each in images])
            reservation.commit([each for each in images if each.ref in recorded])
            if isinstance(error, ConditionsFailedError):
                raise OutdatedTenureError from error
            raise

    def _found_images(self, job: Job, listing: SourceListing, entries: Sequence[SourceEntry]) -> list[FoundImage]:
        """Return those of the next entries of a source that may be images."""
        prefix, room = S3Location.parse(job.source).prefix, self._room(job)
        formats = self.pool.map(lambda each: None if each.skipped else self._format_of(job, each), entries)
        found = list[FoundImage]()
        for position, (each, format_) in enumerate(zip(entries, formats, strict=True), listing.listed):
            if format_ is not None:
                image = FoundImage(position, each, each.object.key.removeprefix(prefix), format_, is_in_place=True)
                is_in_place = job.has_shards or (bool(image.key) and not job.keep and image.request_bytes <= room)
                found.append(replace(image, is_in_place=is_in_place))
        return found

    def _room(self, job: Job) -> int:
        """Return the bytes of objects that fit into a request of the job, besides what any request has."""
        only = (job.model.only if job.model else None) or ""
        besides = 2 * MIN_MESSAGE_BYTES + MAX_LOCATION_CHARACTERS + len(only)
        return min(MAX_REQUEST_BYTES, self.config.queues.max_message_bytes - besides)

    def _records(self, job: Job, pack: Sequence[FoundImage]) -> list[ImageRecord]:
        """Return the future records of the images of a pack."""
        location, pack_id = S3Location.parse(job.source), positioned_id(job.job_id, pack[0].position)
        objects, starts = tuple((image.key, image.entry.object.etag) for image in pack), tuple[int, ...]()
        if job.has_shards:
            objects, starts = objects[:1], tuple(image.entry.start for image in pack)
        source = SourceObjects(bucket=location.bucket, prefix=location.prefix, objects=objects, starts=starts)
        sizes, now = tuple(image.entry.size for image in pack), self.clock.utc_now()
        return [
            ImageRecord(
                ImageRef(job.job_id, image_id_at(pack_id, place)),
                clean_filename("/".join(filter(None, (image.key, image.entry.member)))),
                image.format.extension,
                sizes,
                now,
                owner=job.owner,
                model=job.requested_model,
                source=source if image.is_in_place else None,
            )
            for place, image in enumerate(pack)
        ]

    def _format_of(self, job: Job, found: SourceEntry) -> ImageFormat | None:
        """Return the format of an entry by its suffix, or without one by its first bytes; None if it has none."""
        if suffix := suffix_of(found.member or found.object.key):
            return _FORMAT_OF[suffix]
        head = self.sources.first_bytes(S3Location.parse(job.source).bucket, found.object.key, HEAD_BYTES)
        try:
            return FORMATS[sniff(head)] if head else FORMATS["JPEG"]  # if it is not readable, its worker says why
        except ImageRejectedError:
            return None

    def _copy_all(
        self, job: Job, packs: Iterable[tuple[Sequence[FoundImage], Sequence[ImageRecord]]]
    ) -> dict[ImageRef, str]:
        """Copy the images of a source that are not read in place; return the reasons for those that are skipped."""
        copied = [(pack[0].entry.object.key, images[0]) for pack, images in packs if not pack[0].is_in_place]
        if copied:
            self.ingest.mark(job.job_id)
        reasons = self.pool.map(lambda each: self._copy(job, *each), copied)
        return {image.ref: reason for (_, image), reason in zip(copied, reasons, strict=True) if reason is not None}

    def _copy(self, job: Job, key: str, record: ImageRecord) -> str | None:
        """Copy an object into the input bucket; return the reason if it is skipped."""
        self._check_active()
        bucket = S3Location.parse(job.source).bucket
        try:
            self.ingest.bucket.copy_source(self.sources, bucket, key, record, is_kept=job.keep)
        except NotFoundError:
            return "gone"
        except ClientError as error:
            # If the object can be read, the input bucket has refused the copy, which is no fault of the object.
            if is_refusal(error) and not self.sources.is_readable(bucket, key):
                return "not_readable"
            raise
        return None

    def _within_quota(self, pending: PendingListing, page: ListedPage) -> tuple[int, datetime | None]:
        """Return how many entries of a page the rest of the quota allows, and when there is more."""
        if not pending.caller:
            return len(page.entries), None
        left, images, size = self._quotas.remaining(pending.caller), 0, 0
        for index, each in enumerate(page.entries):
            if each.skipped is None:
                images, size = images + 1, size + each.size
            if (left.images is not None and images > left.images) or (left.bytes is not None and size > left.bytes):
                return index, left.renewed_at
        return len(page.entries), left.renewed_at

    def _put(self, job_id: str, before: SourceListing, after: SourceListing) -> SourceListing:
        """Record how far a source is listed; return it."""
        self._check_active()
        if not self._listings.put_listing(job_id, before, after, self.tenure.token):
            raise OutdatedTenureError
        return after

    def _check_active(self) -> None:
        if not self.tenure.active():
            raise OutdatedTenureError


class _SourceRefusedError(Exception):
    """Raised when a source cannot be listed; the message is for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MAX_SOURCE_ERROR_CHARACTERS])


def packs_of(
    images: Sequence[FoundImage], sizes: PackSizes, so_far: int, room: int, *, is_rest: bool
) -> list[list[FoundImage]]:
    """Return the packs of the first of these images, as many as one transaction records.

    Args:
        images: in order; one that is copied is a pack of its own.
        sizes: decides how many images a pack gets.
        so_far: images that the job has had.
        room: bytes of objects in a request.
        is_rest: whether the source has no other images.
    """
    packs = list[list[FoundImage]]()
    size = size_bytes = key_bytes = 0
    for index, image in enumerate(images):
        own = image.entry
        first = packs[-1][0].entry if packs else own
        # Of a shard, one read has also what is between the images.
        size_bytes = size_bytes + own.size if own.member is None else own.start + own.size - first.start
        key_bytes += image.request_bytes
        is_full = not packs or len(packs[-1]) == size or not (image.is_in_place and packs[-1][0].is_in_place)
        if is_full or size_bytes > MAX_PACK_BYTES or key_bytes > room:
            if len(packs) == BATCH_PACKS:
                break
            size = sizes.next_size(so_far + index, len(images) - index if is_rest else None)
            size_bytes, key_bytes = own.size, image.request_bytes
            packs.append([])
        packs[-1].append(image)
    return packs


def skip_reason(found: ListedObject, max_bytes: int) -> str | None:
    """Return why an object is skipped, or None if it may be an image.

    One without a suffix may be; an empty one is what programs leave as a mark or for a folder.
    """
    suffix = suffix_of(found.key)
    if suffix not in _FORMAT_OF and (suffix or found.size == 0):
        return "not_an_image"
    if found.size == 0:
        return "empty"
    if found.size > max_bytes:
        return "too_large"
    return "archived" if found.is_archived else None


def suffix_of(key: str) -> str:
    """Return the suffix of a key in lower case, without the dot; empty if it has none."""
    name = key.rpartition("/")[2]
    return name.rpartition(".")[2].lower() if "." in name else ""
