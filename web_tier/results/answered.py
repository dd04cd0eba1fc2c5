"""Which bundle answered a job: remembered, since a program asks for a job's status many times a second."""

from collections import OrderedDict

from core.jobs.models import JobStatus
from core.messages import Model
from web_tier.results.query import JobResults, results_page

MAX_JOBS = 1_000
_LOOKED_AT = 25


class AnsweringModels:
    """Remembers the bundle of the `MAX_JOBS` jobs asked about last; threads may share it."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, Model] = OrderedDict()

    def of(self, store: JobResults, status: JobStatus) -> Model | None:
        """Return the bundle that answered the first images of a job, or None as long as none is known."""
        job_id = status.job.job_id
        if status.counts.done + status.counts.failed == 0:
            return None
        known = self._models.get(job_id) or results_page(store, job_id, limit=_LOOKED_AT).model
        if known is not None:
            self._models[job_id] = known
        if len(self._models) > MAX_JOBS:
            self._models.popitem(last=False)
        return known
