"""The result writer: records results of images, each in the transaction that also counts it.

A transaction has results of one job, or of several with few results each. If one job or image makes it fail, the
reason says which; it is left out, and the others are written. The writer remembers no result: of a pack that has
some, it reads the item, and writes again only what is better (`core/jobs/results.py`).
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from core.config import PriceSettings
from core.cost import requests_of
from core.ids import ImageRef
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.models import Counts, ImageRecord, Resend
from core.jobs.results import JobResults, best_by_image
from core.jobs.store import JobStore
from core.messages import ClassificationResult, is_given_up
from services.backoff import pause_seconds
from services.clock import CLOCK, Clock
from services.errors import FleetsightError
from services.lease import Tenure
from services.side_by_side import side_by_side
from services.table import (
    BATCH_ATTEMPTS,
    MAX_TRANSACTION_ITEMS,
    ConditionCheck,
    ConditionsFailedError,
    Put,
    TableBusyError,
    TransactedWrite,
    TransactionTooLargeError,
    Update,
    is_throttled,
)
from web_tier.autoscaler.billing import CostAttribution
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.results.query import is_settled

_log = logging.getLogger(__name__)

ATTEMPTS = 3
"""Attempts of a transaction, a tenth of a second: other results wait for it."""
MAX_MERGES = 10
"""Times that a transaction is made again because items changed after they were read."""

RecordGivenUp = Callable[[Sequence[ClassificationResult]], Mapping[ImageRef, Exception]]
"""Records that images are given up; repeating it is safe. Returns those for which it failed, with the reason."""

Errors = dict[ImageRef, Exception]

_Of = TypeVar("_Of", ClassificationResult, ImageRecord)


class StaleTokenError(FleetsightError):
    """Raised when a controller that acquired the lease later has stored results of a job."""


@dataclass
class ResultStatistics:
    """What is counted of recorded results besides the counts of their jobs.

    Attributes:
        prices: of requests.
    """

    metrics: ControllerMetrics
    attribution: CostAttribution
    prices: PriceSettings

    def count(self, results: Sequence[ClassificationResult]) -> None:
        """Count results that were recorded just now, without repeats."""
        self.metrics.count_results(results)

    def attribute(self, answers: int, packs: int = 0) -> int:
        """Attribute workers' answers of one transaction to the current billing period; return its number."""
        # As many transactions have accepted them as record them.
        counts = Counts(done=answers, acceptances=1, revision=1, answered_packs=packs)
        return self.attribution.add_answers(answers, requests_of(counts).dollars(self.prices))


