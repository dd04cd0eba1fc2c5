"""Sweeps: objects that no item names are found by listing the folders of marked jobs in the input bucket.

A process may die between an image's object and its item, and a form may be sent and never committed. So the web tier
marks a job before it puts the first object of an upload, and the controller sweeps marked jobs
(`web_tier/controller/orphans.py`).

Before a sweep deletes objects, it stores in the job before when they were put. The transaction that accepts images
fails if an object of theirs is as old (`JobStore.record_images`). So a process that stood still between an object and
its item accepts nothing that was deleted, and a sweep that reads items after that deletes no accepted image.
"""

from dataclasses import dataclass
from datetime import datetime

from core.ids import FIRST_ID
from core.jobs.items import ACCEPTED, JOBS, SWEEPS, counts_partition, moment_in
from services.table import LAST, ConditionCheck, ConditionsFailedError, Table, TableBusyError, Update

SWEPT_BEFORE = "swept_before"
"""Attribute of `ACCEPTED`: objects that were put before may be deleted; seconds since the epoch, by S3's clock."""

IS_YOUNG = f"attribute_not_exists( #{SWEPT_BEFORE} ) OR #{SWEPT_BEFORE} < :put_at"
"""The condition for objects of which the first was put at `:put_at`."""


class SweptError(TableBusyError):
    """Raised when images are not accepted, since a sweep may have deleted their objects."""


@dataclass(frozen=True, slots=True)
class SweepMark:
    """The mark of a job of which objects may stay without an item.

    Attributes:
        at: when a process was about to put objects; another upload has another time.
        seen_at: when a sweep found this mark first, by S3's clock.
    """

    job_id: str
    at: str
    seen_at: datetime | None = None


@dataclass(frozen=True)
class SweepMarks:
    """The marks of jobs that are to be swept; errors are those of `JobStore`."""

    table: Table

    def put(self, job_id: str, at: datetime) -> None:
        """Mark a job: objects of it are about to be put."""
        self.table.put_all([{"pk": SWEEPS, "sk": job_id, "at": at.isoformat()}])

    def find_all(self) -> list[SweepMark]:
        """Return all marks."""
        items = self.table.query(SWEEPS, FIRST_ID, LAST)
        return [SweepMark(str(item["sk"]), str(item["at"]), moment_in(item, "seen_at")) for item in items]

    def put_seen(self, mark: SweepMark, at: datetime) -> None:
        """Record when a sweep found a mark, unless the job was marked again since."""
        self.table.set(SWEEPS, mark.job_id, {"seen_at": at.isoformat()}, "#at = :at", {"at": mark.at})

    def remove(self, mark: SweepMark) -> None:
        """Delete a mark, unless the job was marked again since it was read."""
        self.table.delete_if(SWEEPS, mark.job_id, "#at = :at", {"at": mark.at})

    def refuse_older(self, job_id: str, moment: datetime) -> bool:
        """Accept no images of a job from now on that were put before `moment`; return False if the job is gone."""
        value = int(moment.timestamp())
        is_later = f"attribute_not_exists( #{SWEPT_BEFORE} ) OR #{SWEPT_BEFORE} < :{SWEPT_BEFORE}"
        try:
            self.table.transact(
                ConditionCheck(JOBS, job_id, condition="attribute_exists( #pk )"),
                Update(counts_partition(job_id), ACCEPTED, {}, {SWEPT_BEFORE: value}, condition=is_later),
            )
        except ConditionsFailedError as error:
            return 0 not in error.indexes  # else a later moment is stored
        return True
