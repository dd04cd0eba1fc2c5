"""Results by model: what the controller counts for each digest, so that operators can compare models.

All figures are absolute and count results of workers. Of a failed image that succeeds after a retry, both results
count. One item of the fleet's partition holds the figures of all models (`FleetStore.put_model_results`).
"""

from typing import Final, Literal, Self

from pydantic import AwareDatetime

from core.messages import CRASHED_WORKER, MODEL_FAILED, ClassificationResult, WireModel

MAX_MODELS: Final = 20
"""Models that are counted at the same time; the one without results for longest is dropped for another one."""

MAX_FAULTY_JOBS: Final = 100
"""Jobs of a model that are remembered as faulty; more add nothing to the evidence against it."""

_FAULTS: Final = frozenset({MODEL_FAILED.code, CRASHED_WORKER})
"""Failures that a network may cause. The decoder's failures are those of images, others of storage or of users."""


class ModelResults(WireModel, frozen=False):
    """The results of one model.

    Attributes:
        last_at: when the last result was recorded, by the controller's clock.
        done: images with a label.
        score_sum: sum of the scores of the images with a label.
        faulty: those of the failed images that the network may have caused: its scores were no numbers, or each
            worker that had the image ended.
        faulty_jobs: ids of jobs with such images, at most `MAX_FAULTY_JOBS`.
    """

    name: str
    digest: str
    last_at: AwareDatetime
    done: int = 0
    failed: int = 0
    score_sum: float = 0.0
    faulty: int = 0
    faulty_jobs: tuple[str, ...] = ()

    def count(self, result: ClassificationResult) -> None:
        """Count a result."""
        if result.error is not None:
            self.failed += 1
            if result.error.code in _FAULTS:
                self.faulty += 1
                self._add_faulty_jobs((result.job_id,))
            return
        self.done += 1
        self.score_sum += result.score or 0.0

    def merge(self, other: Self) -> None:
        """Add the figures of another count of the same model."""
        self.last_at = max(self.last_at, other.last_at)
        self.done += other.done
        self.failed += other.failed
        self.score_sum += other.score_sum
        self.faulty += other.faulty
        self._add_faulty_jobs(other.faulty_jobs)

    def _add_faulty_jobs(self, job_ids: tuple[str, ...]) -> None:
        self.faulty_jobs = tuple(dict.fromkeys((*self.faulty_jobs, *job_ids)))[:MAX_FAULTY_JOBS]


class ModelResultsReport(WireModel):
    """The results of all models.

    Attributes:
        since: when the counts began: with the last roll-out to a share of the new jobs; None if there was none.
    """

    version: Literal[1] = 1
    since: AwareDatetime | None = None
    models: tuple[ModelResults, ...] = ()

    def of(self, digest: str) -> ModelResults | None:
        """Return the results of the model with this digest, or None without any."""
        return next((each for each in self.models if each.digest == digest), None)
