"""The model of a fleet that the forecast and the simulator share, against queueing theory and by hand.

`tests/simulation/test_engine.py` has the rest: boots, idle times, draining and billing, as a simulation shows them.
"""

import math
from itertools import repeat

import numpy as np
import pytest
from numpy.typing import NDArray

from services.sqs import QueueCounts
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.playback import NEVER, InstanceTimes, Lots, Playback, PlayedWorker

Floats = NDArray[np.float64]
TIMES = InstanceTimes()


def playback(lots: Lots, idle_seconds: float = math.inf) -> Playback:
    boots = repeat(TIMES.boot_seconds)
    return Playback(lots, TIMES, boots, idle_seconds, instance_type="c7a.large", spot=False, begin=EPOCH)


def worker(name: str, ready_at: float = 0.0) -> PlayedWorker:
    return PlayedWorker(name, "c7a.large", spot=False, launched_at=ready_at - TIMES.boot_seconds, ready_at=ready_at)


def observed(fleet: Playback, now: float) -> Observation:
    return fleet.observe(now, fleet.requests(now), Demand(), FleetMetrics())


def erlang_c(workers: int, load: float) -> float:
    """Return the share of images that find all workers busy, for more workers than `load`.

    ``B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)); C = B(c) / (1 - a / c (1 - B(c)))`` for a load a and c workers.
    Source: Kleinrock, Queueing Systems I (1975), eq. 3.40 and 3.43 (Erlang's C and B formulas).
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def waits(workers: int, load: float, seconds: Floats) -> Floats:
    """Return how long images wait that take `seconds`, without the first fiftieth.

    They arrive as a Poisson process: given their number, its arrivals are independent and uniform.
    """
    arrivals = np.sort(np.random.default_rng(1).uniform(0.0, len(seconds) / load, len(seconds)))
    fleet = playback(Lots(arrivals.tolist(), [1] * len(seconds), seconds.tolist()))
    for number in range(workers):
        fleet.add(worker(f"i-{number}"))
    fleet.advance(math.inf)
    waited: Floats = np.frombuffer(fleet.finished) - seconds - arrivals
    return waited[len(seconds) // 50 :]


def test_eight_workers_with_exponential_times_wait_as_erlang_says() -> None:
    found = waits(8, 6.0, np.random.default_rng(2).exponential(1.0, 300_000))
    assert np.mean(found > 1e-9) == pytest.approx(erlang_c(8, 6.0), rel=0.02)
    assert found.mean() == pytest.approx(erlang_c(8, 6.0) / (8 - 6.0), rel=0.05)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # by hand: a²/2 / (1 - u) over the sum


def test_one_worker_with_constant_times_waits_as_pollaczek_and_khinchin_say() -> None:
    """``a S / (2 (1 - a))``. Source: Kleinrock, Queueing Systems I (1975), eq. 5.73, without variation."""
    found = waits(1, 0.7, np.ones(300_000))
    assert found.mean() == pytest.approx(0.7 / (2 * (1 - 0.7)), rel=0.02)


@pytest.mark.parametrize("lot_images", [1, 7, 50])
def test_images_in_lots_are_all_there_and_take_as_long(lot_images: int) -> None:
    lots = Lots.split(100, lot_images, 1.5, -3.0)
    fleet = playback(lots)
    fleet.add(worker("i-0"))
    fleet.advance(0.0)
    assert fleet.requests(0.0) == QueueCounts(100, 0, 0)
    fleet.advance(1.0)
    assert fleet.requests(1.0) == QueueCounts(100 - lots.sizes[0], lots.sizes[0], 0)
    fleet.advance(200.0)
    assert fleet.finished[-1] == pytest.approx(150.0)
    assert (fleet.requests(200.0), fleet.handed_out, fleet.free_at) == (QueueCounts(0, 0, 0), 100, 150.0)


def test_images_that_are_put_back_come_before_those_that_wait() -> None:
    fleet = playback(Lots.split(2, 1, 10.0))
    fleet.add(worker("i-0"))
    fleet.advance(5.0)  # one of the two is in flight
    fleet.put_back(Lots.split(3, 1, 1.0))
    assert fleet.requests(5.0) == QueueCounts(4, 1, 0)
    fleet.advance(100.0)
    assert list(fleet.finished) == [10.0, 11.0, 12.0, 13.0, 23.0]


def test_a_protected_worker_stays_when_it_is_idle_until_it_is_protected_no_more() -> None:
    fleet = playback(Lots([], [], []), idle_seconds=10.0)
    for name in ("i-0", "i-1"):
        fleet.add(worker(name))
    fleet.carry_out(Plan(0, (), "enough", protect=("i-1", "gone")), 0.0)
    fleet.advance(95.0)
    assert observed(fleet, 95.0).protected == {"i-1"}
    assert [(each.instance_id, each.ended_at, each.has_worked) for each in fleet.ended] == [("i-0", 10.0, False)]
    fleet.carry_out(Plan(0, (), "enough", unprotect=("i-1",)), 95.0)
    fleet.advance(100.0)
    assert [each.instance_id for each in fleet.ended] == ["i-0", "i-1"]
    assert not fleet.has_events


def test_a_drained_worker_ends_with_its_last_image_and_an_idle_one_at_once() -> None:
    fleet = playback(Lots([0.0, 0.0], [1, 1], [5.0, 50.0]))
    for name in ("i-0", "i-1"):
        fleet.add(worker(name))
    fleet.advance(20.0)
    fleet.carry_out(Plan(0, (), "draining", drain=("i-0", "i-1")), 20.0)
    fleet.advance(21.0)
    assert observed(fleet, 21.0).draining == {"i-1"}
    assert fleet.requests(21.0).in_flight == 1
    fleet.advance(60.0)
    assert [(each.instance_id, each.ended_at) for each in fleet.ended] == [("i-0", 20.0), ("i-1", 50.0)]


def test_an_instance_that_never_reports_is_an_event_until_it_is_given_up() -> None:
    fleet = playback(Lots.split(1, 1, 1.0))
    fleet.add(PlayedWorker("i-0", "c7a.large", spot=True, launched_at=-50.0, ready_at=NEVER))
    fleet.advance(69.0)
    assert (list(observed(fleet, 69.0).metrics.unregistered), fleet.has_events) == (["i-0"], True)
    fleet.advance(70.0)
    assert (fleet.ended[0].ended_at, fleet.has_events) == (70.0, False)


def test_stopped_instances_that_a_plan_starts_boot_like_launched_ones() -> None:
    fleet = playback(Lots.split(4, 1, 1.0))
    fleet.carry_out(Plan(1, ("i-stopped",), "starting"), 0.0)
    fleet.advance(60.0)
    assert (fleet.launched, fleet.booted, list(fleet.finished)) == (2, [42.0, 42.0], [43.0, 43.0, 44.0, 44.0])
