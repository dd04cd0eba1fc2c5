"""The result writer: puts the results of images into the job table, and counts them.

On AWS a call takes some milliseconds, so the calls for the results of many jobs are made side by side. While a thread
holds the locks of several jobs, it makes each call once: it waits for no job that is throttled or still being read.

`done` beats `failed`, and the failure of a later attempt beats that of an earlier one.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Resend, with_answers
from core.messages import ClassificationResult, is_cancelled, is_given_up
from services.backoff import pause_seconds
from services.errors import FleetsightError
from services.side_by_side import outcomes
from services.table import BATCH_ATTEMPTS, is_throttled
from web_tier.autoscaler.billing import CostAttribution
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.counts_store import CountsStore
from web_tier.controller.job_cache import JobCache, JobLoadingError
from web_tier.controller.job_counts import JobCounts
from web_tier.controller.job_images import JobImages

_log = logging.getLogger(__name__)

RecordGivenUp = Callable[[Sequence[ClassificationResult]], Mapping[ImageRef, Exception]]
"""Records that images are given up; repeating it is safe. Returns those for which it failed, with the reason."""


@dataclass
class ResultStatistics:
    """What is counted of recorded results besides the counts of their jobs."""

    metrics: ControllerMetrics
    attribution: CostAttribution

    def count(self, results: Sequence[ClassificationResult]) -> None:
        """Count results that were recorded just now, without repeats."""
        self.metrics.count_results(results)

    def attribute(self, answers: int) -> int:
        """Attribute workers' answers to the current billing period; return its number."""
        return self.attribution.add_answers(answers)


