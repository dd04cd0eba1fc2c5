"""Reads of what a job holds: its images, their results, their resends and their true labels."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from core.ids import ImageRef
from core.jobs.items import (
    IMAGE,
    JOBS,
    RESENT,
    RESULT,
    TRUTH,
    image_of,
    job_of,
    partition,
    resend_of,
    result_of,
    result_summary_of,
    truth_of,
)
from core.jobs.models import ImageRecord, MinScores, Resend, ResultSummary, TrueLabel
from core.messages import ClassificationResult
from services.table import LAST, Table


@dataclass(frozen=True)
class JobReader:
    """Reads what any job holds; a method may raise TableBusyError if DynamoDB does not return all of it.

    A subclass that overrides `_partition` checks there whether the job may be read: no read can omit the check.
    """

    table: Table

    def _partition(self, job_id: str) -> str:
        """Return the partition of the job's items; each read calls it before it reads or returns."""
        return partition(job_id)

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs`, each once, that are accepted images."""
        items = self.table.get_all([(self._partition(ref.job_id), f"{IMAGE}{ref.image_id}") for ref in refs])
        found = (image_of(str(item["pk"]).partition("#")[2], item) for item in items)
        return {record.ref: record for record in found}

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those after the image id `after`."""
        beyond = IMAGE if after is None else f"{IMAGE}{after}\x00"
        items = self.table.query(self._partition(job_id), beyond, IMAGE + LAST, limit=limit)
        return (image_of(job_id, item) for item in items)

    def result(self, ref: ImageRef) -> ClassificationResult | None:
        """Return the result of one image, or None if no result exists yet."""
        item = self.table.get(self._partition(ref.job_id), f"{RESULT}{ref.image_id}")
        return None if item is None else result_of(item)

    def results_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ClassificationResult]:
        """Return the results of those of `refs`, each once and of any jobs, that have one."""
        items = self.table.get_all([(self._partition(ref.job_id), f"{RESULT}{ref.image_id}") for ref in refs])
        return {response.ref: response for response in map(result_of, items)}

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, ClassificationResult]:
        """Return results by image id, from the image id `first` to `last`, both included."""
        items = self.table.query(self._partition(job_id), f"{RESULT}{first}", f"{RESULT}{last}")
        return {response.image_id: response for response in map(result_of, items)}

    def summaries(self, job_id: str, first: str = "", last: str = LAST) -> Iterator[tuple[str, ResultSummary]]:
        """Yield image id and summary of each result from the image id `first` to `last`, in the order of the ids."""
        items = self.table.query(self._partition(job_id), f"{RESULT}{first}", f"{RESULT}{last}")
        return ((str(item["sk"]).removeprefix(RESULT), result_summary_of(item)) for item in items)

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the resends by image id, from the image id `first` to `last`, both included; few images have one."""
        found = self.table.query(self._partition(job_id), f"{RESENT}{first}", f"{RESENT}{last}")
        return {str(item["sk"]).removeprefix(RESENT): resend_of(item) for item in found}

    def min_scores(self, job_id: str) -> MinScores:
        """Return the scores below which labels of the job are unsure."""
        self._partition(job_id)
        item = self.table.get(JOBS, job_id)
        return MinScores() if item is None else job_of(item).min_scores

    def truths(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, TrueLabel]:
        """Return true labels by image id, from the image id `first` to `last`, both included."""
        found = self.table.query(self._partition(job_id), f"{TRUTH}{first}", f"{TRUTH}{last}")
        return {str(item["sk"]).removeprefix(TRUTH): truth_of(item) for item in found}
