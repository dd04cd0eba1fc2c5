"""What is observed, and how long what was launched is believed in."""

from datetime import timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.sqs import Queue
from tests.support.autoscaler import EPOCH, Clock, FakeEC2, FakeSQS, instance, refusal
from web_tier.autoscaler.observe import DESCRIPTION_SECONDS, LAUNCH_VISIBLE_SECONDS, Observer, RecentLaunches


def observer(ec2: FakeEC2, sqs: FakeSQS, clock: Clock, dead: FakeSQS | None = None) -> Observer:
    requests, dead_letters = Queue(cast(Any, sqs), "requests"), Queue(cast(Any, dead or FakeSQS()), "dead")
    return Observer(requests, dead_letters, ec2.fleet(), RecentLaunches(clock), clock)


def test_a_launched_instance_counts_until_it_is_described() -> None:
    clock, launches = Clock(), RecentLaunches(Clock())
    launches.clock = clock
    launches.add(["i-1", "i-2"])
    assert launches.launching([]) == {"i-1", "i-2"}
    assert launches.launching([instance("i-1", "pending")]) == {"i-2"}
    assert launches.launching([instance("i-2", "running")]) == {"i-1"}, "another replica answered"
    assert launches.launching([instance("i-2", "shutting-down")]) == {"i-1"}
    clock.now += LAUNCH_VISIBLE_SECONDS
    assert launches.launching([]) == frozenset()
    assert not launches


@pytest.mark.parametrize("told", ["running", "stopping", "stopped"])
def test_of_an_instance_that_was_started_again_what_is_told_of_before_the_start_does_not_count(told: str) -> None:
    launches = RecentLaunches(Clock())
    launches.add(["i-1"], {"i-1": EPOCH})
    assert launches.launching([instance("i-1", told)]) == {"i-1"}
    started = EPOCH + timedelta(seconds=50)
    assert launches.launching([instance("i-1", "running", started)]) == frozenset()
    assert launches.launching([instance("i-1", told)]) == {"i-1"}, "another replica, which lags, answered"
    assert launches.launching([instance("i-1", "stopped", started)]) == frozenset()
    assert not launches


def test_an_instance_that_was_started_again_and_has_ended_is_awaited_no_longer() -> None:
    launches = RecentLaunches(Clock())
    launches.add(["i-1"], {"i-1": EPOCH})
    assert launches.launching([instance("i-1", "terminated")]) == frozenset()


def test_a_launched_instance_that_is_described_as_stopped_has_stopped() -> None:
    launches = RecentLaunches(Clock())
    launches.add(["i-1"])
    assert launches.launching([instance("i-1", "stopped")]) == frozenset()


def test_an_instance_that_ended_before_it_was_ever_described_alive_is_not_waited_for() -> None:
    clock, ec2 = Clock(), FakeEC2(states={"i-1": "terminated"})
    seen = observer(ec2, FakeSQS(), clock)
    seen.launches.add(["i-1"])
    assert seen.describe().capacity == 0


def test_pending_running_and_coming_are_supply_each_counted_once() -> None:
    clock = Clock()
    ec2 = FakeEC2(states={"i-1": "running", "i-2": "pending", "i-3": "stopping", "i-4": "stopped", "i-5": "pending"})
    ec2.hidden.add("i-5")
    seen = observer(ec2, FakeSQS(5), clock)
    seen.launches.add(["i-2", "i-5"])
    observation = seen.describe()
    assert observation.capacity == 3
    assert observation.requests.total == 8


def test_the_fleet_is_described_anew_when_demand_grows_or_a_second_has_passed() -> None:
    clock, ec2, sqs = Clock(), FakeEC2(), FakeSQS(5)
    seen = observer(ec2, sqs, clock)
    assert seen.describe().capacity == 0
    ec2.states["i-1"] = "running"
    sqs.visible = 4
    assert seen.describe().capacity == 0, "the old description was good enough"
    sqs.visible = 6
    assert seen.describe().capacity == 1
    del ec2.states["i-1"]
    clock.now += DESCRIPTION_SECONDS
    assert seen.describe().capacity == 0


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError"])
def test_a_failed_call_gives_no_observation(code: str) -> None:
    sqs = FakeSQS()
    sqs.error = refusal(code, "GetQueueAttributes")
    with pytest.raises(ClientError, match=code):
        observer(FakeEC2(), sqs, Clock()).describe()
    with pytest.raises(ClientError, match=code):
        observer(FakeEC2(error=refusal(code, "DescribeInstances")), FakeSQS(), Clock()).describe()


def test_dead_letters_are_counted_now_and_then() -> None:
    clock, dead = Clock(), FakeSQS(7)
    seen = observer(FakeEC2(), FakeSQS(), clock, dead)
    assert [seen.describe().dead_letters for _ in range(5)] == [10] * 5
    assert dead.asked == 1
    clock.now += 2
    seen.describe()
    assert dead.asked == 2
