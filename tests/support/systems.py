"""Whole systems of real processes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from scripts.demo_model.signs import samples
from scripts.run.state import OpenState
from scripts.run.supervisor import Supervisor
from scripts.run.system import System, free_port
from services.s3 import Bucket
from services.table import Table
from tests.support.forked_system import ForkingSupervisor
from tests.support.jobs import failed, put_results


@contextmanager
def running_system(
    home: Path,
    settings: Mapping[str, str] | None = None,
    *,
    state: OpenState | None = None,
    supervisor: Supervisor | None = None,
    has_provider: bool = False,
    extensions: Sequence[str] = (),
) -> Iterator[System]:
    """Run a system at a free port; its processes are forked, unless another supervisor starts them.

    Args:
        home: the folder of its files.
        settings: of the environment, above the shipped configuration.
        state: what the system keeps.
        supervisor: starts the processes.
        has_provider: whether users sign in at a development provider.
        extensions: of the local cloud, names of modules.
    """
    port = {"FLEETSIGHT__WEB__PORT": str(free_port())}
    overrides, starter = port | dict(settings or {}), supervisor or ForkingSupervisor()
    system = System(
        home, overrides, state=state, supervisor=starter, has_provider=has_provider, extensions=extensions
    )
    try:
        system.start()
        yield system
    finally:
        system.stop()


def crashed_images(system: System, count: int = 1) -> tuple[str, list[str]]:
    """Make a job of stored images whose workers crashed, so that a retry classifies them; return all ids."""
    store = JobStore(Table(system.clients.dynamodb, system.config.names.job_table))
    bucket = Bucket.named(system.clients, system.config.names.input_bucket)
    now = datetime.now(UTC)
    job = Job(new_id(), "crashed", now)
    store.create(job)
    images = []
    for sample in samples(count, seed=int(new_id()[-6:], 36)):
        ref, extension = ImageRef(job.job_id, new_id()), sample.filename.rpartition(".")[2]
        images.append(ImageRecord(ref, sample.filename, extension, (len(sample.data),), now))
        bucket.put(images[-1].key, sample.data, "image/jpeg")
    store.record_images(images, now)
    put_results(store, *map(failed, images))
    return job.job_id, [image.ref.image_id for image in images]
