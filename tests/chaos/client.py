"""The client of a campaign sends every file until it is acknowledged; afterwards it checks every image."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef
from core.predictions import stored_prediction
from fleetsight_client.api import ApiClient, ApiError, UploadResult
from scripts.run.system import System
from services.ec2 import Fleet
from services.s3 import Bucket
from services.sqs import Queue

BATCH_FILES = 20
"""Images in one request."""

UPLOADERS = 4
PAUSE_SECONDS = 0.25
"""The pause before a request without an answer is repeated."""

JOB_IMAGES = 200
"""Images of one job; the campaign decides before each job whether it sends another."""

T = TypeVar("T")
Finding = Literal["lost", "doubled", "wrong", "failed", "unexpected", "disagreeing", "left over"]
MAX_EXAMPLES: Final = 5
POLL_SECONDS: Final = 0.25
READERS: Final = 16


class UnansweredError(ApiError):
    """Raised when a request has had no answer for `patience_seconds`."""


@dataclass
class ChaosClient:
    """Uploads files into jobs, and repeats each request under its idempotency key until it has an answer.

    Attributes:
        images: contents with their true labels.
        patience_seconds: how long a request is repeated.
        acknowledged: job, filename and index in `images` by image id.
        rejected: reasons by filename.
    """

    api: ApiClient
    images: Sequence[tuple[bytes, str]]
    patience_seconds: float
    acknowledged: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, should_continue: Callable[[int], bool]) -> None:
        """Send images in jobs of `JOB_IMAGES`, as long as `should_continue` is true for the number of sent images.

        Raises:
            UnansweredError: a request had no answer.
        """
        first = 0
        while should_continue(first):
            job_id = self._retry_until_answered(
                partial(self.api.create_job, f"campaign {first}", key=f"campaign-{first}")
            )
            self.jobs.append(job_id)
            batches = [range(at, at + BATCH_FILES) for at in range(first, first + JOB_IMAGES, BATCH_FILES)]
            with ThreadPoolExecutor(UPLOADERS) as uploaders:
                list(uploaders.map(partial(self._send_batch, job_id), batches))
            first += JOB_IMAGES

    def _send_batch(self, job_id: str, numbers: Sequence[int]) -> None:
        files = [(f"{number}.jpg", self.images[number % len(self.images)][0]) for number in numbers]
        result: UploadResult = self._retry_until_answered(
            lambda: self.api.add_images(job_id, files, key=f"slice-{numbers[0]}")
        )
        with self._lock:
            for image_id, name in result.accepted:
                number = int(name.removesuffix(".jpg")) % len(self.images)
                self.acknowledged[image_id] = (job_id, name, number)
            self.rejected.update(result.rejected)

    def _retry_until_answered(self, call: Callable[[], T]) -> T:
        """Repeat a call until it is answered; its idempotency key makes that safe."""
        ends = time.monotonic() + self.patience_seconds
        while True:
            try:
                return call()
            except ApiError as error:
                if time.monotonic() > ends:
                    raise UnansweredError(f"not answered for {self.patience_seconds:g} s: {error}") from error
                time.sleep(PAUSE_SECONDS)


@dataclass
class CampaignVerdict:
    """The findings of the check: their counts, and the first examples of each."""

    images: int = 0
    counts: Counter[Finding] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, finding: Finding, example: str) -> None:
        """Count a finding."""
        self.counts[finding] += 1
        if self.counts[finding] <= MAX_EXAMPLES:
            self.examples.append(f"{finding}: {example}")

    @property
    def is_clean(self) -> bool:
        """Whether there are no findings."""
        return not self.counts


class ProgressWatcher(threading.Thread):
    """Polls the jobs of a client, and records when new results appear.

    Attributes:
        moments: of new results, in monotonic seconds; the first is the start.
    """

    def __init__(self, client: ChaosClient) -> None:
        super().__init__(name="progress", daemon=True)
        self._client, self._stopped, self._seen = client, threading.Event(), 0
        self.moments = [time.monotonic()]
        self._is_finished = False

    def run(self) -> None:
        """Poll until stopped."""
        while not self._stopped.wait(POLL_SECONDS):
            self._is_finished = self._poll()

    def wait(self, patience_seconds: float) -> None:
        """Wait until every acknowledged image has a result, or no new result has appeared for `patience_seconds`."""
        self._is_finished = False
        began = time.monotonic()
        while not self._is_finished and time.monotonic() - max(began, self.moments[-1]) < patience_seconds:
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop polling."""
        self._stopped.set()
        self.join()

    def _poll(self) -> bool:
        """Return whether every acknowledged image has a result."""
        acknowledged, jobs = len(self._client.acknowledged), list(self._client.jobs)
        try:
            statuses = [self._client.api.status(job_id) for job_id in jobs]
        except ApiError:
            return False
        answered = sum(int(status["done"]) + int(status["failed"]) for status in statuses)
        if answered > self._seen:
            self._seen = answered
            self.moments.append(time.monotonic())
        return bool(statuses) and answered >= acknowledged and all(each["state"] == "finished" for each in statuses)


