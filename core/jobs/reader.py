"""Reads of what a job holds: its images, their results, their resends and their true labels."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import TypeVar

from core.ids import SLOT_CHARACTERS, ImageRef, pack_of, place_of
from core.jobs.items import JOBS, PACK, RESULT, TRUTH, job_of, partition, truth_of
from core.jobs.models import ImageRecord, MinScores, ResultSummary, TrueLabel
from core.jobs.packs import images_in
from core.jobs.results import Answer, answers_in, summaries_in
from core.messages import ClassificationResult
from services.table import LAST, PAGE, Item, Table

_T = TypeVar("_T")

MAX_FIRST_PACKS = PAGE // 2
"""Packs of the first call that reads images up to a limit: packs of many would have far more than these."""


@dataclass(frozen=True)
class JobReader:
    """Reads what any job holds; a method may raise TableBusyError if DynamoDB does not return all of it.

    A subclass that overrides `_partition` checks there whether the job may be read: no read can omit the check.
    """

    table: Table

    def _partition(self, job_id: str) -> str:
        """Return the partition of the job's items; each read calls it before it reads or returns."""
        return partition(job_id)

    def _of(
        self, kind: str, read: Callable[[Item], Mapping[str, _T]], refs: Collection[ImageRef]
    ) -> dict[ImageRef, _T]:
        """Return what items of packs have of those of `refs`, each once and of any jobs, that they have."""
        packs = {(ref.job_id, pack_of(ref.image_id)) for ref in refs}
        items = self.table.get_all([(self._partition(job_id), f"{kind}{pack_id}") for job_id, pack_id in packs])
        jobs = ((str(item["pk"]).partition("#")[2], read(item)) for item in items)
        found = {ImageRef(job_id, image_id): each for job_id, images in jobs for image_id, each in images.items()}
        return {ref: found[ref] for ref in refs if ref in found}

    def _by_image(
        self,
        kind: str,
        read: Callable[[Item], Mapping[str, _T]],
        job_id: str,
        first: str = "",
        last: str = LAST,
        first_page: int = PAGE,
    ) -> Iterator[tuple[str, _T]]:
        """Yield what items of packs have of images, by image id from `first` to `last`, in the order of the ids."""
        low, high = (f"{kind}{pack_of(end)[:SLOT_CHARACTERS]}" for end in (first, last))
        items = self.table.query(self._partition(job_id), low, high + LAST, first_page=first_page)
        slots = groupby(items, key=lambda item: str(item["sk"])[: len(kind) + SLOT_CHARACTERS])
        found = (sorted(chain(*(read(item).items() for item in slot)), key=itemgetter(0)) for _, slot in slots)
        return (each for slot in found for each in slot if first <= each[0] <= last)

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs`, each once, that are accepted images."""
        return self._of(PACK, images_in, refs)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those after the image id `after`."""
        first, packs = "" if after is None else f"{after}\x00", PAGE
        if limit is not None:
            # With the pack of `after` and one beyond the last; others are taken to be as large as the first of these.
            packs = min(MAX_FIRST_PACKS, 2 + limit // (1 + place_of(first) // 2))
        found = self._by_image(PACK, images_in, job_id, first, first_page=packs)
        return (image for _, image in islice(found, limit))

    def result(self, ref: ImageRef) -> ClassificationResult | None:
        """Return the result of one image, or None if no result exists yet."""
        return self.results_of([ref]).get(ref)

    def answers_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, Answer]:
        """Return what there is of those of `refs`, each once and of any jobs, that have a result or a resend."""
        return self._of(RESULT, answers_in, refs)

    def results_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ClassificationResult]:
        """Return the results of those of `refs`, each once and of any jobs, that have one."""
        return {ref: each.result for ref, each in self.answers_of(refs).items() if each.result is not None}

    def answers(self, job_id: str, first: str = "", last: str = LAST) -> dict[str, Answer]:
        """Return results and resends by image id, from the image id `first` to `last`, both included."""
        return dict(self._by_image(RESULT, answers_in, job_id, first, last))

    def results(self, job_id: str, first: str = "", last: str = LAST) -> dict[str, ClassificationResult]:
        """Return results by image id, from the image id `first` to `last`, both included."""
        answers = self.answers(job_id, first, last)
        return {image_id: each.result for image_id, each in answers.items() if each.result is not None}

    def summaries(self, job_id: str, first: str = "", last: str = LAST) -> Iterator[tuple[str, ResultSummary]]:
        """Yield image id and summary of each result from the image id `first` to `last`, in the order of the ids."""
        return self._by_image(RESULT, summaries_in, job_id, first, last)

    def min_scores(self, job_id: str) -> MinScores:
        """Return the scores below which labels of the job are unsure."""
        self._partition(job_id)
        item = self.table.get(JOBS, job_id)
        return MinScores() if item is None else job_of(item).min_scores

    def truths(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, TrueLabel]:
        """Return true labels by image id, from the image id `first` to `last`, both included."""
        found = self.table.query(self._partition(job_id), f"{TRUTH}{first}", f"{TRUTH}{last}")
        return {str(item["sk"]).removeprefix(TRUTH): truth_of(item) for item in found}
