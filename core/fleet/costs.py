"""Rows of the cost report: how many images of a job workers answered in a billing period, by model.

| partition    | sort key                                  | content                             | written by |
|--------------|-------------------------------------------|-------------------------------------|------------|
| `COSTS#` day | owner`#`job`#`period`#`digest`#`tenure    | images, the model's name, expires_at | controller |

A row has no cost: it follows from the billing period, since its images share its cost. `day` is the one on which the
period began (UTC). Each tenure of a controller has rows of its own, so their images are absolute figures with one
writer, and no row has to be read before it is written. The rows of a day expire with the day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from core.fleet.store import KEPT_DAYS
from core.messages import Model
from services.table import EXPIRES_AT, LAST, Item, Table

COSTS = "COSTS#"
"""Prefix of the partitions."""

MAX_DAY_ROWS = 10_000
"""Rows of some 200 bytes that one tenure of a controller writes for a day; a report reads no more of it, either."""

_DIGEST_CHARACTERS = 16
"""Characters of a model's digest in a key, after its prefix."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """Images of a job that workers answered in a billing period with one model.

    Attributes:
        day: on which the billing period began (UTC).
        owner: id of the job's user; empty without sign-in.
        model, digest: name of the model, and the beginning of its digest; empty for images without a model, which
            failed before they were classified.
        tenure: fencing token of the controller.
    """

    day: date
    owner: str
    job_id: str
    period: int
    model: str
    digest: str
    tenure: int
    images: int = 0

    @classmethod
    def about(cls, day: date, owner: str, job_id: str, period: int, model: Model | None, tenure: int) -> "CostRow":
        """Return the row, without images yet."""
        digest = "" if model is None else model.digest.removeprefix("sha256:")[:_DIGEST_CHARACTERS]
        return cls(day, owner, job_id, period, "" if model is None else model.name, digest, tenure)


@dataclass(frozen=True)
class CostStore:
    """Reads and writes the rows. botocore's errors pass through, as does `TableBusyError`."""

    table: Table

    def put_rows(self, rows: Sequence[CostRow]) -> None:
        """Store rows, replacing those with the same keys."""
        self.table.put_all([_item(row) for row in rows])

    def rows(self, day: date, owner: str | None = None, limit: int = MAX_DAY_ROWS) -> list[CostRow]:
        """Return up to `limit` rows of a day: of the jobs of `owner`, or of all users for None."""
        # "#" sorts before every character of an owner's id, and begins the keys without an owner.
        low, high = ("#", LAST) if owner is None else (f"{owner}#", f"{owner}#{LAST}")
        return [_row(day, item) for item in self.table.query(_partition(day), low, high, limit=limit)]


def _partition(day: date) -> str:
    return f"{COSTS}{day.isoformat()}"


def _item(row: CostRow) -> Item:
    key = "#".join((row.owner, row.job_id, f"{row.period:08}", row.digest, str(row.tenure)))
    expires = datetime.combine(row.day, time(), UTC) + timedelta(days=KEPT_DAYS)
    return {
        "pk": _partition(row.day),
        "sk": key,
        "images": row.images,
        "model": row.model,
        EXPIRES_AT: int(expires.timestamp()),
    }


def _row(day: date, item: Item) -> CostRow:
    owner, job_id, period, digest, tenure = str(item["sk"]).rsplit("#", 4)
    return CostRow(day, owner, job_id, int(period), str(item["model"]), digest, int(tenure), int(item["images"]))
