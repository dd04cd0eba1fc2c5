"""Applying a plan: exactly so many instances, whatever becomes of the replies."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.config import Fleet as FleetConfig
from services.sqs import QueueCounts
from tests.unit.web_tier.controller.autoscaler.test_decide import limits
from tests.unit.web_tier.controller.fakes import Clock, FakeEC2
from web_tier.controller.autoscaler.apply import MOST_BACKOFF_SECONDS, Launcher, client_token, is_uncertain
from web_tier.controller.autoscaler.decide import decide
from web_tier.controller.autoscaler.observe import ENDED, LISTED, UNSEEN_SECONDS, Observation, RecentLaunches


class Scaler:
    """Observe, decide and apply on a fake EC2 with a fake clock."""

    def __init__(self, ec2: FakeEC2 | None = None) -> None:
        self.clock = Clock()
        self.ec2 = ec2 or FakeEC2()
        self.launches = RecentLaunches(self.clock)
        self.active = True
        self.launcher = Launcher(self.ec2.fleet(), self.launches, "holder", lambda: self.active, self.clock)

    def round(self, images: int, fleet: FleetConfig | None = None, *, after: float = MOST_BACKOFF_SECONDS) -> None:
        """Let time pass, then scale once."""
        self.clock.now += after
        instances = self.ec2.fleet().instances((*LISTED, *ENDED))
        seen = Observation(QueueCounts(images, 0, 0), 0, tuple(instances), self.launches.unseen(instances))
        fleet = fleet or limits()
        self.launcher.apply(decide(seen, fleet), seen, fleet)

    def problem(self) -> str | None:
        return self.launcher.problem

    def tokens(self) -> list[str]:
        return [call["ClientToken"] for call in self.ec2.calls]


def failing(*failures: str | None) -> FakeEC2:
    """An EC2 whose next launches fail so."""
    left: Iterator[str | None] = iter(failures)
    return FakeEC2(fail=lambda: next(left, None))


@pytest.mark.parametrize("failure", ["lost", "timeout", "InternalError", "503"])
def test_a_launch_of_unknown_outcome_is_made_again_with_its_token_and_gives_exactly_n(failure: str) -> None:
    scaler = Scaler(failing(failure))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    scaler.round(100)
    assert scaler.problem() is not None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1
    assert scaler.problem() is None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5


def test_a_refusal_of_the_second_try_says_nothing_of_the_first() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    for _ in range(3):
        scaler.round(100, after=31)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1


def test_a_lost_launch_that_has_appeared_is_not_made_again() -> None:
    scaler = Scaler(failing("lost"))
    scaler.round(1_000)
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 19
    assert len(scaler.ec2.calls) == 1


def test_a_launch_of_unknown_outcome_holds_back_others_that_might_go_beyond_the_maximum() -> None:
    scaler = Scaler(failing("timeout"))
    scaler.round(200)
    scaler.round(200, limits(max_workers=5))
    assert scaler.ec2.alive() == [], "ten may be there or not: five more might be fifteen"
    scaler.round(200, limits(max_workers=5), after=UNSEEN_SECONDS)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 2


def test_a_refused_launch_backs_off_and_comes_again_with_a_new_token() -> None:
    scaler = Scaler(failing("InsufficientInstanceCapacity", "RequestLimitExceeded"))
    scaler.round(20)
    assert scaler.problem() == "InsufficientInstanceCapacity: no"
    scaler.round(20, after=0.1)
    assert len(scaler.ec2.calls) == 1, "it is backing off"
    scaler.round(20)
    scaler.round(20)
    assert len(set(scaler.tokens())) == 3
    assert scaler.problem() is None
    assert len(scaler.ec2.alive()) == 1


def test_refusals_for_ever_wait_no_longer_than_the_bound() -> None:
    scaler = Scaler(FakeEC2(fail=lambda: "VcpuLimitExceeded"))
    for _ in range(50):
        scaler.round(20, after=MOST_BACKOFF_SECONDS)
    assert len(scaler.ec2.calls) == 50


def test_of_a_partial_launch_the_rest_is_tried_again() -> None:
    scaler = Scaler(FakeEC2(room=12))
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 12
    scaler.ec2.room = 100
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 19
    assert [call["MaxCount"] for call in scaler.ec2.calls] == [19, 7]


def test_nothing_is_launched_twice_while_descriptions_lag() -> None:
    scaler = Scaler()
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    for _ in range(int(UNSEEN_SECONDS)):
        scaler.round(100, after=1.0)
    assert len(scaler.ec2.alive()) == 5


def test_stopped_instances_that_cannot_be_started_do_not_keep_new_ones_from_being_launched() -> None:
    scaler = Scaler(FakeEC2(states={"i-0": "stopped"}, start_fails="IncorrectInstanceState"))
    scaler.round(40)
    assert scaler.problem() == "IncorrectInstanceState: no"
    scaler.round(40)
    assert len(scaler.ec2.alive()) == 2


def test_a_start_whose_reply_was_lost_is_made_again_and_nothing_launched_in_its_place() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.ec2.states["i-0"] = scaler.ec2.stale["i-0"] = "stopped"
    for _ in range(3):
        scaler.round(20)
    assert scaler.ec2.states == {"i-0": "pending"}
    assert scaler.ec2.calls == []


def test_stopped_instances_are_started() -> None:
    scaler = Scaler(FakeEC2(states={"i-0": "stopped"}))
    scaler.round(20)
    assert scaler.ec2.states == {"i-0": "pending"}
    assert scaler.ec2.calls == []


def test_nothing_is_launched_once_the_lease_is_lost() -> None:
    scaler = Scaler()
    scaler.active = False
    scaler.round(100)
    assert scaler.ec2.calls == []


def test_a_problem_is_forgotten_when_nothing_is_wanted_any_more() -> None:
    scaler = Scaler(failing("InsufficientInstanceCapacity"))
    scaler.round(20)
    scaler.round(0)
    assert scaler.problem() is None


def test_tokens_fit_and_differ_by_holder_and_number() -> None:
    tokens = {client_token(holder, number) for holder in ("a", "b") for number in range(100)}
    assert len(tokens) == 200
    assert {len(token) for token in tokens} == {64}
    assert all(token.isascii() for token in tokens)


@pytest.mark.parametrize(
    ("code", "uncertain"),
    [("500", True), ("InternalError", True), ("InsufficientInstanceCapacity", False), ("400", False)],
)
def test_only_server_faults_leave_a_launch_uncertain(code: str, uncertain: bool) -> None:
    assert is_uncertain(code) is uncertain


_events = st.lists(
    st.tuples(
        st.sampled_from(
            [None, None, "lost", "timeout", "500", "InsufficientInstanceCapacity", "RequestLimitExceeded"]
        ),
        st.integers(0, 600),
        st.sampled_from([0.1, 1.0, 30.0]),
        st.integers(0, 6),
        st.sampled_from(["terminated", "stopped"]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(_events, st.integers(0, 12), st.integers(1, 15))
def test_no_schedule_of_faults_and_lags_leads_beyond_the_maximum(
    events: list[tuple[str | None, int, float, int, str, bool]], maximum: int, room: int
) -> None:
    failure: list[str | None] = [None]
    scaler = Scaler(FakeEC2(room=room, fail=lambda: failure[0]))
    fleet = limits(max_workers=maximum, images_per_worker=10)
    hidden_since: dict[str, float] = {}
    for failure[0], images, after, ended, how, lag in events:
        for key in scaler.ec2.alive()[:ended]:
            scaler.ec2.states[key] = how
        # Descriptions lag, as they do on EC2, by less than what is remembered.
        for key in scaler.ec2.states:
            hidden_since.setdefault(key, scaler.clock.now)
        late = scaler.clock.now + after - UNSEEN_SECONDS
        scaler.ec2.hidden = {key for key, since in hidden_since.items() if lag and since > late}
        scaler.round(images, fleet, after=after)
        assert scaler.ec2.most_alive <= maximum
