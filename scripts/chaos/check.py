"""What a campaign checks once everything has come to rest: each image's result, and what was left behind."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef
from core.predictions import stored_prediction
from scripts.chaos.client import Client
from scripts.client import ApiError
from scripts.run.system import System
from services.ec2 import Fleet
from services.s3 import Bucket
from services.sqs import Queue

Finding = Literal["lost", "doubled", "wrong", "failed", "unexpected", "disagreeing", "left over"]
FINDINGS: Final[tuple[Finding, ...]] = (
    "lost",
    "doubled",
    "wrong",
    "failed",
    "unexpected",
    "disagreeing",
    "left over",
)
MAX_EXAMPLES: Final = 5
POLL_SECONDS: Final = 0.25
READERS: Final = 16


@dataclass
class Verdict:
    """What was found: how often each, and the first examples in words."""

    images: int = 0
    counts: Counter[Finding] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, finding: Finding, example: str) -> None:
        """Count one."""
        self.counts[finding] += 1
        if self.counts[finding] <= MAX_EXAMPLES:
            self.examples.append(f"{finding}: {example}")

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.counts


class Progress(threading.Thread):
    """Watches the jobs of a client, and notes when there were more results than before.

    Attributes:
        moments: when that was, in monotonic seconds; the first is that of the start.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(name="progress", daemon=True)
        self._client, self._stopped, self._seen = client, threading.Event(), 0
        self.moments = [time.monotonic()]
        self._is_finished = False

    def run(self) -> None:
        """Watch until stopped."""
        while not self._stopped.wait(POLL_SECONDS):
            self._is_finished = self._poll()

    def wait(self, patience_seconds: float) -> None:
        """Wait until every acknowledged image has a result, or nothing has changed for `patience_seconds`."""
        self._is_finished = False
        began = time.monotonic()
        while not self._is_finished and time.monotonic() - max(began, self.moments[-1]) < patience_seconds:
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()
        self.join()

    def _poll(self) -> bool:
        """Look once; return True if every acknowledged image has a result."""
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


def check(system: System, client: Client, patience_seconds: float) -> Verdict:
    """Compare what is visible, what is stored, and what the client knows; every fault must be over."""
    verdict = Verdict(images=len(client.acknowledged))
    visible = {job_id: list(client.api.results(job_id)) for job_id in client.jobs}
    for name, reason in client.rejected.items():
        verdict.add("failed", f"{name} was refused: {reason}")
    for job_id, results in visible.items():
        _check_job(client, job_id, results, verdict)
    _check_objects(system, visible, verdict)
    for what in _left_over(system, patience_seconds):
        verdict.add("left over", what)
    return verdict


def _check_job(client: Client, job_id: str, results: list[dict[str, Any]], verdict: Verdict) -> None:
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
        elif result["label"] != client.pictures[number][1]:
            verdict.add("wrong", f"{name} ({image_id}): {result['label']}, not {client.pictures[number][1]}")


def _check_objects(system: System, visible: dict[str, list[dict[str, Any]]], verdict: Verdict) -> None:
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


def _left_over(system: System, patience_seconds: float) -> Iterator[str]:
    """Wait until queues and fleet are empty; yield what is not."""
    ends = time.monotonic() + patience_seconds
    while (left := list(_present(system))) and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
    yield from left


def _present(system: System) -> Iterator[str]:
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
