"""Dead letters: images that the system gave up, because they ended the processes that classified them.

| pk            | sk                              | put by     | deleted by |
| ------------- | ------------------------------- | ---------- | ---------- |
| `DEADLETTERS` | job id `-` image id `-` attempt | controller | both       |

An item only refers to an image. Pages show the image's record and result, so two copies cannot disagree. The image is
a dead letter while its result is the failure of the item's attempt and it is not being retried. So a retry closes the
dead letter when it raises the attempt, and a retry that the queue refuses reopens it.

The controller puts the item before the failed result. So every such result has its item, even if the controller is
killed between the two writes. A reader deletes items of images that have another result by now. A later attempt has
its own item, so a late deletion never deletes that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from core.ids import FIRST_ID, ULID_PATTERN, ImageRef
from core.jobs.models import DeletedJob, ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, is_given_up
from services.errors import NotFoundError
from services.table import LAST, Item

DEAD_LETTERS = "DEADLETTERS"
"""Partition of the items."""

_ULID = ULID_PATTERN.strip("^$")
CURSOR_PATTERN = f"^{_ULID}-{_ULID}-[0-9]{{1,9}}$"
"""The form of a page's cursor: the key of its last item."""


@dataclass(frozen=True, slots=True)
class DeadLetterImage:
    """An image that was given up, with its failed result."""

    job: Job
    record: ImageRecord
    result: ClassificationResult

    @property
    def is_retrying(self) -> bool:
        """Whether the image was requested again and has no newer result yet."""
        return self.result.attempt < self.record.attempt


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Some dead letters; `next_before` is the cursor of the next page, if any."""

    letters: tuple[DeadLetterImage, ...]
    next_before: str | None


@dataclass(frozen=True, slots=True)
class _LetterKey:
    ref: ImageRef
    attempt: int

    @classmethod
    def from_item(cls, item: Item) -> "_LetterKey":
        job_id, image_id, attempt = str(item["sk"]).split("-")
        return cls(ImageRef(job_id, image_id), int(attempt))

    @property
    def key(self) -> tuple[str, str]:
        return DEAD_LETTERS, f"{self.ref.job_id}-{self.ref.image_id}-{self.attempt}"


@dataclass(frozen=True)
class DeadLetterStore:
    """Reads and writes dead letters, of all jobs. botocore's errors and `TableBusyError` pass through."""

    store: JobStore

    def put_each(self, given_up: Sequence[ClassificationResult]) -> dict[ImageRef, Exception]:
        """Record that images of jobs that exist are given up, before their results are put; repeating it is safe.

        Returns the images for which that failed, with the reason.
        """
        keys = {_LetterKey(response.ref, response.attempt).key: response.ref for response in given_up}
        left = self.store.table.put_each([{"pk": pk, "sk": sk} for pk, sk in keys])
        return {keys[str(item["pk"]), str(item["sk"])]: error for item, error in left}

    def page(self, before: str | None = None, *, limit: int) -> DeadLetterPage:
        """Return up to `limit` dead letters that wait for a decision, those of the newest jobs first.

        It may return fewer, even none, with a cursor: images that are being retried are left out. `before` is the
        cursor of the page.
        """
        # The query includes its upper end, so one more item is read.
        found = self.store.table.query(DEAD_LETTERS, FIRST_ID, before or LAST, limit=limit + 2, newest_first=True)
        keys = [item for item in found if item["sk"] != before]
        letters = self._read([_LetterKey.from_item(item) for item in keys[:limit]])
        cursor = str(keys[limit - 1]["sk"]) if len(keys) > limit else None
        return DeadLetterPage(tuple(letter for letter in letters if not letter.is_retrying), cursor)

    def find(self, ref: ImageRef) -> DeadLetterImage | None:
        """Return the dead letter of an image, also while the image is being retried, or None if there is none."""
        prefix = f"{ref.job_id}-{ref.image_id}-"
        entries = [_LetterKey.from_item(item) for item in self.store.table.query(DEAD_LETTERS, prefix, prefix + LAST)]
        return next(iter(self._read(entries)), None)

    def get(self, ref: ImageRef) -> DeadLetterImage:
        """Return the dead letter of an image.

        Raises:
            NotFoundError: it does not exist, or the image is being retried.
        """
        letter = self.find(ref)
        if letter is None or letter.is_retrying:
            raise NotFoundError(f"there is no dead letter of image {ref.image_id!r} in job {ref.job_id!r}")
        return letter

    def discard(self, ref: ImageRef) -> None:
        """Delete the dead letter of an image, which keeps its failed result; do nothing if `get` finds none."""
        letter = self.find(ref)
        if letter is not None and not letter.is_retrying:
            self.store.table.delete_all([_LetterKey(ref, letter.result.attempt).key])

    def remove_of(self, job: DeletedJob, max_items: int) -> int:
        """Remove up to `max_items` items of a deleted job; return how many were found, 0 when none is left."""
        low = f"{job.job_id}-"
        found = list(self.store.table.query(DEAD_LETTERS, low, low + LAST, limit=max_items))
        self.store.table.delete_all([(DEAD_LETTERS, str(item["sk"])) for item in found])
        return len(found)

    def _read(self, entries: Sequence[_LetterKey]) -> list[DeadLetterImage]:
        """Return the dead letters among `entries`, in their order; delete the entries that no result can need."""
        refs = list(dict.fromkeys(entry.ref for entry in entries))
        jobs = self.store.jobs_of({ref.job_id for ref in refs})
        records, results = self.store.images_of(refs), self.store.results_of(refs)
        letters, superseded = list[DeadLetterImage](), list[_LetterKey]()
        for entry in entries:
            job, record, result = jobs.get(entry.ref.job_id), records.get(entry.ref), results.get(entry.ref)
            # Then the failure of the entry's attempt can never become the image's result again.
            is_replaced = result is not None and (
                result.status == "done"
                or result.attempt > entry.attempt
                or (result.attempt == entry.attempt and not is_given_up(result))
            )
            if record is None or is_replaced:
                superseded.append(entry)
            elif job is not None and result is not None and result.attempt == entry.attempt:
                letters.append(DeadLetterImage(job, record, result))
        self.store.table.delete_all([entry.key for entry in superseded])
        return letters
