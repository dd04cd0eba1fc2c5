"""Which images of a job have been told to its viewers, and what is new in the job table since."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.ids import ImageRef
from core.jobs.models import ImageRecord, Resend
from core.jobs.store import JobStore
from core.messages import Response
from web_tier.results.query import ImageResult, is_retrying

BLOCK = 500
"""Images with results that are read at once, neighbours in the order of their ids."""

BLOCKS_A_LOOK = 4
RETRIES_A_LOOK = 400
"""Failed images of which it is looked whether they are tried again, and as many whether that has come to an end."""


@dataclass
class Known:
    """The images and results of one job that have been told.

    Results come in no order, and a read of all of them costs the more the more there are. So images are looked at in
    blocks of neighbours, a few at each look and in turn; one in which every image has its result is not read again.
    """

    store: JobStore
    job_id: str
    ids: list[str] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    _resends: Mapping[str, Resend] = field(default_factory=dict)
    _resends_counted: int = 0
    _turn: int = 0
    _retried_at: datetime | None = None
    _to_check: list[str] = field(default_factory=list)
    _retrying: dict[str, ImageRecord] = field(default_factory=dict)
    _told: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def now(cls, store: JobStore, job_id: str) -> "Known":
        """Return what is there now, as told; reads the whole job.

        Results are read first, so that none of an image that is not known yet is taken for told.
        """
        statuses = store.statuses(job_id)
        ids = sorted(image.ref.image_id for image in store.images(job_id))
        return cls(store, job_id, ids, set(statuses), {key for key, status in statuses.items() if status == "failed"})

    def added(self, *, everywhere: bool) -> list[ImageRecord]:
        """Return images that were not told, and know them: those beyond the last id, or in any place.

        Ids are in order within one web process only, so a look beyond the last one may miss some.
        """
        after = self.ids[-1] if self.ids and not everywhere else None
        told = set(self.ids) if everywhere else set()
        new = [image for image in self.store.images(self.job_id, after) if image.ref.image_id not in told]
        if new:
            self.ids = sorted([*self.ids, *(image.ref.image_id for image in new)])
        return new

    def newly_resent(self, resends: int) -> dict[str, Resend]:
        """Return the requests that were sent again and were not told so, by image id, and know them.

        Reads them where the job counts other `resends` than at the last read.
        """
        if resends == self._resends_counted:
            return {}
        before, self._resends = self._resends, self.store.resends(self.job_id)
        self._resends_counted = resends
        return {image_id: resend for image_id, resend in self._resends.items() if before.get(image_id) != resend}

    def newly_answered(self) -> list[Response]:
        """Return results that were not told, from up to `BLOCKS_A_LOOK` blocks, and know them."""
        new: list[Response] = []
        for first, last in self._next_blocks():
            found = self.store.results(self.job_id, first, last)
            new += [response for image_id, response in found.items() if image_id not in self.answered]
        self.answered.update(response.image_id for response in new)
        self.failed.update(response.image_id for response in new if response.status == "failed")
        return new

    def doubt_failed(self) -> None:
        """Look again at the images that failed: some were tried again and have a label now."""
        self.answered -= self.failed
        self.failed.clear()

    @property
    def retries_open(self) -> bool:
        """Whether images may be tried again at this moment."""
        return bool(self._to_check or self._retrying)

    def note_retries(self, retried_at: datetime | None) -> None:
        """Know when failed images were last requested again; it is to be looked which, where that is news."""
        if retried_at != self._retried_at:
            self._retried_at, self._to_check = retried_at, sorted(self.failed)

    def newly_retrying(self) -> list[ImageResult]:
        """Return failed images that are tried again, or were, and were not told so; know them.

        Looks at some of the failed images at a time.
        """
        some, self._to_check = self._to_check[:RETRIES_A_LOOK], self._to_check[RETRIES_A_LOOK:]
        records = self.store.images_of([ImageRef(self.job_id, image_id) for image_id in some])
        retried = {ref: record for ref, record in records.items() if record.attempt}
        results = self.store.results_of(retried)
        found = [ImageResult(retried[ref], result) for ref, result in results.items()]
        new = [item for item in found if item.state == "failed" and self._is_untold(item)]
        self._retrying |= {item.record.ref.image_id: item.record for item in new if item.retrying}
        return new

    def _is_untold(self, item: ImageResult) -> bool:
        """Return True if the attempts of a retried image were not told; they are then."""
        attempts = (item.record.attempt, item.response.attempt if item.response else 0)
        before = self._told.get(item.record.ref.image_id)
        self._told[item.record.ref.image_id] = attempts
        return attempts != before

    def newly_retried(self) -> list[Response]:
        """Return the newer results of images that were tried again, from some of those, and know them."""
        some = list(self._retrying)[:RETRIES_A_LOOK]
        results = self.store.results_of([ImageRef(self.job_id, image_id) for image_id in some])
        new = [result for ref, result in results.items() if not is_retrying(self._retrying[ref.image_id], result)]
        ended = {result.image_id: result for result in new}
        self.failed -= {result.image_id for result in new if result.status == "done"}
        for image_id in some:  # what is still tried again goes behind the others
            record = self._retrying.pop(image_id)
            if image_id in ended:
                self._told[image_id] = (record.attempt, ended[image_id].attempt)
            else:
                self._retrying[image_id] = record
        return new

    def _next_blocks(self) -> list[tuple[str, str]]:
        """Return the first and last ids of the blocks that are next."""
        blocks = list(self._open_blocks())
        start = bisect_left(blocks, self._turn)
        chosen = (blocks[start:] + blocks[:start])[:BLOCKS_A_LOOK]
        self._turn = chosen[-1] + 1 if chosen else 0
        return [(self.ids[at], self.ids[min(at + BLOCK, len(self.ids)) - 1]) for at in chosen]

    def _open_blocks(self) -> Iterator[int]:
        for start in range(0, len(self.ids), BLOCK):
            if not self.answered.issuperset(self.ids[start : start + BLOCK]):
                yield start
