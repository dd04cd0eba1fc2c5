"""One batch through the public API: upload, wait for all results, compare with the true labels, and its cost."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from core.format import dollars
from fleetsight_client.api import ApiClient, ApiError, RejectedFile, UploadResult
from fleetsight_client.retries import PatientCalls, StoppedError
from scripts.run.images import ImageSet
from services.clock import CLOCK, Clock
from services.errors import FleetsightError

BATCH_FILES, LARGE_BATCH_FILES = 20, 50
"""Files in one POST: few enough that the progress bar moves, many enough that requests cost little."""

LARGE_JOB = 500
"""The number of images from which a job is large, and has larger batches."""

UPLOADERS = 4
POLL_SECONDS, MAX_POLL_SECONDS = 0.1, 0.25
"""Shortest and longest pause between two polls of the job; its counts are stored four times a second at most."""

LEFT_SHARE = 0.25
"""The pause as a share of the time that is left at the rate so far, so that the end of the batch is not seen late."""

FLEET_SECONDS = 1.0
"""Time between two polls of the fleet, which changes more slowly than the job; its status costs the server more."""

STALLED_SECONDS = 180.0
"""After this time without a new result, the remaining images count as lost."""

PATIENCE_SECONDS = 90.0
"""After this time of failed tries, a call is given up."""

MAX_TRIES = 12
"""How often an image is sent that the server cannot store, once a second."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class AwsCost:
    """The cost of a job on AWS: billed instance-seconds, at least 60 per start, and US dollars."""

    billed_seconds: float = 0.0
    instances_dollars: float = 0.0
    requests_dollars: float = 0.0

    @property
    def dollars(self) -> float:
        """The dollars of instances and requests together."""
        return self.instances_dollars + self.requests_dollars

    def __str__(self) -> str:
        """Return the cost as text, such as `$0.0047 (120 s of instances; requests $0.0013)`."""
        requests = dollars(self.requests_dollars)
        return f"{dollars(self.dollars)} ({self.billed_seconds:,.0f} s of instances; requests {requests})"


def job_cost(status: Mapping[str, Any]) -> AwsCost:
    """Return the cost in a job's status, or zero if the status has none."""
    cost = status.get("cost")
    if not cost:
        return AwsCost()
    return AwsCost(cost["billed_seconds"], cost["instances_dollars"], cost["requests_dollars"])


class InterruptedBatchError(FleetsightError):
    """Raised when the run is stopped, or the system has ended, during a batch."""


@dataclass
class BatchProgress:
    """The progress of a batch, for the progress bar."""

    total: int
    uploaded: int = 0
    classified: int = 0
    workers: int = 0
    peak_workers: int = 0

    @property
    def waiting(self) -> int:
        """The number of images that were accepted and have no result yet."""
        return max(0, self.uploaded - self.classified)


