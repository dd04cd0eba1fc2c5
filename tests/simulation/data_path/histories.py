"""Histories by name: each once broke a promise on paper, and is played with a fault at each of its writes."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, get_args

from tests.simulation.data_path.clients import Content, Trouble
from tests.simulation.data_path.faults import Fault
from tests.simulation.data_path.processes import BROKEN_MODEL, Kind
from tests.simulation.data_path.world import World

KILLED_OR_FROZEN: Final[tuple[Fault, ...]] = ("killed before", "frozen before", "killed after", "frozen after")
UNKNOWN: Final[tuple[Fault, ...]] = ("reply lost", "repeated", "refused after its effect", "killed after")

HOUR: Final = 3_600.0
MANY: Final = 400
"""Images that a job has had if its packs may be large."""


@dataclass(frozen=True)
class History:
    """A history; `faults` befall the writes of these kinds of processes."""

    act: Callable[[World], None]
    kinds: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = KILLED_OR_FROZEN


HISTORIES: Final[dict[str, History]] = {}


def history(**settings: Any) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Return what makes a history of a function, with its name."""

    def add(act: Callable[[World], None]) -> Callable[[World], None]:
        HISTORIES[act.__name__] = History(act, **settings)
        return act

    return add


def pictures(*kinds: Kind) -> list[Content]:
    """Return pictures of these kinds, each with a number of its own."""
    return list(enumerate(kinds))


def upload(world: World, *kinds: Kind, how: str = "plain") -> None:
    """Upload pictures into the last job."""
    world.clients.upload(world.clients.jobs[-1], pictures(*kinds), how)


def new_job(world: World, *, keep: bool = False) -> None:
    """Make a job without a quota and without a copy of its results."""
    world.clients.new_job(keep=keep, is_limited=False, results="")


@history(kinds=("web",))
def a_repeat_with_a_key_meets_its_first_request(world: World) -> None:
    """A repeat meets its first request at any of its writes, and its packs are of another size."""
    world.clients.so_far = None
    for _ in range(3):
        upload(world, "good", "good", "broken", "good", "good", how="keyed")
        world.clients.repeat_upload()
        world.clients.repeat_upload()
        world.run(40, 4)
    world.thaw()


@history()
def a_web_process_stands_still_until_its_objects_are_swept(world: World) -> None:
    """A web process stands still between its objects and its transaction, while the job is swept twice."""
    world.web_timeout_seconds = inf
    for how in ("plain", "keyed"):
        world.faults.armed.append(("web", "table.TransactWriteItems", "frozen before"))
        upload(world, "good", "good", "good", how=how)
        world.run(2, 2)
        assert world.frozen
        world.run(2 * HOUR, 4)
        world.run(50 * HOUR, 12)
        if how == "keyed":
            world.clients.repeat_upload()
            world.run(20, 4)
        world.thaw()
        world.run(20, 4)


@history()
def a_web_process_dies_in_a_closed_job(world: World) -> None:
    """A web process dies between its objects and its transaction, long after the job was closed."""
    new_job(world, keep=True)
    upload(world, "good")
    world.run(200, 8)
    world.run(72 * HOUR, 6)
    world.faults.armed.append(("web", "table.TransactWriteItems", "killed before"))
    upload(world, "good")
    world.run(5, 2)


@history(kinds=("web",))
def a_form_and_its_commit_are_sent_again(world: World) -> None:
    """A form is sent twice, its commit twice, and once more with other bytes after the commit."""
    for keep in (False, True):
        new_job(world, keep=keep)
        upload(world, "good", "good", "good", how="direct")
        world.run(2, 2)
        world.clients.use_form_again(-1, None)
        world.clients.repeat_upload()
        world.clients.use_form_again(-1, (5, "good"))
        world.run(60, 6)
        world.clients.use_form_again(-2, (5, "good"))
        world.clients.repeat_upload()
        world.run(5, 2)
    world.thaw()


@history(kinds=("controller",))
def collector_canceller_and_retries_write_one_item(world: World) -> None:
    """Collector, canceller and retries write the item of one pack."""
    upload(world, "good", "slow", "broken", "good", "poison")
    world.run(60, 12)
    world.clients.cancel(world.clients.jobs[-1])
    world.run(3, 3)
    for _ in range(2):
        world.clients.retry(world.clients.jobs[-1])
        world.clients.retry(world.clients.jobs[-1])
        world.run(80, 8)
        world.thaw()


@history(kinds=("worker",))
def a_holder_stands_still_and_its_message_has_another_one(world: World) -> None:
    """A worker stands still in a step, its message has another holder, both finish, one dies."""
    for seconds in (10, 20, 60):
        upload(world, "good", "poison", "good")
        world.run(2, 2)
        for process in world.processes("worker")[:1]:
            world.freeze(process)
        world.run(seconds, 4)
        world.thaw()
        world.run(2, 2)
        for process in world.processes("worker")[:1]:
            world.kill(process)


@history(kinds=("worker",))
def a_label_is_stored_after_its_image_failed_and_not_answered(world: World) -> None:
    """Workers end at an image; then one that stood still stores its label and dies, while the job is open again."""
    world.has_room = True
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    upload(world, "heavy", "good")
    world.run(5, 5)
    world.has_room = False
    world.run(400, 40)
    upload(world, "good")
    world.faults.armed.append(("worker", "outputs.put", "killed after"))
    world.thaw()
    world.run(5, 5)


@history()
def a_label_is_stored_after_its_job_was_cancelled(world: World) -> None:
    """A worker that stood still stores a label after the image was cancelled, and dies."""
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    upload(world, "good", "good")
    world.run(10, 5)
    world.clients.cancel(world.clients.jobs[-1])
    world.run(20, 4)
    world.faults.armed.append(("worker", "outputs.put", "killed after"))
    world.thaw()
    world.run(5, 5)


