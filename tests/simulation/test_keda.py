import pytest

from simulator.rivals.keda import jobs_to_create, keda_accurate
from tests.simulation.stories import fleet_view


@pytest.mark.parametrize(
    ("queue", "running", "pending", "jobs"),
    [
        (3, 0, 0, 3),
        (3, 1, 1, 2),  # the pending one will take one of the three
        (3, 2, 0, 3),  # those that run have taken theirs
        (10, 0, 0, 5),
        (10, 3, 0, 2),  # no more than the maximum
        (10, 5, 5, 0),
        (0, 2, 1, 0),
    ],
)
def test_as_many_jobs_as_messages_that_no_job_is_coming_for(
    queue: int, running: int, pending: int, jobs: int
) -> None:
    """As in the documentation of `accurate`, with a `maxReplicaCount` of 5 and a message for each job."""
    assert jobs_to_create(queue, running, pending, maximum=5, queue_length=1) == jobs


def test_a_job_is_for_five_messages_by_default() -> None:
    assert jobs_to_create(11, 0, 0, maximum=19) == 3


def test_the_queue_is_looked_at_every_thirty_seconds() -> None:
    policy = keda_accurate(19).new()
    launched = [policy.decide(fleet_view(float(now), visible=50)).launch for now in (0, 1, 29, 30, 31)]
    assert launched == [10, 0, 0, 10, 0]


def test_what_is_in_hand_is_not_in_the_queue() -> None:
    assert keda_accurate(19).new().decide(fleet_view(in_flight=10, ready=10)).launch == 0
