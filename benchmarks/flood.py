"""One real worker without a controller: on a local cloud, or under a flood on a cloud that is made far away.

The maker of a `FloodBench` keeps the cloud and itself off the worker's core (see
`benchmarks.measure.pinned`). Moments of results are those of the cloud's queues, on the same clock.
"""

import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from benchmarks.measure import CpuSample, Window, busy_seconds, pinned, steady, tree, usages
from core.config import PATH_VARIABLE, load_config
from core.ids import ImageRef, input_key, new_id
from core.messages import ClassificationResult, RequestMessage, parse_worker_message
from core.provision import provision
from localcloud.clients import ControlClient
from localcloud.launch import LocalCloud
from scripts.run.system import ROOT
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue

DELAYS: Final[Mapping[str, float]] = {"s3": 0.020, "sqs": 0.010}
"""Seconds that each call takes longer than on loopback: what S3 and SQS take within a region."""


SAMPLE_SECONDS: Final = 0.1
MAX_SECONDS: Final = 180.0
"""Longest that a worker may take until it has ended by itself."""


@dataclass(frozen=True)
class Cores:
    """Where the worker runs, and where everything else of the measurement does."""

    worker: int
    others: int


@dataclass(frozen=True)
class PinnedWorker:
    """Runs one worker at a time.

    Attributes:
        cores: two different ones.
        log: a file for what the worker says.
    """

    cores: Cores
    log: Path

    def run(self, environment: Mapping[str, str], others: Mapping[str, frozenset[int]]) -> list[CpuSample]:
        """Let a worker start, work and end by itself.

        Args:
            environment: of the worker.
            others: ids of other processes to sample, by the name of their group.

        Returns:
            Samples of the CPU seconds of ``worker`` and of the `others`, and of those of ``worker_core`` and
            ``other_core``, by all processes.

        Raises:
            RuntimeError: it has failed, or has not ended in time.
        """
        samples, cores = [], {"worker_core": self.cores.worker, "other_core": self.cores.others}
        with self.log.open("wb") as log, pinned(self.cores.worker):
            worker = subprocess.Popen(
                [sys.executable, "-m", "app_tier"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        processes = {"worker": frozenset({worker.pid}), **others}
        try:
            deadline = time.monotonic() + MAX_SECONDS
            while worker.poll() is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"the worker has not ended after {MAX_SECONDS:.0f} s: {self._end_of_log()}")
                cpu = {
                    name: sum(usage.cpu_seconds for usage in usages(pids, below=name == "worker").values())
                    for name, pids in processes.items()
                }
                if cpu["worker"]:  # there is none before it runs, and none while it ends
                    cpu |= {name: busy_seconds(core) for name, core in cores.items()}
                    samples.append(CpuSample(time.time(), cpu))
                time.sleep(SAMPLE_SECONDS)
        finally:
            worker.kill()
            worker.wait()
        if worker.returncode:
            raise RuntimeError(f"the worker ended with status {worker.returncode}: {self._end_of_log()}")
        return samples

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]


@dataclass(frozen=True)
class Flood:
    """What one worker did with a flood.

    Attributes:
        images: how many there were.
        window: the steady state.
        samples: at the CPU seconds of ``worker`` and ``cloud``, ``worker_core`` and ``other_core``.
        calls: that the worker made, by service.
        fetched_ms: median wait for an image from S3.
        stored_ms: median wait for a prediction to be put into S3.
    """

    images: int
    window: Window
    samples: Sequence[CpuSample]
    calls: Mapping[str, int]
    fetched_ms: float
    stored_ms: float


