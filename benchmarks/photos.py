"""Photos through the whole system, beside a bare pipeline on the same cores.

Photos of 0.2 and 12 megapixels are drawn, with the grain of a camera. The model for photos classifies them, sent by
the API, by ``fleetsight classify`` and by a page in Chromium. The bare pipeline is a process for each core, which
decodes and classifies as a worker does. All ways take turns in one run.
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from PIL import Image

from app_tier.bundle import Bundle, load_bundle
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels
from benchmarks.measure import two_cores
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, running, wait_for
from scripts.demo_model.signs import SIGN_LABELS, draw, encode
from scripts.model.built_once import built_once
from scripts.run.batch import Batch
from scripts.run.images import ImageSet


@dataclass(frozen=True)
class Kind:
    """A kind of photo: drawn at `size`, enlarged `enlarge` times, then noise of ±`noise` grey levels."""

    name: str
    size: tuple[int, int]
    enlarge: int
    noise: int
    quality: int


KINDS: Final = (Kind("small", (500, 375), 1, 10, 90), Kind("12_megapixels", (1000, 750), 4, 6, 88))
COUNTS: Final = {"small": 1_000, "12_megapixels": 150}
"""Photos in a batch; a fifth with ``--quick``."""

DRAWN: Final = 40
"""Different photos of a kind."""

BATCH: Final = 8
WAIT_SECONDS: Final = 600.0


@dataclass
class Rounds:
    """The rounds of one way to classify: photos a second, and CPU milliseconds of a photo by process."""

    speeds: list[float] = field(default_factory=list)
    used_ms: list[Mapping[str, float]] = field(default_factory=list)

    def add(self, photos: int, seconds: float, cpu_seconds: Mapping[str, float]) -> None:
        """Add a round."""
        self.speeds.append(photos / seconds)
        self.used_ms.append({process: 1e3 * used / photos for process, used in cpu_seconds.items()})

    @property
    def speed(self) -> float:
        """The median of the rounds."""
        return median(self.speeds)

    def cpu_ms(self, *processes: str) -> float:
        """Return the median over the rounds of what `processes` use together."""
        return median(sum(used[process] for process in processes) for used in self.used_ms)


def run(quick: bool) -> Report:
    """Measure both kinds of photo; `quick` measures a fifth of the small ones."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    bundle = load_bundle(built_once(print, threading.Event()))
    with tempfile.TemporaryDirectory() as scratch:
        for kind in KINDS[:1] if quick else KINDS:
            images = _drawn(kind, Path(scratch, kind.name), COUNTS[kind.name] // (5 if quick else 1))
            ways = _measure(bundle, images, Path(scratch, f"system-{kind.name}"), rounds=3)
            figures |= _figures(kind.name, ways)
            bars += _bars(kind.name, ways)
    return Report("photos", figures, tuple(bars))


def _drawn(kind: Kind, folder: Path, photos: int) -> ImageSet:
    return ImageSet(kind.name, photo_files(folder, [photo(kind, seed) for seed in range(DRAWN)], photos), {})


def photo_files(folder: Path, contents: Sequence[bytes], count: int) -> list[Path]:
    """Return so many files of a new folder, which have these contents in turn."""
    folder.mkdir()
    files = [folder / f"IMG_{number:05}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        if number < len(contents):
            file.write_bytes(contents[number])
        else:
            file.hardlink_to(files[number % len(contents)])
    return files


def photo(kind: Kind, seed: int) -> bytes:
    """Return a JPEG of a drawn sign; enlarged and grained it has the entropy of a camera's."""
    drawn, _ = draw(seed % len(SIGN_LABELS), seed, kind.size)
    large = drawn.resize((drawn.width * kind.enlarge, drawn.height * kind.enlarge), Image.Resampling.BICUBIC)
    grain = np.frombuffer(random.Random(seed).randbytes(large.width * large.height), np.uint8) % (2 * kind.noise + 1)  # nosec B311 # noise in a picture
    grained = np.asarray(large, np.int16) + grain.reshape(large.height, large.width, 1) - kind.noise
    return encode(Image.fromarray(grained.clip(0, 255).astype(np.uint8)), "JPEG", kind.quality)


def _measure(bundle: Bundle, images: ImageSet, home: Path, rounds: int) -> dict[str, Rounds]:
    files = images.files
    settings = {**ALWAYS_WARM, "FLEETSIGHT__WORKER__BUNDLE": str(bundle.folder)}
    with running(home, settings) as bench, open_page(bench.system.url) as page:

        def by_api() -> None:
            if not (summary := Batch(bench.api, images, lambda _progress: None).run()).ok:
                raise RuntimeError(f"photos have no label: {summary.failures[:3]}")

        actions: dict[str, Callable[[], None]] = {
            "api": by_api,
            "command": lambda: send_by_command(bench, images.files, home),
            "browser": lambda: _by_page(bench, page, images.files),
        }
        bench.wait_for_workers(WORKERS)
        by_api()  # each worker and each decoder has started
        ways = {name: Rounds() for name in ("bare", *actions)}
        for _ in range(rounds):
            ways["bare"].add(*_on_each_core(str(bundle.folder), files))
            for name, action in actions.items():
                children = sum(os.times()[2:4])
                seconds, used = bench.used_during(action)
                # What has ended in between is the command; a browser goes on, and is not counted.
                ways[name].add(len(files), seconds, used | {"command": sum(os.times()[2:4]) - children})
    return ways


def send_by_command(bench: Bench, files: Sequence[Path], home: Path) -> None:
    """Classify the folder of these files with the command, which has its state in `home`."""
    command = (sys.executable, "-m", "fleetsight_client", "classify", str(files[0].parent))
    environment = {**os.environ, "XDG_STATE_HOME": str(home / "client")}
    subprocess.run((*command, "--url", bench.system.url), env=environment, check=True, capture_output=True)


def send_by_page(bench: Bench, page: Any, files: Sequence[Path]) -> None:
    """Choose the files on the page, and wait until it shows their job."""
    page.goto(bench.system.url)
    page.locator("#images").set_input_files([str(file) for file in files])
    page.get_by_role("button", name="Classify").click(timeout=1e3 * WAIT_SECONDS)
    page.wait_for_url("**/jobs/*", timeout=1e3 * WAIT_SECONDS)


def _by_page(bench: Bench, page: Any, files: Sequence[Path]) -> None:
    """Send the files and wait until each has a result: what a person waits for, with all checks."""
    send_by_page(bench, page, files)
    job_id = page.url.rpartition("/")[2]
    wait_for(
        lambda: bench.api.status(job_id)["done"] >= len(files), f"results of {page.url}", WAIT_SECONDS, poll=0.05
    )


@contextmanager
def open_page(url: str) -> Iterator[Any]:
    """Open a page of Chromium for the system at `url`."""
    from playwright.sync_api import sync_playwright

    from tests.support.chromium import launch_chromium

    with sync_playwright() as driver, launch_chromium(driver) as browser:
        yield browser.new_page(base_url=url)


def _on_each_core(bundle: str, files: Sequence[Path]) -> tuple[int, float, dict[str, float]]:
    """Return photos, the seconds of the slower of two pinned bare pipelines, and the CPU seconds of both."""
    cores, half = two_cores(), len(files) // 2
    with ProcessPoolExecutor(len(cores), mp_context=get_context("spawn")) as pool:
        took = list(pool.map(bare, cores, (bundle, bundle), (files[:half], files[half:])))
    return len(files), max(seconds for seconds, _ in took), {"bare": sum(used for _, used in took)}


def bare(core: int, folder: str, files: Sequence[Path]) -> tuple[float, float]:
    """Return the seconds and CPU seconds of one thread that decodes and classifies `files` as a worker does."""
    os.sched_setaffinity(0, {core})
    bundle = load_bundle(Path(folder))
    engine, spec = open_engine("openvino", bundle, threads=1), bundle.manifest.preprocess

    def classify(part: Sequence[Path]) -> None:
        engine.infer(np.stack([load_pixels(file.read_bytes(), spec) for file in part]))

    classify(files[:BATCH])  # memory and threads of a first batch
    started, used = time.perf_counter(), time.process_time()
    for first in range(0, len(files), BATCH):
        classify(files[first : first + BATCH])
    return time.perf_counter() - started, time.process_time() - used


def _figures(kind: str, ways: Mapping[str, Rounds]) -> dict[str, float]:
    figures = {f"{kind}_{name}_per_second": way.speed for name, way in ways.items()}
    figures |= {f"{kind}_{name}_to_bare_ratio": way.speed / ways["bare"].speed for name, way in ways.items()}
    figures[f"{kind}_bare_cpu_ms"] = ways["bare"].cpu_ms("bare")
    processes = ways["api"].used_ms[0]
    return figures | {f"{kind}_api_{process}_cpu_ms": ways["api"].cpu_ms(process) for process in processes}


def _bars(kind: str, ways: Mapping[str, Rounds]) -> Iterator[Bar]:
    bare_way, is_small = ways["bare"], kind == "small"
    for name in ("api", "command", "browser"):
        least = 0.5 if name == "browser" else 0.8
        yield Bar(f"{kind}, {name}: photos/s ÷ bare pipeline", ways[name].speed / bare_way.speed, at_least=least)
    if is_small:
        used, whole = ways["api"], bare_way.cpu_ms("bare")
        others = [process for process in used.used_ms[0] if process != "worker"]
        yield Bar(f"{kind}: CPU of workers ÷ bare pipeline", used.cpu_ms("worker") / whole, at_most=1.12)
        yield Bar(f"{kind}: CPU of all others ÷ bare pipeline", used.cpu_ms(*others) / whole, at_most=0.2)
