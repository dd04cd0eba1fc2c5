"""What a repeated upload finds of the first one: the job of its key, and its images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from core.ids import ImageRef
from core.jobs.items import (
    job_model_attributes,
    job_model_in,
    partition,
    requested_model_attributes,
    requested_model_in,
    stated,
)
from core.jobs.models import ImageRecord
from core.model_catalog import JobModel
from services.table import EXPIRES_AT, Item, Table

CLAIM_LIFETIME = timedelta(hours=24)
"""Time for which a key stands for its job."""

_SORT_KEY = "JOB"

MAX_FILES = 250
"""Maximum files of a manifest: with the longest names they fit into an item of 400 KB."""

ManifestImages = Mapping[int, ImageRecord]
"""Images by the position of their file in the request, from 0."""


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
class UploadManifest:
    """The images of the first request with a key.

    Attributes:
        images: may become images of the job.
        digest: of all files; empty for presigned uploads, and in manifests of earlier versions.
    """

    images: ManifestImages
    digest: str = ""


@dataclass(frozen=True)
class UploadManifests:
    """The manifests of repeatable uploads, so that a repeat accepts the images of the first request and no others.

    A manifest is an item in its job's partition (`SLICE#` key): the images that the first request with that key put
    into the input bucket, or received forms for (`services/s3.py`). It is written once, before any of them is
    recorded. For files that the web tier received it also has their digest, which detects a request with other files.
    """

    table: Table

    def claim(self, job_id: str, key: str, images: ManifestImages, digest: str = "") -> bool:
        """Store the manifest of `key` unless one exists; return whether it was stored."""
        lines = [
            [index, image.ref.image_id, image.filename, image.key, image.size, image.accepted_at.isoformat()]
            for index, image in images.items()
        ]
        owner = next((image.owner for image in images.values()), "")
        model = next((image.model for image in images.values()), None)
        item = {
            "pk": partition(job_id),
            "sk": f"SLICE#{key}",
            "images": json.dumps(lines, ensure_ascii=False),
            **stated({"digest": digest, "owner": owner}),
            **requested_model_attributes(model),
        }
        if self.table.put_if(item, "attribute_not_exists( #pk )"):
            return True
        # After a lost reply botocore repeats the call, and the repeat finds the item that the first call has written.
        return self.table.get(str(item["pk"]), str(item["sk"])) == item

    def find(self, job_id: str, key: str) -> UploadManifest | None:
        """Return the manifest of `key`, or None if it does not exist."""
        item = self.table.get(partition(job_id), f"SLICE#{key}")
        if item is None:
            return None
        images, owner = {}, str(item.get("owner", ""))
        model = requested_model_in(item)
        for line in json.loads(str(item["images"])):
            # A later release may add values at the end.
            index, image_id, filename, key_of_object, size, accepted_at, *_ = line
            ref, accepted = ImageRef(job_id, image_id), datetime.fromisoformat(accepted_at)
            images[index] = ImageRecord(ref, filename, key_of_object, size, accepted, owner=owner, model=model)
        return UploadManifest(images, str(item.get("digest", "")))
