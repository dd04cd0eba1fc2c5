"""The waiting images of jobs that say when they may be finished (`finish_by`): they need fewer workers than others.

The queue's counts name no jobs. So the autoscaler reads the open jobs, and the counts of those with a `finish_by`.
"""

from dataclasses import dataclass, field

from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.clock import CLOCK, Clock
from services.sqs import QueueCounts

READ_SECONDS = 2.0
"""How long what was read is used while no images are added."""

MAX_COUNTED = 50
"""Jobs with a `finish_by` of which counts are read, the first ones; the images of others need workers at once."""


@dataclass
class LaterJobs:
    """Reads which images may be finished later.

    Attributes:
        due: pairs of seconds from now and number of images without a result, when the table was read last. Images
            of one message group are classified in their order, so none is due after later ones of its group.
    """

    store: JobStore
    clock: Clock = CLOCK
    due: tuple[tuple[float, int], ...] = field(default=(), init=False)
    _jobs: dict[str, Job] = field(default_factory=dict, init=False)
    _arrived: dict[str, int] = field(default_factory=dict, init=False)
    """Images of each such job that is open."""
    _closed: int = field(default=0, init=False)
    """Images of those that were open before."""
    _read_at: float = field(default=float("-inf"), init=False)
    _total: int = field(default=0, init=False)
    _answers: int = field(default=0, init=False)

    @property
    def arrived(self) -> int:
        """All images of such jobs that workers were to classify so far."""
        return self._closed + sum(self._arrived.values())

    def others(self, requests: QueueCounts, answers: int) -> QueueCounts:
        """Return the queue's counts with only the other images as waiting, at most some too many.

        `answers` is how many images workers have answered. Since the table was read last, all of them may have been
        images that may be finished later.

        Raises:
            BotoCoreError, ClientError: when the table could not be read.
        """
        is_due = self.clock.monotonic() - self._read_at >= READ_SECONDS
        if requests.total and (requests.total > self._total or is_due):
            self._read(requests.total)
            self._read_at, self._answers = self.clock.monotonic(), answers
        self._total = requests.total
        later = max(0, sum(images for _, images in self.due) - (answers - self._answers))
        waiting = max(0, min(requests.waiting, requests.total - later))
        return QueueCounts(waiting, requests.total - waiting, 0)

    def _read(self, total: int) -> None:
        opened = [each.job_id for each in OpenJobs(self.store.table).find_all()]
        found = self.store.jobs_of([each for each in opened if each not in self._jobs])
        self._jobs = {job_id: job for job_id, job in (self._jobs | found).items() if job_id in opened}
        for job_id in self._arrived.keys() - self._jobs.keys():
            self._closed += self._arrived.pop(job_id)
        later = [(job.finish_by, job) for job in self._jobs.values() if job.finish_by is not None]
        due = list[tuple[float, int]]()
        for _, job in sorted(later, key=lambda each: each[0])[:MAX_COUNTED]:
            status = self.store.status_of(job)
            self._arrived[job.job_id] = status.accepted
            first = min(by for by, each in later if each.group == job.group and each.created_at >= job.created_at)
            due.append(((first - self.clock.utc_now()).total_seconds(), status.waiting))
        if due and len(due) == len(self._jobs):  # all messages are theirs, also those that are not counted yet
            due[0] = due[0][0], due[0][1] + max(0, total - sum(images for _, images in due))
        self.due = tuple(each for each in due if each[1])
