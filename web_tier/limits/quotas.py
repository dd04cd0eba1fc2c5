"""How many images and bytes a caller may have accepted in a day (UTC), counted in the job table.

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

from services.config import Limits
from services.table import EXPIRES_AT, Item, Table

_DAY = timedelta(days=1)
_KEPT = timedelta(days=3)
_log = logging.getLogger(__name__)


class QuotaExceededError(TooManyRequests):
    """Raised when a caller has sent, or would with this request have sent, more than a day's images or bytes."""

    name = "Quota Exceeded"


@dataclass(frozen=True, slots=True)
class Amount:
    """Some images, and how many bytes they have together."""

    images: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Left:
    """What a caller may still send today, None for without limit, and when that begins anew."""

    images: int | None
    bytes: int | None
    renewed_at: datetime


@dataclass(frozen=True)
class Quotas:
    """The quotas of all callers.

    Attributes:
        table: the job table.
        limits: `images_per_day` and `bytes_per_day`; 0 is no limit.
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
        if self._is_unlimited or not amount.images:
            return now
        if not self._fits(caller, amount, now):
            raise self._refusal(caller, amount, now)
        return now

    def give_back(self, caller: str, amount: Amount, at: datetime) -> None:
        """Count an `amount` no more that was charged `at` that time; what fails is logged, since all else is done."""
        if self._is_unlimited or not amount.images:
            return
        try:
            self._add(caller, Amount(-amount.images, -amount.bytes), at)
        except (BotoCoreError, ClientError):
            _log.exception("a quota could not be given back", extra={"images": amount.images})

    def left(self, caller: str) -> Left:
        """Return what the caller may still send today."""
        now = self.clock()
        spent = Amount(0, 0) if self._is_unlimited else self._spent(caller, now)
        return Left(
            _rest(self.limits.images_per_day, spent.images), _rest(self.limits.bytes_per_day, spent.bytes), _end(now)
        )

    @property
    def _is_unlimited(self) -> bool:
        return not (self.limits.images_per_day or self.limits.bytes_per_day)

    def _fits(self, caller: str, amount: Amount, now: datetime) -> bool:
        bounds = (
            ("images", self.limits.images_per_day, amount.images),
            ("bytes", self.limits.bytes_per_day, amount.bytes),
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
        amounts = {"images": amount.images, "bytes": amount.bytes}
        expires_at = int((_end(at) + _KEPT).timestamp())
        return self.table.add(*_key(caller, at), amounts, {EXPIRES_AT: expires_at}, condition, values)

    def _spent(self, caller: str, now: datetime) -> Amount:
        item = self.table.get(*_key(caller, now)) or {}
        return Amount(int(item.get("images", 0)), int(item.get("bytes", 0)))

    def _refusal(self, caller: str, amount: Amount, now: datetime) -> QuotaExceededError:
        left = self.left(caller)
        if left.images is not None and amount.images > left.images:
            most, still = f"{self.limits.images_per_day:,} images", f"{left.images:,}"
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
