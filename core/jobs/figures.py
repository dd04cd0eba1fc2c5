"""Figures of jobs in the table: how many images were accepted and answered, and which file has all results."""

from dataclasses import dataclass
from datetime import datetime

from core.jobs.items import (
    ACCEPTED,
    COPIED,
    COUNTED,
    COUNTED_FIGURES,
    MERGED,
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


@dataclass(frozen=True, slots=True)
class CountsChange:
    """What a transaction adds to the counts of a job; the figures are those of `Counts`.

    Attributes:
        answers: results of workers, in the billing period `run` of the fleet.
        at: when the status of an image changed; None if none did.
    """

    done: int = 0
    failed: int = 0
    cancelled: int = 0
    system_retried: int = 0
    resends: int = 0
    answers: int = 0
    run: int = 0
    at: datetime | None = None

    def update(self, job_id: str, token: int) -> Update:
        """Return the write of a controller with a fencing `token`, which fails if a later one has written."""
        amounts = {name: amount for name in COUNTED_FIGURES if (amount := getattr(self, name))} | {"revision": 1}
        if self.answers:
            amounts[f"{RUN}{self.run}"] = self.answers
        return Update(
            counts_partition(job_id),
            COUNTED,
            amounts,
            {"token": token, **stated({"last_at": self.at})},
            stated({"first_at": self.at}),
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
        keys = [(counts_partition(job_id), kind) for kind in (ACCEPTED, COUNTED)]
        items = {item["sk"]: item for item in self.table.get_all(keys)}
        return counts_of(items.get(ACCEPTED), items.get(COUNTED))

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
