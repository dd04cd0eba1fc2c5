"""Histories by name: each is what once broke a promise on paper, and is played with a fault at each of its writes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from tests.simulation.data_path.faults import Fault
from tests.simulation.packs.rules import Guard
from tests.simulation.packs.world import World

KILLED_OR_FROZEN: Final[tuple[Fault, ...]] = ("killed before", "killed after", "frozen before", "frozen after")
UNKNOWN: Final[tuple[Fault, ...]] = ("reply lost", "repeated", "refused after its effect", "killed after")


@dataclass(frozen=True)
class Scene:
    """A history; the faults befall each write of these kinds of processes in turn.

    It breaks a promise if one of the guards that it `needs` is taken out.
    """

    act: Callable[[World], None]
    needs: tuple[Guard, ...] = ()
    kinds: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = KILLED_OR_FROZEN
    seeds: int = 2


SCENES: Final[dict[str, Scene]] = {}


def scene(*needs: Guard, **settings: Any) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Return what makes a scene of a function, with its name."""

    def add(act: Callable[[World], None]) -> Callable[[World], None]:
        SCENES[act.__name__] = Scene(act, needs, **settings)
        return act

    return add


@scene(Guard.REQUESTS_ARE_CLAIMED, Guard.BORDERS_ARE_CLAIMED, Guard.PACKS_HAVE_SLOTS, kinds=("web",))
def a_repeat_with_a_key_meets_its_first_request(world: World) -> None:
    """A repeat meets its first request at any of its writes, and the job has another count by then."""
    sent = world.clients.upload("job-0", ["good"] * 5, "key")
    world.run(1, 1)
    world.clients.upload("job-0", ["good"] * 3)
    world.run(1, 1)
    world.clients.send(sent)
    world.clients.send(sent)
    world.run(40, 4)
    world.thaw()


@scene(Guard.SWEEP_IS_SEEN)
def a_web_process_stands_still_until_its_objects_are_swept(world: World) -> None:
    """A web process stands still between its objects and its transaction, while the job is swept twice."""
    for key in ("", "key"):
        world.faults.armed.append(("web", "table.TransactWriteItems", "frozen before"))
        sent = world.clients.upload("job-0", ["good"] * 3, key)
        world.run(2, 2)
        assert world.frozen
        world.run(60, 6)
        world.run(25 * 3_600, 6)
        if key:
            world.clients.send(sent)
            world.run(20, 4)
        world.thaw()
        world.run(20, 4)
        assert not key or None not in sent.images.values(), "a request with a key can never be accepted"


@scene(Guard.CLOSED_JOBS_ARE_SWEPT, Guard.ITEMS_LIVE_AS_LONG_AS_JOBS)
def a_web_process_dies_in_a_closed_job(world: World) -> None:
    """A web process dies between its objects and its transaction, long after the job was closed."""
    world.clients.upload("job-0", ["good"])
    world.run(60, 4)
    world.run(72 * 3_600, 6)
    world.faults.armed.append(("web", "table.TransactWriteItems", "killed before"))
    world.clients.upload("job-0", ["good"])
    world.run(5, 2)


@scene(Guard.FORMS_ARE_COPIED, kinds=("web",))
def a_form_and_its_commit_are_sent_again(world: World) -> None:
    """A form is sent twice, its commit twice, and once more with other bytes after the commit."""
    for job in ("job-0", world.clients.new_job(is_kept=True)):
        sent = world.clients.declare(job, ["good"] * 3)
        world.clients.post(sent)
        world.clients.commit(sent)
        world.run(2, 2)
        world.clients.commit(sent)
        world.run(1, 1)
        world.clients.post(sent, other=True)
        world.run(60, 6)
        world.clients.commit(sent)
        world.thaw()
    world.run(20, 2)


@scene(Guard.COUNTS_MOVE_WITH_ITEMS, kinds=("controller",))
def collector_canceller_and_retries_write_one_item(world: World) -> None:
    """Collector, canceller and two retries write the item of one pack."""
    world.clients.upload("job-0", ["good"] * 8)
    world.run(30, 3)
    world.clients.upload("job-0", ["good", "hang", "slow", "poison"])
    world.run(120, 12)
    world.clients.cancel("job-0")
    world.run(3, 3)
    world.clients.retry("job-0")
    world.clients.retry("job-0")
    world.run(100, 10)
    world.thaw()
    world.clients.retry("job-0")
    world.run(100, 10)