@dataclass
class ResultWriter:
    """Records results. Its methods may be called from several threads.

    Attributes:
        inputs: the input bucket; images that are not to be kept are deleted once they have a label.
        outputs: the output bucket; predictions of jobs that do not exist are deleted.
        statistics: None: nothing else is counted.
        on_given_up: called before the results of images that are given up are put.
    """

    jobs: JobCache
    images: JobImages
    counts: CountsStore
    inputs: InputBucket
    outputs: OutputBucket
    statistics: ResultStatistics | None = None
    on_given_up: Sequence[RecordGivenUp] = ()

    def record(self, responses: Sequence[ClassificationResult]) -> None:
        """Put results; all of it may be repeated.

        While the table throttles, those that are left are tried again, with pauses, up to `BATCH_ATTEMPTS` times.

        Raises:
            Exception: the first reason why one could not be recorded; record all of them again.
        """
        errors, left = dict[ImageRef, Exception](), responses
        for attempt in range(BATCH_ATTEMPTS):
            if attempt:
                self.jobs.clock.sleep(pause_seconds(attempt, first=0.1, maximum=5.0))
            errors = self.record_each(left)
            left = [response for response in left if response.ref in errors]
            if not (left and self.jobs.tenure.active() and all(is_throttled(error) for error in errors.values())):
                break
        for error in errors.values():
            raise error

    def record_each(self, responses: Iterable[ClassificationResult]) -> dict[ImageRef, Exception]:
        """Put results of several jobs; return the images with results to be recorded again, with the reason.

        Unless its job keeps them, an image is deleted once its label is stored. The counts of a job that is known as
        open are stored a moment later; those of another one before this method returns, since no reconciler would
        find that results are not counted.

        What belongs to no job or no accepted image is logged and dropped; of a job that does not exist, the stored
        predictions are deleted.
        """
        by_job, errors = grouped(responses), dict[ImageRef, Exception]()
        with self.jobs.locks.using(by_job):
            existing, unread = self.jobs.load(by_job)
            absent = [each for job_id in by_job if job_id not in {*existing, *unread} for each in by_job[job_id]]
            errors |= _try(self._drop, absent)
            with self.jobs.hold_known(existing) as jobs, self.jobs.marking_removed(jobs):
                for job_id in existing:
                    if job_id not in jobs:
                        unread[job_id] = JobLoadingError(f"the job {job_id!r} was deleted while it was read")
                best = [each for job_id in jobs for each in best_by_image(by_job[job_id])]
                labelled = self._put_and_count(jobs, best, errors)
            for job_id, error in unread.items():
                errors |= {response.ref: error for response in by_job[job_id]}
            errors |= _try(lambda found: self.counts.write_unless_open({each.job_id for each in found}), best)
            # Also of those that were recorded before: the process that did may have died before this.
            errors |= _try(self.inputs.delete_labelled, labelled)
        return errors

    def record_resends(self, job_id: str, resends: Mapping[str, Resend]) -> None:
        """Record requests of a job that were sent again, by image id, and store its counts.

        To be called after they were sent. A controller that ends between the two leaves a resend without a record, so
        no record claims more than was sent.

        Raises:
            StaleTokenError: when another controller has taken over.
        """
        with self.jobs.hold(job_id) as job:
            if job is None:
                return
            known = {image_id: resend for image_id, resend in resends.items() if image_id in job.statuses}
            totals = {image_id: resend.after(job.resends.get(image_id)) for image_id, resend in known.items()}
        with self.jobs.marking_removed([job_id]):
            self.jobs.store.put_resends(job_id, totals)
        with self.jobs.hold_known([job_id]) as jobs:
            for job in jobs.values():
                job.resends |= {image_id: total for image_id, total in totals.items() if image_id in job.statuses}
                self.jobs.mark_changed(job_id)
        self.counts.write([job_id], at_once=True)

    def _drop(self, responses: Sequence[ClassificationResult]) -> None:
        """Delete the predictions of jobs that do not exist."""
        jobs = sorted({response.job_id for response in responses})
        _log.warning("dropped results of jobs that do not exist", extra={"jobs": jobs, "n": len(responses)})
        # Their worker may have stored them long after the job was deleted: nothing else would find them.
        self.outputs.delete_predictions(response.ref for response in responses)

    def _put_and_count(
        self, jobs: Mapping[str, JobCounts], best: Sequence[ClassificationResult], errors: dict[ImageRef, Exception]
    ) -> list[ClassificationResult]:
        """Put results of `jobs` and count them, under the jobs' locks; add the reasons of those left to `errors`.

        Returns the results of images that are not to be kept.
        """
        errors |= self.images.learn(jobs, [each.ref for each in best])
        read = [each for each in best if each.ref not in errors]
        accepted = [each for each in read if each.image_id in jobs[each.job_id].statuses]
        unknown = Counter(each.job_id for each in read) - Counter(each.job_id for each in accepted)
        for job_id, number in unknown.items():
            _log.warning("dropped results of images that were never accepted", extra={"job": job_id, "n": number})
        at = self.jobs.clock.utc_now()
        # Without the trace, which no reader of the table uses: an item above 1 KB is two writes.
        fresh = [
            each.model_copy(update={"recorded_at": at, "traceparent": None})
            for each in accepted
            if jobs[each.job_id].statuses[each.image_id] != "done"
        ]
        for job_id, stored in grouped(self._put(self._reopened(jobs, fresh, errors), errors)).items():
            self._count(jobs[job_id], stored, at)
            self.jobs.mark_changed(job_id)
        return [each for each in accepted if not jobs[each.job_id].keep and each.ref not in errors]

    def _reopened(
        self,
        jobs: Mapping[str, JobCounts],
        fresh: Sequence[ClassificationResult],
        errors: dict[ImageRef, Exception],
    ) -> list[ClassificationResult]:
        """Mark the jobs as open of which a result changes after they were closed, so that their files follow.

        Returns the results that can be put; adds the reasons of the others to `errors`.
        """
        changing = [each for each in fresh if jobs[each.job_id].statuses[each.image_id] is not None]
        opened, at = OpenJobs(self.jobs.store.table), self.jobs.clock.utc_now()
        for job_id, changed in grouped(changing).items():
            if not self.counts.is_open(job_id):
                errors |= _try(lambda found: opened.reopen(found[0].job_id, at), changed)
        return [each for each in fresh if each.ref not in errors]

    def _put(
        self, responses: Sequence[ClassificationResult], errors: dict[ImageRef, Exception]
    ) -> list[ClassificationResult]:
        """Put results; return those that are stored now, with the better ones that were there."""
        # First, so that each image with such a result is recorded as given up, whenever the controller is killed.
        if given_up := [each for each in responses if is_given_up(each)]:
            for record in self.on_given_up:
                errors |= record(given_up)
        failures = [each for each in responses if each.status == "failed" and each.ref not in errors]
        done = [each for each in responses if each.status == "done"]
        left = self.jobs.store.put_each_done(done)
        errors |= left
        stored = [each for each in done if each.ref not in left]
        for response, result in outcomes(self.jobs.store.table.pool, self._put_failed, failures):
            if isinstance(result, Exception):
                errors[response.ref] = result
            else:
                stored.append(result)
        return stored

    def _put_failed(self, response: ClassificationResult) -> ClassificationResult:
        """Put a failed result unless there is a better one, which counts then; return the one that is stored."""
        is_stored = self.jobs.store.put_failed(response)
        return response if is_stored else self.jobs.store.result(response.ref) or response

    def _count(self, job: JobCounts, stored: Sequence[ClassificationResult], at: datetime) -> None:
        new = [each for each in stored if job.statuses[each.image_id] != each.status]
        # Cancelled images had no share of the workers' time, and that of a repeat was counted before.
        answers = [each for each in stored if not is_cancelled(each) and not job.is_repeat(each)]
        if self.statistics is not None:
            self.statistics.count(new)
        job.add_answers(answers)
        for response in stored:
            job.count_result(response, at)
        if self.statistics is not None and answers:
            period = self.statistics.attribute(len(answers))
            job.counts = with_answers(job.counts, period, len(answers))


def _try(
    action: Callable[[Sequence[ClassificationResult]], None], responses: Sequence[ClassificationResult]
) -> dict[ImageRef, Exception]:
    """Do something with all of `responses`; return the reason for all of them if that fails."""
    try:
        if responses:
            action(responses)
    except (BotoCoreError, ClientError, FleetsightError) as error:
        return {response.ref: error for response in responses}
    return {}


def grouped(responses: Iterable[ClassificationResult]) -> dict[str, list[ClassificationResult]]:
    """Return responses by their job."""
    by_job: dict[str, list[ClassificationResult]] = {}
    for response in responses:
        by_job.setdefault(response.job_id, []).append(response)
    return by_job


def rank(response: ClassificationResult) -> tuple[bool, int]:
    """Return what orders the results of one image: the greatest counts."""
    return response.status == "done", response.attempt


def best_by_image(responses: Iterable[ClassificationResult]) -> list[ClassificationResult]:
    """Return one response for each image: one that is done if there is any, else the failure of the last attempt."""
    best: dict[str, ClassificationResult] = {}
    for response in responses:
        best[response.image_id] = max(best.get(response.image_id, response), response, key=rank)
    return list(best.values())
