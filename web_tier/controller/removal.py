"""Removal: what is left of deleted jobs goes away, in portions, from buckets and table.

A deleted job does not exist for anybody from the moment it was deleted; its mark in the table says that something may
be left of it. Everything is found by its place (the job's folder in each bucket, its partitions in the table), not by
a list that could be lost, so any portion may be repeated and a killed controller's successor goes on where it stood.

The mark stays for `LINGER_SECONDS`, then everything is looked through once more: an upload that was under way, a
worker that was classifying, or an earlier holder of the lease may have written after the first look.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from core.job_records import DeletedJob
from core.jobs import JobStore
from services.s3 import Bucket
from web_tier.controller.result_recorder import ResultRecorder

_log = logging.getLogger(__name__)

PORTION = 1_000
"""Objects, and items, that are removed before it is asked again whether to go on."""

LINGER_SECONDS = 3_600.0
"""Longer than an upload lasts, and than an image that is worked on or waits in a queue usually takes."""


@dataclass
class Look:
    """Where the removal of one job stands; `first_seen` is in monotonic seconds."""

    first_seen: float
    looked_through: bool = False


@dataclass
class JobCleanup:
    """Removes what is left of deleted jobs.

    Attributes:
        inputs: the input bucket.
        outputs: the output bucket.
        every_seconds: between two looks for deleted jobs.
        active: whether this process may still act; asked before each portion.
    """

    store: JobStore
    recorder: ResultRecorder
    inputs: Bucket
    outputs: Bucket
    every_seconds: float
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    _looks: dict[str, Look] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Remove what is due; return the seconds until the next look."""
        deleted = self.store.deleted_jobs()
        self._looks = {job.job_id: self._looks.get(job.job_id) or Look(self.clock()) for job in deleted}
        for job in deleted:
            look = self._looks[job.job_id]
            lingered = self.clock() - look.first_seen >= LINGER_SECONDS
            if (lingered or not look.looked_through) and self._remove_all(job):
                look.looked_through = True
                if lingered:
                    self.store.forget_deleted(job)
        return self.every_seconds

    def _remove_all(self, job: DeletedJob) -> bool:
        """Remove everything of a job, portion by portion; tell whether nothing is left."""
        # Before anything else: what the recorder remembers it would write again when a result comes.
        self.recorder.drop(job.job_id)
        removed = 0
        while self.active():
            portion = self._remove_portion(job)
            if portion == 0:
                if removed:
                    _log.info("removed a deleted job", extra={"job": job.job_id, "objects_and_items": removed})
                return True
            removed += portion
        return False

    def _remove_portion(self, job: DeletedJob) -> int:
        """Remove up to `PORTION` objects of each bucket and as many items; return how many there were."""
        objects = 0
        for bucket in (self.inputs, self.outputs):
            keys = bucket.keys(job.job_id, PORTION)
            bucket.delete_all(keys)
            objects += len(keys)
        return objects + self.store.remove_items(job, PORTION)
