"""How many images the messages of the request queue request: SQS counts messages, and one requests a whole pack.

The job table counts the packs and images of each job that were requested, also by retries, and those that were
answered. The rest are outstanding, and their mean size is that of as many messages as there are outstanding packs.
Each further message counts as one image: the system requests images again, or the job was deleted or is not read yet.
Without a message there is no image, however many packs are outstanding, so an answer that is not recorded yet makes
no demand.

A pack counts as answered with its first result, and a retry of its images with the first result of their attempt.
Other images of it remain outstanding, as part of the mean.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from core.ids import PLACES
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Counts
from services.clock import CLOCK, Clock
from services.sqs import QueueCounts
from services.table import Table

READ_SECONDS = 1.0
"""How long counts that were read are used while there are messages; messages that come meanwhile are further ones."""

MAX_JOBS = 100
"""Open jobs of which counts are read at a time, each in its turn."""


@dataclass
class OutstandingPacks:
    """Reads how many packs of open jobs have no answer yet, and how many images they have."""

    table: Table
    clock: Clock = CLOCK
    _counts: dict[str, Counts] = field(default_factory=dict, init=False)
    """Of open jobs by their ids, those that were read longest ago first."""
    _read_at: float = field(default=float("-inf"), init=False)

    def images_of(self, messages: QueueCounts) -> QueueCounts:
        """Return the images that these messages request.

        Raises:
            BotoCoreError, ClientError, TableBusyError: when the table could not be read.
        """
        if messages.total and self.clock.monotonic() - self._read_at >= READ_SECONDS:
            self._read()
            self._read_at = self.clock.monotonic()
        return requested_images(messages, self._counts.values())

    def _read(self) -> None:
        opened = dict.fromkeys(each.job_id for each in OpenJobs(self.table).find_all())
        known = {job_id: counts for job_id, counts in self._counts.items() if job_id in opened}
        turn = [*(each for each in opened if each not in known), *known][:MAX_JOBS]
        read = JobFigures(self.table).counts_by_job(turn)
        self._counts = {job_id: counts for job_id, counts in known.items() if job_id not in read} | read


def requested_images(messages: QueueCounts, jobs: Iterable[Counts]) -> QueueCounts:
    """Return the images that these messages request, by the counts of open jobs; at least one a message."""
    images = packs = 0
    for counts in jobs:
        outstanding = max(0, counts.packs - counts.answered_packs)
        answered = counts.done + counts.failed + counts.answered_retries
        packs += outstanding
        images += min(max(outstanding, counts.images + counts.retries - answered), PLACES * outstanding)
    if not messages.total or images == packs:
        return messages
    scale = 1 + min(1, packs / messages.total) * (images / packs - 1)
    return QueueCounts(*(round(scale * each) for each in (messages.visible, messages.in_flight, messages.delayed)))
