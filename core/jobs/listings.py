"""Listings of jobs with a source in S3: which are to be done, and how far each is.

| pk               | sk              | content                                                          | written by |
| ---------------- | --------------- | ---------------------------------------------------------------- | ---------- |
| `LISTINGS`       | job id          | caller: the source of the job may not be listed; its images      | both       |
|                  |                 | count towards this caller's quota, if there is one               |            |
| `COUNTS#` job id | `SOURCE`        | the `SourceListing`, fenced                                      | controller |

The web tier writes the first item, then the job. The controller deletes it when the listing has ended.

The transaction that accepts images of a source also records how far it is listed, if no other one has done so since.
So each object that was listed is accepted once, also after an interruption or a change of the source.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from core.ids import FIRST_ID
from core.jobs.items import LISTING, LISTINGS, counts_partition, listing_item, listing_of
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job, SourceListing
from core.jobs.store import JobStore
from services.table import IS_NEW, LAST, Put

IS_NEXT: Final = f"{IS_NEW} OR #token <= :token AND #listed = :listed"
"""The condition of a listing that follows one of `:listed` objects: no other and no later controller has written."""


@dataclass(frozen=True, slots=True)
class PendingListing:
    """A job with a source that may not be listed; `caller` is whose quota its images count towards, or empty."""

    job_id: str
    caller: str = ""


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

    def put_listing(self, job_id: str, before: SourceListing, after: SourceListing, token: int) -> bool:
        """Replace the listing `before`; return False if another write or a later controller has replaced it."""
        put = listing_put(job_id, before, after, token)
        return self.store.table.put_if(put.item, IS_NEXT, put.values)


def listing_put(job_id: str, before: SourceListing, after: SourceListing, token: int) -> Put:
    """Return the write that replaces the listing `before`, with the fencing token of a controller."""
    item = {**listing_item(job_id, after), "token": token}
    return Put(item, condition=IS_NEXT, values={"token": token, "listed": before.listed})
