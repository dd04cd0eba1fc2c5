"""Which images are requested again, at any load and with any habit of the queues, and which are not."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from core.ids import ImageRef, new_id
from core.jobs.models import Job
from core.messages import RequestMessage
from tests.support.jobs import response_of
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.sqs import Habits, StoredMessage
from tests.support.results_site import ResultsSite, done
from web_tier.controller import lost_images
from web_tier.controller.lost_images import MAX_REQUESTS, RequestTimes

TEN_MINUTES = 600.0
SWEEP_SECONDS = 10.0
IN_FLIGHT = 7
"""Messages of a busy system that belong to no missing image; with them the queues are never empty."""


class FairOrder(Random):
    """Brings messages in the order of a fair queue: those that have fewer of their group before them are first."""

    def shuffle(self, x: list[StoredMessage]) -> None:  # type: ignore[override]
        """Sort in place."""
        before = Counter[str | None]()
        turns = dict[str, int]()
        for message in x:
            turns[message.id] = before[message.group]
            before[message.group] += 1
        x.sort(key=lambda message: turns[message.id])


@dataclass
class BusySystem:
    """Users with a job each, workers that answer in the order of the queue, and a controller.

    Attributes:
        rates: images of each user in ten seconds.
        lost_responses: images whose responses are lost.
    """

    rates: list[int]
    habits: Habits = field(default_factory=Habits)
    order: Random | None = None
    lost_responses: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Create the jobs."""
        self.site = ResultsSite()
        for queue in (self.site.requests, self.site.responses):
            queue.memory.habits = self.habits
        self.site.requests.memory.shuffle = self.order
        self.jobs = [new_id() for _ in self.rates]
        for job_id in self.jobs:
            self.site.store.create(Job(job_id, "job", EPOCH, keep=True))

    def accept(self, user: int, images: int, *, request: bool = True) -> list[ImageRef]:
        """Accept images of a user now."""
        touched_at = EPOCH + timedelta(seconds=self.site.clock.now)
        return self.site.add_images(self.jobs[user], images, request=request, touched_at=touched_at)

    def run(self, seconds: float, capacity: int) -> None:
        """Let users send, and workers classify up to `capacity` images in ten seconds, for so long."""
        until = self.site.clock.now + seconds
        while self.site.clock.now < until:
            for user, rate in enumerate(self.rates):
                self.accept(user, rate)
            self.work(capacity)
            while self.site.responses.memory.visible:
                self.site.collector.tick()
            self.site.reconciler.tick()
            self.site.clock.now += SWEEP_SECONDS

    def work(self, capacity: int) -> None:
        """Classify up to so many images."""
        while capacity > 0 and (received := self.site.requests.receive(min(10, capacity), wait_seconds=0)):
            capacity -= len(received)
            for message in received:
                request = RequestMessage.from_json(message.body)
                [ref] = request.refs
                self.site.store_output(done(ref))
                if ref.image_id not in self.lost_responses:
                    self.site.responses.send([response_of(done(ref))])
            self.site.requests.delete([message.receipt for message in received])

    def requests(self) -> Counter[str]:
        """Return how many requests of each image were sent."""
        return Counter(image_id for image_id, _ in self.site.requests.requests())


_habits = st.builds(
    Habits,
    short=st.sampled_from((0.0, 0.3)),
    twice=st.sampled_from((0.0, 0.1)),
    late=st.sampled_from((0.0, 0.05)),
    stale_seconds=st.sampled_from((0.0, 60.0)),
)
_orders = st.sampled_from((None, FairOrder()))

FEW = settings().max_examples // 10
GENERATED = [Phase.explicit, Phase.reuse, Phase.generate]
"""Without the phase that shortens a failing example: each takes a second."""


@settings(max_examples=FEW, phases=GENERATED)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=4).filter(any), _habits, _orders, st.data())
def test_a_lost_message_is_replaced_within_ten_minutes_though_the_system_never_rests(
    rates: list[int], habits: Habits, order: Random | None, data: st.DataObject
) -> None:
    """Row 62."""
    system = BusySystem(rates, habits, order)
    system.site.requests.memory.others_in_flight = IN_FLIGHT
    capacity = 2 * sum(rates) + 2
    system.run(data.draw(st.sampled_from((10.0, 300.0))), capacity)
    users = st.integers(0, len(rates) - 1)
    unsent = [ref for user in data.draw(st.lists(users, max_size=3)) for ref in system.accept(user, 1, request=False)]
    unanswered = [ref for user in data.draw(st.lists(users, max_size=3)) for ref in system.accept(user, 1)]
    system.lost_responses = {ref.image_id for ref in unanswered}
    system.run(TEN_MINUTES, capacity)
    assert [ref for ref in unsent if not system.requests()[ref.image_id]] == []
    assert [ref for ref in unanswered if system.site.store.result(ref) is None] == []
    assert set(system.requests().values()) == {1}, "and nothing else is requested again"


@settings(max_examples=FEW, phases=GENERATED)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), _habits, _orders, st.booleans(), st.integers(0, 50))
@example(rates=[6, 2, 1], habits=Habits(), order=FairOrder(), paused=False, backlog=32)
def test_a_backlog_in_order_is_never_requested_again_however_long_workers_are_away(
    rates: list[int], habits: Habits, order: Random | None, paused: bool, backlog: int
) -> None:
    """Row 44."""
    system = BusySystem(rates, habits, order)
    system.accept(0, backlog)
    system.run(300.0, max(1, sum(rates) // 2))
    system.site.paused = paused
    system.rates = [0 for _ in rates]
    system.site.pass_time(62 * 3_600.0, every=7_200.0)
    system.site.paused, system.rates = False, rates
    system.run(600.0, max(1, sum(rates) // 2))
    system.rates = [0 for _ in rates]
    system.run(300.0, 200)
    assert set(system.requests().values()) == {1}
    assert {system.site.store.status(job_id).waiting for job_id in system.jobs} == {0}


@settings(max_examples=FEW // 2, phases=GENERATED)
@given(st.lists(st.integers(1, 2), min_size=1, max_size=2), st.integers())
def test_a_queue_without_any_order_gets_three_requests_of_an_image_at_most(rates: list[int], seed: int) -> None:
    system = BusySystem(rates, order=Random(seed))
    system.run(1_800.0, max(1, sum(rates) // 2))
    assert max(system.requests().values()) <= MAX_REQUESTS


def test_a_job_that_grows_for_long_takes_bounded_memory_and_knows_what_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lost_images, "MAX_SEEN", 64)
    times = RequestTimes()
    for now in range(2_000):
        times.update(f"{now:026}", now - 1)
        assert times.requested_after(f"{now:026}") == now - 1
        assert len(times._seen) <= 64
    assert all(float("-inf") < times.requested_after(f"{now:026}") < now for now in range(2_000))
