"""What is remembered of a job: the status of each image, and the counts that follow from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from core.jobs.models import Counts, ImageRecord, Resend, ResultSummary, with_result
from core.messages import ClassificationResult, is_cancelled
from web_tier.results.image_statuses import ImageStatuses

MIN_HOPELESS: Final = 100
"""Results of a job before it may be hopeless: the first ones say little about the others."""

MessageGroup = tuple[str, str]
"""Images that queues deliver roughly in the order of their requests: `Job.group` and model."""


@dataclass(frozen=True, slots=True)
class MissingImages:
    """The images of a job without a result of their last attempt, without a list of all of them.

    Attributes:
        newest: id of the last image of the job, whether it has a result or not; an empty text if there is none.
        attempts: the attempt that each of some of these images misses: of those that are being retried, those that
            were added since the last time although images with later ids were known, and those that were asked for.
        answered: id of the last image that a worker has answered since the last time; an empty text if there is none.
        group: of the job's images.
    """

    count: int = 0
    newest: str = ""
    attempts: Mapping[str, int] = field(default_factory=dict)
    answered: str = ""
    group: MessageGroup = ("", "")


@dataclass
class JobCounts:
    """What is known of one job.

    Attributes:
        keep: whether its images stay once they have a label.
        model_digest: of the bundle that missing images were requested for last; empty if they name no model.
        group: `Job.group`.
        retries: attempt of the images that were retried, as their records say.
        failures: attempt of the failed results, as far as it is not 0.
        redelivered: images with a request that was received more than once until the result that they have.
        resends: of images with a request that the controller sent again.
        cancelled: images that failed because the job was cancelled.
    """

    counts: Counts
    keep: bool
    owner: str
    group: str = ""
    statuses: ImageStatuses = field(default_factory=ImageStatuses)
    retries: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    redelivered: set[str] = field(default_factory=set)
    resends: dict[str, Resend] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    max_failed_percent: float | None = None
    model_digest: str = ""
    _observed_until: str = ""
    """The last image when `observe_missing` was called last."""
    _late: list[str] = field(default_factory=list)
    """Images that were added since then, with ids before that."""
    _answered: str = ""
    """The last image that a worker has answered since then."""

    @property
    def answered(self) -> bool:
        """Whether every known image has its result."""
        return len(self.statuses) == self.counts.done + self.counts.failed

    def add_image(self, image: ImageRecord) -> None:
        """Add an accepted image."""
        image_id = image.ref.image_id
        self.retries.pop(image_id, None)
        if image.attempt:
            self.retries[image_id] = image.attempt
        if image_id not in self.statuses:
            self.statuses[image_id] = None
            if image_id <= self._observed_until:
                self._late.append(image_id)
        self._learn_model(image)

    def add_stored(self, image: ImageRecord, result: ResultSummary | None) -> None:
        """Add an image and its result as the table has them; `counts` are not changed."""
        image_id = image.ref.image_id
        self.statuses[image_id] = None if result is None else result.status
        if image.attempt:
            self.retries[image_id] = image.attempt
        if result is not None and result.attempt:
            self.failures[image_id] = result.attempt
        if result is not None and result.attempts > 1:
            self.redelivered.add(image_id)
        if result is not None and result.cancelled:
            self.cancelled.add(image_id)
        self._learn_model(image)

    def _learn_model(self, image: ImageRecord) -> None:
        if image.model is not None and self.is_missing(image.ref.image_id):
            self.model_digest = image.model.bundle

    def add_images(self, images: Iterable[ImageRecord]) -> None:
        """Add accepted images."""
        for image in images:
            self.add_image(image)

    def remove_image(self, image_id: str) -> None:
        """Remove an image that was not accepted after all, and its result if it has one."""
        if image_id not in self.statuses:
            return
        status = self.statuses[image_id]
        self.statuses.remove(image_id)
        done, failed = self.counts.done - (status == "done"), self.counts.failed - (status == "failed")
        self.counts = replace(self.counts, done=done, failed=failed)
        self.redelivered.discard(image_id)
        self.resends.pop(image_id, None)
        self.cancelled.discard(image_id)

    def is_repeat(self, result: ClassificationResult) -> bool:
        """Return whether the image has its label, or a failure of this attempt or a later one."""
        known, attempt = self.statuses[result.image_id], self.failures.get(result.image_id, 0)
        return known == "done" or (known == result.status == "failed" and result.attempt <= attempt)

    def add_answers(self, answers: Iterable[ClassificationResult]) -> None:
        """Take over which images workers have answered just now, for the first time in their attempt."""
        self._answered = max([self._answered, *(each.image_id for each in answers)])

    def count_result(self, result: ClassificationResult, at: datetime) -> None:
        """Count a result that was stored in the table."""
        image_id, before = result.image_id, self.statuses[result.image_id]
        self.counts = with_result(self.counts, before, result.status, at)
        status = "done" if before == "done" else result.status
        self.statuses[image_id] = status
        if result.status == "failed" and result.attempt:
            self.failures[image_id] = max(result.attempt, self.failures.get(image_id, 0))
        if result.attempts > 1:
            self.redelivered.add(image_id)
        else:
            self.redelivered.discard(image_id)
        if status == "failed" and is_cancelled(result):
            self.cancelled.add(image_id)
        else:
            self.cancelled.discard(image_id)

    def missing(self) -> dict[str, int]:
        """Return the images without a result of their last attempt, oldest first, each with this attempt."""
        waiting = dict.fromkeys(self.statuses.ids(None), 0)
        retrying = self._retrying()
        return dict(sorted({**waiting, **retrying}.items())) if retrying else waiting

    def observe_missing(self, job_id: str, known: Iterable[str] = ()) -> MissingImages:
        """Return how many images are missing, and the attempts of some of them, those of `known` included."""
        retrying = self._retrying()
        waiting = [each for each in (*self._late, *known) if each in self.statuses and self.statuses[each] is None]
        self._late, self._observed_until = [], max(self._observed_until, self.statuses.last(1))
        answered, self._answered = self._answered, ""
        count = self.statuses.count(None) + len(retrying)
        group = self.group or job_id, self.model_digest
        return MissingImages(count, self._observed_until, dict.fromkeys(waiting, 0) | retrying, answered, group)

    def is_missing(self, image_id: str) -> bool:
        """Return whether an image is one of those that `missing` returns."""
        return image_id in self.statuses and (self.statuses[image_id] is None or self._is_retrying(image_id))

    def summed(self) -> Counts:
        """Return the counts with all figures that follow from the images."""
        return replace(
            self.counts,
            images=len(self.statuses),
            system_retried=len(self.redelivered | self.resends.keys()),
            resends=sum(resend.times for resend in self.resends.values()),
            cancelled=len(self.cancelled),
        )

    @property
    def hopeless(self) -> str | None:
        """How many images failed, if these are too many and others are missing; else None."""
        failed = self.counts.failed - len(self.cancelled)
        answered, limit = self.counts.done + failed, self.max_failed_percent
        if limit is None or answered < MIN_HOPELESS or 100 * failed <= limit * answered:
            return None
        is_unfinished = self.statuses.count(None) or self._retrying()
        return f"{failed:,} of {answered:,} images failed, more than {limit:g}%" if is_unfinished else None

    def _retrying(self) -> dict[str, int]:
        return {image_id: attempt for image_id, attempt in self.retries.items() if self._is_retrying(image_id)}

    def _is_retrying(self, image_id: str) -> bool:
        is_failed = image_id in self.statuses and self.statuses[image_id] == "failed"
        return is_failed and self.retries.get(image_id, 0) > self.failures.get(image_id, 0)