class WorkerCloud:
    """A local cloud with the system's buckets and queues, for workers alone.

    Attributes:
        environment: of a worker, without its bundle.
    """

    def __init__(self, cloud: LocalCloud) -> None:
        os.environ |= {name: value for name, value in cloud.environment().items() if name != "AWS_ENDPOINT_URL"}
        self.environment = worker_environment(cloud.endpoint_url)
        config = load_config(ROOT / "config.yaml", self.environment)
        clients, names = Clients(config.aws.endpoint()), config.names
        provision(clients, config)
        self._requests = Queue.named(clients.sqs, config.queue_name(names.request_queue))
        self._responses = Queue.named(clients.sqs, config.queue_name(names.response_queue))
        self._inputs = Bucket.named(clients, names.input_bucket)
        self._job = new_id()

    def put(self, photo: bytes) -> ImageRef:
        """Put an image into the input bucket."""
        ref = ImageRef(self._job, new_id())
        self._inputs.put(input_key(ref, "jpg"), photo, "image/jpeg")
        return ref

    def send(self, refs: Sequence[ImageRef]) -> None:
        """Send the requests of images that were put.

        Raises:
            RuntimeError: the cloud refuses some.
        """
        now = datetime.now(UTC)
        requests = [RequestMessage.about(ref, input_key(ref, "jpg"), now) for ref in refs]
        if self._requests.send([OutgoingMessage(request.image_id, request.to_json()) for request in requests]):
            raise RuntimeError("the local cloud took not all requests")

    def answers(self) -> Iterator[tuple[float, ClassificationResult]]:
        """Yield the responses that there are, each with the moment at which it was sent (epoch seconds)."""
        while received := self._responses.receive(wait_seconds=0):
            self._responses.delete([each.receipt for each in received])
            parsed = ((each.sent_at, parse_worker_message(each.body)) for each in received)
            yield from ((sent_at, each) for sent_at, each in parsed if isinstance(each, ClassificationResult))


class FloodBench(WorkerCloud):
    """A cloud with photos to classify.

    Args:
        cloud: runs on the core of the others; no other child of this process is running.
        worker: is flooded.
    """

    def __init__(self, cloud: LocalCloud, worker: PinnedWorker) -> None:
        super().__init__(cloud)
        self._cloud, self._worker = cloud, worker
        self._cloud_pids = frozenset(tree(os.getpid())) - {os.getpid()}
        self._refs = list[ImageRef]()

    def store(self, photos: Sequence[bytes], count: int) -> None:
        """Put images into the input bucket until there are `count`, each of `photos` as often as it takes."""
        for photo in islice(cycle(photos), len(self._refs), count):
            self._refs.append(self.put(photo))

    def flood(self, bundle: Path, count: int) -> Flood:
        """Let a worker classify the first `count` images and end itself.

        Raises:
            RuntimeError: it failed, or an image was not classified.
        """
        refs = self._refs[:count]
        self.send(refs)
        before = self._calls()
        slow = [{"kind": "slow", "service": name, "seconds": seconds} for name, seconds in DELAYS.items()]
        self._set_switch("faults", slow)
        try:
            environment = self.environment | {"FLEETSIGHT__WORKER__BUNDLE": str(bundle)}
            samples = self._worker.run(environment, {"cloud": self._cloud_pids})
        finally:
            self._set_switch("faults", [])
        made = self._calls() - before
        answers = list(self.answers())
        responses = checked([response for _, response in answers], refs)
        return Flood(
            images=count,
            window=steady([sent_at for sent_at, _ in answers]),
            samples=samples,
            calls={name: sum(made[call] for call in made if call.split()[0] == name) for name in DELAYS},
            fetched_ms=statistics.median(each.timings.fetched or 0.0 for each in responses),
            stored_ms=statistics.median(each.timings.stored or 0.0 for each in responses),
        )

    def _calls(self) -> Counter[str]:
        """Return how often each call of the cloud was made so far."""
        with closing(ControlClient(self._cloud.endpoint_url)) as control:
            return Counter(control.get("calls")["calls"])

    def _set_switch(self, name: str, value: object) -> None:
        with closing(ControlClient(self._cloud.endpoint_url)) as control:
            control.send("PUT", "switches", {name: value})


def checked(responses: Sequence[ClassificationResult], refs: Sequence[ImageRef]) -> Sequence[ClassificationResult]:
    """Return `responses`, which are one for each of `refs`.

    Raises:
        RuntimeError: an image has none, has two, or was not classified.
    """
    failed = [response.error for response in responses if response.status != "done"]
    if failed:
        raise RuntimeError(f"{len(failed)} images were not classified, the first because of {failed[0]}")
    if sorted(response.image_id for response in responses) != sorted(ref.image_id for ref in refs):
        raise RuntimeError(f"{len(refs)} images were sent, but {len(responses)} responses are not one for each")
    return responses


def worker_environment(endpoint_url: str) -> dict[str, str]:
    """Return the environment of a worker that ends soon after its last image, without its bundle."""
    return os.environ | {
        "AWS_ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__AWS__ENDPOINT_URL": endpoint_url,
        "FLEETSIGHT__WORKER__IDLE_SECONDS": "0.3",
        # No metadata service here: refused at once, as a local one that is missing would be.
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9/",
        PATH_VARIABLE: str(ROOT / "config.yaml"),
    }
