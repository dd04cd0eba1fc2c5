"""Under every fault (lost, repeated, late, killed or frozen), every acknowledged image gets exactly one right result.

Each history is random: clients upload, retry and delete, calls fail, processes die and freeze, queues behave at their
worst, days pass. Afterwards everything must have come to rest as `tests/simulation/data_path/world.py` checks it.
"""

from collections.abc import Callable

import pytest

from core.ids import pack_of
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.store import JobStore
from tests.simulation.data_path.machine import play
from tests.simulation.data_path.world import WORKERS, World
from web_tier.controller.cleanup import EXPIRY_SECONDS, LINGER_SECONDS

HISTORIES = 100
"""For each seed: 1,200 in all."""
SEEDS = (0, 1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 12)))
LEAST = {
    "faults": 1_000,
    "kills": 200,
    "images": 400,
    "freezes": 40,
    "cancelled": 10,
    "poisoned": 10,
    "children": 200,
}
"""What the histories of a seed have of each, or they prove little."""
SEEDS_OF_REDRIVES = range(10)
"""With most of these seeds redrives have their turns between each other's reads and writes."""


@pytest.mark.parametrize("seed", SEEDS)
def test_every_acknowledged_image_gets_exactly_one_right_result(seed: int) -> None:
    happened = play(HISTORIES, 1_000 * seed)
    assert {what: happened[what] for what, least in LEAST.items() if happened[what] < least} == {}


def settled(fifo: bool, act: Callable[[World], None], seed: int = 1) -> World:
    world = World(seed, fifo=fifo)
    world.clients.new_job(keep=True)
    act(world)
    world.settle()
    return world


@pytest.mark.parametrize("fifo", [False, True])
def test_a_good_day_ends_as_it_should_with_one_message_for_each_pack(fifo: bool) -> None:
    def act(world: World) -> None:
        for how in ("plain", "keyed", "direct"):
            world.clients.upload(world.clients.jobs[0], [(0, "good"), (1, "broken"), (2, "good")], how)
            world.run(60, 6)

    world = settled(fifo, act)
    refs = [file.acknowledged for file in world.clients.files.values() if file.acknowledged]
    assert len(refs) == 9
    assert sorted(world.checks.done_labels.values()) == [
        "label-0",
        "label-0",
        "label-0",
        "label-2",
        "label-2",
        "label-2",
    ]
    assert sum(world.requests.sent.values()) == len({pack_of(ref.image_id) for ref in refs})


def test_fifty_images_are_one_object_one_message_and_one_object_of_results() -> None:
    def act(world: World) -> None:
        world.clients.callers.clear()  # the job has no quota
        world.clients.so_far = 400
        world.clients.upload(world.clients.jobs[0], [(index, "good") for index in range(50)], "plain")
        world.run(60, 6)
        assert (len(world.inputs.objects), world.requests.sent.total()) == (1, 1)
        assert [key.endswith(".jsonl") for key in world.outputs.objects] == [True, True], "and the results file"

    assert len(settled(False, act).checks.done_labels) == 50


def redrive_at_once(world: World) -> None:
    """Upload an image that ends every worker; once workers have more memory, redrive it eight times at once."""
    world.clients.upload(world.clients.jobs[0], [(0, "heavy")], "plain")
    world.run(700, 70)
    world.has_room = True
    world.clients.redrive(0, times=8)


@pytest.mark.parametrize("fifo", [False, True])
def test_eight_concurrent_redrives_of_a_dead_letter_are_one_attempt_with_one_label(fifo: bool) -> None:
    for seed in SEEDS_OF_REDRIVES:
        world = settled(fifo, redrive_at_once, seed)
        assert list(world.clients.redriven.values()) == [1]
        assert list(world.checks.done_labels.values()) == ["label-0"]


def upload_while_frozen(world: World, where: str) -> None:
    """Freeze the controller before a call; upload a second image; resume the controller once the job is closed."""
    world.faults.armed.append(("controller", where, "frozen before"))
    world.clients.upload(world.clients.jobs[0], [(0, "good")], "plain")
    world.run(60, 6)
    assert world.frozen
    world.clients.upload(world.clients.jobs[0], [(1, "good")], "plain")
    world.run(3_700, 370)
    assert not OpenJobs(world.table).find_all()
    world.thaw()
    world.run(60, 6)


@pytest.mark.parametrize("where", ["table.PutItem", "table.TransactWriteItems", "outputs.put"])
def test_a_controller_that_was_frozen_until_the_job_was_closed_changes_nothing(where: str) -> None:
    """Row 54."""
    assert len(settled(False, lambda world: upload_while_frozen(world, where)).checks.done_labels) == 2


