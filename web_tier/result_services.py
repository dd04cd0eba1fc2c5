"""Services of one process for results: live feeds, thumbnails, stored objects, class labels and progress."""

from collections.abc import Callable
from typing import cast

from flask import Flask, current_app

from core.jobs.models import JobStatus
from web_tier.backend import Backend
from web_tier.results.details import ClassLabels, ImageObjects
from web_tier.results.live_feed import FeedRegistry, JobFeed
from web_tier.results.progress import JobProgress, ProgressBody, job_cost
from web_tier.results.thumbnails import RenderLimiter, Thumbnails

_EXTENSION = "fleetsight-results"


class ResultServices:
    """What routes of results need beyond the backend; the threads of a process share it.

    Args:
        backend: the services of the process.

    Attributes:
        is_stopping: returns whether this process is stopping; gunicorn's configuration sets it. Streams end then.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.feeds = FeedRegistry(backend.bulkheads.streams, self._new_feed)
        self.render_limiter = RenderLimiter(backend.bulkheads.pictures)
        self.thumbnails = Thumbnails(backend.config.web.image_limits)
        self.objects = ImageObjects(backend.config)
        self.is_stopping: Callable[[], bool] = lambda: False

    @property
    def class_labels(self) -> ClassLabels:
        """Labels and messages of the configured bundle."""
        facts = self._backend.bundle.facts()
        return ClassLabels(facts.labels, facts.messages)

    def progress(self, status: JobStatus) -> tuple[JobProgress, ProgressBody]:
        """Return the progress of a job, and its body."""
        backend = self._backend
        fleet = backend.fleet.snapshot()
        cost = job_cost(status.counts, fleet, backend.fleet, backend.config.prices)
        silent_seconds = backend.reports.silent_seconds(fleet)
        progress = JobProgress.of(status, controller_ahead=backend.reports.ahead)
        return progress, ProgressBody.of(progress, fleet, cost, silent_seconds)

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