def check_images(system: System, client: ChaosClient, patience_seconds: float) -> CampaignVerdict:
    """Compare visible results, stored predictions and acknowledged images; all faults must have ended."""
    verdict = CampaignVerdict(images=len(client.acknowledged))
    visible = {job_id: list(client.api.results(job_id)) for job_id in client.jobs}
    for name, reason in client.rejected.items():
        verdict.add("failed", f"{name} was refused: {reason}")
    for job_id, results in visible.items():
        _check_job(client, job_id, results, verdict)
    _check_objects(system, visible, verdict)
    ends = time.monotonic() + patience_seconds
    while (left := list(_list_left_over(system))) and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
    for what in left:
        verdict.add("left over", what)
    return verdict


def _check_job(client: ChaosClient, job_id: str, results: list[dict[str, Any]], verdict: CampaignVerdict) -> None:
    names = Counter(str(result["filename"]) for result in results)
    by_id = {str(result["image_id"]): result for result in results}
    known = {image_id: value for image_id, value in client.acknowledged.items() if value[0] == job_id}
    for name, times in names.items():
        if times > 1:
            verdict.add("doubled", f"{name} of job {job_id} is {times} images")
    for image_id in by_id.keys() - known.keys():
        verdict.add("unexpected", f"{by_id[image_id]['filename']} of job {job_id} was never acknowledged")
    for image_id, (_, name, number) in known.items():
        result = by_id.get(image_id)
        if result is None or result["status"] == "waiting":
            verdict.add("lost", f"{name} ({image_id}) of job {job_id} has no result")
        elif result["status"] == "failed":
            verdict.add("failed", f"{name} ({image_id}) of job {job_id}: {result['error']}")
        elif result["label"] != client.images[number][1]:
            verdict.add("wrong", f"{name} ({image_id}): {result['label']}, not {client.images[number][1]}")


def _check_objects(system: System, visible: dict[str, list[dict[str, Any]]], verdict: CampaignVerdict) -> None:
    outputs = Bucket.named(system.clients, system.config.names.output_bucket)
    answered = [
        (ImageRef(job_id, str(result["image_id"])), result)
        for job_id, results in visible.items()
        for result in results
        if result["status"] in {"done", "failed"}
    ]

    def disagreement(item: tuple[ImageRef, dict[str, Any]]) -> str | None:
        ref, result = item
        stored = stored_prediction(ref, outputs)
        if stored is None:
            return f"{ref.image_id} is {result['status']}, and no prediction is stored"
        if (stored.status, stored.label) != (result["status"], result.get("label")):
            shown = f"{result['status']} {result.get('label')}"
            return f"{ref.image_id}: {shown}, in the bucket {stored.status} {stored.label}"
        return None

    with ThreadPoolExecutor(READERS) as readers:
        for found in readers.map(disagreement, answered):
            if found is not None:
                verdict.add("disagreeing", found)


def _list_left_over(system: System) -> Iterator[str]:
    """Yield a sentence for each queue with messages, and for the fleet if it has not ended."""
    config, clients = system.config, system.clients
    names = config.names
    try:
        for name in (names.request_queue, names.response_queue, names.dead_letter_queue):
            counts = Queue.named(clients.sqs, config.queue_name(name)).counts()
            if counts.total:
                yield f"{counts.total} messages in {name}"
        alive = Fleet(clients.ec2, names.worker_instance).instances(("pending", "running"))
        if len(alive) > config.fleet.min_workers:
            yield f"{len(alive)} instances"
    except (BotoCoreError, ClientError) as error:
        yield f"the cloud does not answer: {error}"