@pytest.mark.parametrize("where", ["table.PutItem", "table.TransactWriteItems", "outputs.put"])
def test_a_controller_that_was_frozen_until_a_job_was_deleted_leaves_nothing_of_it(where: str) -> None:
    def act(world: World) -> None:
        world.faults.armed.append(("controller", where, "frozen before"))
        world.clients.upload(world.clients.jobs[0], [(0, "good")], "plain")
        world.run(60, 6)
        assert world.frozen
        world.clients.delete(world.clients.jobs[0])
        world.run(2 * LINGER_SECONDS, 20)
        assert not DeletedJobs(world.table).find_all()

    assert settled(False, act).clients.deleted


@pytest.mark.parametrize("fifo", [False, True])
def test_a_job_cancelled_while_the_fleet_is_paused_ends_and_is_not_classified_later(
    fifo: bool,
) -> None:
    def act(world: World) -> None:
        world.clients.upload(world.clients.jobs[0], [(0, "good")], "plain")
        world.run(60, 6)
        world.pause(on=True)
        world.clients.upload(world.clients.jobs[0], [(1, "good"), (2, "broken")], "plain")
        world.run(10, 5)
        world.clients.cancel(world.clients.jobs[0])
        world.run(10, 5)
        assert JobStore(world.table).status(world.clients.jobs[0].job_id).counts.cancelled == 2

    assert list(settled(fifo, act).checks.done_labels.values()) == ["label-0"]


@pytest.mark.parametrize("fifo", [False, True])
def test_a_retry_of_a_cancelled_job_classifies_its_cancelled_images(fifo: bool) -> None:
    def act(world: World) -> None:
        world.pause(on=True)
        world.clients.upload(world.clients.jobs[0], [(0, "good"), (1, "good")], "plain")
        world.run(10, 5)
        world.clients.cancel(world.clients.jobs[0])
        world.run(10, 5)
        world.clients.retry(world.clients.jobs[0])
        world.run(10, 5)
        world.pause(on=False)

    world = settled(fifo, act)
    assert sorted(world.checks.done_labels.values()) == ["label-0", "label-1"]
    assert JobStore(world.table).status(world.clients.jobs[0].job_id).state == "finished"


def test_a_label_that_arrives_after_its_job_was_closed_is_in_the_results_file() -> None:
    def act(world: World) -> None:
        world.faults.armed.append(("worker", "outputs.put", "frozen before"))
        world.clients.upload(world.clients.jobs[0], [(0, "good")], "plain")
        world.run(20, 10)
        world.clients.cancel(world.clients.jobs[0])
        world.run(600, 60)
        assert world.frozen
        assert not OpenJobs(world.table).find_all()
        world.thaw()
        world.run(20, 10)

    assert list(settled(False, act).checks.done_labels.values()) == ["label-0"]


@pytest.mark.parametrize("fifo", [False, True])
def test_results_wait_for_hours_without_a_consumer_and_no_image_is_requested_again(fifo: bool) -> None:
    """Row 29."""

    def act(world: World) -> None:
        for seconds, contents in ((3_700, range(3)), (21_600, range(3, 6))):
            world.clients.upload(world.clients.jobs[0], [(index, "good") for index in contents], "plain")
            world.run_without_consumer(seconds, 60)
        assert not world.checks.done_labels
        # The next controller starts to receive late, and sees the answers by their count only.
        world.faults.armed += [("controller", "responses.receive", "unavailable")] * 20
        world.run(400, 40)

    world = settled(fifo, act)
    assert len(world.checks.done_labels) == 6
    assert not world.resent


@pytest.mark.parametrize("fifo", [False, True])
def test_results_are_read_from_the_bucket_after_their_queue_was_deleted_and_created(fifo: bool) -> None:
    """Row 29."""

    def act(world: World) -> None:
        world.clients.upload(world.clients.jobs[0], [(0, "good")], "plain")
        world.run_without_consumer(10, 5)
        world.clients.upload(world.clients.jobs[0], [(1, "good")], "plain")
        world.delete_response_queue(600)
        world.run(599, 60)
        assert not world.checks.done_labels

    world = settled(fifo, act)
    assert len(world.checks.done_labels) == 2
    assert world.started["worker"] > WORKERS, "a worker that cannot respond ends"


def test_a_wrong_clock_of_the_controller_expires_no_image() -> None:
    def act(world: World) -> None:
        world.clients.new_job(keep=False)
        world.clients.upload(world.clients.jobs[-1], [(0, "good")], "plain")
        world.run(60, 6)
        world.skew_seconds["controller"] = 8 * 86_400
        world.run(2 * EXPIRY_SECONDS, 10)

    assert len(settled(False, act).checks.done_labels) == 1
