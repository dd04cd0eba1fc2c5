"""The job mover: gives the unfinished jobs of a model that was rolled back the default model, when operators say so.

Images without a result of their last attempt get the model and a new attempt in their record, and are requested
again. The job gets the model last, so a controller that dies in between leaves a job that the next one moves. Results
stay as they are, and name their model.

A message of before may be under way, and names the old model. It does no harm: a label that it leads to remains the
image's only one (`core/predictions.py`), and a failure is one of an earlier attempt, which the later one replaces.
"""

import logging
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Final

from core.ids import first_id_of
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Job
from core.messages import Model
from core.model_catalog import CatalogStore, JobModel
from services.batches import in_batches
from services.clock import utc_now
from services.side_by_side import side_by_side
from services.sqs import Queue
from web_tier.controller.job_images import JobImages
from web_tier.controller.reconciler import PAGE, isolated

CHECK_SECONDS: Final = 10.0
"""Time between two reads of the catalogue."""

_log = logging.getLogger(__name__)


@dataclass
class JobMover:
    """Moves open jobs while the catalogue says so."""

    catalogs: CatalogStore
    images: JobImages
    requests: Queue
    _moved: dict[str, str] = field(default_factory=dict, init=False)
    """The open jobs that were moved, each with its `touched_at` of then: an upload may still add images to them."""

    def tick(self) -> float:
        """Move the jobs that are left; return the seconds until the next round."""
        catalog = self.catalogs.find()
        withdrawn = None if catalog is None else catalog.withdrawn
        if catalog is None or withdrawn is None or withdrawn.moved_at is None:
            return CHECK_SECONDS
        store, model = self.images.jobs.store, catalog.default_version.for_job
        until = first_id_of(withdrawn.moved_at)
        opened = {each.job_id: each.touched_at for each in OpenJobs(store.table).find_all() if each.job_id < until}
        self._moved = {job_id: at for job_id, at in self._moved.items() if job_id in opened}
        for job_id, job in store.jobs_of(opened).items():
            is_touched = self._moved.get(job_id, opened[job_id]) != opened[job_id]
            if is_touched or (job.model is not None and job.model.digest == withdrawn.digest):
                with isolated(job_id):
                    self._move(job, withdrawn.digest, model)
                    self._moved[job_id] = opened[job_id]
        return CHECK_SECONDS

    def _move(self, job: Job, digest: str, model: JobModel) -> None:
        self.images.resync(job.job_id)
        self.images.learn_retries(job.job_id)
        jobs, missing, sent = self.images.jobs, list(self.images.missing(job.job_id)), 0
        for page in in_batches(missing, PAGE):
            if not jobs.tenure.active():
                return
            sent += self._request(job, page, digest, model)
        if jobs.tenure.active():
            jobs.store.put_model(job, model)
            with jobs.hold(job.job_id) as counts:
                if counts is not None:
                    counts.model = Model(name=model.name, digest=model.digest)
            _log.warning("a job was moved to another model", extra={"job": job.job_id, "images": sent})

    def _request(self, job: Job, image_ids: list[str], digest: str, model: JobModel) -> int:
        """Request those of these images again that miss a result and have the old model; return their number."""
        store, still_missing = self.images.jobs.store, self.images.still_missing(job.job_id, image_ids)
        records = self.images.read_again(job.job_id, still_missing)
        olds = [each for each in records if each.model is not None and each.model.digest == digest]
        news = [replace(each, attempt=each.attempt + 1, model=model.requested) for each in olds]
        pairs = zip(olds, news, strict=True)
        moved = list(compress(news, side_by_side(store.table.pool, lambda pair: store.replace_image(*pair), pairs)))
        # A request that is not sent is missed by the reconciler, like one that is lost.
        self.requests.send([each.request(utc_now(), job.group) for each in moved])
        return len(moved)
