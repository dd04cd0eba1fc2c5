"""Listings of jobs with a source in S3: which are to be done, how far each is, and the page that is being accepted.

| pk               | sk              | content                                                          | written by |
| ---------------- | --------------- | ---------------------------------------------------------------- | ---------- |
| `LISTINGS`       | job id          | caller: the source of the job may not be listed; its images      | both       |
|                  |                 | count towards this caller's quota, if there is one               |            |
| `COUNTS#` job id | `SOURCE`        | the `SourceListing`, fenced                                      | controller |
| `JOB#` job id    | `PAGE#` listed  | the objects that follow the first `listed` ones of the source    | controller |

The web tier writes the first item, then the job. The controller deletes it when the listing has ended.

A page is stored once, before any of its objects is accepted, and the ids of its images follow from their positions.
So a controller that continues after a crash accepts the same images, also if the source has changed meanwhile.

A page is deleted once it is accepted. A controller that was frozen may store the page again after that. It does not
act on the page, since it lost its lease before.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from core.ids import FIRST_ID
from core.jobs.items import LISTING, LISTINGS, counts_partition, listing_item, listing_of, partition
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job, SourceListing
from core.jobs.store import JobStore
from services.table import LAST, Item

MAX_PAGE_OBJECTS: Final = 250
"""Objects of a page."""

MAX_PAGE_BYTES: Final = 300_000
"""Bytes of the keys of a page as they are stored; an item has up to 400 KB
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html)."""


@dataclass(frozen=True, slots=True)
class PendingListing:
    """A job with a source that may not be listed; `caller` is whose quota its images count towards, or empty."""

    job_id: str
    caller: str = ""


@dataclass(frozen=True, slots=True)
class SourceObject:
    """An object of a source that may be an image; `position` is its number in the listing, `size` is in bytes."""

    position: int
    key: str
    size: int


@dataclass(frozen=True, slots=True)
class ListedPage:
    """Some objects of a source, in the order of their keys.

    Attributes:
        start: position of the first object.
        listed: number of objects, with those that are skipped.
        objects: those that may be images.
        skipped: the others by the reason.
        after: key of the last object.
    """

    start: int
    listed: int
    objects: tuple[SourceObject, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    after: str = ""
    is_last: bool = False


@dataclass(frozen=True)
class ListingStore:
    """The listings in the job table. TableBusyError passes through; each call may be repeated."""

    store: JobStore

    def create_job(self, job: Job, caller: str, at: datetime) -> None:
        """Record a new job with a source, so that the controller lists it."""
        # The job last: each job that exists is listed. Open from now on, so that it does not expire meanwhile.
        self.put_pending(job.job_id, caller)
        OpenJobs(self.store.table).reopen(job.job_id, at)
        self.store.create(job)

    def put_pending(self, job_id: str, caller: str) -> None:
        """Record that the controller goes on with the source of the job."""
        self.store.table.put_all([{"pk": LISTINGS, "sk": job_id, "caller": caller}])

    def pending(self) -> list[PendingListing]:
        """Return the jobs with sources that may not be listed, oldest first."""
        items = self.store.table.query(LISTINGS, FIRST_ID, LAST)
        return [PendingListing(str(item["sk"]), str(item["caller"])) for item in items]

    def is_pending(self, job_id: str) -> bool:
        """Return whether the source of the job may not be listed."""
        return self.store.table.get(LISTINGS, job_id) is not None

    def end(self, job_id: str) -> None:
        """Record that the source of the job need not be listed any more."""
        self.store.table.delete_all([(LISTINGS, job_id)])

    def find(self, job_id: str) -> SourceListing:
        """Return how far the source of the job is listed."""
        item = self.store.table.get(counts_partition(job_id), LISTING)
        return SourceListing() if item is None else listing_of(item)

    def put_listing(self, job_id: str, listing: SourceListing, token: int) -> bool:
        """Record how far the source of the job is listed; return False if a later controller has done so."""
        return self.store.table.put_fenced(listing_item(job_id, listing), token)

    def page(self, job_id: str, start: int) -> ListedPage | None:
        """Return the page of a job that begins at the position `start`, or None."""
        item = self.store.table.get(*_page_key(job_id, start))
        if item is None:
            return None
        # A later release may add values at the end.
        objects = tuple(SourceObject(*each[:3]) for each in json.loads(str(item["objects"])))
        skipped = json.loads(str(item["skipped"]))
        return ListedPage(start, int(item["listed"]), objects, skipped, str(item["after"]), bool(item["last"]))

    def claim_page(self, job_id: str, page: ListedPage) -> bool:
        """Store a page unless one with its start exists; return whether it was stored by this call for certain."""
        pk, sk = _page_key(job_id, page.start)
        item: Item = {
            "pk": pk,
            "sk": sk,
            "listed": page.listed,
            "objects": json.dumps([[each.position, each.key, each.size] for each in page.objects]),
            "skipped": json.dumps(dict(page.skipped)),
            "after": page.after,
            "last": int(page.is_last),
        }
        return self.store.table.put_if(item, "attribute_not_exists( #pk )")

    def delete_page(self, job_id: str, start: int) -> None:
        """Delete a page that is accepted."""
        self.store.table.delete_all([_page_key(job_id, start)])


def _page_key(job_id: str, start: int) -> tuple[str, str]:
    return partition(job_id), f"PAGE#{start:08}"
