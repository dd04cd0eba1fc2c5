"""Claims: which job a client's idempotency key has made, so that a repeated request makes no second one.

A claim is an item of its own in the job table (`CLAIM#` digest of owner and key, `JOB`), written before the job and
only where none is in force; it is marked `stored` once the job stands. So a process that dies in between leaves a
claim that says which job is still to be made.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from services.table import EXPIRES_AT, Item, Table

LIFETIME = timedelta(hours=24)
"""How long a key stands for its job."""

_SORT_KEY = "JOB"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a key stands for.

    Attributes:
        job_id: the job that the key made, or makes.
        request: digest of the request that the key came with first.
        at: when it came.
        stored: whether the job has been made.
    """

    job_id: str
    request: str
    at: datetime
    stored: bool = False


@dataclass(frozen=True)
class Claims:
    """Reads and writes the claims of one user in the job table; another user with the same key has another claim."""

    table: Table
    owner: str = ""

    def find(self, key: str, now: datetime) -> Claim | None:
        """Return the claim in force for `key` at `now`, if any."""
        item = self.table.get(self._partition(key), _SORT_KEY)
        return None if item is None or int(item[EXPIRES_AT]) <= now.timestamp() else _claim(item)

    def take(self, key: str, claim: Claim) -> Claim:
        """Return the claim in force for `key`: `claim` itself unless another is in force, which then stands."""
        item: Item = {
            "pk": self._partition(key),
            "sk": _SORT_KEY,
            "job_id": claim.job_id,
            "request": claim.request,
            "at": claim.at.isoformat(),
            EXPIRES_AT: int((claim.at + LIFETIME).timestamp()),
        }
        free = "attribute_not_exists( #pk ) OR #expires_at <= :now"
        taken = self.table.put_if(item, free, {"now": int(claim.at.timestamp())})
        return claim if taken else self.find(key, claim.at) or claim

    def mark_stored(self, key: str) -> None:
        """Remember that the job of `key` has been made."""
        self.table.set(self._partition(key), _SORT_KEY, {"stored": 1})

    def _partition(self, key: str) -> str:
        # A digest, since a key is a client's text and a table's keys are bounded; no key has a space in it.
        text = f"{self.owner} {key}" if self.owner else key
        return f"CLAIM#{sha256(text.encode()).hexdigest()}"


def _claim(item: Item) -> Claim:
    return Claim(
        job_id=str(item["job_id"]),
        request=str(item["request"]),
        at=datetime.fromisoformat(str(item["at"])),
        stored="stored" in item,
    )
