"""Which images of a direct upload have been counted, so that commits of it, however many, count each of them once."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from core.job_items import partition
from services.table import Table

TRIES = 3
"""How often a commit tries to mark its images while others mark theirs."""


@dataclass(frozen=True)
class UploadCounts:
    """Marks images as counted, in an item of the job's partition."""

    table: Table

    def mark(self, job_id: str, upload_id: str, image_ids: AbstractSet[str]) -> AbstractSet[str]:
        """Mark `image_ids` as counted; return those that this call has marked for certain, and no other ever will.

        An image that no process is sure to have marked is not counted: a count may be too low for a while, never too
        high.
        """
        place = {"pk": partition(job_id), "sk": f"UPLOAD#{upload_id}"}
        for _ in range(TRIES):
            item = self.table.get(place["pk"], place["sk"])
            before = "" if item is None else str(item["counted"])
            fresh = image_ids - set(before.split())
            if not fresh:
                return frozenset()
            counted = " ".join(sorted({*before.split(), *fresh}))
            if self.table.put_if(
                {**place, "counted": counted}, "attribute_not_exists( #pk ) OR #counted = :before", {"before": before}
            ):
                return fresh
        return frozenset()