@scene(Guard.REDELIVERIES_RUN_IN_A_CHILD, kinds=("worker",))
def a_holder_stands_still_and_its_message_has_another_one(world: World) -> None:
    """A worker stands still in a step, its message has another holder, both finish, one dies."""
    for seconds in (10, 20, 60):
        world.clients.upload("job-0", ["good", "poison", "good"])
        world.run(2, 2)
        for process in world.running("worker")[:1]:
            world.freeze(process)
        world.run(seconds, 4)
        world.thaw()
        world.run(2, 2)
        for process in world.running("worker")[:1]:
            world.kill(process)


@scene(Guard.FAILURES_ARE_READ_AGAIN)
def a_label_is_stored_after_its_image_failed_and_not_answered(world: World) -> None:
    """A worker fails an image since its source was refused; another, which stood still, stores the label and dies."""
    job = world.clients.new_job(source=[("good", 1)])
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    world.run(20, 4)
    assert world.frozen
    world.clients.trouble_source(f"{job}/0", "denied")
    world.run(90, 6)
    world.is_paused = True
    for process in world.running("worker"):
        world.kill(process)
    world.clients.upload(job, ["good"])
    world.faults.armed.append(("worker", "outputs.put", "killed after"))
    world.thaw()
    world.run(10, 4)
    world.is_paused = False


def _cancel_and_retry(world: World, troubled: str = "") -> None:
    """Cancel and retry an image that a worker has classified which stands still before it stores the line."""
    job = world.clients.new_job(source=[("good", 1)])
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    world.run(20, 4)
    world.clients.cancel(job)
    world.run(20, 4)
    world.faults.armed.append(("worker", "outputs.put", "frozen before"))
    if troubled:
        world.clients.trouble_source(f"{job}/0", troubled)
    else:
        world.thaw()
    world.run(5, 2)
    world.clients.retry(job)
    world.run(20, 4)
    world.thaw(1)
    world.run(20, 4)
    world.thaw()


@scene(Guard.DONE_WINS)
def a_later_attempt_fails_after_the_label_of_an_earlier_one(world: World) -> None:
    """The label of the first attempt comes late, the failure of the second one later."""
    _cancel_and_retry(world, "denied")


@scene(Guard.LINES_ARE_MERGED)
def a_line_is_stored_while_another_worker_merges(world: World) -> None:
    """A worker has read the results object, and stands still before it stores what it merged."""
    _cancel_and_retry(world)


@scene(kinds=("web", "worker", "controller"), faults=UNKNOWN, seeds=1)
def each_write_loses_its_reply(world: World) -> None:
    """Each kind of write takes place at least once."""
    world.clients.upload("job-0", ["good", "broken", "good"])
    world.clients.upload("job-0", ["good", "poison"], "key")
    world.clients.declare(world.clients.new_job(is_kept=True), ["good", "hang"])
    world.clients.new_job(source=[("good", index) for index in range(6)])
    world.run(100, 8)
    world.clients.retry("job-0")
    world.clients.cancel("job-1")
    world.run(60, 4)
    world.clients.delete("job-2")
    world.run(20, 2)
    world.thaw()


@scene(Guard.MODELS_ARE_TRIED)
def a_model_ends_its_loader_beside_good_packs(world: World) -> None:
    """A model that ends its loader lies beside good packs, three times."""
    for _ in range(3):
        world.clients.upload(world.clients.new_job(model="broken"), ["good", "good"])
        world.clients.upload("job-0", ["good", "poison", "good"])
        world.run(20, 4)


@scene(Guard.SUSPICION_STAYS, Guard.LATER_ATTEMPTS_WIN, Guard.BYTES_WAIT_FOR_FINAL_LINES, seeds=8)
def workers_drain_in_each_step(world: World) -> None:
    """Workers that work off a poison image drain again and again, and die; then its client retries it."""
    world.clients.upload("job-0", ["good"] * 6)
    world.run(20, 2)
    world.clients.upload("job-0", ["slow", "slow", "poison"])
    for _ in range(12):
        world.run(42, 3)
        for process in list(world.in_turn):
            world.processes[process].is_draining = True
    world.run(100, 4)
    for process in world.running("worker"):
        world.kill(process)
    world.clients.retry("job-0")
    world.run(60, 4)


