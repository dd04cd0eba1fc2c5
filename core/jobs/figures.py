"""Figures of jobs in the table: how many images were accepted and answered, and which file has all results."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.jobs.items import (
    ACCEPTED,
    COPIED,
    COUNTED,
    MERGED,
    counts_of,
    counts_partition,
    runs_as_text,
    times_as_text,
)
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import Counts, MergedFile, ResultsCopy
from services.table import Table


@dataclass(frozen=True)
class JobFigures:
    """Reads and writes the figures of jobs, all absolute; errors are those of `JobStore`.

    A method with a fencing `token`, for the controller alone, returns False if one with a later token has written.
    """

    table: Table

    def put_accepted_count(self, job_id: str, writer_id: str, accepted: int) -> None:
        """Record how many images the process `writer_id` has accepted for the job in total; never lowers it."""
        self.table.set(
            counts_partition(job_id),
            f"{ACCEPTED}{writer_id}",
            {"accepted": accepted},
            condition="attribute_not_exists( #accepted ) OR #accepted < :accepted",
        )

    def put_accepted_counts(self, counts: Mapping[str, tuple[str, int]]) -> None:
        """Record the counts of several jobs, by their ids; no other process may write under these writer ids."""
        self.table.put_all(
            [
                {"pk": counts_partition(job_id), "sk": f"{ACCEPTED}{writer_id}", "accepted": accepted}
                for job_id, (writer_id, accepted) in counts.items()
            ]
        )

    def counts(self, job_id: str) -> Counts:
        """Return the counts of a job that the controller last stored."""
        item = self.table.get(counts_partition(job_id), COUNTED)
        return Counts() if item is None else counts_of(item)

    def store_counts(self, job_id: str, counts: Counts, token: int = 0) -> bool:
        """Store the controller's counts of a job."""
        attributes: dict[str, str | int] = {
            "done": counts.done,
            "failed": counts.failed,
            "images": counts.images,
            "system_retried": counts.system_retried,
            "resends": counts.resends,
            "cancelled": counts.cancelled,
            **times_as_text(counts.first_result_at, counts.last_result_at),
            **runs_as_text(counts),
        }
        return self.table.put_fenced({"pk": counts_partition(job_id), "sk": COUNTED, **attributes}, token)

    def put_merged(self, job_id: str, merged: MergedFile, token: int = 0) -> bool:
        """Record the file with all results of a job."""
        item = {"key": merged.key, "edition": merged.edition, "at": merged.written_at.isoformat()}
        return self.table.put_fenced({"pk": counts_partition(job_id), "sk": MERGED, **item}, token)

    def delete_merged(self, job_id: str, touched_at: datetime) -> None:
        """Delete the record of `put_merged`, and mark the job as open, so that the file is written again.

        Raises:
            NotFoundError: the job was deleted; it is marked again, since a file may have been written since.
        """
        DeletedJobs(self.table).mark_if_removed(job_id)
        OpenJobs(self.table).reopen(job_id, touched_at)
        self.table.delete_all([(counts_partition(job_id), MERGED)])

    def put_copy(self, job_id: str, copy: ResultsCopy, token: int = 0) -> bool:
        """Record the user's copy of the results file."""
        item = {"version": copy.version, "error": copy.error}
        return self.table.put_fenced({"pk": counts_partition(job_id), "sk": COPIED, **item}, token)
