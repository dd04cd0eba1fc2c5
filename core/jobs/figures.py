"""Figures of jobs in the table: how many images were accepted and answered, and which file has all results."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from core.jobs.items import (
    ACCEPTED,
    COPIED,
    COUNTED,
    MERGED,
    RETRIED,
    RUN,
    counts_of,
    counts_partition,
    stated,
)
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import Counts, MergedFile, ResultsCopy
from services.table import Table, Update

NOT_LATER = "attribute_not_exists( #token ) OR #token <= :token"
"""The condition of the fence: no controller with a later token has written the item."""


def counts_update(
    job_id: str, token: int, figures: Mapping[str, int], *, answers: int = 0, run: int = 0, at: datetime | None = None
) -> Update:
    """Return what a controller with a fencing `token` adds to the counts of a job, if no later one has written.

    Args:
        job_id: the job.
        token: the fencing token.
        figures: by their names in `COUNTED_FIGURES`.
        answers: results of workers, in the billing period `run` of the fleet.
        run: number of that period.
        at: when the status of an image changed; None if none did.
    """
    amounts = {name: amount for name, amount in figures.items() if amount} | {"revision": 1}
    if answers:
        amounts[f"{RUN}{run}"] = answers
    return Update(
        counts_partition(job_id),
        COUNTED,
        amounts,
        {"token": token, **stated({"last_at": at})},
        stated({"first_at": at}),
        condition=NOT_LATER,
    )


@dataclass(frozen=True)
class JobFigures:
    """Reads the figures of jobs, and writes which file has all results; errors are those of `JobStore`.

    A method with a fencing `token`, for the controller alone, returns False if one with a later token has written.
    """

    table: Table

    def counts(self, job_id: str) -> Counts:
        """Return the counts of a job."""
        return self.counts_by_job([job_id])[job_id]

    def counts_by_job(self, job_ids: Collection[str]) -> dict[str, Counts]:
        """Return the counts of jobs, each once, by their ids."""
        keys = {
            job_id: [(counts_partition(job_id), kind) for kind in (ACCEPTED, COUNTED, RETRIED)] for job_id in job_ids
        }
        found = self.table.get_all([key for of_job in keys.values() for key in of_job])
        items = {(item["pk"], item["sk"]): item for item in found}
        return {job_id: counts_of(*(items.get(key) for key in of_job)) for job_id, of_job in keys.items()}

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
