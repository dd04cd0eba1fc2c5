"""How many images this process has accepted for each job: an absolute figure, so writing it twice does no harm."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from services.ids import new_id

MAX_JOBS = 10_000


@dataclass
class _Count:
    """A count with a writer id of its own, so that a job which is dropped and comes back begins a new count."""

    writer_id: str = field(default_factory=new_id)
    images: int = 0


class Tally:
    """Counts for the `MAX_JOBS` jobs that were added to last; threads may share it."""

    def __init__(self, max_jobs: int = MAX_JOBS) -> None:
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._max_jobs = max_jobs
        self._lock = threading.Lock()

    def add(self, job_id: str, images: int) -> tuple[str, int]:
        """Count `images` more for the job; return the writer id and how many there are under it now."""
        with self._lock:
            count = self._counts.setdefault(job_id, _Count())
            self._counts.move_to_end(job_id)
            count.images += images
            if len(self._counts) > self._max_jobs:
                self._counts.popitem(last=False)
            return count.writer_id, count.images
