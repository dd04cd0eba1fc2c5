"""Slices: what a request that may be repeated has put, so that a repeat accepts the same images and no others.

A slice is an item in its job's partition of the job table (`SLICE#` key): the images that the first request with that
key put into the input bucket, or that it was given forms for (`services/forms.py`), written before any of them is
recorded and only once. Where files were sent it also has their digest, by which a request with other files is told
apart.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.ids import ImageRef
from core.job_items import partition
from core.job_records import ImageRecord
from services.errors import FleetsightError
from services.table import Table

MAX_FILES = 250
"""Files of a slice: with the longest names they fit into an item of 400 KB."""

SlicedImages = Mapping[int, ImageRecord]
"""Images by the position of their file in the request, from 0."""


class ReusedKeyError(FleetsightError):
    """Raised when an Idempotency-Key comes with other files than the first time."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What the first request with a key has put.

    Attributes:
        images: those that may become images of the job.
        digest: of all its files; empty where forms were given, and in slices of earlier versions.
    """

    images: SlicedImages
    digest: str = ""


@dataclass(frozen=True)
class UploadManifests:
    """Reads and writes slices in the job table."""

    table: Table

    def claim(self, job_id: str, key: str, images: SlicedImages, digest: str = "") -> bool:
        """Write what the slice `key` consists of unless another is written already; return True if it was written."""
        lines = [
            [
                index,
                image.ref.image_id,
                image.filename,
                image.key,
                image.size,
                image.accepted_at.isoformat(),
                int(image.cached),
            ]
            for index, image in images.items()
        ]
        item = {
            "pk": partition(job_id),
            "sk": f"SLICE#{key}",
            "images": json.dumps(lines, ensure_ascii=False),
            **({"digest": digest} if digest else {}),
        }
        if self.table.put_if(item, "attribute_not_exists( #pk )"):
            return True
        # After a lost reply botocore repeats the call, and the repeat finds the item that the first one has written.
        return self.table.get(str(item["pk"]), str(item["sk"])) == item

    def find(self, job_id: str, key: str) -> Slice | None:
        """Return what the slice `key` consists of, or None if it was never written."""
        item = self.table.get(partition(job_id), f"SLICE#{key}")
        if item is None:
            return None
        images = dict(_image(job_id, line) for line in json.loads(str(item["images"])))
        return Slice(images, str(item.get("digest", "")))


def _image(job_id: str, line: tuple[int, str, str, str, int, str, int]) -> tuple[int, ImageRecord]:
    index, image_id, filename, key, size, accepted_at, cached = line
    ref, accepted = ImageRef(job_id, image_id), datetime.fromisoformat(accepted_at)
    return index, ImageRecord(ref, filename, key, size, accepted, cached=bool(cached))
