"""The fewest workers with which images are answered in time: cases that can be checked by hand."""

from dataclasses import replace

from core.config import FleetSettings
from services.sqs import QueueCounts
from tests.support.autoscaler import explained, fleet_settings, instance
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.deadline import Arrivals, desired_range
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.offerings import offerings


def by_deadline(target: float = 90.0, **changes: object) -> FleetSettings:
    own = {"policy": "deadline", "target_seconds": target, "image_seconds": 1.5, "boot_seconds": 42}
    return fleet_settings(**{**own, **changes})


def view(
    *waiting: tuple[float, int],
    ready: int = 0,
    booting: tuple[float, ...] = (),
    in_flight: int = 0,
    rate: float = 0.0,
    spare: int = 0,
    draining: int = 0,
) -> Observation:
    count = ready + len(booting) + draining
    instances = tuple(instance(f"i-{number}", "running") for number in range(count))
    return Observation(
        requests=QueueCounts(sum(images for _, images in waiting), in_flight, 0),
        dead_letters=0,
        instances=instances,
        draining=frozenset(f"i-{number}" for number in range(count - draining, count)),
        demand=Demand(waiting, rate),
        metrics=FleetMetrics(
            unregistered={f"i-{count - 1 - number}": age for number, age in enumerate(booting)},
            spare=tuple(f"i-{number}" for number in range(spare)),
        ),
    )


def plan(seen: Observation, target: float = 90.0, **changes: object) -> Plan:
    return decide(seen, by_deadline(target, **changes))


def test_a_hundred_images_in_ninety_seconds_need_four_workers_not_nineteen() -> None:
    # 150 s of work; a worker launched now has 48 s of the 90 left after its boot.
    assert plan(view((0.0, 100))).launch == 4
    assert plan(view((0.0, 100)), target=192.0).launch == 1
    assert plan(replace(view((0.0, 100)), messages=QueueCounts(2, 0, 0))).launch == 2, "a third would have no pack"


def test_what_is_late_in_any_case_is_caught_up_with_soon_after_the_boot() -> None:
    # 75 s of work within 27 s after the boot, 0.3 of the target: 2.8 workers.
    assert plan(view((80.0, 50))).launch == 3
    assert plan(view((80.0, 100))).launch > plan(view((0.0, 100))).launch
    assert plan(view((0.0, 100)), target=5.0).launch == 19


def test_what_is_due_later_comes_on_top_of_what_is_due_before() -> None:
    # 75 s of work are late (2.8 workers); all 150 s within the 48 s from the boot to the target need 3.1.
    assert plan(view((80.0, 50), (0.0, 50))).launch == 4


def test_images_that_arrive_later_count_once_they_are_due() -> None:
    # One worker does 132 of the 158 s of work that are due one boot after the target: 0.29 of a worker is missing.
    assert plan(view((0.0, 60), ready=1, rate=68 / 63)).launch == 0
    assert plan(view((0.0, 61), ready=1, rate=68 / 63)).launch == 1
    # None of them is due at the target itself, where 13.5 s of work are missing: 0.28 of a worker.
    assert plan(view((0.0, 69), ready=1, rate=0.7)).launch == 0


def test_workers_that_boot_are_counted_for_what_remains_after_it() -> None:
    assert plan(view((0.0, 100), booting=(0.0,))).launch == 2  # it does 48 of the 150 s of work
    assert plan(view((0.0, 100), booting=(0.0, 0.0, 0.0))).launch == 0
    assert plan(view((10.0, 100), booting=(10.0, 10.0, 10.0))).launch == 0


def test_a_boot_that_is_overdue_is_not_counted_on_and_still_one_of_the_fleet() -> None:
    assert plan(view((0.0, 100), booting=(60.0, 60.0, 60.0))).launch == 3
    assert plan(view((0.0, 100), booting=(60.0,) * 3), max_workers=4).launch == 1
    # From 42 s, its usual boot time, a worker counts as booted; from 44 s on, it does not count.
    assert plan(view((0.0, 68), booting=(41.0,))).launch == 0
    assert plan(view((0.0, 69), booting=(43.0,))).launch == 0
    assert plan(view((0.0, 100), booting=(44.0,))).launch == 3


def test_no_more_workers_than_images() -> None:
    assert plan(view((0.0, 2)), target=1.0).launch == 2
    # Ten late images, and one that arrives until the twelfth worker has booted; eight arrive within the target.
    assert plan(view((85.0, 10), rate=0.09), image_seconds=60).launch == 12


def test_a_remainder_of_a_few_images_is_left_to_the_workers_that_there_are() -> None:
    assert plan(view((0.0, 61), ready=1)).launch == 0


def test_a_stream_has_the_workers_that_it_needs_also_when_nothing_waits() -> None:
    assert plan(view(rate=4.0)).launch == 6  # images in work at any time
    assert plan(view(rate=4.0), target=2.0).launch > 6


def test_nothing_is_drained_while_images_wait() -> None:
    assert plan(view((0.0, 1), ready=10, spare=10)).drain == ()


def test_only_workers_beyond_the_need_whose_paid_minute_is_over_are_drained() -> None:
    few = plan(view(ready=10, spare=4))
    assert (few.drain, few.kind) == (("i-0", "i-1", "i-2", "i-3"), "draining")
    assert plan(view(ready=10, spare=10, rate=4.0)).drain == ("i-0", "i-1", "i-2", "i-3")
    assert plan(view(ready=10, spare=10), min_workers=8).drain == ("i-8", "i-9"), "the oldest stand by"


