"""One real worker on a core of its own and services that are far away, against its engine and decode alone.

The worker, ``python -m app_tier``, has one core; the local cloud and everything else that measures has the other.
Each S3 call takes 20 ms longer and each SQS call 10 ms, by the cloud's switch `faults`. A flood of photos of about
100 KB waits in the queue: some fifty different ones, each under many keys. The bare engine and decode run before and
after the worker on the same core, in the same precision, with the same batch size. What the worker spends on an image
beyond them is its calls and its pipeline.

A worker computes in the precision of its bundle. Random networks are measured in the low ones that the CPU is fast
at, and in fp32 where there is none: the faster the network, the more everything else weighs.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app_tier.bundle import Bundle, NumberType
from app_tier.engines import OpenVinoEngine
from benchmarks.bare import Bare, on_core
from benchmarks.decode import KINDS, photo
from benchmarks.flood import Cores, Flood, FloodBench, PinnedWorker
from benchmarks.measure import pinned, two_cores, used
from benchmarks.networks import quantised_network, random_network
from benchmarks.report import Bar, Report
from localcloud.launch import LocalCloud
from scripts.model.build import write_manifest

LEAST: Final[Mapping[str, float]] = {"resnet18": 0.8, "resnet50": 0.9}
"""Images/s of the worker by those of its engine and decode alone."""

LOW_PRECISIONS: Final[tuple[NumberType, ...]] = ("bf16", "int8")
"""Slowest first; ``exact`` lies between fp32 and the one that it asks first."""

PHOTOS: Final = 48
"""Different ones."""

BARE_SECONDS: Final = 2.5
"""Of each measurement without the worker."""

WORKER_SECONDS: Final = 7.0
"""How long the bare engine would take for the flood."""


@dataclass(frozen=True)
class WorkerCase:
    """One network in one precision."""

    architecture: str
    precision: NumberType

    def __str__(self) -> str:
        """As figures name it."""
        return f"{self.architecture}_{self.precision}"


def run(quick: bool) -> Report:
    """Measure every case; `quick` measures each network in the fastest precision alone."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    cores = Cores(*two_cores())
    with pinned(cores.others), _bench(cores) as (bench, folder):
        for case in cases(quick):
            found = _measure(case, bench, cores, folder)
            figures |= {f"{case}_{name}": value for name, value in found.items()}
            least = LEAST[case.architecture]
            bars.append(Bar(f"{case}: worker ÷ bare engine + decode", found["to_bare_ratio"], at_least=least))
    return Report("worker", figures, tuple(bars))


def cases(quick: bool) -> list[WorkerCase]:
    """Return what is measured on this CPU."""
    fast = [precision for precision in LOW_PRECISIONS if OpenVinoEngine.is_fast_in(precision)] or ["fp32"]
    return [WorkerCase(each, precision) for each in LEAST for precision in (fast[-1:] if quick else fast)]


def figures_of(bare: Bare, flood: Flood) -> dict[str, float]:
    """Return how fast the worker was, and where an image's time and the cores' went.

    The undisturbed ratio leaves out the time in which other processes had the worker's core, or the bare engine's.
    """
    images, seconds = flood.window.images, flood.window.seconds
    cpu = {name: used(flood.samples, name, flood.window) for name in flood.samples[0].cpu_seconds}
    worker_ms = 1e3 * cpu["worker"] / images
    of_others = max(0.0, cpu["worker_core"] - cpu["worker"])
    return {
        "images": flood.images,
        "images_per_second": images / seconds,
        "bare_images_per_second": bare.images_per_second,
        "to_bare_ratio": images / seconds / bare.images_per_second,
        "to_bare_undisturbed_ratio": images * bare.cpu_ms / 1e3 / (seconds - of_others),
        "to_bare_cpu_ratio": bare.cpu_ms / worker_ms,
        "worker_cpu_ms": worker_ms,
        "decode_cpu_ms": bare.decode_ms,
        "infer_cpu_ms": bare.infer_ms,
        "rest_cpu_ms": worker_ms - bare.cpu_ms,
        "core_idle": max(0.0, 1 - cpu["worker_core"] / seconds),
        "core_of_others": of_others / seconds,
        "bare_core_of_others": max(0.0, 1 - bare.cpu_ms / 1e3 * bare.images_per_second),
        "cloud_cpu_ms": 1e3 * cpu["cloud"] / images,
        "other_core_busy": cpu["other_core"] / seconds,
        "other_core_of_cloud": cpu["cloud"] / seconds,
        **{f"{service}_calls_per_image": calls / flood.images for service, calls in flood.calls.items()},
        "fetched_ms": flood.fetched_ms,
        "stored_ms": flood.stored_ms,
    }


def _measure(case: WorkerCase, bench: FloodBench, cores: Cores, folder: Path) -> dict[str, float]:
    photos = folder / "photos"
    network = quantised_network if case.precision == "int8" else random_network
    bundle = in_precision(network(case.architecture), case.precision, folder / str(case))
    before = on_core(cores.worker, bundle, photos, BARE_SECONDS)
    count = 10 * round(1e3 / before.cpu_ms * WORKER_SECONDS / 10)
    bench.store([path.read_bytes() for path in sorted(photos.iterdir())], count)
    flood = bench.flood(bundle, count)
    return figures_of(before + on_core(cores.worker, bundle, photos, BARE_SECONDS), flood)


def in_precision(bundle: Bundle, precision: NumberType, folder: Path) -> Path:
    """Make `folder` a bundle of the same network that is computed in `precision`; return it."""
    folder.mkdir()
    for name in bundle.manifest.files:
        (folder / name).symlink_to((bundle.folder / name).absolute())
    write_manifest(bundle.manifest.model_copy(update={"precision": precision}), folder)
    return folder


@contextmanager
def _bench(cores: Cores) -> Iterator[tuple[FloodBench, Path]]:
    """Start a local cloud beside a folder with photos."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        for seed in range(PHOTOS):
            (folder / "photos" / f"{seed:03d}.jpg").write_bytes(photo(KINDS[0], seed))
        with LocalCloud(folder / "cloud", hypervisor=False) as cloud:
            yield FloodBench(cloud, PinnedWorker(cores, folder / "worker.log")), folder
