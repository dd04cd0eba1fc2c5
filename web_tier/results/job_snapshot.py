"""The snapshot of a job that its feed has published, and the rows in which changes are published.

A `JobSnapshot` compares the job table with what viewers have been sent, and returns what is new. An `ImageRow` has
the few fields of an image that a list of 10,000 of them needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Self

from core.ids import ImageRef
from core.images import CODES
from core.jobs.models import ImageRecord, MinScores, Resend
from core.jobs.results import Answer
from core.jobs.store import JobStore
from core.messages import (
    CANCELLED,
    CRASHED_WORKER,
    GONE,
    MODEL_FAILED,
    SOURCE_UNREADABLE,
    ClassificationResult,
    WireModel,
)
from web_tier.results.image_statuses import ImageStatuses
from web_tier.results.query import ImageResult, ImageState, ResultsPage, is_final, is_retrying

BLOCK = 500
"""Images with neighbouring ids that have their results read together."""

MAX_BLOCKS_PER_POLL = 4

MAX_RETRIES_PER_POLL = 400
"""Failed images that one poll checks for a retry, and retried images that it checks for a new result."""

NewAnswers = tuple[list[ClassificationResult], dict[str, Resend]]
"""New results, and new resends by image id."""

INDEPENDENT: Final = 0.5
"""Score above which two labels of an image can only be independent of each other."""

FAILURE_WORDS: Mapping[str, str] = {
    **dict.fromkeys(CODES, "Not readable"),
    "empty": "Empty file",
    "too_large": "File too large",
    "too_many_pixels": "Image too large",
    "too_costly": "Too complex",
    CANCELLED.code: "Cancelled",
    CRASHED_WORKER: "Worker failed",
    GONE.code: "Not stored",
    MODEL_FAILED.code: "Model failed",
    SOURCE_UNREADABLE: "Not readable in S3",
}
"""Why an image failed, by the code of its failure, for a tile."""


class ImageRow(WireModel):
    """Some fields of an image; a page updates its row of the same `id` by the fields that are present.

    Attributes:
        id: the image's id.
        name: its filename; absent from a row that has only a result.
        bytes: size of the file; absent in the same case.
        label, score: of an image that is done; the score from 0 to 1.
        unsure: true if the label is a mere guess.
        also: its further labels that are not mere guesses; only independent labels (a sigmoid's) have them.
        failure: why an image failed, in two or three words.
        reason: why it failed, in a sentence.
        final: true if the image itself made the request fail, so that it cannot be retried.
        retrying: true while a failed image is being retried.
        at: when the result became visible, in milliseconds since 1970.
        turn: how many results and retries came before this one; of two rows the one with the greater turn counts.
        tries: how often the request was received until this result, if more than once.
        again: how often the system has requested the image again; the greatest of all rows counts.
        truth: its true label; only a row that was read as a whole has it.
    """

    id: str
    name: str | None = None
    bytes: int | None = None
    status: ImageState
    label: str | None = None
    score: float | None = None
    unsure: Literal[True] | None = None
    also: str | None = None
    failure: str | None = None
    reason: str | None = None
    final: Literal[True] | None = None
    retrying: Literal[True] | None = None
    at: int | None = None
    turn: int | None = None
    tries: int | None = None
    again: int | None = None
    truth: str | None = None

    @property
    def labels(self) -> str:
        """The labels of an image that is done; static/job/items.js has the same text."""
        return ", ".join(filter(None, (self.label, self.also)))

    @property
    def retries(self) -> str:
        """How the system retried the image and why, one line for each way; static/job/rows.js has the same text."""
        tried = f"Tried {self.tries} times: a worker failed" if self.tries else ""
        times = f" \N{MULTIPLICATION SIGN}{self.again}" if self.again and self.again > 1 else ""
        resent = f"Requested again{times}: presumed lost" if self.again else ""
        return "\n".join(filter(None, (tried, resent)))

    @classmethod
    def of_record(cls, record: ImageRecord) -> Self:
        """Return the row of an image that was just accepted."""
        return cls(id=record.ref.image_id, name=record.filename, bytes=record.size, status="waiting")

    @classmethod
    def of_resend(cls, image_id: str, resend: Resend) -> Self:
        """Return the row that has only how often an image was requested again."""
        return cls(id=image_id, status="waiting", again=resend.times)

    @classmethod
    def of_response(cls, response: ClassificationResult, scores: MinScores) -> Self:
        """Return the row that has only a result, with the scores below which labels of its job are unsure."""
        further = [(each.label, each.score) for each in response.top[1:]]
        return cls.copied_from(
            response,
            id=response.image_id,
            unsure=scores.is_unsure(response.label, response.score) or None,
            also=", ".join(
                label for label, score in further if score > INDEPENDENT and not scores.is_unsure(label, score)
            )
            or None,
            failure=FAILURE_WORDS.get(response.error.code, "Failed") if response.error else None,
            reason=response.error.message if response.error else None,
            final=True if is_final(response) else None,
            at=None if response.recorded_at is None else round(response.recorded_at.timestamp() * 1_000),
            turn=2 * response.attempt or None,
            tries=response.attempts if response.attempts > 1 else None,
        )

    @classmethod
    def of_result(cls, result: ImageResult) -> Self:
        """Return the whole row of an image."""
        row = cls.of_record(result.record)
        if result.resend is not None:
            row = row.model_copy(update={"again": result.resend.times})
        if result.truth is not None:
            row = row.model_copy(update={"truth": result.truth.label})
        if result.response is None:
            return row
        own = cls.of_response(result.response, result.min_scores)
        row = row.model_copy(update=own.model_dump(exclude_none=True))
        if not result.retrying:
            return row
        return row.model_copy(update={"retrying": True, "turn": 2 * result.record.attempt - 1})


class ImageRows(WireModel):
    """Some of a job's rows in the order of their ids; `next` is the cursor of the following rows, if any."""

    rows: tuple[ImageRow, ...]
    next: str | None = None

    @classmethod
    def of_page(cls, page: ResultsPage) -> Self:
        """Return the rows of a page of results."""
        return cls(rows=tuple(ImageRow.of_result(item) for item in page.items), next=page.next_after)


@dataclass
class JobSnapshot:
    """The images and results of one job that its feed has published.

    Results arrive in any order, and the time to read all of them grows with their number. So a poll reads only a few
    blocks of neighbouring images, in turn, and no block in which every image has its result.
    """

    store: JobStore
    job_id: str
    statuses: ImageStatuses = field(default_factory=ImageStatuses)
    _resends: dict[str, Resend] = field(default_factory=dict)
    _resend_count: int = 0
    _blocks_to_read: int = 0
    _next_block: int = 0
    _retried_at: datetime | None = None
    _unchecked: list[str] = field(default_factory=list)
    _retrying: dict[str, ImageRecord] = field(default_factory=dict)
    _published_attempts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, store: JobStore, job_id: str) -> "JobSnapshot":
        """Return the snapshot of a job as it is stored; reads the whole job, a page at a time."""
        snapshot, results = cls(store, job_id), store.summaries(job_id)
        result_id, result = next(results, ("", None))
        for image in store.images(job_id):  # like the results, in the order of their ids
            while result is not None and result_id < image.ref.image_id:
                result_id, result = next(results, ("", None))
            is_answered = result is not None and result_id == image.ref.image_id
            snapshot.statuses[image.ref.image_id] = result.status if result is not None and is_answered else None
        return snapshot

    @property
    def answered(self) -> int:
        """Number of the images with a result."""
        return len(self.statuses) - self.statuses.count(None)

    def new_images(self, *, everywhere: bool) -> list[ImageRecord]:
        """Add and return images that are not in the snapshot: those beyond the last id, or those `everywhere`.

        Ids are in order only within one web process, so a read beyond the last id may miss some.
        """
        after = None if everywhere else self.statuses.last() or None
        new = [image for image in self.store.images(self.job_id, after) if image.ref.image_id not in self.statuses]
        for image in new:
            self.statuses[image.ref.image_id] = None
        return new

    def new_answers(self, results: int, resends: int) -> NewAnswers:
        """Add and return new results, and new resends by image id, from up to `MAX_BLOCKS_PER_POLL` blocks, in turn.

        They are read if the job has other numbers of `results` and `resends`. An image that was requested again has
        no result, or none of its last attempt (`new_retry_answers`).
        """
        new, resent = list[ClassificationResult](), dict[str, Resend]()
        if resends != self._resend_count:
            self._resend_count, self._blocks_to_read = resends, len(self.statuses) // BLOCK + 1
        if self.answered >= results and self._blocks_to_read <= 0:
            return new, resent
        self._blocks_to_read -= MAX_BLOCKS_PER_POLL
        for start, first, last in self.statuses.unanswered(self._next_block, BLOCK, MAX_BLOCKS_PER_POLL):
            self._next_block = start + BLOCK
            answers = self.store.answers(self.job_id, first, last)
            resent |= self._new_resends(answers)
            for image_id, (result, _) in answers.items():
                if result is not None and image_id in self.statuses and self.statuses[image_id] is None:
                    self.statuses[image_id] = result.status
                    new.append(result)
        return new, resent

    def _new_resends(self, answers: Mapping[str, Answer]) -> dict[str, Resend]:
        found = {image_id: each.resend for image_id, each in answers.items() if each.resend is not None}
        new = {image_id: resend for image_id, resend in found.items() if self._resends.get(image_id) != resend}
        self._resends |= new
        return new

    def recheck_failed(self) -> None:
        """Forget failed results, so that they are read again: some of these images have a label now."""
        for image_id in list(self.statuses.ids("failed")):
            self.statuses[image_id] = None

    @property
    def has_open_retries(self) -> bool:
        """Whether some images may be retried at this moment."""
        return bool(self._unchecked or self._retrying)

    def set_retried_at(self, retried_at: datetime | None) -> None:
        """Check all failed images for retries if the user has requested some again since the last poll."""
        if retried_at != self._retried_at:
            self._retried_at, self._unchecked = retried_at, list(self.statuses.ids("failed"))

    def new_retries(self) -> list[ImageResult]:
        """Return failed images with attempts that were not published; checks up to `MAX_RETRIES_PER_POLL`."""
        some, self._unchecked = self._unchecked[:MAX_RETRIES_PER_POLL], self._unchecked[MAX_RETRIES_PER_POLL:]
        records = self.store.images_of([ImageRef(self.job_id, image_id) for image_id in some])
        retried = {ref: record for ref, record in records.items() if record.attempt}
        new = []
        for ref, response in self.store.results_of(retried).items():
            attempts = (retried[ref].attempt, response.attempt)
            if response.status == "failed" and self._published_attempts.get(ref.image_id) != attempts:
                self._published_attempts[ref.image_id] = attempts
                new.append(ImageResult(retried[ref], response))
        self._retrying |= {item.record.ref.image_id: item.record for item in new if item.retrying}
        return new

    def new_retry_answers(self) -> NewAnswers:
        """Return new results and resends of images that were being retried; checks up to `MAX_RETRIES_PER_POLL`."""
        some = list(self._retrying)[:MAX_RETRIES_PER_POLL]
        found = self.store.answers_of([ImageRef(self.job_id, image_id) for image_id in some])
        answers = {ref.image_id: answer for ref, answer in found.items()}
        results = [answer.result for answer in answers.values() if answer.result is not None]
        new = [result for result in results if not is_retrying(self._retrying[result.image_id], result)]
        ended = {result.image_id: result for result in new}
        for result in new:
            if result.status == "done":
                self.statuses[result.image_id] = "done"
        for image_id in some:  # an image that is still being retried goes to the end of the queue
            record = self._retrying.pop(image_id)
            if image_id in ended:
                self._published_attempts[image_id] = (record.attempt, ended[image_id].attempt)
            else:
                self._retrying[image_id] = record
        return new, self._new_resends(answers)
