"""How many images, bytes and jobs a caller may have accepted in a day (UTC), counted in the job table.

An item for each caller and day (`QUOTA#caller`, the day) is added to in one step, on condition that the limits hold
afterwards: of two requests at once, both see what the other one took. It expires some days later. Where a reply
of the table was lost, the call that is made again may count twice: rather too little is taken than too much.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from math import ceil

from botocore.exceptions import BotoCoreError, ClientError
from werkzeug.exceptions import TooManyRequests

from core.config import Limits
from services.table import EXPIRES_AT, Item, Table

_DAY = timedelta(days=1)
_KEPT = timedelta(days=3)
_log = logging.getLogger(__name__)


class QuotaExceededError(TooManyRequests):
    """Raised when a request would exceed the images, bytes or jobs that a caller may have accepted in a day."""

    name = "Quota Exceeded"


@dataclass(frozen=True, slots=True)
class Amount:
    """Some images, how many bytes they have together, and new jobs."""

    images: int = 0
    bytes: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class Left:
    """What a caller may still send today, None for without limit, and when that begins anew."""

    images: int | None
    bytes: int | None
    jobs: int | None
    renewed_at: datetime


@dataclass(frozen=True)
class Quotas:
    """The quotas of all callers.

    Attributes:
        table: the job table.
        limits: `images_per_day`, `bytes_per_day` and `jobs_per_day`; 0 is no limit.
        clock: the time of day.
    """

    table: Table
    limits: Limits
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def charge(self, caller: str, amount: Amount) -> datetime:
        """Count an `amount` for the caller; return when, for `give_back`.

        Raises:
            QuotaExceededError: when it would be too much; then nothing is counted.
        """
        now = self.clock()
        if self._is_unlimited or amount == Amount():
            return now
        if not self._fits(caller, amount, now):
            raise self._refusal(caller, amount, now)
        return now

    def give_back(self, caller: str, amount: Amount, at: datetime) -> None:
        """Count an `amount` no more that was charged `at` that time; what fails is logged, since all else is done."""
        if self._is_unlimited or amount == Amount():
            return
        try:
            self._add(caller, Amount(-amount.images, -amount.bytes, -amount.jobs), at)
        except (BotoCoreError, ClientError):
            _log.exception("a quota could not be given back", extra={"images": amount.images})

    def left(self, caller: str) -> Left:
        """Return what the caller may still send today."""
        now = self.clock()
        spent = Amount() if self._is_unlimited else self._spent(caller, now)
        return Left(
            _rest(self.limits.images_per_day, spent.images),
            _rest(self.limits.bytes_per_day, spent.bytes),
            _rest(self.limits.jobs_per_day, spent.jobs),
            _end(now),
        )

    @property
    def _is_unlimited(self) -> bool:
        return not (self.limits.images_per_day or self.limits.bytes_per_day or self.limits.jobs_per_day)

    def _fits(self, caller: str, amount: Amount, now: datetime) -> bool:
        bounds = (
            ("images", self.limits.images_per_day, amount.images),
            ("bytes", self.limits.bytes_per_day, amount.bytes),
            ("jobs", self.limits.jobs_per_day, amount.jobs),
        )
        room = {f"most_{name}": most - wanted for name, most, wanted in bounds if most}
        if min(room.values()) < 0:
            return False
        names = [name.removeprefix("most_") for name in room]
        condition = " AND ".join(f"(attribute_not_exists( #{name} ) OR #{name} <= :most_{name})" for name in names)
        return self._add(caller, amount, now, condition, room) is not None

    def _add(
        self, caller: str, amount: Amount, at: datetime, condition: str | None = None, values: Item | None = None
    ) -> Item | None:
        amounts = {"images": amount.images, "bytes": amount.bytes, "jobs": amount.jobs}
        expires_at = int((_end(at) + _KEPT).timestamp())
        return self.table.add(*_key(caller, at), amounts, {EXPIRES_AT: expires_at}, condition, values)

    def _spent(self, caller: str, now: datetime) -> Amount:
        item = self.table.get(*_key(caller, now)) or {}
        return Amount(*(int(item.get(name, 0)) for name in ("images", "bytes", "jobs")))

    def _refusal(self, caller: str, amount: Amount, now: datetime) -> QuotaExceededError:
        left = self.left(caller)
        if left.images is not None and amount.images > left.images:
            most, still = f"{self.limits.images_per_day:,} images", f"{left.images:,}"
        elif left.jobs is not None and amount.jobs > left.jobs:
            most, still = f"{self.limits.jobs_per_day:,} new jobs", f"{left.jobs:,}"
        else:
            most, still = _megabytes(self.limits.bytes_per_day), _megabytes(left.bytes or 0)
        seconds = max(1, ceil((_end(now) - now).total_seconds()))
        return QuotaExceededError(
            f"{most} a day are taken, and {still} of them are left, so nothing of this request was accepted; "
            "send less, or go on after midnight UTC",
            retry_after=seconds,
        )


def _key(caller: str, at: datetime) -> tuple[str, str]:
    return f"QUOTA#{caller}", at.date().isoformat()


def _end(at: datetime) -> datetime:
    """Return the midnight (UTC) at which the day of `at` ends."""
    return datetime.combine(at.date(), time(), UTC) + _DAY


def _rest(most: int, spent: int) -> int | None:
    return max(0, most - spent) if most else None


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.4g} MB"
