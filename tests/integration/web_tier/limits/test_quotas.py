"""How many images and bytes a caller may have accepted in a day."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from core.config import Limits, parse_config
from services.table import EXPIRES_AT, Table
from tests.conftest import shipped_values
from web_tier.limits.quotas import Amount, Left, QuotaExceededError, Quotas

EVENING = datetime(2026, 3, 1, 23, 59, 30, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)


def limits(images: int = 0, size: int = 0, jobs: int = 0) -> Limits:
    """Return limits of so many images, bytes and jobs a day."""
    update = {"images_per_day": images, "bytes_per_day": size, "jobs_per_day": jobs}
    return parse_config(shipped_values()).limits.model_copy(update=update)


def test_a_day_takes_so_many_images_and_no_more_and_a_new_day_begins_at_midnight(table: Table) -> None:
    now = EVENING
    quotas = Quotas(table, limits(images=10), lambda: now)
    quotas.charge("ann", Amount(7, 700))
    assert quotas.left("ann") == Left(images=3, bytes=None, jobs=None, renewed_at=MIDNIGHT)
    with pytest.raises(QuotaExceededError, match="10 images a day are taken, and 3 of them are left") as caught:
        quotas.charge("ann", Amount(4, 1))
    assert caught.value.retry_after == 30
    quotas.charge("ann", Amount(3, 1))
    quotas.charge("bob", Amount(10, 1))
    assert quotas.left("ann").images == 0
    now = MIDNIGHT
    assert quotas.left("ann").images == 10


def test_a_day_takes_so_many_bytes(table: Table) -> None:
    quotas = Quotas(table, limits(images=10, size=3 * 2**20), lambda: EVENING)
    quotas.charge("ann", Amount(1, 2**20))
    with pytest.raises(QuotaExceededError, match="3 MB a day are taken, and 2 MB of them are left"):
        quotas.charge("ann", Amount(1, 2**21 + 1))
    quotas.charge("ann", Amount(1, 2**21))
    assert quotas.left("ann") == Left(images=8, bytes=0, jobs=None, renewed_at=MIDNIGHT)


def test_a_day_takes_so_many_new_jobs(table: Table) -> None:
    quotas = Quotas(table, limits(images=1, jobs=2), lambda: EVENING)
    quotas.charge("ann", Amount(images=1))
    for _ in range(2):
        quotas.charge("ann", Amount(jobs=1))
    with pytest.raises(QuotaExceededError, match="2 new jobs a day are taken, and 0 of them are left"):
        quotas.charge("ann", Amount(jobs=1))
    assert quotas.left("ann") == Left(images=0, bytes=None, jobs=0, renewed_at=MIDNIGHT)


def test_one_request_with_more_than_a_day_takes_is_refused_on_a_fresh_day(table: Table) -> None:
    quotas = Quotas(table, limits(images=10), lambda: EVENING)
    with pytest.raises(QuotaExceededError):
        quotas.charge("ann", Amount(11, 1))
    assert quotas.left("ann").images == 10


def test_of_many_requests_at_once_none_slips_past_another(table: Table) -> None:
    quotas, together = Quotas(table, limits(images=5), lambda: EVENING), Barrier(10)

    def charge(_: int) -> bool:
        together.wait()
        try:
            quotas.charge("ann", Amount(1, 1))
        except QuotaExceededError:
            return False
        return True

    with ThreadPoolExecutor(10) as threads:
        assert sum(threads.map(charge, range(10))) == 5


def test_what_is_given_back_goes_to_the_day_that_it_came_from(table: Table) -> None:
    now = EVENING
    quotas = Quotas(table, limits(images=10), lambda: now)
    at = quotas.charge("ann", Amount(4, 400))
    now = MIDNIGHT
    quotas.give_back("ann", Amount(4, 400), at)
    assert quotas.left("ann").images == 10
    now = EVENING
    assert quotas.left("ann").images == 10


def test_what_is_counted_expires_when_its_day_is_long_over(table: Table) -> None:
    Quotas(table, limits(images=10), lambda: EVENING).charge("ann", Amount(1, 1))
    [item] = table.query("QUOTA#ann", "0", "9")
    assert item["sk"] == "2026-03-01"
    assert int(item[EXPIRES_AT]) > (MIDNIGHT + timedelta(days=1)).timestamp()


def test_without_limits_nothing_is_asked_of_the_table() -> None:
    quotas = Quotas(None, limits(), lambda: EVENING)  # type: ignore[arg-type]
    at = quotas.charge("ann", Amount(10**9, 10**15))
    quotas.give_back("ann", Amount(1, 1), at)
    assert quotas.left("ann") == Left(None, None, None, MIDNIGHT)
