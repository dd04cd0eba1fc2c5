"""The result cache: results by the bytes of their image, so that a repeated image needs no worker.

An entry is an item in the job table: `CACHE#` SHA-256 of the image, and the digest of the bundle that classified it.
So a result is repeated only for the same bytes and the same model, and with the labels of all its classes. Entries
contain no image and no name, and expire.

Entries belong to the owner of the job (`CACHE#` owner `#` SHA-256): a fast answer would reveal to a user that another
user has sent the same bytes, and its source in which job.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.ids import ImageRef, output_key
from core.messages import ClassificationResult, Timings
from services.table import EXPIRES_AT, Item, Table

_log = logging.getLogger(__name__)

MARGIN = timedelta(hours=1)
"""Time before its expiry at which an entry is no longer used: its reader may have to read it again after a
failure."""


@dataclass(frozen=True)
class ResultCache:
    """Reads and writes the entries in the job table.

    Attributes:
        lifetime: lifetime of an entry; each worker that classifies the same bytes renews it. Zero disables the cache.
    """

    table: Table
    lifetime: timedelta

    def put_results(
        self, responses: Sequence[ClassificationResult], now: datetime, owners: Mapping[str, str]
    ) -> None:
        """Store those of `responses` that may be repeated: done, by a worker, of known bytes and a known model.

        Args:
            responses: of any jobs.
            now: the time of day.
            owners: the owner of each job, by the job's id; results of other jobs are not stored.

        An entry that cannot be stored is left out: its image will be classified again.
        """
        if not self.lifetime:
            return
        expires_at = int((now + self.lifetime).timestamp())
        entries = (_entry(response, owners.get(response.job_id), expires_at) for response in responses)
        # By key, since a batch must not contain the same key twice.
        left = self.table.put_each(list({(entry["pk"], entry["sk"]): entry for entry in entries if entry}.values()))
        if left:
            _log.warning("results were not cached", extra={"n": len(left), "reason": str(left[0][1])})

    def find(
        self, owner: str, digests: Collection[str], model_digest: str, now: datetime
    ) -> Mapping[str, ClassificationResult]:
        """Return `owner`'s results that are valid at `now` for those of `digests` in the cache, by the SHA-256."""
        if not self.lifetime:
            return {}
        items = self.table.get_all([(_partition(digest, owner), model_digest) for digest in set(digests)])
        last = (now + MARGIN).timestamp()
        found = [
            ClassificationResult.from_json(str(item["response"])) for item in items if int(item[EXPIRES_AT]) > last
        ]
        return {response.sha256: response for response in found if response.sha256}


def repeated(response: ClassificationResult, ref: ImageRef, recorded_at: datetime) -> ClassificationResult:
    """Return the cached `response` as the result of the image `ref`."""
    own = {"job_id": ref.job_id, "image_id": ref.image_id, "recorded_at": recorded_at}
    delivery = {"key": None, "sha256": None, "attempts": 0, "attempt": 0, "repeated": False}
    return response.model_copy(update={**own, **delivery, "cached": True, "source": output_key(response.ref)})


def _entry(response: ClassificationResult, owner: str | None, expires_at: int) -> Item | None:
    if response.status != "done" or response.cached or not (response.key and response.sha256 and response.model):
        return None
    if owner is None:
        return None
    kept = response.model_copy(update={"timings": Timings(), "queued_at": None, "traceparent": None})
    return {
        "pk": _partition(response.sha256, owner),
        "sk": response.model.digest,
        "response": kept.to_json(),
        EXPIRES_AT: expires_at,
    }


def _partition(digest: str, owner: str) -> str:
    return f"CACHE#{owner}#{digest}" if owner else f"CACHE#{digest}"
