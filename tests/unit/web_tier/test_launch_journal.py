"""The launch journal: one writer at a time, and nothing is forgotten too early."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from core.fleet.models import JournalEntry, LaunchJournal
from core.fleet.store import FleetStore
from services.ec2 import LaunchSpec
from tests.support.autoscaler import EPOCH, Clock, refusal
from tests.support.memory_table import MemoryTable, failing_writes
from web_tier.autoscaler.launch_journal import (
    MAX_IDS,
    MAX_SKEW_SECONDS,
    Journal,
    JournalBusyError,
    SupersededError,
    client_token,
)
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS

SPEC = LaunchSpec("c7a.large", "terminate", "ami-1", "#!/bin/sh\n", security_group_ids=("sg-1",), market="spot")


class Desk:
    """Journals of several controllers over one table, with one clock."""

    def __init__(self) -> None:
        self.clock, self.table = Clock(), MemoryTable()
        self.store = FleetStore(self.table)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock.now)

    def journal(self, writer: str = "a", ahead: float = 0.0) -> Journal:
        """A controller's journal; its wall clock is `ahead` by so many seconds."""
        return Journal(self.store, writer, self.clock, lambda: self.now() + timedelta(seconds=ahead))

    def open(self, writer: str = "a", ahead: float = 0.0) -> Journal:
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


def test_an_entry_is_stored_with_everything_that_makes_the_same_call(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("t-1", 5))
    [entry] = desk.stored()
    assert (entry.token, entry.count, entry.spec, entry.instance_ids) == ("t-1", 5, SPEC, None)
    journal.complete("t-1", ["i-1", "i-2"])
    assert desk.stored() == [entry], "one write for two"
    journal.flush()
    [settled] = desk.stored()
    assert (settled.instance_ids, settled.spec) == (("i-1", "i-2"), None)
    writes = desk.store.journal().revision
    journal.flush()
    assert desk.store.journal().revision == writes, "there is nothing to write"


def test_who_takes_over_is_told_what_was_launched_and_what_may_have_been(desk: Desk) -> None:
    first = desk.open()
    first.record(desk.entry("t-1"))
    first.complete("t-1", ["i-1"])
    first.record(desk.entry("t-2"))
    second = desk.journal("b")
    assert [entry.instance_ids for entry in second.sync_from_store()] == [("i-1",)]
    assert [entry.token for entry in second.uncertain()] == ["t-2"]
    assert second.sync_from_store() == [], "it has been taken over"


def test_after_a_take_over_nobody_else_writes_until_they_take_it_over_themselves(desk: Desk) -> None:
    first = desk.open()
    first.record(desk.entry("t-1"))
    second = desk.open("b")
    with pytest.raises(SupersededError):
        first.record(desk.entry("t-2"))
    with pytest.raises(SupersededError):
        first.record(desk.entry("t-2"))
    second.complete("t-1", ["i-1"])
    second.flush()
    assert [entry.instance_ids for entry in first.sync_from_store()] == [("i-1",)], "the other has found out"
    assert first.uncertain() == []
    first.record(desk.entry("t-3"))
    assert [entry.token for entry in desk.stored()] == ["t-1", "t-3"]


def test_a_write_in_the_middle_of_a_take_over_is_noticed(desk: Desk) -> None:
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


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_write_whose_reply_is_lost_is_no_entry_and_the_next_one_succeeds(desk: Desk, when: str) -> None:
    journal = desk.open()

    def fail(now: str) -> None:
        if now == when:
            raise refusal("InternalServerError", "PutItem")

    desk.at_each_write(fail)
    with pytest.raises(ClientError):
        journal.record(desk.entry("t-1"))
    desk.at_each_write(lambda _when: None)
    assert journal.uncertain() == [], "it was not called"
    journal.record(desk.entry("t-2"))
    assert [entry.token for entry in desk.stored()] == ["t-2"]


def test_a_write_that_botocore_repeats_after_it_took_place_has_succeeded(desk: Desk) -> None:
    journal = LaunchJournal(revision=1, writer="a", entries=(desk.entry("t-1"),))
    assert desk.store.put_journal(journal)
    assert desk.store.put_journal(journal), "it is refused because of itself"
    assert not desk.store.put_journal(journal.model_copy(update={"writer": "b"}))


def test_a_journal_that_somebody_has_deleted_is_begun_anew(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("t-1"))
    desk.table.items.clear()
    journal.record(desk.entry("t-2"))
    assert [entry.token for entry in desk.stored()] == ["t-1", "t-2"]


def test_what_descriptions_must_show_by_now_is_dropped(desk: Desk) -> None:
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


def test_a_call_made_again_without_an_answer_counts_from_then_on(desk: Desk) -> None:
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


def test_what_a_controller_long_gone_has_left_is_not_taken_over(desk: Desk) -> None:
    desk.open().record(desk.entry("t-1"))
    desk.clock.now += LAUNCH_VISIBLE_SECONDS + MAX_SKEW_SECONDS + 1
    assert desk.open("b").uncertain() == []
    assert desk.stored() == []


def test_the_item_stays_small_and_keeps_what_is_in_doubt(desk: Desk) -> None:
    journal = desk.open()
    journal.record(desk.entry("doubtful"))
    for number in range(30):
        journal.record(desk.entry(f"t-{number}", 100))
        journal.complete(f"t-{number}", [f"i-{number:08}{each:09}" for each in range(100)])
    journal.flush()
    stored = desk.stored()
    assert sum(len(entry.instance_ids or ()) for entry in stored) == MAX_IDS
    assert [entry.token for entry in stored][:2] == ["doubtful", "t-10"]
    assert len(desk.store.journal().to_json()) < 100_000


def test_tokens_fit_and_differ_by_writer_and_number() -> None:
    tokens = {client_token(writer, number) for writer in ("a", "b") for number in range(100)}
    assert len(tokens) == 200
    assert {len(token) for token in tokens} == {64}
    assert all(token.isascii() for token in tokens)
    journal = Desk().open()
    assert journal.next_token() != journal.next_token()
