from simulator.engine import Conditions, simulate
from simulator.rivals.plain import fixed, one_per_message
from simulator.traces import batch
from tests.simulation.stories import fleet_view


def test_one_per_message_launches_what_is_lacking_up_to_the_maximum() -> None:
    policy = one_per_message(19).new()
    assert policy.decide(fleet_view(visible=100)).launch == 19
    assert policy.decide(fleet_view(visible=3, in_flight=2, ready=2, booting=1)).launch == 2
    assert policy.decide(fleet_view(visible=100, ready=19)).launch == 0
    assert policy.decide(fleet_view(visible=0, ready=5)).launch == 0


def test_one_per_message_takes_the_whole_fleet_for_a_hundred_images() -> None:
    outcome = simulate(batch(100, 90.0), one_per_message(19), Conditions())
    assert (outcome.peak, outcome.launches) == (19, 19)


def test_a_fixed_fleet_never_changes() -> None:
    policy = fixed(19).new()
    assert (policy.terms.prepared, policy.terms.floor) == (19, 19)
    order = policy.decide(fleet_view(visible=1_000, ready=19))
    assert (order.launch, order.drain) == (0, ())