def test_a_draining_worker_serves_no_image_and_counts_in_the_fleet_until_it_ends() -> None:
    seen = view((0.0, 100), draining=18)
    assert plan(seen).launch == 1
    assert plan(seen, max_workers=18).launch == 0


def test_the_policy_fixed_has_always_as_many_as_allowed() -> None:
    settings = fleet_settings(policy="fixed", max_workers=5)
    assert decide(view(ready=3), settings).launch == 2
    assert explained(view(ready=3), settings) == "starting 2 workers (3 → 5, limit 5): always 5 workers"
    assert explained(view(ready=5), settings) == "5 workers are idle, always 5 workers"
    assert decide(view(ready=5), settings).protect == ("i-0", "i-1", "i-2", "i-3", "i-4"), (
        "none ends for want of work"
    )


def test_the_reason_names_the_target_or_the_time_by_which_images_are_to_be_finished() -> None:
    reason = explained(view((0.0, 100)), by_deadline())
    assert reason == "starting 4 workers (0 → 4, limit 19): 100 images left, to be answered within 90 s"
    later = replace(view(), requests=QueueCounts(40, 0, 0), demand=Demand(later=((7_200.0, 40),)), at=EPOCH)
    assert explained(later, by_deadline()).endswith(": 40 images left, to be finished by 1 Jan 02:00 UTC")


def stream(target: float, rate: float = 4.0, boot: float = 42.0) -> Arrivals:
    return Arrivals(rate, 1.5, target, boot)


def test_more_workers_are_kept_than_would_be_started_so_that_a_ripple_costs_no_boot() -> None:
    assert desired_range(view(rate=5.26), by_deadline(4.0)) == (8, 8, 9)
    # Half of the time of the images in flight is left: 15.75 s and 16.5 s of work, where nine workers can leave 16.4.
    assert [desired_range(view(rate=5.26, in_flight=images), by_deadline(4.0))[2] for images in (21, 22)] == [
        9,
        10,
    ]


def test_a_worker_that_boots_replaces_none_that_works() -> None:
    assert plan(view(ready=6, booting=(5.0,) * 4, spare=6, rate=4.0)).drain == ()
    assert plan(view(ready=7, booting=(5.0,) * 4, spare=7, rate=4.0)).drain == ("i-0",)


def test_what_was_measured_is_believed_before_the_configuration() -> None:
    seen = view((0.0, 100))
    fast = Observation(seen.requests, 0, (), demand=seen.demand, metrics=FleetMetrics(0.15, 1.0))
    assert desired_range(fast, by_deadline(20.0))[0] == 1


def test_images_that_may_be_finished_later_need_the_fewest_workers_and_add_to_those_due_at_once() -> None:
    hour = view()
    later = replace(hour, requests=QueueCounts(4_000, 0, 0), demand=Demand(later=((7_200.0, 4_000),)))
    # 6,000 s of work in nine tenths of two hours, less a boot: one worker does it.
    assert plan(later).launch == 1
    assert plan(replace(later, demand=Demand(later=((3_600.0, 4_000),)))).launch == 2
    assert plan(replace(later, demand=Demand(later=((60.0, 4_000),)))).launch == 19
    # 9,500 s of work in three hours, less a boot, would do with one worker, but a tenth of the time is left.
    assert plan(replace(later, demand=Demand(later=((10_800.0, 6_400),)))).launch == 1
    assert plan(replace(later, demand=Demand(later=((10_800.0, 6_500),)))).launch == 2
    both = replace(later, requests=QueueCounts(4_100, 0, 0), demand=Demand(((0.0, 100),), 0.0, ((7_200.0, 4_000),)))
    assert plan(both).launch == plan(view((0.0, 100))).launch == 4


def test_workers_for_later_wait_for_spot_capacity_while_half_of_the_fleet_would_do() -> None:
    later = replace(view(), requests=QueueCounts(4_000, 0, 0), demand=Demand(later=((7_200.0, 4_000),)))
    assert plan(later).is_patient
    assert not plan(replace(later, demand=Demand(later=((600.0, 4_000),)))).is_patient
    assert not plan(replace(later, demand=Demand(((0.0, 100),), 0.0, ((7_200.0, 4_000),)))).is_patient
    assert not plan(later, policy="schedule", min_workers=2).is_patient
    assert not plan(later, min_workers=2).is_patient, "the minimum waits for nothing"
    two = replace(later, instances=view(ready=2).instances)
    assert plan(replace(two, demand=Demand(later=((3_600.0, 8_000),))), min_workers=2).is_patient
    few = replace(later, requests=QueueCounts(4, 0, 0), demand=Demand(later=((7_200.0, 4),)))
    for seconds, waits in ((7_200.0, True), (160.0, True), (150.0, False), (-7_200.0, False)):
        assert plan(replace(few, demand=Demand(later=((seconds, 4),)))).is_patient is waits, "one worker does it"
    spot = by_deadline(market="spot", instance_types=["c7a.large", "c7i.large"])
    assert {each.market for each in offerings(spot, is_patient=True)} == {"spot"}
    assert {each.market for each in offerings(by_deadline(), is_patient=True)} == {"on_demand"}
