from itertools import islice

import pytest

from simulator.workers import CERTAIN, NEVER, Machine


@pytest.mark.parametrize(
    ("ended_at", "billed"),
    [(17.0, 0), (16.0, 0), (17.5, 60), (77.0, 60), (77.1, 61), (78.0, 61), (177.0, 160)],
    ids=["as soon as it runs", "pending", "half a second", "a minute", "a little more", "a second more", "longer"],
)
def test_seconds_are_billed_from_running_on_and_at_least_a_minute_of_them(ended_at: float, billed: int) -> None:
    assert CERTAIN.billed(0.0, ended_at) == billed


def test_one_boot_in_twenty_is_slow_and_one_in_fifty_never_ends() -> None:
    boots = list(islice(Machine().boots(seed=3), 20_000))
    assert boots.count(80.0) / len(boots) == pytest.approx(0.05, rel=0.1)
    assert boots.count(NEVER) / len(boots) == pytest.approx(0.02, rel=0.15)
    assert set(boots) == {42.0, 80.0, NEVER}


def test_boots_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = (list(islice(Machine().boots(seed), 500)) for seed in (1, 1, 2))
    assert first == again != other


def test_another_boot_time_scales_its_parts_and_its_tail() -> None:
    quick = Machine.booting_in(4.2)
    assert (quick.boot_seconds, quick.pending_seconds, quick.slow_boot_seconds) == pytest.approx((4.2, 1.7, 8.0))
    assert Machine.booting_in(42.0) == Machine()
