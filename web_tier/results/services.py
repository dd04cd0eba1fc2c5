"""Services of one process for results: live feeds, thumbnails, originals, class labels and progress."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from flask import Flask, current_app

from core.jobs.models import ImageRecord, Job, JobStatus
from core.label_sets import classes_in
from core.messages import LabelScore, Prediction, RequestedModel
from core.model_catalog import JobModel
from web_tier.http.backend import Backend
from web_tier.results.live_feed import FeedRegistry, JobFeed
from web_tier.results.progress import JobProgress, ProgressBody, job_costs
from web_tier.results.thumbnails import RenderLimiter, Thumbnails, sandboxed_draw

_EXTENSION = "fleetsight-results"


@dataclass(frozen=True)
class ClassLabels:
    """The labels of a bundle in the order of the probabilities, and its messages for some of them."""

    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)

    def fit(self, prediction: Prediction) -> bool:
        """Return whether the bundle with these labels made `prediction`: its best scores must be at their labels."""
        scores = prediction.probabilities
        if len(self.labels) != len(scores):
            return False
        index_of = {label: index for index, label in enumerate(self.labels)}
        return all(
            pair.label in index_of and math.isclose(scores[index_of[pair.label]], pair.score, abs_tol=1e-5)
            for pair in prediction.top
        )

    def all_scores(self, prediction: Prediction) -> list[LabelScore]:
        """Return every class with its probability, best first; a class without a known label has a number."""
        names = self.labels if self.fit(prediction) else [f"class {n}" for n in range(len(prediction.probabilities))]
        pairs = [
            LabelScore(label=name, score=score) for name, score in zip(names, prediction.probabilities, strict=True)
        ]
        return sorted(pairs, key=lambda pair: -pair.score)


class ResultServices:
    """What routes of results need beyond the backend; the threads of a process share it.

    Attributes:
        is_stopping: returns whether this process is stopping; gunicorn's configuration sets it. Streams end then.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.feeds = FeedRegistry(backend.bulkheads.streams, self._new_feed, on_change=backend.metrics.streams.inc)
        self.render_limiter = RenderLimiter(backend.bulkheads.pictures)
        self.thumbnails = Thumbnails(backend.config.web.image_limits, sandboxed_draw(backend.config.sandbox.limits))
        self.is_stopping: Callable[[], bool] = lambda: False

    def original(self, record: ImageRecord) -> bytes:
        """Return the file that the user sent, as `originals` does."""
        [data] = self.originals([record])
        return data

    def originals(self, records: Sequence[ImageRecord]) -> list[bytes]:
        """Return the files of images of one pack that the user sent, in one read.

        Raises:
            NotFoundError: if they are no longer stored.
            ObjectTooLargeError: if one is larger than an image may be, and than it was when it was accepted.
        """
        max_bytes = max(self._backend.config.web.max_image_bytes, *records[0].sizes)
        return self._backend.inputs.originals(records, max_bytes)

    def class_labels(self, model: JobModel | RequestedModel | None) -> ClassLabels:
        """Return the labels and messages of a job's model."""
        facts = self._backend.served.facts(model)
        return ClassLabels(facts.labels, facts.messages)

    def possible_labels(self, job: Job) -> list[str] | None:
        """Return the labels of the classes that can occur in a job; None if all of the model can."""
        if job.model is None or job.model.only is None:
            return None
        labels = self.class_labels(job.model).labels
        return [labels[each] if labels else f"class {each}" for each in classes_in(job.model.only)]

    def progress(self, status: JobStatus) -> tuple[JobProgress, ProgressBody]:
        """Return the progress of a job, and its body."""
        backend = self._backend
        fleet = backend.fleet.snapshot()
        prices = backend.config.prices
        [cost] = job_costs([status], fleet, backend.fleet, prices)
        silent_seconds = backend.reports.silent_seconds(fleet)
        progress = JobProgress.from_status(status)
        return progress, ProgressBody.from_progress(
            progress, fleet, cost, silent_seconds, prices.minimum_billed_seconds
        )

    def _new_feed(self, job_id: str) -> JobFeed:
        def read_progress(status: JobStatus) -> tuple[str, bool]:
            _, body = self.progress(status)
            return body.model_dump_json(), body.settled

        return JobFeed(self._backend.store, job_id, read_progress)


def install_result_services(app: Flask, backend: Backend) -> None:
    """Create the services of `app` over `backend`."""
    app.extensions[_EXTENSION] = ResultServices(backend)


def result_services_of(app: Flask) -> ResultServices:
    """Return the services of `app`."""
    return cast(ResultServices, app.extensions[_EXTENSION])


def current_result_services() -> ResultServices:
    """Return the services of the application that serves the current request."""
    return result_services_of(current_app)
