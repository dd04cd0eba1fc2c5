"""Cancelling of jobs by their users, and resuming by a retry.

A cancelled job has a mark in the job table and a tombstone, an object in the input bucket. The controller fails the
images without a result while the mark exists (`web_tier/controller/cancellation.py`). Workers, which cannot read the
table, classify no image while the tombstone exists (`CancelledJobs`). Both answer with the failure
`cancelled`, over which any label wins. So each image gets its one result, also if processes are killed.

The mark is put before the tombstone, and a retry deletes both before it sends a request. A tombstone without a mark
would fail the images of a job that is not cancelled. A cancelling and a retry at the same time leave none: a retry
deletes the tombstone before and after the mark, and a cancelling deletes its tombstone if the mark is gone. If a
process ends in between, the controller deletes the tombstone before it closes the job. Since the job may be cancelled
at that moment, `align_tombstone` then reads the mark again.

The controller cancels a job in the same way when too many of its images failed, with the reason in the mark. A retry
then also goes on with the source of the job, and the limit has no more effect.

Errors of S3 and of the table pass through; each function may be called again. NotFoundError: the job
is being deleted.
"""

from datetime import datetime

from core.jobs.buckets import InputBucket
from core.jobs.lifecycle import Cancellations, OpenJobs
from core.jobs.listings import ListingStore
from core.jobs.models import Job, JobStatus
from core.jobs.store import JobStore
from web_tier.uploads.ingest import ImageIngest


def cancel_job(ingest: ImageIngest, status: JobStatus) -> None:
    """Cancel a job, so that images without a result fail; a job that has finished stays as it is.

    A repeat does nothing more.
    """
    store, job_id = ingest.store, status.job.job_id
    # While images are retried, the counts have their earlier results.
    if status.state == "finished" and not (status.retried_at and OpenJobs(store.table).is_open(job_id)):
        return
    mark_cancelled(store, ingest.bucket, job_id, ingest.clock.utc_now())


def mark_cancelled(store: JobStore, inputs: InputBucket, job_id: str, at: datetime, reason: str = "") -> None:
    """Mark a job as cancelled `at` that time, for a `reason` of the controller, and store its tombstone."""
    Cancellations(store.table).cancel(job_id, at, reason)
    align_tombstone(store, inputs, job_id, is_cancelled=True)


def align_tombstone(store: JobStore, inputs: InputBucket, job_id: str, *, is_cancelled: bool) -> None:
    """Store the tombstone of a job that `is_cancelled`, as its mark said last, or delete it.

    Repeat this if the mark has changed meanwhile: the job was resumed, or cancelled, by another process.
    """
    while True:
        inputs.set_tombstone(job_id, exists=is_cancelled)
        before, is_cancelled = is_cancelled, bool(Cancellations(store.table).find([job_id]))
        if is_cancelled == before:
            return


def resume_job(ingest: ImageIngest, job: Job, caller: str) -> None:
    """End the cancelling of a job, if it is cancelled; images that have failed meanwhile stay failed.

    If the controller had cancelled it, further images of its source count towards the quota of `caller`.
    """
    job_id, store = job.job_id, ingest.store
    ingest.bucket.set_tombstone(job_id, exists=False)
    _, reason, _ = store.job_intake(job_id)
    if reason is not None:
        if reason:
            # Before the mark is deleted, so that a process that ends here leaves a job that can be resumed again.
            OpenJobs(store.table).reopen(job_id, ingest.clock.utc_now())
            Cancellations(store.table).resume(job_id)
            if job.source:
                ListingStore(store).put_pending(job_id, caller)
        Cancellations(store.table).remove(job_id)
        ingest.bucket.set_tombstone(job_id, exists=False)
