"""One load test from start to end, in any mode."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scripts.client import ApiClient, ApiError, token_of
from scripts.load.batches import ApiLoad
from scripts.load.classic import ClassicClient
from scripts.load.crowd import send
from scripts.load.direct import DirectLoad
from scripts.load.figures import Figures, Summary
from scripts.load.pictures import Pictures
from scripts.load.target import Target
from scripts.run.cost import cost_between

Mode = Literal["classic", "api", "direct"]
Progressed = Callable[[int], None]


@dataclass(frozen=True)
class Load:
    """What is done to a system.

    Attributes:
        target: the system.
        mode: how images are sent.
        concurrency: requests that are open at once.
        path: for `classic`, the address to post to.
        field: for `classic`, the field of the form.
        patience_seconds: without an answer for this long, an image is lost.
    """

    target: Target
    mode: Mode
    concurrency: int
    path: str
    field: str
    patience_seconds: float

    def run(self, pictures: Pictures, stopped: threading.Event, progressed: Progressed) -> Summary:
        """Send all of `pictures` unless `stopped` before; return what came of them.

        Args:
            pictures: what to send.
            stopped: ends the test with what is in hand.
            progressed: is told how many images have their verdict, or in the modes with a job their result.

        Raises:
            ApiError: when the API refuses the job.
            TargetError: when the system leads to another one that may not be loaded.
        """
        before, figures, began = self._fleet(), Figures(), time.monotonic()
        (self._classic if self.mode == "classic" else self._job)(pictures, figures, stopped, progressed)
        seconds = time.monotonic() - began
        return figures.summary(self.mode, pictures.count, seconds, cost_between(before, self._fleet()))

    def _fleet(self) -> dict[str, Any] | None:
        """Return what the system tells of its fleet; None where it has no such API, as older systems."""
        client = ApiClient(self.target.base_url, token=token_of())
        try:
            return client.fleet()
        except (ApiError, ValueError):
            return None
        finally:
            client.close()

    def _classic(
        self, pictures: Pictures, figures: Figures, stopped: threading.Event, progressed: Progressed
    ) -> None:
        client = ClassicClient(self.target, self.path, self.field, self.patience_seconds, token_of())

        def one(file: Path) -> None:
            client.judge(file, pictures, figures)
            progressed(figures.images)

        send(pictures, min(self.concurrency, pictures.count), one, stopped)

    def _job(self, pictures: Pictures, figures: Figures, stopped: threading.Event, progressed: Progressed) -> None:
        client = ApiClient(self.target.base_url, token=token_of())
        load = self._job_load(client, pictures, figures, stopped)
        try:
            job_id = client.create_job("load test")
            send(load.slices(), self.concurrency, lambda files: load.upload(job_id, files), stopped)
            load.collect(job_id, progressed)
        finally:
            client.close()

    def _job_load(self, client: ApiClient, pictures: Pictures, figures: Figures, stopped: threading.Event) -> ApiLoad:
        if self.mode == "direct":
            return DirectLoad(client, pictures, figures, self.patience_seconds, stopped, target=self.target)
        return ApiLoad(client, pictures, figures, self.patience_seconds, stopped)
