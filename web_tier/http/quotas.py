"""Quotas: how many images, bytes and jobs of a caller are accepted in a day (UTC), counted in the job table.

Each caller and day has an item (`QUOTA#caller`, the day), which one write increments on condition that the limits
hold afterwards, so concurrent requests cannot exceed them together. The item expires some days later. If a reply of
the table is lost, the repeated call may count twice: a caller may then send too little, never too much.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from math import ceil
from typing import Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from werkzeug.exceptions import TooManyRequests

from core.config import LimitSettings
from core.jobs.models import ImageRecord
from services.clock import CLOCK, Clock
from services.table import EXPIRES_AT, Item, Table

_DAY = timedelta(days=1)
_KEPT = timedelta(days=3)
_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)


class QuotaExceededError(TooManyRequests):
    """Raised when a request would exceed the images, bytes or jobs of a caller in a day."""

    name = "Quota Exceeded"


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of images, their bytes in total, and a number of new jobs."""

    images: int = 0
    bytes: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class RemainingQuota:
    """The rest of a caller's quota of today, None if it is unlimited, and the time at which the next day starts."""

    images: int | None
    bytes: int | None
    jobs: int | None
    renewed_at: datetime


@dataclass(frozen=True)
class Quotas:
    """The quotas of all callers.

    Attributes:
        limits: `images_per_day`, `bytes_per_day` and `jobs_per_day`; 0 is no limit.
    """

    table: Table
    limits: LimitSettings
    clock: Clock = CLOCK

    def charge(self, caller: str, amount: Amount) -> datetime:
        """Count `amount` for the caller; return the time, for `refund`.

        Raises:
            QuotaExceededError: `amount` exceeds the rest of the quota; nothing is counted.
        """
        now = self.clock.utc_now()
        if self._is_unlimited or amount == Amount():
            return now
        if not self._fits(caller, amount, now):
            raise self._rejection(caller, amount, now)
        return now

    def refund(self, caller: str, amount: Amount, at: datetime) -> None:
        """Subtract an `amount` that was charged `at` that time; an error is logged, since the upload is complete."""
        if self._is_unlimited or amount == Amount():
            return
        try:
            self._add(caller, Amount(-amount.images, -amount.bytes, -amount.jobs), at)
        except (BotoCoreError, ClientError):
            _log.warning("a quota could not be refunded", extra={"images": amount.images}, exc_info=True)

    def remaining(self, caller: str) -> RemainingQuota:
        """Return the rest of the caller's quota of today."""
        now = self.clock.utc_now()
        item = None if self._is_unlimited else self.table.get(*_key(caller, now))
        spent = Amount(*(int((item or {}).get(name, 0)) for name in ("images", "bytes", "jobs")))
        return RemainingQuota(
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
        room = {f"max_{name}": limit - wanted for name, limit, wanted in bounds if limit}
        if min(room.values()) < 0:
            return False
        names = [name.removeprefix("max_") for name in room]
        condition = " AND ".join(f"(attribute_not_exists( #{name} ) OR #{name} <= :max_{name})" for name in names)
        return self._add(caller, amount, now, condition, room) is not None

    def _add(
        self, caller: str, amount: Amount, at: datetime, condition: str | None = None, values: Item | None = None
    ) -> Item | None:
        amounts = {"images": amount.images, "bytes": amount.bytes, "jobs": amount.jobs}
        expires_at = int((_end(at) + _KEPT).timestamp())
        return self.table.add(*_key(caller, at), amounts, {EXPIRES_AT: expires_at}, condition, values)

    def _rejection(self, caller: str, amount: Amount, now: datetime) -> QuotaExceededError:
        left = self.remaining(caller)
        if left.images is not None and amount.images > left.images:
            limit, rest = f"{self.limits.images_per_day:,} images", f"{left.images:,}"
        elif left.jobs is not None and amount.jobs > left.jobs:
            limit, rest = f"{self.limits.jobs_per_day:,} new jobs", f"{left.jobs:,}"
        else:
            limit, rest = _megabytes(self.limits.bytes_per_day), _megabytes(left.bytes or 0)
        seconds = max(1, ceil((_end(now) - now).total_seconds()))
        return QuotaExceededError(
            f"{limit} a day are taken, and {rest} of them are left, so nothing of this request was accepted; "
            "send less, or continue after midnight UTC",
            retry_after=seconds,
        )


@dataclass
class Reservation:
    """A charge for images; those that are not committed are refunded."""

    committed: Sequence[ImageRecord] = ()

    def commit(self, results: list[_Result]) -> list[_Result]:
        """Commit the charge for those of `results` that are images; return all of them."""
        self.committed = [result for result in results if isinstance(result, ImageRecord)]
        return results


@dataclass(frozen=True)
class QuotaScope:
    """The quota of one caller; without `quotas` it is unlimited."""

    quotas: Quotas | None = None
    caller: str = ""

    def charge_job(self) -> None:
        """Charge a new job.

        Raises:
            QuotaExceededError: the caller may create no more jobs today.
        """
        if self.quotas is not None:
            self.quotas.charge(self.caller, Amount(jobs=1))

    @contextmanager
    def reserve(self, images: Sequence[ImageRecord]) -> Iterator[Reservation]:
        """Charge `images`; when the context ends, refund those that the reservation has not committed.

        Raises:
            QuotaExceededError: they exceed the rest of the quota; nothing is charged.
        """
        reservation = Reservation()
        if self.quotas is None:
            yield reservation
            return
        at = self.quotas.charge(self.caller, _amount(images))
        try:
            yield reservation
        finally:
            committed = {image.ref for image in reservation.committed}
            self.quotas.refund(self.caller, _amount([each for each in images if each.ref not in committed]), at)


UNLIMITED: Final = QuotaScope()
"""The quota without sign-in on one machine."""


def _amount(images: Sequence[ImageRecord]) -> Amount:
    return Amount(len(images), sum(image.size for image in images))


def _key(caller: str, at: datetime) -> tuple[str, str]:
    return f"QUOTA#{caller}", at.date().isoformat()


def _end(at: datetime) -> datetime:
    """Return the midnight (UTC) at which the day of `at` ends."""
    return datetime.combine(at.date(), time(), UTC) + _DAY


def _rest(limit: int, spent: int) -> int | None:
    return max(0, limit - spent) if limit else None


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.4g} MB"