@scene(Guard.GIVING_BACK_IS_NO_TRY)
def rights_and_memory_are_refused_for_hours(world: World) -> None:
    """Workers lack a right for five hours, then memory; ten messages are no requests."""
    for _ in range(10):
        world.cloud.requests.send("no request")
    _lose_receives(world, ["good"] * 3)
    for service in ("inputs", "outputs"):
        world.faults.denied.add(service)
        world.run(5 * 3_600, 60)
        world.faults.denied.clear()
    world.clients.upload("job-0", ["good"] * 4)
    _lose_receives(world, ["good"] * 3)
    for _ in range(24):
        for process in world.running("worker"):
            world.processes[process].has_memory = False
        world.run(60, 1)


def _lose_receives(world: World, kinds: list[str]) -> None:
    """Lose all replies of receives for ten minutes."""
    world.clients.upload("job-0", kinds)
    world.faults.armed += [("worker", "requests.receive", "reply lost")] * 200
    world.run(600, 30)
    world.faults.armed.clear()


@scene(Guard.TRIES_ARE_RECORDED, Guard.DEMAND_HAS_MESSAGES, seeds=4)
def replies_of_receives_are_lost_for_minutes(world: World) -> None:
    """Replies of receives are lost for minutes, twice, while lone images wait."""
    _lose_receives(world, ["good", "good"])
    world.run(4, 1)
    _lose_receives(world, [])


@scene(Guard.SOURCES_FAIL_ALONE, Guard.RESULTS_HAVE_VERSIONS, kinds=("worker",))
def sources_change_vanish_and_are_refused(world: World) -> None:
    """Objects of a user's bucket change, vanish and are refused, and a job is deleted, beside good ones."""
    world.is_paused = True
    for process in world.running("worker"):
        world.kill(process)
    job, deleted = (world.clients.new_job(source=[("good", index) for index in range(6)]) for _ in range(2))
    world.run(30, 6)
    for index, how in enumerate(("denied", "gone", "changed")):
        world.clients.trouble_source(f"{job}/{index}", how)
    world.clients.delete(deleted)
    world.is_paused = False
    world.run(60, 6)


@scene(Guard.DEATHS_ARE_KNOWN)
def an_instance_ends_while_it_works(world: World) -> None:
    """The instance of a worker ends while it works; its message does not wait for its timeout."""
    world.clients.upload("job-0", ["slow"])
    world.run(3, 3)
    [holder] = world.in_turn
    world.kill(holder)
    world.run(15, 5)
    is_back = all(message.receives > 1 for message in world.cloud.requests.messages.values())
    assert is_back, "the message of a worker that has ended waits for its timeout"


@scene(Guard.GREY_COMES_FIRST)
def there_is_no_memory_for_a_second_network(world: World) -> None:
    """Machines have no memory for a second network while good images are delivered again."""
    for process in world.running("worker"):
        world.processes[process].has_memory = False
    world.clients.upload("job-0", ["good", "hang", "good"])
    world.run(200, 20)


def play_scene(scene: Scene, off: Guard | None = None) -> None:
    """Play a scene without a fault, then with each fault at each write.

    Raises:
        AssertionError: something happened that must never happen.
    """
    for seed in range(scene.seeds):
        writes = _play(scene, seed, off, None)
        for kind in scene.kinds:
            for number in range(1, writes[kind] + 1):
                for fault in scene.faults:
                    _play(scene, seed, off, (kind, number, fault))


def _play(scene: Scene, seed: int, off: Guard | None, at_write: tuple[str, int, Fault] | None) -> Counter[str]:
    """Play a scene once; return how many writes its processes made."""
    world = World(seed, off)
    world.clients.new_job()
    world.faults.at_write = at_write
    scene.act(world)
    writes = world.faults.writes.copy()
    world.settle()
    return writes
