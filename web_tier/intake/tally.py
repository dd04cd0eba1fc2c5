"""How many images this process has accepted for each job: an absolute figure, so writing it twice does no harm."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import datetime

from core.ids import new_id
from core.job_records import Said

MAX_JOBS = 10_000


@dataclass
class _Count:
    """A count with a writer id of its own, so that a job which is dropped and comes back begins a new count."""

    writer_id: str = field(default_factory=new_id)
    said: Said = field(default_factory=Said)


class Tally:
    """Counts for the `MAX_JOBS` jobs that were added to last; threads may share it."""

    def __init__(self, max_jobs: int = MAX_JOBS) -> None:
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._max_jobs = max_jobs
        self._lock = threading.Lock()

    def add(self, job_id: str, images: int, cached: int, at: datetime) -> tuple[str, Said]:
        """Count `images` more for the job, `cached` of them answered `at` that time.

        Returns the writer id, and what is to be said under it now.
        """
        with self._lock:
            count = self._counts.setdefault(job_id, _Count())
            self._counts.move_to_end(job_id)
            count.said = _more(count.said, images, cached, at)
            if len(self._counts) > self._max_jobs:
                self._counts.popitem(last=False)
            return count.writer_id, count.said


def _more(said: Said, images: int, cached: int, at: datetime) -> Said:
    more = replace(said, accepted=said.accepted + images)
    if not cached:
        return more
    return replace(more, cached=said.cached + cached, first_at=said.first_at or at, last_at=at)
