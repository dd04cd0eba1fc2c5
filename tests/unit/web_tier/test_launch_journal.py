"""The launch journal: one writer at a time, no entry expires too early, and no call is made that it does not have."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from core.fleet.models import JournalEntry, LaunchJournal
from core.fleet.store import FleetStore
from services.ec2 import LaunchSpec
from tests.support.autoscaler import Clock, Scaler
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.calls import failing_writes, refusal, run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.launch_journal import (
    MAX_IDS,
    MAX_SKEW_SECONDS,
    ControllerJournal,
    JournalBusyError,
    SupersededError,
)
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS

SPEC = LaunchSpec("c7a.large", "terminate", "ami-1", "#!/bin/sh\n", market="spot")


class Desk:
    """Journals of several controllers over one table, with one clock."""

    def __init__(self) -> None:
        self.clock, self.table = Clock(), MemoryTable()
        self.store = FleetStore(self.table)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock.now)

    def journal(self, writer: str = "a", ahead: float = 0.0) -> ControllerJournal:
        """A controller's journal; its wall clock is `ahead` by so many seconds."""
        return ControllerJournal(
            self.store, writer, PlayedClock(self.clock, lambda: self.now() + timedelta(seconds=ahead))
        )

    def open(self, writer: str = "a", ahead: float = 0.0) -> ControllerJournal:
        journal = self.journal(writer, ahead)
        journal.sync_from_store()
        return journal

    def entry(self, token: str, count: int = 1) -> JournalEntry:
        return JournalEntry(token=token, count=count, at=self.now(), spec=SPEC)

    def stored(self) -> list[JournalEntry]:
        return list(self.store.journal().entries)

    def at_each_write(self, action: Callable[[str], None]) -> None:
        self.table.call = failing_writes(action)


@pytest.fixture
def desk() -> Desk:
    """An empty table."""
    return Desk()


def test_after_a_takeover_the_other_controller_cannot_write_before_it_takes_over(desk: Desk) -> None:
    first = desk.open()
    first.record(desk.entry("t-1"))
    second = desk.open("b")
    with pytest.raises(SupersededError):
        first.record(desk.entry("t-2"))
    with pytest.raises(SupersededError):
        first.record(desk.entry("t-2"))
    second.complete("t-1", ["i-1"])
    second.flush()
    assert [entry.instance_ids for entry in first.sync_from_store()] == [("i-1",)], "the other has completed it"
    assert first.uncertain() == []
    first.record(desk.entry("t-3"))
    assert [entry.token for entry in desk.stored()] == ["t-1", "t-3"]


def test_a_write_in_the_middle_of_a_takeover_is_detected(desk: Desk) -> None:
    first, second = desk.open(), desk.journal("b")
    left = ["before"]

    def write(when: str) -> None:
        if left and left.pop() == when:
            first.record(desk.entry("t-1"))

    desk.at_each_write(write)
    with pytest.raises(JournalBusyError):
        second.sync_from_store()
    second.sync_from_store()
    assert [entry.token for entry in second.uncertain()] == ["t-1"]


def test_a_write_that_botocore_repeats_after_it_took_place_has_succeeded(desk: Desk) -> None:
    journal = LaunchJournal(revision=1, writer="a", entries=(desk.entry("t-1"),))
    assert desk.store.put_journal(journal)
    assert desk.store.put_journal(journal), "it is refused because of itself"
    assert not desk.store.put_journal(journal.model_copy(update={"writer": "b"}))


def test_a_journal_that_was_deleted_is_begun_again(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("t-1"))
    desk.table.items.clear()
    journal.record(desk.entry("t-2"))
    assert [entry.token for entry in desk.stored()] == ["t-1", "t-2"]


def test_entries_that_descriptions_must_show_by_now_expire(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("t-1"))
    journal.record(desk.entry("t-2"))
    journal.complete("t-2", ["i-1"])
    desk.clock.now += LAUNCH_VISIBLE_SECONDS
    assert [entry.token for entry in journal.uncertain()] == ["t-1"]
    desk.clock.now += 1
    assert journal.uncertain() == []
    journal.flush()
    assert desk.stored() == []


