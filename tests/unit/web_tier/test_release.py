"""The requests of a worker that is gone are visible at once; those of a worker that lives never are."""

from datetime import timedelta

import pytest

from services.ec2 import SHUT_ITSELF_DOWN
from services.lease import Tenure
from tests.support.autoscaler import Clock, heartbeat
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from tests.support.memory_aws.sqs import VISIBILITY_SECONDS, MemorySQS
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.release import RequestReleaser

WORKER = "i-0"


class Bench:
    """A queue, a worker that has received three requests, and a controller that has read its heartbeat."""

    def __init__(self, *, fifo: bool = False) -> None:
        self.clock, self.is_leading = Clock(), True
        self.sqs, self.ec2 = MemorySQS(self.clock, fifo), MemoryEC2(states={WORKER: "running", "i-1": "running"})
        self.queue = self.sqs.queue()
        self.registry = WorkerRegistry(self.clock)
        for number in range(3):
            self.sqs.add(f"request {number}")
        self.receipts = [each.receipt for each in self.queue.receive(wait_seconds=0)]
        self.beat(*self.receipts)
        tenure = Tenure(active=lambda: self.is_leading)
        self.releaser = RequestReleaser(self.queue, self.ec2.fleet(), self.registry, tenure, VISIBILITY_SECONDS)

    def beat(self, *receipts: str, at: float = 0.0, worker: str = WORKER) -> None:
        """Read a heartbeat of a worker, sent at this second."""
        sent = {"at": EPOCH + timedelta(seconds=at), "receipts": receipts}
        self.registry.record([heartbeat(worker).model_copy(update=sent)])

    def visible(self, *capacity_ids: str) -> int:
        """Run the next round, a second later; return how many requests are visible then."""
        self.clock.now += 1
        self.releaser.release(frozenset(capacity_ids))
        return len(self.sqs.visible)


@pytest.fixture(params=[False, True], ids=["standard", "fifo"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(fifo=request.param)


def test_the_requests_of_a_terminated_instance_are_visible_at_once_and_once(bench: Bench) -> None:
    """Row 1."""
    assert bench.visible(WORKER, "i-1") == 0
    bench.ec2.states[WORKER] = "terminated"
    assert bench.visible("i-1") == 3
    again = bench.queue.receive(wait_seconds=0)
    assert [each.receive_count for each in again] == [2, 2, 2]
    bench.beat(*(each.receipt for each in again), worker="i-1")
    assert bench.visible("i-1") == 0, "another worker has them now"
    assert len(bench.sqs.called("visibility")) == 1


@pytest.mark.parametrize(
    ("state", "reason", "is_gone"),
    [
        ("running", "", False),
        ("shutting-down", "Client.UserInitiatedShutdown", False),
        ("stopping", "Server.SpotInstanceShutdown", False),
        ("shutting-down", SHUT_ITSELF_DOWN, True),
        ("stopping", SHUT_ITSELF_DOWN, True),
        ("stopped", "", True),
    ],
)
def test_only_an_instance_on_which_nothing_runs_counts_as_gone(state: str, reason: str, is_gone: bool) -> None:
    """A worker on an instance that a call terminates still answers what it has."""
    bench = Bench()
    bench.ec2.states[WORKER] = state
    bench.ec2.reasons[WORKER] = reason
    assert bench.visible("i-1") == 3 * is_gone


def test_an_instance_that_is_missing_from_the_description_keeps_its_requests(bench: Bench) -> None:
    bench.ec2.hidden.add(WORKER)
    assert [bench.visible("i-1") for _ in range(5)] == [0] * 5


def test_an_old_receipt_takes_nothing_away_from_another_worker(bench: Bench) -> None:
    bench.clock.now += VISIBILITY_SECONDS - 1
    bench.beat(*bench.receipts, at=1)
    bench.queue.delete(bench.receipts[:1])
    bench.clock.now += 1
    assert len(bench.queue.receive(wait_seconds=0)) == 2, "their timeout was over"
    bench.ec2.states[WORKER] = "terminated"
    assert bench.visible("i-1") == 0
    assert bench.sqs.counts().in_flight == 2


def test_names_that_are_older_than_the_timeout_are_not_used(bench: Bench) -> None:
    bench.ec2.states[WORKER] = "terminated"
    bench.clock.now += VISIBILITY_SECONDS
    bench.visible("i-1")
    assert bench.sqs.called("visibility") == []


def test_a_heartbeat_that_was_sent_before_another_replaces_no_names(bench: Bench) -> None:
    bench.beat(bench.receipts[2], at=2)
    bench.beat(*bench.receipts[:2], at=1)
    bench.ec2.states[WORKER] = "terminated"
    assert bench.visible("i-1") == 1


def test_what_a_late_heartbeat_names_of_an_instance_that_is_gone_is_released_too(bench: Bench) -> None:
    bench.beat(bench.receipts[0], at=1)
    bench.ec2.states[WORKER] = "terminated"
    assert bench.visible("i-1") == 1
    bench.beat(*bench.receipts, at=2)
    assert bench.visible("i-1") == 3


@pytest.mark.parametrize("failing", ["EC2", "SQS"])
def test_a_release_that_fails_is_tried_again_and_disturbs_no_round(bench: Bench, failing: str) -> None:
    bench.ec2.states[WORKER] = "terminated"
    error = refusal("ServiceUnavailable", "a call")
    if failing == "SQS":
        bench.sqs.errors["visibility"].append(error)
    else:
        bench.ec2.error = error
    assert bench.visible("i-1") == 0
    bench.ec2.error = None
    assert bench.visible("i-1") == 3


def test_a_controller_without_the_lease_releases_nothing(bench: Bench) -> None:
    bench.ec2.states[WORKER], bench.is_leading = "terminated", False
    assert bench.visible("i-1") == 0
