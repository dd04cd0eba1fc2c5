"""Which images of a job have no result of their last attempt: found in the table, a few pages at a time, in turn.

Images are added and retried while their results come, in any order of their ids. So a search begins again when it is
through, and what an earlier one has found is only where to look: some of these images have a result by now.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from core.jobs.store import JobStore
from web_tier.controller.lost_images import FirstSeen

BUSY_PAGES: Final = 4
REST_PAGES: Final = 40
"""Pages of 500 images each that a sweep reads of a job that changes, and of another one."""

MAX_FOUND: Final = 20_000
"""Images of one job that are remembered."""


@dataclass
class MissingImages:
    """The images of one job that were found without a result.

    Attributes:
        found: since when each of them is known to be missing; its repairs count.
        complete_at: when the last search began that went through all images and found none.
    """

    found: dict[str, FirstSeen] = field(default_factory=dict, init=False)
    complete_at: float = field(default=float("-inf"), init=False)
    _after: str = field(default="", init=False)
    _began: float = field(default=0.0, init=False)
    _is_clean: bool = field(default=True, init=False)
    _state: object = field(default=None, init=False)
    """The state of the job when the last search began."""

    def search(self, store: JobStore, job_id: str, state: object, now: float, since: float) -> None:
        """Read some pages; images that were not known as missing are, from the time `since`.

        A job is not read again while its `state` is that of the last search of all its images.
        """
        for _ in range(REST_PAGES if state == self._state else BUSY_PAGES):
            begins = not self._after
            if len(self.found) >= MAX_FOUND or (begins and state == self._state):
                return
            images, after = store.missing_after(job_id, self._after)
            if begins:
                self._began, self._is_clean, self._state = now, True, state
            attempts = {image.ref.image_id: image.attempt for image in images}
            for image_id in [each for each in self.found if self._after < each and (after is None or each <= after)]:
                if self.found[image_id].attempt != attempts.get(image_id):
                    del self.found[image_id]
            self.found = {image_id: FirstSeen(each, since) for image_id, each in attempts.items()} | self.found
            self._is_clean &= not images
            self._after = after or ""
            if after is None:
                self.complete_at = self._began if self._is_clean else self.complete_at
                return

    def repair(self, image_id: str, now: float) -> FirstSeen:
        """Note that an image is repaired `now`; return since when it has been missing."""
        wait = self.found[image_id]
        self.found[image_id] = replace(wait, since=now, requests=wait.requests + 1)
        return wait