@history()
def a_later_attempt_meets_the_label_of_an_earlier_one(world: World) -> None:
    """A label of the first attempt is stored while a controller stands still before it fails the second one."""
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    upload(world, "good", "good")
    world.run(10, 5)
    world.clients.cancel(world.clients.jobs[-1])
    world.run(10, 5)
    world.pause(on=True)
    world.clients.retry(world.clients.jobs[-1])
    world.run(4, 2)
    world.faults.armed.append(("controller", "outputs.put", "frozen before"))
    world.has_consumer = False
    world.clients.cancel(world.clients.jobs[-1])
    world.run(10, 5)
    world.thaw(1)
    world.run(10, 5)
    world.has_consumer = True
    world.run(20, 5)
    world.thaw()


@history(kinds=("worker",), faults=("frozen before",))
def a_line_is_stored_while_another_worker_merges(world: World) -> None:
    """A worker has read the results object, and stands still before it stores what it merged; then it dies."""
    upload(world, "slow", "good", "slow", "good")
    world.run(3, 3)
    for process in world.processes("worker"):
        world.kill(process)
    world.run(250, 25)
    world.faults.armed.append(("worker", "outputs.put", "killed after"))
    world.thaw()
    world.run(10, 5)


@history(kinds=("web", "worker", "controller"), faults=UNKNOWN)
def each_write_loses_its_reply(world: World) -> None:
    """Each kind of write takes place at least once."""
    upload(world, "good", "broken", "good")
    upload(world, "good", "poison", how="keyed")
    new_job(world, keep=True)
    upload(world, "good", "good", how="direct")
    world.clients.import_job(pictures("good", "good", "broken"), keep=False)
    world.run(100, 10)
    world.clients.retry(world.clients.jobs[0])
    world.clients.cancel(world.clients.jobs[1])
    world.run(40, 4)
    world.clients.delete(world.clients.jobs[2])
    world.run(20, 2)
    world.thaw()


@history()
def a_model_ends_its_loader_beside_good_packs(world: World) -> None:
    """A model that ends its loader lies beside good packs, three times."""
    good = world.clients.jobs[-1]
    world.clients.use_model(BROKEN_MODEL)
    world.run(2, 2)
    for _ in range(3):
        new_job(world)
        upload(world, "good", "good")
        world.clients.upload(good, pictures("good", "poison", "good"), "plain")
        world.run(20, 4)


@history(kinds=("worker",))
def workers_drain_in_each_step(world: World) -> None:
    """Workers drain again and again while S3 is away, and die; then images are retried with another model."""
    upload(world, "poison", "slow", "good")
    world.run(5, 5)
    for _ in range(4):
        world.faults.outages["inputs"] = world.scheduler.now + 50.0
        world.run(50, 10)
        world.drain()
        world.run(10, 5)
    for process in world.processes("worker"):
        world.kill(process)
    world.run(100, 4)
    world.model = "model-b"
    world.clients.retry(world.clients.jobs[-1])
    world.run(60, 4)


@history()
def rights_are_refused_for_hours(world: World) -> None:
    """Workers lack a right for five hours each; some messages are no requests."""
    for _ in range(3):
        world.requests.add("no request")
    for service in ("inputs", "outputs"):
        upload(world, "good", "good", "good")
        world.faults.denied.add(service)
        world.run(5 * HOUR, 150)
        world.faults.denied.clear()
    assert set(world.dead_letters.sent) == {"no request"}, "what was given back became a dead letter"


@history()
def replies_of_receives_are_lost_for_minutes(world: World) -> None:
    """Replies of receives are lost for minutes while images wait."""
    upload(world, "good", "good", "good")
    for _ in range(2):
        world.faults.armed += [("worker", "requests.receive", "reply lost")] * 200
        world.run(600, 30)
        world.faults.armed.clear()
        world.run(4, 1)


@history()
def sources_change_vanish_and_are_refused(world: World) -> None:
    """Objects of a user's bucket change, vanish and are refused, and a job is deleted, beside good ones."""
    world.pause(on=True)
    for _ in range(2):
        world.clients.import_job([(index % 5, "good") for index in range(8)], keep=False)
        world.run(4, 2)
        for number, how in enumerate(get_args(Trouble)):
            world.clients.trouble_source(number * 2, how)
    world.clients.delete(world.clients.jobs[-1])
    world.run(4, 2)
    world.pause(on=False)
    world.run(60, 6)


@history()
def there_is_no_memory_for_a_second_network(world: World) -> None:
    """Machines have no memory for a second network while images come again."""
    world.has_children = False
    upload(world, "good", "slow", "good")
    world.run(10, 10)
    for process in world.processes("worker"):
        world.kill(process)
    world.run(120, 12)


def play_history(of: History, max_images: int, faults: int) -> None:
    """Play a history without a fault, then with so many of its faults, which take turns, at each write.

    Raises:
        AssertionError: something happened that must never happen.
    """
    writes = _play(of, max_images, None)
    for kind in of.kinds:
        for number in range(1, writes[kind] + 1):
            for fault in _in_turn(of.faults, number)[:faults]:
                _play(of, max_images, (kind, number, fault))


def _in_turn(faults: Sequence[Fault], number: int) -> list[Fault]:
    first = number % len(faults)
    return [*faults[first:], *faults[:first]]


def _play(of: History, max_images: int, at_write: tuple[str, int, Fault] | None) -> Counter[str]:
    """Play a history once; return how many writes its processes made."""
    world = World(1, fifo=False, max_images=max_images)
    world.clients.so_far = MANY
    new_job(world)
    world.faults.at_write = at_write
    of.act(world)
    writes = world.faults.writes.copy()
    world.settle()
    return writes
