"""What the pages of results need beyond the backend: streams, pictures and the words of the bundle, per process."""

from collections.abc import Callable
from typing import cast

from flask import Flask, current_app

from core.jobs.models import JobStatus
from web_tier.backend import Backend
from web_tier.pages.progress import Progress, ProgressBody
from web_tier.results.costs import job_cost
from web_tier.results.events import FeedRegistry
from web_tier.results.objects import ImageObjects
from web_tier.results.scores import ClassLabels
from web_tier.results.thumbnails import RenderLimiter, Thumbnails
from web_tier.results.watch import Watch

_EXTENSION = "fleetsight-live"


class Live:
    """Shared by the threads of a process.

    Args:
        backend: where everything is.

    Attributes:
        is_stopping: whether this process is told to end, as its server knows; streams end then.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.streams = FeedRegistry(backend.bulkheads.streams, self._watch)
        self.turns = RenderLimiter(backend.bulkheads.pictures)
        self.thumbnails = Thumbnails(backend.config.web.image_limits)
        self.objects = ImageObjects(backend.config)
        self.is_stopping: Callable[[], bool] = lambda: False

    @property
    def words(self) -> ClassLabels:
        """What the configured bundle calls its classes."""
        facts = self._backend.bundle.facts()
        return ClassLabels(facts.labels, facts.messages)

    def progress(self, status: JobStatus) -> tuple[Progress, ProgressBody]:
        """Return how far a job is, and what there is to say of it."""
        backend = self._backend
        fleet = backend.fleet.snapshot()
        cost = job_cost(status.counts, fleet, backend.fleet, backend.config.prices)
        silent_seconds = backend.reports.silent_seconds(fleet)
        progress = Progress.of(status, controller_ahead=backend.reports.ahead)
        return progress, ProgressBody.of(progress, fleet, cost, silent_seconds)

    def _watch(self, job_id: str) -> Watch:
        return Watch(self._backend.store, job_id, self._tell)

    def _tell(self, status: JobStatus) -> tuple[str, bool]:
        _, body = self.progress(status)
        return body.model_dump_json(), body.settled


def install_live(app: Flask, backend: Backend) -> None:
    """Make pages of `app` live over `backend`."""
    app.extensions[_EXTENSION] = Live(backend)


def live_of(app: Flask) -> Live:
    """Return that of `app`."""
    return cast(Live, app.extensions[_EXTENSION])


def current_live() -> Live:
    """Return that of the application which serves the current request."""
    return live_of(current_app)
