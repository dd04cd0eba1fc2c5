"""One batch through the public API: upload in slices, watch until all have their results, compare with the truth."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.client import ApiClient, ApiError, Outcome
from scripts.run.images import Images
from services.backoff import pause_seconds
from services.errors import FleetsightError

SLICE, LARGE_SLICE = 20, 50
"""Files in one POST: few enough that the bar moves, enough that requests cost little; more in a larger batch."""
LARGE = 500
"""Images from which on a batch is large."""
UPLOADERS = 4
LOOK_SECONDS = 0.1
"""Between two looks at the job."""
STALLED_SECONDS = 180.0
"""A batch without a new result for this long has lost the rest."""
SLICE_ATTEMPTS = 5


class InterruptedBatchError(FleetsightError):
    """Raised when the run is told to end, or the system has ended, in the middle of a batch."""


@dataclass
class Progress:
    """Where a batch stands; the bar shows it."""

    total: int
    uploaded: int = 0
    classified: int = 0
    workers: int = 0
    peak_workers: int = 0

    @property
    def waiting(self) -> int:
        """Images that were accepted and have no result yet."""
        return max(0, self.uploaded - self.classified)


@dataclass(frozen=True)
class Summary:
    """What became of a batch. Without known labels `right` and `wrong` are None; times are seconds from its start."""

    job_id: str
    started_at: float
    """Epoch seconds."""
    images: int
    right: int | None
    wrong: int | None
    failed: int
    lost: int
    images_per_second: float
    peak_workers: int
    first_result_s: float
    last_result_s: float
    labels: Counter[str] = field(default_factory=Counter)
    failures: Sequence[tuple[str, str]] = ()
    mistakes: Sequence[tuple[str, str, str]] = ()
    model: str = ""

    @property
    def ok(self) -> bool:
        """Whether every image has a label."""
        return not self.failed and not self.lost


@dataclass
class Batch:
    """Sends `images` through the system at `client` and watches them.

    Attributes:
        keep: whether the system keeps the images after it has classified them.
    """

    client: ApiClient
    images: Images
    show: Callable[[Progress], None]
    interrupted: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    keep: bool = False

    def run(self) -> Summary:
        """Return what became of every image.

        Raises:
            ApiError: when the API refuses the job or an upload for good.
            InterruptedBatchError: when `interrupted` says so.
        """
        progress = Progress(len(self.images.files))
        started = self.clock()
        job_id = self.client.create_job(self.images.title, keep=self.keep)
        size = SLICE if progress.total < LARGE else LARGE_SLICE
        slices = [self.images.files[at : at + size] for at in range(0, progress.total, size)]
        with ThreadPoolExecutor(UPLOADERS) as uploaders:
            uploads = [uploaders.submit(self._upload, job_id, files) for files in slices]
            while wait(uploads, timeout=LOOK_SECONDS).not_done:
                self._look(job_id, progress)
        outcomes = [upload.result() for upload in uploads]
        self._watch(job_id, progress, sum(len(outcome.accepted) for outcome in outcomes))
        return self._summary(job_id, outcomes, progress, started)

    def _upload(self, job_id: str, files: Sequence[Path]) -> Outcome:
        content = [(path.name, path.read_bytes()) for path in files]
        for attempt in range(1, SLICE_ATTEMPTS + 1):
            try:
                return self.client.add_images(job_id, content)
            except ApiError:
                # What was not acknowledged is sent again; should it have been accepted after all, it counts twice in
                # the job and once here, where only acknowledged images are looked for.
                if attempt == SLICE_ATTEMPTS or self.interrupted():
                    raise
                self.sleep(pause_seconds(attempt, first=1.0, most=8.0))
        raise AssertionError("the last attempt returns or raises")

    def _look(self, job_id: str, progress: Progress) -> None:
        if self.interrupted():
            raise InterruptedBatchError("the batch was interrupted")
        try:
            status, fleet = self.client.status(job_id), self.client.fleet()
        except ApiError:
            return  # the web tier is being started again, which the supervisor says; what was last seen stays shown
        progress.uploaded = status["accepted"]
        progress.classified = status["done"] + status["failed"]
        if fleet is not None:
            progress.workers = fleet["running"] + fleet["pending"]
            progress.peak_workers = max(progress.peak_workers, progress.workers, fleet["peak_workers"])
        self.show(progress)

    def _watch(self, job_id: str, progress: Progress, accepted: int) -> None:
        last, since = -1, self.clock()
        while progress.classified < accepted or progress.uploaded < accepted:
            self._look(job_id, progress)
            self.sleep(LOOK_SECONDS)
            if progress.classified != last:
                last, since = progress.classified, self.clock()
            elif self.clock() - since > STALLED_SECONDS:
                return

    def _summary(self, job_id: str, outcomes: Sequence[Outcome], progress: Progress, started: float) -> Summary:
        accepted = {image_id: name for outcome in outcomes for image_id, name in outcome.accepted}
        failures = [rejection for outcome in outcomes for rejection in outcome.rejected]
        results = {
            result["image_id"]: result for result in self.client.results(job_id) if result["image_id"] in accepted
        }
        answered = {image_id: result for image_id, result in results.items() if result["status"] == "done"}
        failures += [
            (accepted[image_id], str(result["error"]["message"]))
            for image_id, result in results.items()
            if result["status"] == "failed"
        ]
        mistakes = [
            (accepted[image_id], self.images.truth[accepted[image_id]], str(result["label"]))
            for image_id, result in answered.items()
            if self.images.truth and self.images.truth[accepted[image_id]] != result["label"]
        ]
        known = bool(self.images.truth)
        status = self.client.status(job_id)
        last = _seconds_since(started, status["last_result_at"])
        return Summary(
            job_id=job_id,
            started_at=started,
            images=progress.total,
            right=len(answered) - len(mistakes) if known else None,
            wrong=len(mistakes) if known else None,
            failed=len(failures),
            lost=progress.total - len(answered) - len(failures),
            images_per_second=round((len(answered) + len(failures)) / last, 1) if last else 0.0,
            peak_workers=progress.peak_workers,
            first_result_s=_seconds_since(started, status["first_result_at"]),
            last_result_s=last,
            labels=Counter(str(result["label"]) for result in answered.values()),
            failures=failures,
            mistakes=mistakes,
            model=_model(answered.values()),
        )


def _seconds_since(started: float, moment: str | None) -> float:
    return 0.0 if moment is None else round(datetime.fromisoformat(moment).timestamp() - started, 2)


def _model(results: Any) -> str:
    names = {f"{result['model']['name']}@{result['model']['digest'][:8]}" for result in results if result["model"]}
    return ", ".join(sorted(names))
