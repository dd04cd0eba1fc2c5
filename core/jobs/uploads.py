"""What a repeated upload finds of the first one: the job of its key, and its images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from operator import itemgetter
from typing import Self

from core.ids import ImageRef, pack_of
from core.jobs.items import deflated, inflated, job_model_attributes, job_model_in, partition
from core.jobs.models import ImageRecord, Job
from core.model_catalog import JobModel
from services.table import EXPIRES_AT, IS_NEW, Item, Table

CLAIM_LIFETIME = timedelta(hours=24)
"""Time for which a key stands for its job."""

_SORT_KEY = "JOB"

MAX_FILES = 250
"""Maximum files of an upload with a key: with the longest names they fit into an item of 400 KB."""

UploadedImages = Mapping[int, ImageRecord]
"""Images by the place of their file in the request, from 0."""

UPLOAD_KEY = "KEY#"


@dataclass(frozen=True, slots=True)
class Claim:
    """The job of an idempotency key.

    Attributes:
        job_id: the job that the first request with the key creates.
        at: when it arrived.
        model: of the job, so that a repeat creates the same one after a change of the default.
    """

    job_id: str
    request: str
    at: datetime
    stored: bool = False
    model: JobModel | None = None


@dataclass(frozen=True)
class Claims:
    """The claims of one user: which job an idempotency key has created, so that a repeat creates no second one.

    A claim is an item of the job table (`CLAIM#` digest of owner and key, `JOB`). It is written before the job, and
    only if no claim is in force; once the job is created, the claim is marked as `stored`. So a process that dies in
    between leaves a claim that names the job which is still to be created. Another user with the same key has another
    claim.
    """

    table: Table
    owner: str = ""

    def find(self, key: str, now: datetime) -> Claim | None:
        """Return the claim in force for `key` at `now`, if any."""
        item = self.table.get(self._partition(key), _SORT_KEY)
        if item is None or int(item[EXPIRES_AT]) <= now.timestamp():
            return None
        at = datetime.fromisoformat(str(item["at"]))
        return Claim(str(item["job_id"]), str(item["request"]), at, "stored" in item, job_model_in(item))

    def acquire(self, key: str, claim: Claim) -> Claim:
        """Store `claim` unless another claim is in force for `key`; return the claim in force."""
        item: Item = {
            "pk": self._partition(key),
            "sk": _SORT_KEY,
            "job_id": claim.job_id,
            "request": claim.request,
            "at": claim.at.isoformat(),
            EXPIRES_AT: int((claim.at + CLAIM_LIFETIME).timestamp()),
            **job_model_attributes(claim.model),
        }
        free = "attribute_not_exists( #pk ) OR #expires_at <= :now"
        is_stored = self.table.put_if(item, free, {"now": int(claim.at.timestamp())})
        return claim if is_stored else self.find(key, claim.at) or claim

    def mark_stored(self, key: str) -> None:
        """Record that the job of `key` has been created."""
        self.table.set(self._partition(key), _SORT_KEY, {"stored": 1})

    def _partition(self, key: str) -> str:
        # A digest, since the client chooses the key and a table's keys are bounded; no key contains a space.
        text = f"{self.owner} {key}" if self.owner else key
        return f"CLAIM#{sha256(text.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class FirstUpload:
    """The first request with a key: a repeat of it accepts its images and no others.

    It is an item in its job's partition (`KEY#` key), which is written once, after the objects were put or before the
    forms are given out, and before any image is recorded. It has what a repeat needs to record the images.

    Attributes:
        digest: of all files: a request with other files has another one.
        images: may become images of the job; all of each pack.
    """

    digest: str
    images: UploadedImages = field(default_factory=dict)

    @classmethod
    def find(cls, table: Table, job: Job, key: str) -> Self | None:
        """Return the first upload into a job with a key, or None."""
        item = table.get(partition(job.job_id), f"{UPLOAD_KEY}{key}")
        if item is None:
            return None
        # A later release may add values at the end.
        lines = [line[:6] for line in json.loads(inflated(str(item["images"])))]
        sizes: dict[str, tuple[int, ...]] = {}
        for _, image_id, _, size, _, _ in sorted(lines, key=itemgetter(1)):
            sizes[pack_of(image_id)] = (*sizes.get(pack_of(image_id), ()), size)
        images = {
            index: ImageRecord(
                ImageRef(job.job_id, image_id),
                filename,
                extension,
                sizes[pack_of(image_id)],
                datetime.fromisoformat(at),
                owner=job.owner,
                model=job.requested_model,
            )
            for index, image_id, filename, _, extension, at in lines
        }
        return cls(str(item["digest"]), images)

    def claim(self, table: Table, job_id: str, key: str) -> bool:
        """Store this upload unless there is one with the key; return whether it is the one that is stored."""
        lines = [
            [index, each.ref.image_id, each.filename, each.size, each.extension, each.accepted_at.isoformat()]
            for index, each in self.images.items()
        ]
        item = {
            "pk": partition(job_id),
            "sk": f"{UPLOAD_KEY}{key}",
            "digest": self.digest,
            "images": deflated(json.dumps(lines, ensure_ascii=False)),
        }
        # After a lost reply botocore repeats the call, and the repeat finds the item that the first call has written.
        return table.put_if(item, IS_NEW) or table.get(item["pk"], item["sk"]) == item