class LastAnswers:
    """The last image of each job that a worker has answered since they were taken; threads may share it."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, job_id: str, image_ids: Iterable[str]) -> None:
        """Add images that a worker has answered."""
        with self._lock:
            self._last[job_id] = max([self._last.get(job_id, ""), *image_ids])

    def take(self) -> dict[str, str]:
        """Return the last images by job, and forget them."""
        with self._lock:
            taken, self._last = self._last, {}
        return taken


@dataclass
class ResultWriter:
    """Records results. Its methods may be called from several threads.

    Attributes:
        inputs: the input bucket; packs of images that are not to be kept are deleted once all have their results.
        outputs: the output bucket; predictions of jobs that do not exist are deleted.
        statistics: None: nothing else is counted.
        on_given_up: called before the results of images that are given up are put.
    """

    store: JobStore
    tenure: Tenure
    inputs: InputBucket
    outputs: OutputBucket
    statistics: ResultStatistics | None = None
    on_given_up: Sequence[RecordGivenUp] = ()
    clock: Clock = CLOCK
    answers: LastAnswers = field(default_factory=LastAnswers)

    def record(self, responses: Sequence[ClassificationResult]) -> None:
        """Record results; all of it may be repeated.

        While the table throttles, those that are left are tried again, with pauses, up to `BATCH_ATTEMPTS` times.

        Raises:
            Exception: the first reason why one could not be recorded; record all of them again.
        """
        errors, left = Errors(), responses
        for attempt in range(BATCH_ATTEMPTS):
            if attempt:
                self.clock.sleep(pause_seconds(attempt, first=0.1, maximum=5.0))
            errors = self.record_each(left)
            left = [response for response in left if response.ref in errors]
            if not (left and self.tenure.active() and all(is_throttled(error) for error in errors.values())):
                break
        for error in errors.values():
            raise error

    def record_each(self, responses: Iterable[ClassificationResult]) -> Errors:
        """Record results of several jobs; return the images with results to be recorded again, with the reason.

        Unless its job keeps them, the images of a pack are deleted once no result of theirs can change. What belongs
        to no job or no accepted image is logged and dropped; of a job that does not exist, the stored predictions are
        deleted.
        """
        errors, settled = self.store_each(responses)
        return errors | self.delete_inputs(settled)

    def store_each(self, responses: Iterable[ClassificationResult]) -> tuple[Errors, list[ImageRecord]]:
        """Do what `record_each` does but for deletions; return an image of each pack that is to be deleted."""
        best, at = best_by_image(responses), self.clock.utc_now()
        jobs, accepted, errors = self.store.find_accepted(best)
        read = [each for ref, each in best.items() if ref not in errors]
        errors |= self._drop([each for each in read if each.job_id not in jobs])
        read = [each for each in read if each.job_id in jobs]
        unknown = Counter(each.job_id for each in read if each.ref not in accepted)
        for job_id, number in unknown.items():
            _log.warning("dropped results of images that were never accepted", extra={"job": job_id, "n": number})
        # Without the trace, which no reader of the table uses: an item above 1 KB is two writes.
        fresh = [
            each.model_copy(update={"recorded_at": at, "traceparent": None}) for each in read if each.ref in accepted
        ]
        errors |= self._announce([each for each in fresh if is_given_up(each)])
        groups = [
            JobResults.of(job_id, of_job)
            for job_id, of_job in grouped(each for each in fresh if each.ref not in errors).items()
        ]
        packs = [pack for group in groups for pack in group.packs]  # a group loses those without anything new
        chunks = [group.parts() for group in groups]
        # Two transactions of one job would conflict: they are made one after another.
        for wave in zip_longest(*chunks):
            together = packed(each for each in wave if each is not None)
            for found in side_by_side(self.store.table.pool, self._record_together, together):
                errors |= found
        # Also of those that were recorded before: the process that did may have died before this.
        images = (accepted[each.ref] for each in fresh if each.ref not in errors and not jobs[each.job_id].keep)
        one_of_each = {(image.ref.job_id, image.pack_id): image for image in images}
        results = {each.ref: each for pack in packs for each in pack.merged().values()}
        return errors, [image for image in one_of_each.values() if is_settled(image, results)]

    def delete_inputs(self, settled: Sequence[ImageRecord]) -> Errors:
        """Delete the packs of these images; return those for which that failed."""
        return _try(self.inputs.delete, settled)

    def record_resends(self, job_id: str, resends: Mapping[str, Resend]) -> None:
        """Record requests of a job that were sent again, by image id; to be called after they were sent.

        A controller that ends between the two leaves a resend without a record, so no record claims more than was
        sent.

        Raises:
            Exception: the reason why some were not recorded, such as a `StaleTokenError`.
        """
        for some in JobResults.of(job_id, resends=resends).parts():
            for error in self._record_together([some]).values():
                raise error

    def _announce(self, given_up: Sequence[ClassificationResult]) -> Errors:
        """Note that images are given up unless they have a better result.

        Before the results are put, so that each image with such a result is noted, whenever the controller is killed.
        """
        errors, left = Errors(), list[ClassificationResult]()

        def read(of_job: Sequence[ClassificationResult]) -> None:
            group = JobResults.of(of_job[0].job_id, of_job)
            group.read_again(self.store.table)
            left.extend(group.results)

        if self.on_given_up:
            for of_job in grouped(given_up).values():
                errors |= _try(read, of_job)
        for record in self.on_given_up if left else ():
            errors |= record(left)
        return errors

    def _record_together(self, groups: Sequence[JobResults]) -> Errors:
        """Record results of some jobs in one transaction; return the reasons for those that were not recorded.

        Each call of the table is tried for a moment only, since other results wait.
        """
        errors = Errors()
        for _ in range(MAX_MERGES):
            if not (groups := [each for each in groups if each.packs]):
                return errors
            try:
                # The number of the period that is open now, which the transaction names.
                has_answers = self.statistics is not None and any(group.answers() for group in groups)
                run, at = self.statistics.attribute(0) if has_answers and self.statistics else 0, self.clock.utc_now()
                writes = [(group, each) for group in groups for each in group.writes(self.tenure.token, run, at)]
                refused = self._transact([each for _, each in writes])
                if not refused:
                    for group in groups:
                        self._count(group)
                    return errors
                for group in groups:
                    own = [each for index, (of, each) in enumerate(writes) if of is group and index in refused]
                    errors |= self._leave_out(group, own)
            except Exception as error:  # noqa: BLE001 (what can be recorded without the others is)
                for part in (parts := _apart(groups, error)):
                    errors |= self._record_together(part)
                return errors if parts else errors | _reasons(groups, error)
        return errors | _reasons(groups, TableBusyError(f"results changed {MAX_MERGES} times: record them again"))

    def _transact(self, writes: Sequence[TransactedWrite]) -> frozenset[int]:
        """Make writes in one transaction; return those of which the condition did not hold: then none is made."""
        try:
            self.store.table.transact(*writes, attempts=ATTEMPTS)
        except ConditionsFailedError as error:
            return error.indexes
        return frozenset()

    def _leave_out(self, group: JobResults, refused: Sequence[TransactedWrite]) -> Errors:
        """Leave out of a group what made a transaction fail, after its items were read again if that helps."""
        errors, kinds = Errors(), {type(each) for each in refused}
        if ConditionCheck in kinds:
            errors, group.packs = self._drop(group.results), []
        elif Update in kinds:
            stale = StaleTokenError(f"a later controller has stored results of the job {group.job_id!r}")
            errors, group.packs = _reasons([group], stale), []
        else:
            group.read_again(self.store.table, [each for each in refused if isinstance(each, Put)])
        return errors

    def _drop(self, responses: Sequence[ClassificationResult]) -> Errors:
        """Delete the predictions of jobs that do not exist."""

        def delete(found: Sequence[ClassificationResult]) -> None:
            jobs = sorted({response.job_id for response in found})
            _log.warning("dropped results of jobs that do not exist", extra={"jobs": jobs, "n": len(found)})
            # Their worker may have stored them long after the job was deleted: nothing else would find them.
            self.outputs.delete_predictions(response.ref for response in found)

        return _try(delete, responses)

    def _count(self, group: JobResults) -> None:
        """Count results that a transaction has just written."""
        answers = group.answers()
        if self.statistics is not None:
            self.statistics.count(group.changed())
            if answers:
                self.statistics.attribute(len(answers), len(group.packs))
        if answers:
            self.answers.add(group.job_id, (each.image_id for each in answers))


def packed(groups: Iterable[JobResults]) -> list[list[JobResults]]:
    """Return groups of results of different jobs in lists for one transaction each."""
    lists, left = list[list[JobResults]](), 0
    for group in groups:
        size = 3 + len(group.packs)
        if size > left:
            lists.append([])
            left = MAX_TRANSACTION_ITEMS
        lists[-1].append(group)
        left -= size
    return lists


def _apart(groups: Sequence[JobResults], error: Exception) -> list[list[JobResults]]:
    """Return the groups in parts that may be recorded one without the other; none if that does not help."""
    code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
    if isinstance(error, BotoCoreError):
        return []
    if len(groups) > 1:
        return [[group] for group in groups]
    [group] = groups
    is_refused = code == "ValidationException" or isinstance(error, TransactionTooLargeError)
    if not is_refused or len(group.packs) < 2:
        return []
    return [[part] for part in group.parts((len(group.packs) + 1) // 2)]


def _reasons(groups: Iterable[JobResults], error: Exception) -> Errors:
    return {ref: error for group in groups for ref in group.refs}


def _try(action: Callable[[Sequence[_Of]], None], images: Sequence[_Of]) -> Errors:
    """Do something with results or records of images; return the reason for all of them if that fails."""
    try:
        if images:
            action(images)
    except (BotoCoreError, ClientError, FleetsightError) as error:
        return {image.ref: error for image in images}
    return {}


def grouped(responses: Iterable[ClassificationResult]) -> dict[str, list[ClassificationResult]]:
    """Return responses by their job."""
    by_job: dict[str, list[ClassificationResult]] = {}
    for response in responses:
        by_job.setdefault(response.job_id, []).append(response)
    return by_job
