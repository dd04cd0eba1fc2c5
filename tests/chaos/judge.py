"""The judge of a campaign: after all faults have ended, every image, object and repair must be accounted for."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import obstore
from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef, pack_of
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.store import JobStore
from scripts.run.system import System
from services.ec2 import Fleet
from services.lease import Tenure
from services.s3 import Bucket
from services.sqs import Queue
from services.table import Table
from tests.chaos.client import POLL_SECONDS, ChaosClient
from tests.support.later_buckets import LaterBuckets
from web_tier.controller.orphans import OrphanSweep

Finding = Literal[
    "lost",
    "doubled",
    "wrong",
    "failed",
    "unexpected",
    "disagreeing",
    "left over",
    "repaired too often",
    "silent",
]
MAX_EXAMPLES: Final = 5
READERS: Final = 16

MAX_REPAIRED_SHARE: Final = 0.005
"""Share of the images that the reconciler may repair of each kind: less than a collector that loses 2%."""

REPAIRS_OF_ANY_CAMPAIGN: Final = 5
"""Repairs of each kind that a campaign may have, however few its images are."""

MAX_SILENT_SECONDS: Final = 60.0
"""The longest time without any result."""

_REPAIRS: Final = {
    "recorded a result after its response was lost": "result found",
    "requested images again": "requested again",
}
"""Kinds of repairs by the message of the controller's log line."""


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


@dataclass(frozen=True)
class Evidence:
    """What is judged besides the images, as the system itself has stored it.

    Attributes:
        recorded: moments at which results became visible, in seconds of the wall clock, in order.
        repairs: images that the reconciler has repaired, by kind.
    """

    recorded: Sequence[float]
    repairs: Mapping[str, int]

    @property
    def longest_silence(self) -> float:
        """The longest time between two results."""
        return max((after - before for before, after in pairwise(self.recorded)), default=0.0)


def judge_evidence(evidence: Evidence, verdict: CampaignVerdict) -> None:
    """Add what the images do not show: the reconciler repairs a loss, and a pause ends."""
    most = REPAIRS_OF_ANY_CAMPAIGN + MAX_REPAIRED_SHARE * verdict.images
    for kind, count in evidence.repairs.items():
        if count > most:
            verdict.add("repaired too often", f"{count} images ({kind}), more than {most:.0f}")
    if evidence.longest_silence > MAX_SILENT_SECONDS:
        verdict.add("silent", f"no result for {evidence.longest_silence:.0f} s")


def count_repairs(lines: Iterable[str]) -> Counter[str]:
    """Return how many images the reconciler has repaired, by kind, from the lines of the controller's log."""
    repairs = Counter[str]()
    for line in lines:
        try:
            entry = json.loads(line)
            kind = _REPAIRS[entry["message"]]
        except (ValueError, KeyError, TypeError):
            continue
        repairs[kind] += int(entry.get("sent", 1))
    return repairs


def controller_log(system: System) -> Path:
    """Return the file with the log lines of all controllers of the campaign."""
    return system.logs / "controller.log"


def check_images(system: System, client: ChaosClient, patience_seconds: float) -> tuple[CampaignVerdict, Evidence]:
    """Compare visible results, stored objects and acknowledged images; all faults must have ended."""
    verdict = CampaignVerdict(images=len(client.acknowledged))
    visible = {job_id: list(client.api.results(job_id)) for job_id in client.jobs}
    for name, reason in client.rejected.items():
        verdict.add("failed", f"{name} was refused: {reason}")
    for job_id, results in visible.items():
        check_job(client, job_id, results, verdict)
    _check_predictions(system, visible, verdict)
    known = {ImageRef(job_id, str(image["image_id"])) for job_id, images in visible.items() for image in images}
    ends = time.monotonic() + patience_seconds
    kept = {ref for ref in known if ref.job_id in client.kept}
    while (left := list(_list_left_over(system))) and time.monotonic() < ends:
        time.sleep(POLL_SECONDS)
    for what in [*left, *_check_objects(system, known, kept)]:
        verdict.add("left over", what)
    recorded = (str(image["recorded_at"]) for images in visible.values() for image in images if image["recorded_at"])
    moments = sorted(datetime.fromisoformat(each).timestamp() for each in recorded)
    with controller_log(system).open(encoding="utf-8", errors="replace") as lines:
        evidence = Evidence(moments, count_repairs(lines))
    judge_evidence(evidence, verdict)
    return verdict, evidence


def check_job(client: ChaosClient, job_id: str, results: list[dict[str, Any]], verdict: CampaignVerdict) -> None:
    """Compare the visible results of a job with its acknowledged images."""
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


def _check_predictions(system: System, visible: dict[str, list[dict[str, Any]]], verdict: CampaignVerdict) -> None:
    names = system.config.names
    outputs = OutputBucket.named(system.clients, names.output_bucket)
    store = JobStore(Table(system.clients.dynamodb, names.job_table))
    answered = [
        (ImageRef(job_id, str(result["image_id"])), result)
        for job_id, results in visible.items()
        for result in results
        if result["status"] in {"done", "failed"}
    ]

    def disagreement(item: tuple[ImageRef, dict[str, Any]]) -> str | None:
        ref, result = item
        stored = outputs.prediction(store.image(ref))
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


_KEY = re.compile(r"([0-9A-Z]{26})/([0-9A-Z]{26})\.[a-z0-9]+")


def refs_of(keys: Iterable[str]) -> Iterator[ImageRef]:
    """Yield the packs or images of the keys of a bucket; other objects are files with all results of a job."""
    for key in keys:
        if match := _KEY.fullmatch(key):
            yield ImageRef(*match.groups())


def _check_objects(system: System, known: set[ImageRef], kept: set[ImageRef]) -> Iterator[str]:
    """Yield a sentence for each object of no pack, and for each kept image without the object of its pack.

    Objects that a sweep of the controller deletes are not left over.
    """

    def pack(ref: ImageRef) -> ImageRef:
        return ImageRef(ref.job_id, pack_of(ref.image_id))

    names, clients, packs = system.config.names, system.clients, {pack(ref) for ref in known}
    store, inputs = JobStore(Table(clients.dynamodb, names.job_table)), InputBucket.named(clients, names.input_bucket)
    OrphanSweep(store, inputs, LaterBuckets(clients.s3), Tenure()).tick()
    for name in (names.input_bucket, names.output_bucket):
        pages = obstore.list(Bucket.named(system.clients, name).store)
        stored = {pack(ref) for ref in refs_of(str(entry["path"]) for page in pages for entry in page)}
        yield from (f"an object of {ref} in {name}, which is no pack" for ref in stored - packs)
        if name == names.input_bucket:
            yield from (f"{ref} is kept, and has no object in {name}" for ref in kept if pack(ref) not in stored)


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
