"""What becomes of a job after its creation: it is open or closed, may be cancelled and resumed, and is deleted.

Each state is an item of its own, described with the others in `core/jobs/store.py`. The marks of open and of deleted
jobs exclude each other: the web tier marks a job as open and then checks whether it is being deleted, and the
controller marks it as expiring and then checks whether it is open. So at least one of the two sees the other.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime

from core.ids import FIRST_ID, new_id
from core.jobs.items import (
    CANCELLED,
    DELETED,
    EXPIRING,
    JOBS,
    MARKED_AGAIN,
    OPEN,
    RESUMED,
    counts_partition,
    deleted_item,
    deleted_of,
    keys_of_job,
    open_item,
    partition,
    stated,
)
from core.jobs.models import DeletedJob, Job, OpenJob
from services.errors import NotFoundError
from services.table import LAST, Table


def no_job(job_id: str) -> NotFoundError:
    """Return the error for a job that does not exist, or belongs to another user."""
    return NotFoundError(f"there is no job {job_id!r}")


@dataclass(frozen=True)
class DeletedJobs:
    """Deletes jobs, and remembers those that may have items or objects left; errors are those of `JobStore`."""

    table: Table

    def delete(self, *jobs: Job) -> None:
        """Delete jobs: they no longer exist, and the controller removes their remaining items and objects."""
        # The marks first: if a process dies in between, the controller deletes the jobs.
        self.table.put_all([deleted_item(job) for job in jobs])
        self.table.delete_all([key for job in jobs for key in keys_of_job(job)])

    def expire(self, job: Job, is_due: Callable[[], bool]) -> bool:
        """Delete a job unless it is open or being deleted; return whether it was deleted.

        The state of the job before the mark may be outdated: its last result may have arrived since, or another
        controller may have taken over. Once the job is marked and not open, it is not used any more, so `is_due` is
        called then. If a controller is frozen later, its successor removes its mark, and each mark has its own value.

        Args:
            job: the job to delete.
            is_due: returns whether the job may expire, by its current items, and this process may still act.
        """
        opened = OpenJobs(self.table)
        if opened.is_open(job.job_id):
            return False
        mark, ours, is_marked = deleted_item(job), {"ours": new_id()}, f"#{EXPIRING} = :ours"
        try:
            if (
                self.table.put_if({**mark, EXPIRING: ours["ours"]}, "attribute_not_exists( #pk )")
                and not opened.is_open(job.job_id)
                and is_due()
                and self.table.put_if(mark, is_marked, ours)
            ):
                self.table.delete_all(keys_of_job(job))
                return True
        finally:
            # Also if the mark was refused: a put with a lost reply is repeated, and the repeat is refused. Until the
            # mark is removed, uploads to the job are refused.
            self.table.delete_if(DELETED, job.job_id, is_marked, ours)
        return False

    def cancel_expiries(self) -> None:
        """Remove the marks of expiries that a controller started and did not complete."""
        for item in list(self.table.query(DELETED, FIRST_ID, LAST)):
            if EXPIRING in item:
                # Only this mark: another controller may have deleted the job since it was read.
                self.table.delete_if(DELETED, str(item["sk"]), f"#{EXPIRING} = :read", {"read": item[EXPIRING]})

    def find_all(self) -> list[DeletedJob]:
        """Return the deleted jobs that may have items or objects left."""
        return [deleted_of(item) for item in self.table.query(DELETED, FIRST_ID, LAST) if EXPIRING not in item]

    def check_none(self, job_ids: Collection[str]) -> None:
        """Raise NotFoundError if one of these jobs, each once, is being deleted or expires."""
        for item in self.table.get_all([(DELETED, job_id) for job_id in job_ids]):
            raise no_job(str(item["sk"]))

    def remove_items(self, job: DeletedJob, max_items: int) -> int:
        """Remove up to `max_items` items of a deleted job; return how many were found, 0 when none is left."""
        keys = [
            (partition_key, str(item["sk"]))
            for partition_key in (partition(job.job_id), counts_partition(job.job_id))
            for item in self.table.query(partition_key, FIRST_ID, LAST, limit=max_items)
        ][:max_items]
        self.table.delete_all([*keys, *keys_of_job(job)])
        return len(keys)

    def mark_if_removed(self, job_id: str) -> None:
        """Mark a job that does not exist as deleted again, so that items written after its removal are removed.

        Each mark has its own value, so that a removal that ends at this moment does not delete it.
        """
        if self.table.get(JOBS, job_id) is None:
            self.table.set(DELETED, job_id, {MARKED_AGAIN: new_id()})

    def unmark(self, job: DeletedJob) -> None:
        """Remove the mark of a deleted job that has nothing left, unless it was marked again meanwhile."""
        if job.marked_again:
            self.table.delete_if(DELETED, job.job_id, f"#{MARKED_AGAIN} = :read", {"read": job.marked_again})
        else:
            self.table.delete_if(DELETED, job.job_id, f"attribute_not_exists( #{MARKED_AGAIN} )")


@dataclass(frozen=True)
class OpenJobs:
    """The jobs that may have images without a result; errors are those of `JobStore`."""

    table: Table

    def find_all(self) -> list[OpenJob]:
        """Return the open jobs."""
        return [OpenJob(str(item["sk"]), str(item["touched_at"])) for item in self.table.query(OPEN, FIRST_ID, LAST)]

    def is_open(self, job_id: str) -> bool:
        """Return whether the job may have images without a result."""
        return self.table.get(OPEN, job_id) is not None

    def count(self) -> int:
        """Return how many jobs are open."""
        return self.table.count(OPEN, FIRST_ID)

    def reopen(self, job_id: str, touched_at: datetime) -> None:
        """Mark a job as open: it may have images without a result."""
        self.table.put_all([open_item(job_id, touched_at)])
        DeletedJobs(self.table).check_none([job_id])

    def close(self, job: OpenJob) -> bool:
        """Mark a job as not open unless images were added since it was read; return whether it was marked."""
        return self.table.delete_if(OPEN, job.job_id, "#touched_at = :touched_at", {"touched_at": job.touched_at})


@dataclass(frozen=True)
class Cancellations:
    """Marks jobs as cancelled, and as resumed after that; errors are those of `JobStore`."""

    table: Table

    def cancel(self, job_id: str, at: datetime, reason: str = "") -> None:
        """Mark a job as cancelled `at` that time, and as open; the mark of an earlier cancelling stays.

        The controller gives a `reason`, the job's user none.
        """
        # Open first: the controller finds the mark in the open jobs.
        OpenJobs(self.table).reopen(job_id, at)
        item = {"pk": counts_partition(job_id), "sk": CANCELLED, "at": at.isoformat(), **stated({"reason": reason})}
        self.table.put_if(item, "attribute_not_exists( #pk )")

    def remove(self, job_id: str) -> None:
        """Delete the mark of `cancel`, if there is one."""
        self.table.delete_all([(counts_partition(job_id), CANCELLED)])

    def resume(self, job_id: str) -> None:
        """Record that a job goes on which the controller cancelled: it does not do so again."""
        self.table.put_all([{"pk": counts_partition(job_id), "sk": RESUMED}])

    def is_resumed(self, job_id: str) -> bool:
        """Return whether the job went on after the controller cancelled it."""
        return self.table.get(counts_partition(job_id), RESUMED) is not None

    def find(self, job_ids: Collection[str]) -> set[str]:
        """Return those of `job_ids`, each once, that are cancelled."""
        found = self.table.get_all([(counts_partition(job_id), CANCELLED) for job_id in job_ids])
        return {str(item["pk"]).partition("#")[2] for item in found}
