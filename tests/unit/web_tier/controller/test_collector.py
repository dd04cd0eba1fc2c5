"""The collector between a queue and a ledger that fail."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pytest

from services.cache import ResultCache
from services.ids import ImageRef, new_id
from services.job_records import ImageRecord, Job
from services.jobs import JobStore
from services.messages import Model, Response
from services.sqs import Queue
from tests.support.controller import EPOCH, Clock
from tests.support.memory_table import WRITES, MemoryTable
from tests.unit.web_tier.controller.test_ledger import JOBS, REFS, CrashError, done, figures, ledger_of, stored_jobs
from web_tier.controller.collector import MOST_RECEIVES, Collector, parse
from web_tier.controller.ledger import Ledger
from web_tier.controller.roster import Roster

_T = TypeVar("_T")


@dataclass
class FakeSQS:
    """A queue: what is received stays in flight until it is deleted or given back."""

    bodies: list[str] = field(default_factory=list)
    in_flight: dict[str, str] = field(default_factory=dict)
    waits: list[int] = field(default_factory=list)

    def receive_message(self, *, MaxNumberOfMessages: int, WaitTimeSeconds: int, **_more: Any) -> dict[str, Any]:  # noqa: N803
        self.waits.append(WaitTimeSeconds)
        taken, self.bodies = self.bodies[:MaxNumberOfMessages], self.bodies[MaxNumberOfMessages:]
        messages = [{"MessageId": new_id(), "ReceiptHandle": new_id(), "Body": body} for body in taken]
        self.in_flight |= {message["ReceiptHandle"]: message["Body"] for message in messages}
        stamps = {"ApproximateReceiveCount": "1", "SentTimestamp": "0", "ApproximateFirstReceiveTimestamp": "0"}
        return {"Messages": [{**message, "Attributes": stamps} for message in messages]}

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
        for entry in Entries:
            del self.in_flight[entry["ReceiptHandle"]]
        return {}

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_more: Any) -> dict[str, Any]:  # noqa: N803
        self.bodies += [self.in_flight.pop(entry["ReceiptHandle"]) for entry in Entries]
        return {}


def collector(sqs: FakeSQS, ledger: Ledger, active: bool = True) -> Collector:
    cache = ResultCache(ledger.store.table, timedelta(days=1))
    return Collector(Queue(cast(Any, sqs), "responses"), ledger, cache, lambda: active)


def test_full_batches_are_taken_together_and_only_the_first_is_waited_for() -> None:
    sqs, store = FakeSQS([done(ref).to_json() for ref in REFS[:25]]), stored_jobs()
    collector(sqs, ledger_of(store)).tick()
    assert sqs.waits == [1, 0, 0]
    assert (sqs.bodies, sqs.in_flight) == ([], {})
    assert figures(store, JOBS[0]) == (25, 0, 40)


def test_everything_that_was_sent_before_the_last_receive_has_been_heard_once_that_left_nothing() -> None:
    sqs, clock = FakeSQS([done(ref).to_json() for ref in REFS[:25]]), Clock(100)
    collecting = replace(collector(sqs, ledger_of(stored_jobs())), roster=Roster(clock))
    receive = sqs.receive_message

    def slow(**arguments: Any) -> dict[str, Any]:
        clock.now += 1
        return receive(**arguments)

    sqs.receive_message = slow  # type: ignore[method-assign]
    collecting.tick()
    assert (collecting.roster.heard_until, clock.now) == (102, 103)
    collecting.tick()
    assert collecting.roster.heard_until == 103, "there was nothing"
    sqs.bodies = [done(REFS[0]).to_json()] * 1000
    collecting.tick()
    assert collecting.roster.heard_until == 103, "there is more"


def test_what_could_not_be_recorded_has_not_been_heard() -> None:
    sqs = FakeSQS([done(REFS[0]).to_json()])
    for collecting in (
        collector(sqs, ledger_of(stored_jobs()), active=False),
        collector(sqs, ledger_of(stored_jobs(_crash))),
    ):
        with suppress(CrashError):
            collecting.tick()
        assert collecting.roster.heard_until is None


def _crash(_when: str) -> None:
    raise CrashError


def test_what_is_in_hand_at_once_is_bounded() -> None:
    sqs = FakeSQS([done(REFS[0]).to_json()] * 1000)
    collector(sqs, ledger_of(stored_jobs())).tick()
    assert len(sqs.bodies) == 1000 - 10 * MOST_RECEIVES


def test_a_failed_write_deletes_nothing_and_gives_everything_back() -> None:
    fails = [True]

    def fail(_when: str) -> None:
        if fails[0]:
            raise CrashError

    sqs, store = FakeSQS([done(ref).to_json() for ref in REFS[:12]]), stored_jobs(fail)
    collecting = collector(sqs, ledger_of(store))
    with pytest.raises(CrashError):
        collecting.tick()
    assert (len(sqs.bodies), sqs.in_flight) == (12, {})
    fails[0] = False
    collecting.tick()
    assert figures(store, JOBS[0]) == (12, 0, 40)


def test_a_result_that_can_be_seen_can_be_repeated() -> None:
    digest, seen = "a" * 64, list[bool]()

    class Watching(Ledger):
        def record(self, responses: Iterable[Response]) -> None:
            cache = ResultCache(self.store.table, timedelta(days=1))
            seen.append(digest in cache.find("", [digest], "d1", datetime.now(UTC)))
            super().record(responses)

    known = {"key": "k.jpg", "sha256": digest, "model": Model(name="demo", digest="d1")}
    sqs = FakeSQS([done(REFS[0]).model_copy(update=known).to_json()])
    collector(sqs, Watching(stored_jobs(), lambda _keys: None)).tick()
    assert seen == [True]


KNOWN = {"key": "k.jpg", "sha256": "a" * 64, "model": Model(name="demo", digest="d1")}


def test_what_may_be_repeated_is_remembered_for_the_owner_of_its_job_and_of_no_other() -> None:
    owned = Job(new_id(), "hers", EPOCH, owner="anna")
    ref, gone = ImageRef(owned.job_id, new_id()), ImageRef(new_id(), new_id())
    store = stored_jobs()
    store.create(owned)
    store.record_images([ImageRecord(ref, "a.jpg", "key", 1, EPOCH)], EPOCH)
    answers = [done(each).model_copy(update=KNOWN).to_json() for each in (ref, gone)]
    collector(FakeSQS(answers), ledger_of(store)).tick()
    cache = ResultCache(store.table, timedelta(days=1))
    found = {owner: cache.find(owner, ["a" * 64], "d1", datetime.now(UTC)) for owner in ("anna", "bert", "")}
    assert {owner: len(entries) for owner, entries in found.items()} == {"anna": 1, "bert": 0, "": 0}
    assert store.result(ref) is not None


def test_whose_a_job_is_costs_no_read_of_its_own() -> None:
    answers = [done(ref).model_copy(update=KNOWN) for ref in REFS]

    def reads_by(record: Callable[[JobStore], object]) -> Counter[str]:
        store, calls = stored_jobs(), Counter[str]()

        def counted(operation: str, effect: Callable[[], _T]) -> _T:
            calls.update({operation} - WRITES)
            return effect()

        cast(MemoryTable, store.table).call = counted
        record(store)
        return calls

    alone = reads_by(lambda store: ledger_of(store).record(answers))
    bodies = [answer.to_json() for answer in answers]
    assert reads_by(lambda store: collector(FakeSQS(bodies), ledger_of(store)).tick()) == alone
    assert alone.total() > 0


def test_without_the_lease_everything_is_given_back_and_nothing_written() -> None:
    sqs, store = FakeSQS([done(REFS[0]).to_json()]), stored_jobs()
    collector(sqs, ledger_of(store), active=False).tick()
    assert (len(sqs.bodies), store.statuses(JOBS[0])) == (1, {})


def test_malformed_responses_are_dropped_with_a_reason_each(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSQS(["", "null", "[]", '{"version": 2}', done(REFS[0]).to_json(), '{"job_id": "<script>"}'])
    assert parse(Queue(cast(Any, sqs), "responses").receive()) == [done(REFS[0])]
    reasons = [vars(record)["reason"] for record in caplog.records]
    assert len(reasons) == 5
    assert all(reason.startswith("not a Response: ") for reason in reasons)
