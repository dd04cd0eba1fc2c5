"""A whole system of its own under measurement: the processes that `scripts/run.sh` starts, two workers at most."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Final, TypeVar

from ulid import ULID

from benchmarks.measure import Usage, busy_seconds, cpu_seconds_between, latencies, result_moments, usages
from core.fleet.store import FleetState, FleetStore
from fleetsight_client.api import ApiClient
from scripts.run.batch import Batch, BatchProgress
from scripts.run.images import ImageSet
from scripts.run.state import OpenState
from scripts.run.system import System, free_port
from services.ec2 import Fleet
from services.table import Table
from web_tier.autoscaler.forecast import forecast

WORKERS: Final = 2
ALWAYS_WARM: Final = {"FLEETSIGHT__FLEET__MIN_WORKERS": str(WORKERS), "FLEETSIGHT__WORKER__IDLE_SECONDS": "600"}
"""Settings with which as many workers wait all the time."""
GROWTH: Final = 1.15
"""Resident memory after a load ÷ before it, that still counts as flat."""
OURS: Final = ("web", "controller", "worker")
"""What runs on the user's instances on AWS; the local cloud stands for AWS itself."""
SERVICES: Final = ("cloud", "hypervisor", "controller", "web")
PATIENCE_SECONDS: Final = 60.0
ByProcess = dict[str, dict[int, Usage]]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Measured:
    """One batch.

    Attributes:
        images: how many.
        right: how many got their true label.
        seconds: from the first POST to the last result.
        latency_s: from acceptance to result, of each image.
        forecast_ratio: the forecast by the run's own rate ÷ the seconds from the first acceptance to the last result;
            both at least 1 s, as pages show them.
        cpu_ms: CPU milliseconds an image, by process.
        resident_mb: memory at the end, by process; of several, the greatest.
        others_cores: cores that everything else on this machine kept busy meanwhile; 0 is an undisturbed run.
    """

    images: int
    right: int
    seconds: float
    latency_s: list[float]
    forecast_ratio: float
    cpu_ms: dict[str, float]
    resident_mb: dict[str, float]
    others_cores: float

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds


def wait_for(find: Callable[[], _T | None], what: str, seconds: float = PATIENCE_SECONDS, poll: float = 0.1) -> _T:
    """Return what `find` returns, as soon as it is true.

    Raises:
        TimeoutError: it is not after so many seconds.
    """
    deadline = time.monotonic() + seconds
    while not (found := find()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(poll)
    return found


@dataclass
class Bench:
    """Sends batches through a running system and reads what its processes used."""

    system: System
    api: ApiClient
    fleet: Fleet

    def wait_for_workers(self, count: int) -> None:
        """Wait until the fleet has exactly `count` instances, all running, and the controller has reported once.

        Raises:
            TimeoutError: it has not after `PATIENCE_SECONDS`.
        """
        wait_for(
            lambda: (
                [instance.state for instance in self.fleet.instances()] == ["running"] * count
                and self._state().snapshot is not None
            ),
            f"a fleet of {count} running instances",
        )

    def batch(self, images: ImageSet) -> Measured:
        """Send one batch with the command's own client, and measure it.

        Raises:
            RuntimeError: an image got no result.
        """
        samples: list[tuple[float, int]] = []

        def add_sample(progress: BatchProgress) -> None:
            samples.append((time.time(), progress.classified))

        state, before, busy, began = self._state(), self._usages(), busy_seconds(), time.monotonic()
        summary = Batch(self.api, images, add_sample).run()
        after, busy, took = self._usages(), busy_seconds() - busy, time.monotonic() - began
        if not summary.ok:
            raise RuntimeError(f"{summary.failed} images failed, {summary.lost} were lost: {summary.failures[:3]}")
        used = {name: cpu_seconds_between(before.get(name, {}), each) for name, each in after.items()}
        # An image's id is made when it is accepted, and holds that moment.
        accepted = [ULID.from_str(result["image_id"]).timestamp for result in self.api.results(summary.job_id)]
        seen = result_moments(samples, len(accepted))
        return Measured(
            images=summary.images,
            right=summary.right or 0,
            seconds=summary.last_result_s,
            latency_s=latencies(accepted, seen),
            forecast_ratio=self._forecast_seconds(state, seen) / max(1.0, seen[-1] - min(accepted)),
            cpu_ms={name: 1e3 * seconds / summary.images for name, seconds in used.items()},
            resident_mb={
                name: max((each.resident_mb for each in usages.values()), default=0.0)
                for name, usages in after.items()
            },
            others_cores=max(0.0, (busy - sum(used.values())) / took),
        )

    def _state(self) -> FleetState:
        return FleetStore(Table(self.system.clients.dynamodb, self.system.config.names.job_table)).state()

    def _forecast_seconds(self, before: FleetState, seen: Sequence[float]) -> float:
        """Return the forecast by the fleet before a batch, with the times of a boot and an image of the batch itself.

        So what else the machine does, which slows workers, does not change the ratio.
        """
        after, later = self._state().snapshot, len(seen) - seen.count(seen[0])
        if before.snapshot is None or after is None:
            return nan
        # Of results that are all seen at once, only the controller knows the time of an image.
        image_seconds = WORKERS * (seen[-1] - seen[0]) / later if later else after.image_seconds
        measured = {"image_seconds": image_seconds, "boot_seconds": after.boot_seconds}
        state = replace(before, snapshot=before.snapshot.model_copy(update=measured))
        found = forecast(len(seen), state, self.system.config)
        return nan if found is None or found.seconds is None else max(1.0, found.seconds)

    def used_during(self, action: Callable[[], None]) -> tuple[float, dict[str, float]]:
        """Return how many seconds an action takes, and the CPU seconds that each process uses meanwhile."""
        before, began = self._usages(), time.monotonic()
        action()
        took, after = time.monotonic() - began, self._usages()
        return took, {name: cpu_seconds_between(before.get(name, {}), used) for name, used in after.items()}

    def _usages(self) -> ByProcess:
        found = {name: usages([pid]) for name in SERVICES if (pid := self.system.supervisor.pid(name)) is not None}
        # The local hypervisor writes down the process of each worker.
        stats = (self.system.state_dir / "instances").glob("*/process")
        workers = usages({int(text.split()[0]) for stat in stats if (text := stat.read_text())})
        # The instances are the hypervisor's children.
        own = {pid: usage for pid, usage in found["hypervisor"].items() if pid not in workers}
        return found | {"hypervisor": own, "worker": workers, "client": usages([os.getpid()], below=False)}


@contextmanager
def running(
    home: Path, settings: Mapping[str, str], state: OpenState | None = None, extensions: Sequence[str] = ()
) -> Iterator[Bench]:
    """Start a system with its files in `home`, and end it in each case.

    Args:
        home: a folder of its own.
        settings: configuration, as `FLEETSIGHT__SECTION__KEY`.
        state: in which the local cloud keeps everything, or None.
        extensions: of the local cloud, names of modules.
    """
    system = System(
        home,
        {
            "FLEETSIGHT__WEB__PORT": str(free_port()),
            "FLEETSIGHT__FLEET__MAX_WORKERS": str(WORKERS),
            **settings,
        },
        state=state,
        extensions=extensions,
    )
    api = ApiClient(system.url)
    try:
        system.start()
        yield Bench(system, api, Fleet(system.clients.ec2, system.config.names.worker_instance))
    finally:
        api.close()
        system.stop()
