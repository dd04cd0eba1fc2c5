"""The importer: lists the sources of jobs in S3, copies the images into the input bucket, and accepts them.

A source is listed page by page. Each page is stored before its first object is accepted, so its images keep their
ids, and after a crash the next controller continues with the same page (`core/jobs/listings.py`):

1. list the next objects, and store the page;
2. copy each object that may be an image to a key of the system; the bytes stay within S3;
3. record the images, then send their requests, as for an upload (`web_tier/uploads/ingest.py`);
4. record that the page is done.

An image that is recorded already is not copied, recorded or sent again. If its request was not sent, the reconciler
sends it. The content of an object is validated by the worker that decodes it: an object that is no image fails alone.

Each job has a turn of one page, so a long listing does not delay a short one. An error of a service delays its job
with a backoff. If S3 refuses to list the source, the listing has failed: an operator must change the rights or the
configuration, and the user creates another job. A cancelled job is not listed any further, also after a retry, except
if the controller had cancelled it.

Images count towards the quota of the caller who created the job. When it is used up, the listing pauses until the
next day.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from botocore.exceptions import ClientError

from core.config import Config, is_granted
from core.ids import MAX_POSITION, listed_id
from core.images import FORMATS, ImageFormat, ImageRejectedError, sniff
from core.jobs.lifecycle import Cancellations, DeletedJobs
from core.jobs.listings import (
    MAX_PAGE_BYTES,
    MAX_PAGE_OBJECTS,
    ListedPage,
    ListingStore,
    PendingListing,
    SourceObject,
)
from core.jobs.models import ImageRecord, Job, SourceListing
from core.s3_locations import S3Location, matches_pattern
from core.telemetry import SPANS
from core.tracing import new_traceparent, use_traceparent
from services.backoff import pause_seconds
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.lease import Tenure
from services.s3 import ListedObject, SourceBuckets, is_refusal
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

HEAD_BYTES: Final = 64
"""Bytes of an object that show its format."""

MAX_REFUSALS: Final = 10
"""A listing that has listed a page ends after so many refusals in a row, some minutes: rights may be missing for a
moment. Any other one ends after the first refusal, since its user waits for the reason."""

_FORMAT_OF: Final = {suffix: each for each in FORMATS.values() for suffix in each.suffixes}

_log = logging.getLogger(__name__)


class OutdatedTenureError(Exception):
    """Raised when this process may no longer act: the next controller continues with the page."""


@dataclass
class ImportTurns:
    """What a controller remembers of a listing; times are monotonic seconds."""

    first_seen: float
    due: float
    failures: int = 0


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
        page, is_first_try = self._listings.page(job_id, listing.listed), False
        is_stored = page is not None
        try:
            self._check_granted(S3Location.parse(job.source))
            page = page or self._next_page(job, listing, turns)
        except _SourceRefusedError as error:
            _log.warning("a source could not be listed", extra={"job": job_id, "reason": str(error)})
            self._put(job_id, replace(listing, state="failed", error=str(error), paused_until=None))
            self._listings.end(job_id)
            return False
        if not is_stored:
            is_first_try = self._listings.claim_page(job_id, page)
            if not is_first_try and (page := self._listings.page(job_id, listing.listed)) is None:
                raise OutdatedTenureError  # a later controller has accepted and deleted it
        self._check_active()
        try:
            return self._accept(job, pending, listing, page, turns, is_first_try=is_first_try)
        except NotFoundError:
            return False  # the job is being deleted

    def _cancelled_or_resumed(self, job_id: str, reason: str | None) -> SourceListing:
        """Return the listing of a job after it was cancelled, or resumed after the controller had cancelled it."""
        listing, cancellations = self._listings.find(job_id), Cancellations(self.ingest.store.table)
        if listing.state == "listing" and reason is not None:
            return self._put(job_id, replace(listing, state="cancelled", paused_until=None))
        if listing.state == "cancelled" and reason is None and cancellations.is_resumed(job_id):
            return self._put(job_id, replace(listing, state="listing"))
        return listing

    def _check_granted(self, location: S3Location) -> None:
        """Check that the location may be read, also if a stored page has waited for the quota of the next day."""
        # A user who was an operator when the job was created has the right to its rest.
        if not is_granted(self.config.imports.sources, location, to_operator=True):
            raise _SourceRefusedError(f"{location}: imports.sources in config.yaml does not allow it any more")

    def _next_page(self, job: Job, listing: SourceListing, turns: ImportTurns) -> ListedPage:
        """List the objects after those that are listed."""
        location = S3Location.parse(job.source)
        if listing.listed + self.page_objects > MAX_POSITION:
            raise _SourceRefusedError(
                f"a job takes the first {listing.listed:,} objects: create a job for the others"
            )
        try:
            found, is_truncated = self.sources.page(
                location.bucket, location.prefix, listing.after, self.page_objects
            )
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in REFUSALS and (not listing.listed or turns.failures + 1 >= MAX_REFUSALS):
                raise _SourceRefusedError(f"{location}: {REFUSALS[code]} ({code})") from error
            raise

        def is_chosen(key: str) -> bool:
            return not job.source_pattern or matches_pattern(key.removeprefix(location.prefix), job.source_pattern)

        return page_of(listing, found, self._max_bytes, is_chosen, is_last=not is_truncated)

    @property
    def _max_bytes(self) -> int:
        """The largest object that is accepted; one that exceeds the quota of a day never would be."""
        of_day = self.config.limits.bytes_per_day
        return min(self.ingest.limits.max_bytes, of_day or self.ingest.limits.max_bytes)

    def _accept(
        self,
        job: Job,
        pending: PendingListing,
        listing: SourceListing,
        page: ListedPage,
        turns: ImportTurns,
        *,
        is_first_try: bool,
    ) -> bool:
        """Accept the images of a page that are not recorded yet, as far as the quota allows.

        The quota of objects that cannot be copied goes to those that follow.

        Raises:
            NotFoundError: the job is being deleted.
        """
        formats = self.pool.map(lambda each: self._format_of(job, each), page.objects)
        records = {
            each: self._record_of(job, each, format_)
            for each, format_ in zip(page.objects, formats, strict=True)
            if format_ is not None
        }
        recorded = {} if is_first_try else self.ingest.store.images_of([each.ref for each in records.values()])
        waiting = [(each, record) for each, record in records.items() if record.ref not in recorded]
        quota = QuotaScope(self._quotas, pending.caller) if pending.caller else UNLIMITED
        accepted = listing.accepted + len(recorded)
        skipped = +Counter({"not_an_image": len(page.objects) - len(records)})
        chosen, renewed_at = self._within_quota(pending, waiting)
        while chosen:
            self.ingest.mark(job.job_id)
            try:
                with quota.reserve([record for _, record in chosen]) as reservation:
                    reasons = list(self.pool.map(lambda each: self._copy(job, *each), chosen))
                    copied = [record for (_, record), reason in zip(chosen, reasons, strict=True) if reason is None]
                    self._complete(job, copied, reservation)
            except QuotaExceededError:  # other requests of the user came first
                break
            accepted += len(copied)
            skipped.update(reason for reason in reasons if reason is not None)
            waiting = waiting[len(chosen) :]
            chosen, renewed_at = self._within_quota(pending, waiting)
        self._check_active()
        if waiting:
            self._put(job.job_id, replace(listing, paused_until=renewed_at))
            until = (renewed_at - self.clock.utc_now()).total_seconds() if renewed_at else 0.0
            turns.due = self.clock.monotonic() + max(0.0, min(until, MAX_PAUSE_SECONDS))
            return False
        after = SourceListing(
            state="complete" if page.is_last else "listing",
            listed=page.start + page.listed,
            accepted=accepted,
            skipped=dict(Counter(listing.skipped) + Counter(page.skipped) + skipped),
            after=page.after,
        )
        self._put(job.job_id, after)
        self._listings.delete_page(job.job_id, page.start)
        if page.is_last:
            self._listings.end(job.job_id)
            _log.info("listed a source", extra={"job": job.job_id, "objects": after.listed, "images": accepted})
        return not page.is_last

    def _complete(self, job: Job, copied: list[ImageRecord], reservation: Reservation) -> None:
        """Record and enqueue copied images; after an error only those that are recorded stay charged."""
        reservation.commit(copied)
        try:
            for batch in in_batches(copied, BATCH_PACKS):
                self._check_active()
                self.ingest.complete(batch, job.group)
        except Exception:
            recorded = self.ingest.store.images_of([each.ref for each in copied])
            reservation.commit([each for each in copied if each.ref in recorded])
            raise

    def _format_of(self, job: Job, found: SourceObject) -> ImageFormat | None:
        """Return the format of an object by its suffix, or without one by its first bytes; None if it has none."""
        if suffix := suffix_of(found.key):
            return _FORMAT_OF[suffix]
        head = self.sources.first_bytes(S3Location.parse(job.source).bucket, found.key, HEAD_BYTES)
        try:
            return FORMATS[sniff(head)] if head else FORMATS["JPEG"]  # if it is not readable, its copy says why
        except ImageRejectedError:
            return None

    def _record_of(self, job: Job, found: SourceObject, format_: ImageFormat) -> ImageRecord:
        image_id, prefix = listed_id(job.job_id, found.position), S3Location.parse(job.source).prefix
        filename = clean_filename(found.key.removeprefix(prefix))
        return ImageRecord.of(job, image_id, filename, format_, found.size, self.clock.utc_now())

    def _copy(self, job: Job, found: SourceObject, record: ImageRecord) -> str | None:
        """Copy an object into the input bucket; return the reason if it is skipped."""
        self._check_active()
        bucket = S3Location.parse(job.source).bucket
        try:
            self.ingest.bucket.copy_source(self.sources, bucket, found.key, record, is_kept=job.keep)
        except NotFoundError:
            return "gone"
        except ClientError as error:
            # If the object can be read, the input bucket has refused the copy, which is no fault of the object.
            if is_refusal(error) and not self.sources.is_readable(bucket, found.key):
                return "not_readable"
            raise
        return None

    def _within_quota(
        self, pending: PendingListing, waiting: Sequence[tuple[SourceObject, ImageRecord]]
    ) -> tuple[list[tuple[SourceObject, ImageRecord]], datetime | None]:
        """Return the first of the images that the rest of the quota allows, and when there is more."""
        if not (pending.caller and waiting):
            return list(waiting), None
        left, size = self._quotas.remaining(pending.caller), 0
        chosen = list(waiting)[: left.images]
        for index, (_, record) in enumerate(chosen):
            size += record.size
            if left.bytes is not None and size > left.bytes:
                return chosen[:index], left.renewed_at
        return chosen, left.renewed_at

    def _put(self, job_id: str, listing: SourceListing) -> SourceListing:
        """Record how far a source is listed; return it."""
        self._check_active()
        if not self._listings.put_listing(job_id, listing, self.tenure.token):
            raise OutdatedTenureError
        return listing

    def _check_active(self) -> None:
        if not self.tenure.active():
            raise OutdatedTenureError


class _SourceRefusedError(Exception):
    """Raised when a source cannot be listed; the message is for the user."""

    def __init__(self, message: str) -> None:
        super().__init__(message[:MAX_SOURCE_ERROR_CHARACTERS])


def page_of(
    listing: SourceListing,
    found: Sequence[ListedObject],
    max_bytes: int,
    is_chosen: Callable[[str], bool],
    *,
    is_last: bool,
) -> ListedPage:
    """Return the page of the objects that were `found` after those of `listing`; others than chosen keys are skipped.

    An object may be an image if its key ends like the name of one, and it has 1 to `max_bytes` bytes. If the keys are
    too long for one page, it has only the first ones.
    """
    objects, skipped, stored_bytes, listed = list[SourceObject](), Counter[str](), 0, 0
    for each in found:
        stored_bytes += len(json.dumps(each.key))
        if stored_bytes > MAX_PAGE_BYTES:
            is_last = False
            break
        if reason := skip_reason(each, max_bytes) if is_chosen(each.key) else "not_matched":
            skipped[reason] += 1
        else:
            objects.append(SourceObject(listing.listed + listed, each.key, each.size))
        listed += 1
    after = found[listed - 1].key if listed else listing.after
    return ListedPage(listing.listed, listed, tuple(objects), dict(skipped), after, is_last)


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
