"""Results and resends as transactions: each is written together with what it adds to the counts of its job.

A result replaces a worse one only: `done` beats `failed` and stays, and a later failure beats an earlier one. Its put
is conditional on the item that was read before, so what is counted is the difference between two items, once.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from core.ids import ImageRef
from core.jobs.figures import CountsChange
from core.jobs.items import JOBS, RESENT, RESULT, open_item, partition, resend_item, resend_of, result_item
from core.jobs.items import result_summary_of as summary_of
from core.jobs.models import Resend
from core.messages import ClassificationResult, Status, is_cancelled
from services.batches import in_batches
from services.table import IS_NEW, READ_BATCH, ConditionCheck, Item, Put, Table, TransactedWrite

EXISTS = "attribute_exists( #pk )"

MAX_WRITES = 96
"""Writes for the results of a transaction; with those for their job and its counts they stay below the maximum."""

Guard = Literal["job", "fence", "image"]
"""What a condition protects: the job exists, no later controller acts, and the image is as it was read."""


@dataclass(frozen=True, slots=True)
class GuardedWrite:
    """A write of a transaction; `image_id` is set if it is about an image."""

    write: TransactedWrite
    guard: Guard
    image_id: str = ""


def rank(status: Status, attempt: int) -> tuple[bool, int]:
    """Return what orders the results of one image: the greatest counts."""
    return status == "done", attempt


def weight(result: ClassificationResult) -> int:
    """Return how many writes a result needs."""
    return 2 if result.attempts > 1 else 1


@dataclass
class JobResults:
    """Results of one job that are recorded in one transaction, at most one of each image.

    Attributes:
        stored: items that were read, by image id: of earlier results, and of resends.
    """

    job_id: str
    results: Sequence[ClassificationResult]
    stored: dict[str, Item] = field(default_factory=dict)
    resent: set[str] = field(default_factory=set)

    def writes(self, token: int, run: int, at: datetime) -> list[GuardedWrite]:
        """Return the writes of a controller with a fencing `token`, in the billing period `run`."""
        pk = partition(self.job_id)
        writes = [
            GuardedWrite(ConditionCheck(JOBS, self.job_id, condition=EXISTS), "job"),
            GuardedWrite(self.change(run, at).update(self.job_id, token), "fence"),
        ]
        if self.stored:  # a file with all results may have been written: it must be written again
            writes.append(GuardedWrite(Put(open_item(self.job_id, at)), "job"))
        for each in self.results:
            before = self.stored.get(each.image_id)
            condition, values = (
                (IS_NEW, None) if before is None else ("#response = :before", {"before": before["response"]})
            )
            put = Put(result_item(each), condition=condition, values=values)
            writes.append(GuardedWrite(put, "image", each.image_id))
            if self._redelivered(each):
                is_as_read = EXISTS if each.image_id in self.resent else IS_NEW
                check = ConditionCheck(pk, f"{RESENT}{each.image_id}", condition=is_as_read)
                writes.append(GuardedWrite(check, "image", each.image_id))
        return writes

    def change(self, run: int, at: datetime) -> CountsChange:
        """Return what the results add to the counts of their job."""
        before = [summary_of(self.stored[each.image_id]) for each in self.results if each.image_id in self.stored]
        return CountsChange(
            done=sum(each.status == "done" for each in self.results),
            failed=sum(each.status == "failed" for each in self.results) - sum(b.status == "failed" for b in before),
            cancelled=sum(map(is_cancelled, self.results)) - sum(b.cancelled for b in before),
            system_retried=sum(self._redelivered(each) for each in self.results if each.image_id not in self.resent),
            answers=len(self.answers()),
            run=run,
            at=at if self.changed() else None,
        )

    def changed(self) -> list[ClassificationResult]:
        """Return the results that give their image another status."""
        return [each for each in self.results if each.status != self._status_before(each.image_id)]

    def answers(self) -> list[ClassificationResult]:
        """Return the results of workers. Cancelled images had no share of the workers' time."""
        return [each for each in self.results if not is_cancelled(each)]

    def read_again(self, table: Table, image_ids: Collection[str]) -> None:
        """Read what there is of images, and drop the results that are no better than those that exist."""
        results, resends = stored_items(table, self.job_id, image_ids)
        self.stored |= results
        self.resent |= resends.keys()
        self.results = [each for each in self.results if self._is_better(each)]
        kept = {each.image_id for each in self.results}
        self.stored = {image_id: item for image_id, item in self.stored.items() if image_id in kept}

    def _is_better(self, result: ClassificationResult) -> bool:
        before = self.stored.get(result.image_id)
        if before is None:
            return True
        known = summary_of(before)
        return known.status != "done" and rank(result.status, result.attempt) > rank(known.status, known.attempt)

    def _status_before(self, image_id: str) -> Status | None:
        before = self.stored.get(image_id)
        return None if before is None else summary_of(before).status

    def _redelivered(self, result: ClassificationResult) -> int:
        """Return 1 if this result makes its image one that was received more than once, -1 if it ends that."""
        before = self.stored.get(result.image_id)
        return (result.attempts > 1) - (before is not None and summary_of(before).attempts > 1)


