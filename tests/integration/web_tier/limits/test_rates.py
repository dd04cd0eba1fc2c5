"""How often a caller may do something, and what happens when nobody can count."""

import logging
from dataclasses import dataclass

import pytest
from botocore.exceptions import EndpointConnectionError
from limits.storage import MemoryStorage

from services.table import EXPIRES_AT, Table
from web_tier.limits.rates import AWAY_SECONDS, MAX_REMEMBERED, Rates
from web_tier.limits.table_storage import TableStorage

NOON = 1_772_366_400.0
"""The beginning of a minute, in seconds since the epoch."""


@dataclass
class Clock:
    now: float = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class NoTable:
    """A job table that answers nothing, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.away = 0, True

    def add(self, *_: object) -> dict[str, int]:
        self.asked += 1
        if self.away:
            raise EndpointConnectionError(endpoint_url="http://inside")
        return {"hits": 1}


def test_what_is_more_is_refused_until_the_minute_is_over(table: Table, clock: Clock) -> None:
    rates = Rates(TableStorage(table, clock), clock)
    clock.now = NOON + 12.5
    assert [rates.count("request", "ann", 2) for _ in range(4)] == [0, 0, 48, 48]
    assert rates.count("request", "bob", 2) == 0
    assert rates.count("attempt", "ann", 2) == 0
    clock.now = NOON + 60
    assert rates.count("request", "ann", 2) == 0


def test_codes_are_counted_for_an_hour(table: Table, clock: Clock) -> None:
    rates = Rates(TableStorage(table, clock), clock)
    assert [rates.count("code", "ann", 2) for _ in range(3)] == [0, 0, 3_600]
    clock.now = NOON + 3_599
    assert rates.count("code", "ann", 2) == 1
    clock.now = NOON + 3_600
    assert rates.count("code", "ann", 2) == 0


def test_all_processes_count_together_in_the_table_at_one_write_each(table: Table, clock: Clock) -> None:
    one, other = (Rates(TableStorage(table, clock), clock) for _ in range(2))
    assert [one.count("request", "ann", 2), other.count("request", "ann", 2)] == [0, 0]
    assert one.count("request", "ann", 2) == other.count("request", "ann", 2) == 60


def test_a_flood_costs_the_table_nothing(table: Table, clock: Clock) -> None:
    rates = Rates(TableStorage(table, clock), clock)
    for _ in range(5):
        rates.count("request", "ann", 2)
    [item] = table.query("RATE#LIMITER/request/ann/2/1/minute", "0", "9")
    assert (item["hits"], item["sk"]) == (3, str(int(NOON)))
    assert int(item[EXPIRES_AT]) > NOON + 60


def test_processes_count_for_themselves_in_memory() -> None:
    rates = Rates(MemoryStorage())
    assert [rates.count("request", "ann", 2) for _ in range(2)] == [0, 0]
    assert 1 <= rates.count("request", "ann", 2) <= 60


@pytest.mark.parametrize("kept", ["memory", "table"])
def test_what_is_forgiven_is_not_counted(table: Table, clock: Clock, kept: str) -> None:
    rates = Rates(TableStorage(table, clock), clock) if kept == "table" else Rates(MemoryStorage())
    for _ in range(9):
        assert rates.count("attempt", "here", 2) == 0
        rates.forgive("attempt", "here", 2)
    assert [rates.count("attempt", "here", 2) > 0 for _ in range(3)] == [False, False, True]


def test_no_limit_is_no_limit_and_costs_no_call(clock: Clock) -> None:
    table = NoTable()
    rates = Rates(TableStorage(table, clock), clock)  # type: ignore[arg-type]
    assert [rates.count("request", "ann", 0) for _ in range(9)] == [0] * 9
    rates.forgive("request", "ann", 0)
    assert table.asked == 0


def test_without_the_table_nobody_is_refused_nobody_waits_and_it_is_logged_once(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    table = NoTable()
    rates = Rates(TableStorage(table, clock), clock)  # type: ignore[arg-type]
    assert [rates.count("request", "ann", 1) for _ in range(9)] == [0] * 9
    assert table.asked == 1
    clock.now += AWAY_SECONDS
    rates.count("request", "ann", 1)
    assert table.asked == 2
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    clock.now, table.away = clock.now + AWAY_SECONDS, False
    assert rates.count("request", "ann", 1) == 0
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_what_is_remembered_of_callers_is_bounded(table: Table, clock: Clock) -> None:
    rates = Rates(MemoryStorage(), clock=clock)
    rates._over = {f"caller {number}": NOON + 1 for number in range(MAX_REMEMBERED)}
    rates._refused("one more", NOON + 60, NOON)
    assert len(rates._over) == MAX_REMEMBERED
    rates._refused("another", NOON + 60, NOON + 2)
    assert set(rates._over) == {"another"}
