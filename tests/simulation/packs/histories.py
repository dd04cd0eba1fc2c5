"""Random histories: clients, faults, kills and time, by a seed; and the shortest one that still breaks a promise."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

from tests.simulation.data_path.faults import FREEZES, PASSING
from tests.simulation.packs.world import World

STEPS: Final = 12
KINDS: Final = ("good", "good", "good", "good", "good", "broken", "poison", "hang", "machine", "slow")
SPANS: Final = ((1, 1), (2, 2), (10, 4), (60, 4), (200, 5), (4_000, 5))
PROCESSES: Final = ("web", "worker", "controller")


def _job(world: World, random: Random) -> str:
    return random.choice(world.clients.jobs[-2:])


def _kinds(random: Random) -> list[str]:
    return random.choices(KINDS, k=random.randint(1, 6))


def _upload(world: World, random: Random) -> None:
    used = [sent.key for sent in world.clients.sent[-1:] if sent.key.startswith("key")]
    world.clients.upload(_job(world, random), _kinds(random), random.choice(("", f"key-{random.random()}", *used)))


def _use_forms(world: World, random: Random) -> None:
    forms = [each for each in world.clients.sent if each.key.startswith("forms")]
    act = random.choice(("declare", "post", "commit")) if forms else "declare"
    if act == "declare":
        world.clients.declare(_job(world, random), _kinds(random))
    elif act == "post":
        world.clients.post(forms[-1], other=random.random() < 0.5)
    else:
        world.clients.commit(forms[-1])


def _new_job(world: World, random: Random) -> None:
    source = [("good", index) for index in range(random.randint(1, 7))] if random.random() < 0.5 else []
    model = "broken" if random.random() < 0.2 else "model"
    world.clients.new_job(is_kept=random.random() < 0.5, model=model, source=source)


def _trouble_sources(world: World, random: Random) -> None:
    for key in random.sample(sorted(world.cloud.sources.objects), k=min(2, len(world.cloud.sources.objects))):
        world.clients.trouble_source(key, random.choice(("denied", "gone", "changed")))


def _stop(world: World, random: Random) -> None:
    for process in world.running(random.choice(PROCESSES))[:1]:
        random.choice((world.kill, world.freeze))(process)


def _fault(world: World, random: Random) -> None:
    fault: Any = random.choice((*PASSING, *FREEZES, "killed before", "killed after"))
    kind = random.choice(PROCESSES)
    world.faults.at_write = (kind, world.faults.writes[kind] + random.randint(1, 8), fault)


def _fail_calls(world: World, random: Random) -> None:
    world.faults.share = random.choice((0.05, 0.3))
    _upload(world, random)
    world.run(*random.choice(SPANS))
    world.faults.share = 0.0


def _deny(world: World, random: Random) -> None:
    world.faults.denied.add(random.choice(("inputs", "outputs", "responses", "requests")))
    world.run(*random.choice(SPANS))
    world.faults.denied.clear()


def _worker(world: World, random: Random) -> None:
    for process in world.running("worker")[:1]:
        setattr(world.processes[process], *random.choice((("is_draining", True), ("has_memory", False))))


def _queue(world: World, random: Random) -> None:
    world.cloud.requests.twice = random.choice((0.0, 0.2))
    if random.random() < 0.3:
        world.cloud.requests.send("no request")


ACTS: Final[dict[str, tuple[int, Callable[[World, Random], object]]]] = {
    "upload": (8, _upload),
    "repeat": (3, lambda world, _: world.clients.repeat()),
    "use forms": (4, _use_forms),
    "new job": (3, _new_job),
    "trouble sources": (2, _trouble_sources),
    "retry": (3, lambda world, random: world.clients.retry(_job(world, random))),
    "cancel": (1, lambda world, random: world.clients.cancel(_job(world, random))),
    "delete": (1, lambda world, random: world.clients.delete(_job(world, random))),
    "kill or freeze": (6, _stop),
    "thaw": (2, lambda world, _: world.thaw()),
    "a day passes": (1, lambda world, _: world.run(26 * 3_600.0, 6)),
    "fault": (6, _fault),
    "fail calls": (2, _fail_calls),
    "lose requests": (1, lambda world, _: world.cloud.requests.messages.clear()),
    "deny": (2, _deny),
    "worker": (2, _worker),
    "queue": (1, _queue),
    "pause": (1, lambda world, _: setattr(world, "is_paused", not world.is_paused)),
}
"""What may happen, each with its weight."""


def acts_of(seed: int) -> list[tuple[str, int]]:
    """Return the acts of a seed: what happens, and the seed of its details."""
    random = Random(seed)
    names = random.choices(list(ACTS), [weight for weight, _ in ACTS.values()], k=STEPS)
    return [(name, random.getrandbits(32)) for name in names]


def play(seed: int, acts: list[tuple[str, int]]) -> World:
    """Play a history to its end.

    Raises:
        AssertionError: something happened that must never happen.
    """
    world = World(seed)
    world.clients.new_job()
    for name, details in acts:
        random = Random(details)
        ACTS[name][1](world, random)
        world.run(*random.choice(SPANS))
    world.settle()
    return world


def shortest(seed: int, acts: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return a part of a history that breaks a promise and of which no act can be left out."""
    for at in range(len(acts)):
        shorter = acts[:at] + acts[at + 1 :]
        try:
            play(seed, shorter)
        except AssertionError:
            return shortest(seed, shorter)
    return acts


def play_many(seeds: range) -> Counter[str]:
    """Play the histories of seeds; return what happened in all of them.

    Raises:
        AssertionError: with the shortest history found.
    """
    tally: Counter[str] = Counter()
    for seed in seeds:
        try:
            world = play(seed, acts_of(seed))
        except AssertionError as error:
            error.add_note(f"seed {seed}: {shortest(seed, acts_of(seed))}")
            raise
        tally.update(
            histories=1,
            faults=world.faults.met,
            freezes=world.freezes,
            kills=world.kills,
            images=sum(image is not None for sent in world.clients.sent for image in sent.images.values()),
            children=world.children.total(),
        )
    return tally