@dataclass
class JobResends:
    """Requests of one job that were sent again, to be recorded in one transaction.

    Attributes:
        resends: by image id.
    """

    job_id: str
    resends: Mapping[str, Resend]
    _before: dict[str, Resend] = field(default_factory=dict, init=False)
    _redelivered: set[str] = field(default_factory=set, init=False)

    def read(self, table: Table) -> None:
        """Read what there is of the images."""
        results, resends = stored_items(table, self.job_id, self.resends)
        self._before = {image_id: resend_of(item) for image_id, item in resends.items()}
        self._redelivered = {image_id for image_id, item in results.items() if summary_of(item).attempts > 1}

    def writes(self, token: int) -> list[GuardedWrite]:
        """Return the writes of a controller with a fencing `token`."""
        new = self.resends.keys() - self._before.keys()
        change = CountsChange(
            resends=sum(each.times for each in self.resends.values()), system_retried=len(new - self._redelivered)
        )
        writes = [
            GuardedWrite(ConditionCheck(JOBS, self.job_id, condition=EXISTS), "job"),
            GuardedWrite(change.update(self.job_id, token), "fence"),
        ]
        for image_id, resend in self.resends.items():
            before = self._before.get(image_id)
            condition, values = (IS_NEW, None) if before is None else ("#times = :before", {"before": before.times})
            item = resend_item(self.job_id, image_id, resend.after(before))
            writes.append(GuardedWrite(Put(item, condition=condition, values=values), "image", image_id))
            if image_id in new:
                is_redelivered = "attribute_exists( #attempts )"
                is_as_read = is_redelivered if image_id in self._redelivered else "attribute_not_exists( #attempts )"
                check = ConditionCheck(partition(self.job_id), f"{RESULT}{image_id}", condition=is_as_read)
                writes.append(GuardedWrite(check, "image", image_id))
        return writes


def stored_items(table: Table, job_id: str, image_ids: Iterable[str]) -> tuple[dict[str, Item], dict[str, Item]]:
    """Return the items of images of a job that exist, by image id: of results, and of resends.

    The calls are made one after another, since the caller may be a call of the table's pool.
    """
    pk, found = partition(job_id), {RESULT: dict[str, Item](), RESENT: dict[str, Item]()}
    for some in in_batches(list(image_ids), READ_BATCH // len(found)):
        for item in table.get_all([(pk, f"{kind}{image_id}") for image_id in some for kind in found]):
            kind, _, image_id = str(item["sk"]).partition("#")
            found[f"{kind}#"][image_id] = item
    return found[RESULT], found[RESENT]


def in_transactions(results: Iterable[ClassificationResult]) -> list[list[ClassificationResult]]:
    """Return results of one job in lists for one transaction each."""
    lists, writes = list[list[ClassificationResult]](), MAX_WRITES
    for each in results:
        if writes + weight(each) > MAX_WRITES:
            lists.append([])
            writes = 0
        lists[-1].append(each)
        writes += weight(each)
    return lists


def best_by_image(results: Iterable[ClassificationResult]) -> dict[ImageRef, ClassificationResult]:
    """Return one result for each image: one that is done if there is any, else the failure of the last attempt."""
    best: dict[ImageRef, ClassificationResult] = {}
    for each in results:
        known = best.setdefault(each.ref, each)
        if rank(each.status, each.attempt) > rank(known.status, known.attempt):
            best[each.ref] = each
    return best