def test_a_repeated_call_of_unknown_outcome_counts_from_then_on(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("t-1"))
    desk.clock.now += LAUNCH_VISIBLE_SECONDS - 1
    journal.record(journal.uncertain()[0])
    journal.mark_uncertain("t-1")
    desk.clock.now += LAUNCH_VISIBLE_SECONDS
    [entry] = journal.uncertain()
    assert desk.stored()[0].at == EPOCH + timedelta(seconds=1000 + LAUNCH_VISIBLE_SECONDS - 1), (
        "a successor knows that too"
    )
    assert entry.token == "t-1"


@pytest.mark.parametrize("ahead", [-MAX_SKEW_SECONDS, 0, MAX_SKEW_SECONDS])
def test_clocks_that_differ_by_ten_minutes_lose_no_entry(desk: Desk, ahead: float) -> None:
    first = desk.open()
    first.record(desk.entry("t-1"))
    first.complete("t-1", ["i-1"])
    first.record(desk.entry("t-2"))
    desk.clock.now += LAUNCH_VISIBLE_SECONDS
    second = desk.journal("b", ahead)
    assert [entry.token for entry in second.sync_from_store()] == ["t-1"]
    assert [entry.token for entry in second.uncertain()] == ["t-2"]


def test_entries_of_a_controller_long_gone_are_not_taken_over(desk: Desk) -> None:
    desk.open().record(desk.entry("t-1"))
    desk.clock.now += LAUNCH_VISIBLE_SECONDS + MAX_SKEW_SECONDS + 1
    assert desk.open("b").uncertain() == []
    assert desk.stored() == []


def test_the_item_stays_small_and_keeps_calls_of_unknown_outcome(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("uncertain"))
    for number in range(30):
        journal.record(desk.entry(f"t-{number}", 100))
        journal.complete(f"t-{number}", [f"i-{number:08}{each:09}" for each in range(100)])
    journal.flush()
    stored = desk.stored()
    assert sum(len(entry.instance_ids or ()) for entry in stored) == MAX_IDS
    assert [entry.token for entry in stored][:2] == ["uncertain", "t-10"]
    assert len(desk.store.journal().to_json()) < 100_000


def test_tokens_fit_and_differ_by_writer_and_number(desk: Desk) -> None:
    journals = [desk.journal(writer) for writer in ("a", "b")]
    tokens = {journal.next_token() for journal in journals for _ in range(100)}
    assert len(tokens) == 200
    assert {len(token) for token in tokens} == {64}
    assert all(token.isascii() for token in tokens)


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_launched_that_may_not_have_been_recorded(when: str) -> None:
    scaler = Scaler()
    scaler.round(0)

    def fail(now: str) -> None:
        if now == when:
            raise refusal("InternalServerError", "PutItem")

    scaler.table.call = failing_writes(fail)
    for _ in range(3):
        with pytest.raises(Exception, match="InternalServerError"):
            scaler.round(100)
    assert scaler.ec2.calls == []
    scaler.table.call = run_effect
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5


def test_a_controller_without_the_lease_after_its_record_leaves_the_call_to_the_next() -> None:
    first = Scaler()
    first.round(0)

    def lose_the_lease(_when: str) -> None:
        first.active = False

    first.table.call = failing_writes(lose_the_lease)
    first.round(100)
    assert first.ec2.calls == []
    first.table.call = run_effect
    second = Scaler(first.ec2, first.table, first.clock)
    [entry] = second.journal_entries()
    second.round(100)
    assert second.tokens() == [entry.token]


def test_a_successor_counts_the_launches_of_the_last_minute() -> None:
    first = Scaler()
    first.round(100)
    first.round(100, after=1)
    second = Scaler(first.ec2, first.table, first.clock)
    second.round(100, after=29)
    assert second.launches.recent() == 5
    second.round(100, after=31)
    assert second.launches.recent() == 0
