"""Real fleets on the local cloud: instances that take seconds to boot, and one worker for each image.

Beside the simulations of `fleet` and `fleet_faults`: real processes, real queues, and a bill at the end.
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report
from benchmarks.running import Bench, Measured, running
from scripts.run.images import ImageSet

GONE_SECONDS: Final = 60.0
"""Longest that is waited for the end of a fleet."""
SLOW_BOOTS: Final = ("boot_delay_seconds=5", "boot_delay_tail_seconds=10")
BY_DEADLINE: Final = {
    "FLEETSIGHT__FLEET__POLICY": "deadline",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "19",
    "FLEETSIGHT__FLEET__TARGET_SECONDS": "12",
    "FLEETSIGHT__FLEET__BOOT_SECONDS": "6",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "5",
}
ONE_EACH: Final = {
    "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "1",
    "FLEETSIGHT__FLEET__MAX_WORKERS": "15",
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "1",
}


@dataclass
class Watch:
    """What DescribeInstances said, again and again.

    Attributes:
        most: pending and running at once.
    """

    bench: Bench
    most: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until `stop`."""
        while not self._over.wait(0.05):
            self.most = max(self.most, len(self.bench.fleet.instances(("pending", "running"))))

    def stop(self) -> None:
        """Stop polling."""
        self._over.set()


@dataclass(frozen=True)
class Fleet:
    """What became of a fleet that answered one batch.

    Attributes:
        batch: the batch.
        launched: instances, by the controller's own log.
        peak: most of them at once, as EC2 told.
        gone_seconds: from the last answer to an empty fleet.
        billed_seconds, dollars: the bill, at the price of config.yaml.
    """

    batch: Measured
    launched: int
    peak: int
    gone_seconds: float
    billed_seconds: float
    dollars: float

    def figures(self, name: str) -> dict[str, float]:
        """Return all that is told of it."""
        return {
            f"{name}_batch_s": self.batch.seconds,
            f"{name}_right": self.batch.right / self.batch.images,
            f"{name}_launched": self.launched,
            f"{name}_peak": self.peak,
            f"{name}_gone_s": self.gone_seconds,
            f"{name}_billed_s": self.billed_seconds,
            f"{name}_dollars": self.dollars,
        }


def run(quick: bool) -> Report:
    """Measure both fleets; `quick` is no different."""
    del quick
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", 1_000)
        slow = fleet_of(home / "slow", images, BY_DEADLINE, SLOW_BOOTS)
        hundred = ImageSet(images.title, images.files[:100], images.truth)
        each = fleet_of(home / "each", hundred, ONE_EACH)
    return Report(
        "fleet_runs",
        slow.figures("slow_boots") | each.figures("one_each"),
        (
            Bar("boots of 5 s and a tail, 1,000 images: answered", slow.batch.images, at_least=1_000),
            Bar("boots of 5 s and a tail: peak ÷ workers that the plan launched", slow.peak / slow.launched, 1, 1),
            Bar("boots of 5 s and a tail: workers at the peak", slow.peak, at_most=19),
            Bar("a worker for each image, at most 15: peak", each.peak, at_most=15, at_least=15),
            Bar("a worker for each image: s from the last answer to none", each.gone_seconds, at_most=10),
        ),
    )


def fleet_of(home: Path, images: ImageSet, settings: Mapping[str, str], switches: Sequence[str] = ()) -> Fleet:
    """Send a batch to a system with a fleet at zero, and watch the fleet until it is there again."""
    with running(home, settings, switches) as bench, watched(bench) as watch:
        batch = bench.batch(images)
        ended = time.monotonic()
        bench.wait_for_workers(0)
        gone_seconds = time.monotonic() - ended
        bill = _bill(bench)
        launched = _launched(bench.system.state_dir / "logs" / "controller.log")
    return Fleet(batch, launched, watch.most, gone_seconds, *bill)


@contextmanager
def watched(bench: Bench) -> Iterator[Watch]:
    """Watch the fleet meanwhile."""
    watch = Watch(bench)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()


def _bill(bench: Bench) -> tuple[float, float]:
    """Return billed seconds and dollars once the controller has seen the end of the last instance."""
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        fleet = bench.api.fleet()
        if fleet is not None and fleet["running"] + fleet["pending"] == 0:
            return fleet["billed_seconds"], fleet["cost"]
        if time.monotonic() > deadline:
            raise TimeoutError(f"the controller still tells of workers: {fleet}")
        time.sleep(0.2)


def _launched(log: Path) -> int:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return sum(len(line["instances"]) for line in lines if line.get("message") == "workers are launching")
