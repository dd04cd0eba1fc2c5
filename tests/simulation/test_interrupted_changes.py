"""A process that ends between any two writes of a changed job leaves nothing apart for good.

Each change is played once for each write that a process makes meanwhile, and the process is killed after it. Page,
user's list, results file and its copy must agree a minute later, and every promise of
`tests/simulation/data_path/checks.py` must hold once the system has come to rest.
"""

from collections.abc import Callable
from itertools import count
from typing import Final

import pytest

from core.jobs.buckets import InputBucket
from core.jobs.models import Job
from core.jobs.store import JobStore
from tests.simulation.data_path.clients import Content
from tests.simulation.data_path.processes import PLACES
from tests.simulation.data_path.world import World
from web_tier.uploads.cancellation import mark_cancelled

Change = Callable[[World, Job], object]

IMAGES: Final[list[Content]] = [(0, "good"), (1, "broken")]


def uploaded(how: str) -> Change:
    return lambda world, job: world.clients.upload(job, [(2, "good"), (3, "good")], how)


def ended(world: World, job: Job) -> None:
    """A finished job."""
    world.clients.upload(job, IMAGES, "plain")
    world.rest()


def waiting(world: World, job: Job) -> None:
    """A job with images that wait for a worker."""
    world.pause(on=True)
    world.clients.upload(job, IMAGES, "plain")
    world.run(10, 5)


def cancelled(world: World, job: Job) -> None:
    """A job of which every image can be retried."""
    waiting(world, job)
    world.clients.cancel(job)
    world.run(10, 5)
    world.pause(on=False)
    world.rest()


def stopped(world: World, _: Job) -> None:
    """A job from S3 that the controller has stopped in the middle of its source."""
    world.pause(on=True)
    world.clients.import_job([(index % 6, "good") for index in range(8)], keep=True)
    world.run(4, 2)
    job = world.clients.jobs[-1]
    world.clients.cancelled.add(job.job_id)
    mark_cancelled(JobStore(world.table), InputBucket(world.inputs), job.job_id, world.now(), "many images failed")
    world.run(10, 5)
    world.pause(on=False)
    world.rest()
    listing = JobStore(world.table).status(job.job_id).listing
    assert listing is not None
    assert (listing.state, listing.accepted > 0) == ("cancelled", True)


def shared(world: World, job: Job) -> None:
    """A job with a reader."""
    world.clients.share(job, 1)
    ended(world, job)


def given_up(world: World, job: Job) -> None:
    """A job with a dead letter, and workers that can classify its image now."""
    world.clients.upload(job, [(0, "heavy"), (1, "good")], "plain")
    world.rest()
    world.has_room = True


CHANGES: Final[dict[str, tuple[Change, Change]]] = {
    "create": (lambda *_: None, lambda world, _: world.clients.import_job(IMAGES, keep=True)),
    "upload the first images": (lambda *_: None, uploaded("plain")),
    "upload": (ended, uploaded("plain")),
    "upload under a key": (ended, uploaded("keyed")),
    "upload into the bucket": (ended, uploaded("direct")),
    "upload one by one": (ended, uploaded("single")),
    "move the border": (ended, lambda world, job: world.clients.move_border(job, 0.9)),
    "set true labels": (ended, lambda world, job: world.clients.review(job)),
    "share": (ended, lambda world, job: world.clients.share(job, 1)),
    "end a share": (shared, lambda world, job: world.clients.share(job, 1)),
    "cancel": (waiting, lambda world, job: world.clients.cancel(job)),
    "retry": (cancelled, lambda world, job: world.clients.retry(job)),
    "retry a stopped job": (stopped, lambda world, _: world.clients.retry(world.clients.jobs[-1])),
    "redrive": (given_up, lambda world, _: world.clients.redrive(0, times=1)),
    "discard": (given_up, lambda world, _: world.clients.discard(0)),
    "delete": (ended, lambda world, job: world.clients.delete(job)),
}


@pytest.mark.parametrize("kind", ["web", "controller", "worker"])
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_ends_at_any_write_leaves_page_list_file_and_copy_alike(what: str, kind: str) -> None:
    """Row 75."""
    prepare, change = CHANGES[what]
    for writes in count(1):
        world = World(1, fifo=False)
        world.clients.new_job(keep=True, results=PLACES[1])
        prepare(world, world.clients.jobs[0])
        world.faults.at_write = (kind, world.faults.writes[kind] + writes, "killed after")
        kills = world.kills
        change(world, world.clients.jobs[0])
        world.run(60, 30)
        world.checks.check_agreement()
        if world.kills == kills:
            break
        world.settle()
    assert kind != "web" or writes > 1, "a change has a write"