@dataclass(frozen=True)
class BatchSummary:
    """The result of a batch. Without true labels `right` and `wrong` are None; times are seconds from its start.

    Attributes:
        no_truth: images with a label, and without a known true label.
        mistakes: names, true labels and answered labels.
    """

    job_id: str
    started_at: float
    """Epoch seconds."""
    images: int
    right: int | None
    wrong: int | None
    no_truth: int
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
    """Uploads `images` and waits for their results.

    Attributes:
        keep: whether the system keeps the images after their classification.
        model: name of the model; None for that of new jobs.
    """

    client: ApiClient
    images: ImageSet
    show: Callable[[BatchProgress], None]
    interrupted: Callable[[], bool] = lambda: False
    clock: Clock = CLOCK
    keep: bool = False
    model: str | None = None
    _began: float = field(default=0.0, init=False)
    _fleet_at: float = field(default=float("-inf"), init=False)

    def run(self) -> BatchSummary:
        """Run the batch and return its summary.

        Raises:
            ApiError: the API rejects the job, or an upload.
            GaveUpError: the API does not answer for `PATIENCE_SECONDS`.
            InterruptedBatchError: `interrupted` returned true.
        """
        progress = BatchProgress(len(self.images.files))
        started, self._began = self.clock.epoch_seconds(), self.clock.monotonic()
        key = str(uuid.uuid4())
        job_id = self._call(
            lambda: self.client.create_job(self.images.title, keep=self.keep, key=key, model=self.model)
        )
        size = BATCH_FILES if progress.total < LARGE_JOB else LARGE_BATCH_FILES
        with ThreadPoolExecutor(UPLOADERS) as uploaders:
            uploads = [uploaders.submit(self._upload, job_id, at, size) for at in range(0, progress.total, size)]
            # Uploads begin in order: when the last ones have ended, few others run, and the executor waits for those.
            # To look at all of them each time would take longer, the more there are.
            while wait(uploads[-UPLOADERS:], timeout=self._poll_pause(progress)).not_done:
                self._poll(job_id, progress)
        results = [upload.result() for upload in uploads]
        self._await_results(job_id, progress, sum(len(result.accepted) for result in results))
        return self._summary(job_id, results, progress, started)

    def _call(self, action: Callable[[], _T]) -> _T:
        """Return the result of a call that may be repeated, while the server does not answer."""
        calls = PatientCalls(patience_seconds=PATIENCE_SECONDS, clock=self.clock.monotonic, wait=self._pause)
        try:
            return calls.call(action)
        except StoppedError as error:
            raise InterruptedBatchError("the job was interrupted") from error

    def _pause(self, seconds: float) -> bool:
        """Pause for up to `seconds`; return whether the run is to stop."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until and not self.interrupted():
            self.clock.sleep(POLL_SECONDS)
        return self.interrupted()

    def _upload(self, job_id: str, first: int, count: int) -> UploadResult:
        """Upload `count` files from number `first` on; their positions keep the order of the files."""
        files = self.images.files[first : first + count]
        content = {first + at: (self.images.name_of(path), path.read_bytes()) for at, path in enumerate(files)}
        outcome: dict[int, str | RejectedFile] = {}
        unsent = list(content)
        for _ in range(MAX_TRIES):
            # With the key, images that the API has accepted without an acknowledgement are not added again.
            send = partial(self.client.send_images, job_id, [content[at] for at in unsent], str(uuid.uuid4()))
            remaining = len(self.images.files) - first - count
            sent = self._call(partial(send, positions=unsent, remaining=max(0, remaining)))
            outcome |= {unsent[index]: each for index, each in sent.items()}
            unsent = [at for at in unsent if isinstance(each := outcome[at], RejectedFile) and each.may_pass]
            if not unsent or self._pause(1.0):
                break
        return UploadResult.from_outcome(outcome, {at: name for at, (name, _) in content.items()})

    def _poll_pause(self, progress: BatchProgress) -> float:
        took = self.clock.monotonic() - self._began
        left = took * (progress.total - progress.classified) / progress.classified if progress.classified else took
        return min(MAX_POLL_SECONDS, max(POLL_SECONDS, LEFT_SHARE * left))

    def _poll(self, job_id: str, progress: BatchProgress) -> None:
        if self.interrupted():
            raise InterruptedBatchError("the job was interrupted")
        try:
            status = self.client.status(job_id)
            if self.clock.monotonic() - self._fleet_at >= FLEET_SECONDS:
                self._poll_fleet(progress)
        except ApiError:
            return  # the supervisor restarts the web tier, and reports it; the last progress stays
        progress.uploaded = status["accepted"]
        progress.classified = status["done"] + status["failed"]
        self.show(progress)

    def _poll_fleet(self, progress: BatchProgress) -> None:
        self._fleet_at = self.clock.monotonic()
        if (fleet := self.client.fleet()) is not None:
            progress.workers = fleet["running"] + fleet["pending"]
            progress.peak_workers = max(progress.peak_workers, progress.workers, fleet["peak_workers"])

    def _await_results(self, job_id: str, progress: BatchProgress, accepted: int) -> None:
        last, since = -1, self.clock.monotonic()
        while progress.classified < accepted or progress.uploaded < accepted:
            if progress.classified != last:
                last, since = progress.classified, self.clock.monotonic()
            elif self.clock.monotonic() - since > STALLED_SECONDS:
                break
            self.clock.sleep(self._poll_pause(progress))
            self._poll(job_id, progress)
        with suppress(ApiError):
            self._poll_fleet(progress)  # the summary has the peak of the whole batch

    def _summary(
        self, job_id: str, uploads: Sequence[UploadResult], progress: BatchProgress, started: float
    ) -> BatchSummary:
        accepted = {image_id: name for upload in uploads for image_id, name in upload.accepted}
        failures = [rejection for upload in uploads for rejection in upload.rejected]
        listed = self._call(lambda: list(self.client.results(job_id)))
        results = {result["image_id"]: result for result in listed if result["image_id"] in accepted}
        answered = {image_id: result for image_id, result in results.items() if result["status"] == "done"}
        failures += [
            (accepted[image_id], str(result["error"]["message"]))
            for image_id, result in results.items()
            if result["status"] == "failed"
        ]
        truth = self.images.truth
        judged = [
            (name, truth[name], str(result["label"]))
            for image_id, result in answered.items()
            if (name := accepted[image_id]) in truth
        ]
        mistakes = [(name, label, answer) for name, label, answer in judged if label != answer]
        models = [result["model"] for result in answered.values() if result["model"]]
        status = self._call(lambda: self.client.status(job_id))
        last = _seconds_since(started, status["last_result_at"])
        return BatchSummary(
            job_id=job_id,
            started_at=started,
            images=progress.total,
            right=len(judged) - len(mistakes) if truth else None,
            wrong=len(mistakes) if truth else None,
            no_truth=len(answered) - len(judged),
            failed=len(failures),
            lost=progress.total - len(answered) - len(failures),
            images_per_second=round((len(answered) + len(failures)) / last, 1) if last else 0.0,
            peak_workers=progress.peak_workers,
            first_result_s=_seconds_since(started, status["first_result_at"]),
            last_result_s=last,
            labels=Counter(str(result["label"]) for result in answered.values()),
            failures=failures,
            mistakes=mistakes,
            model=", ".join(sorted({f"{model['name']}@{model['digest'][:8]}" for model in models})),
        )


def _seconds_since(started: float, moment: str | None) -> float:
    return 0.0 if moment is None else round(datetime.fromisoformat(moment).timestamp() - started, 2)
