"""Finished jobs of which the SNS topic still has to get a message.

The controller adds a job before it records the job's results file, and removes it once the message was published. So
a controller that ends in between leaves no finished job without a message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.ids import new_id
from core.jobs.items import FIRST_ID
from services.table import LAST, Table

_PENDING = "NOTIFY"


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job whose message was not published yet; `at` identifies the message."""

    job_id: str
    at: str

    @property
    def message_id(self) -> str:
        """The id of the message, which is the same for each try."""
        return self.at.rpartition(" ")[2]


@dataclass(frozen=True)
class NotificationStore:
    """Reads and writes these jobs in the job table."""

    table: Table

    def add(self, job_id: str, at: datetime) -> None:
        """Add a job with a new message, in place of one that was not published yet."""
        self.table.put_all([{"pk": _PENDING, "sk": job_id, "at": f"{at.isoformat()} {new_id()}"}])

    def pending(self) -> Sequence[PendingJob]:
        """Return the jobs whose messages were not published yet, oldest first."""
        items = self.table.query(_PENDING, FIRST_ID, LAST)
        return [PendingJob(str(item["sk"]), str(item["at"])) for item in items]

    def settle(self, job: PendingJob) -> None:
        """Remove a job, unless it was added again meanwhile."""
        self.table.delete_if(_PENDING, job.job_id, "#at = :read", {"read": job.at})
