"""Photos through the whole system, beside a bare pipeline and a plain torchvision script on the same cores.

Photos of 0.2 and 12 megapixels are drawn, with the grain of a camera; ``FLEETSIGHT_PHOTOS=DIR`` adds a user's own.
The model for photos and ResNet-50 classify them, sent by the API, by ``fleetsight classify`` and by a page in
Chromium. The bare pipeline and the script are a process for each core: the first decodes and classifies as a worker
does, the second as torchvision's documentation does. All ways take turns in one run.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any, Final

import numpy as np

from app_tier.bundle import Bundle, load_bundle
from app_tier.engine_imports import import_torch
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels
from benchmarks.decode import Kind, photo
from benchmarks.measure import two_cores
from benchmarks.networks import random_network
from benchmarks.report import Bar, Report
from benchmarks.running import ALWAYS_WARM, WORKERS, Bench, renew, running
from scripts.model.built_once import PHOTOS, built_once
from scripts.run.batch import Batch
from scripts.run.images import ImageSet, images_in

FOLDER_VARIABLE: Final = "FLEETSIGHT_PHOTOS"
BROWSERS: Final = (os.environ.get("CHROMIUM", ""), "chromium-headless-shell", "chromium", "google-chrome")
KINDS: Final = (Kind("small", (500, 375), 1, 10, 90), Kind("12_megapixels", (1000, 750), 4, 6, 88))
COUNTS: Final = {"small": 1_000, "12_megapixels": 150}
"""Photos in a batch; a fifth with ``--quick``."""

DRAWN: Final = 40
"""Different photos of a kind."""

SCRIPT_NETWORK: Final = "resnet50"
SCRIPT_PHOTOS: Final = 100
"""Photos that the script classifies, which takes longest."""

BATCH: Final = 8
WAIT_SECONDS: Final = 300.0


@dataclass(frozen=True)
class PhotoCase:
    """A network and the photos that it classifies."""

    network: str
    bundle: Bundle
    images: ImageSet

    def __str__(self) -> str:
        """As figures name it."""
        return f"{self.network}_{self.images.title}"


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
    """Measure every case; `quick` measures small photos with the model for photos."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as scratch:
        for case in _cases(Path(scratch), quick):
            ways = _measure(case, Path(scratch, f"system-{case}"), rounds=3)
            figures |= _figures(case, ways)
            bars += _bars(case, ways)
    return Report("photos", figures, tuple(bars))


def _cases(home: Path, quick: bool) -> Iterator[PhotoCase]:
    bundles = [(PHOTOS, load_bundle(built_once(PHOTOS, print, threading.Event())))]
    sets = [
        _drawn(kind, home / kind.name, COUNTS[kind.name] // (5 if quick else 1))
        for kind in (KINDS[:1] if quick else KINDS)
    ]
    if not quick:
        bundles.append((SCRIPT_NETWORK, random_network(SCRIPT_NETWORK)))
    if own := os.environ.get(FOLDER_VARIABLE):
        sets.append(_copied(images_in(Path(own)), home / "own"))
    for network, bundle in bundles:
        for images in sets:
            yield PhotoCase(network, bundle, images)


def _drawn(kind: Kind, folder: Path, photos: int) -> ImageSet:
    folder.mkdir()
    contents = [photo(kind, seed) for seed in range(DRAWN)]
    files = [folder / f"IMG_{number:05}.jpg" for number in range(photos)]
    for number, file in enumerate(files):  # different files with the same pixels: decoders do not read past the end
        file.write_bytes(contents[number % DRAWN] + f"photo {number:06}".encode())
    return ImageSet(kind.name, files, {})


def _copied(own: ImageSet, folder: Path) -> ImageSet:
    """Copy a user's photos, since each batch changes its files."""
    folder.mkdir()
    files = [folder / f"{number:06}{source.suffix}" for number, source in enumerate(own.files)]
    for source, file in zip(own.files, files, strict=True):
        file.write_bytes(source.read_bytes())
    return ImageSet("own", files, {})


def _measure(case: PhotoCase, home: Path, rounds: int) -> dict[str, Rounds]:
    files, numbers = case.images.files, count(1)
    settings = {**ALWAYS_WARM, "FLEETSIGHT__WORKER__BUNDLE": str(case.bundle.folder)}
    with running(home, settings) as bench, _open_page(bench.system.url) as page:

        def by_api() -> None:
            if not (summary := Batch(bench.api, case.images, lambda _progress: None).run()).ok:
                raise RuntimeError(f"photos have no label: {summary.failures[:3]}")

        actions: dict[str, Callable[[], None]] = {
            "api": by_api,
            "command": lambda: _by_command(bench, case.images, home),
            "browser": lambda: _by_page(bench, page, case.images),
        }
        bench.wait_for_workers(WORKERS)
        by_api()  # each worker and each decoder has started
        ways = {name: Rounds() for name in ("bare", *actions)}
        for _ in range(rounds):
            ways["bare"].add(*_on_each_core(bare, str(case.bundle.folder), files))
            if case.network == SCRIPT_NETWORK:
                ways.setdefault("script", Rounds()).add(*_on_each_core(script, SCRIPT_NETWORK, files[:SCRIPT_PHOTOS]))
            for name, action in actions.items():
                renew(case.images, next(numbers))
                children = sum(os.times()[2:4])
                seconds, used = bench.used_during(action)
                # What has ended in between is the command; a browser goes on, and is not counted.
                ways[name].add(len(files), seconds, used | {"command": sum(os.times()[2:4]) - children})
    return ways


def _by_command(bench: Bench, images: ImageSet, home: Path) -> None:
    command = (sys.executable, "-m", "fleetsight_client", "classify", str(images.files[0].parent))
    environment = {**os.environ, "XDG_STATE_HOME": str(home / "client")}
    subprocess.run((*command, "--url", bench.system.url), env=environment, check=True, capture_output=True)


def _by_page(bench: Bench, page: Any, images: ImageSet) -> None:
    """Choose the files on the page and wait until each has a result: what a person waits for, with all checks."""
    page.goto(bench.system.url)
    page.locator("#images").set_input_files([str(file) for file in images.files])
    page.get_by_role("button", name="Classify").click(timeout=1e3 * WAIT_SECONDS)
    page.wait_for_url("**/jobs/*", timeout=1e3 * WAIT_SECONDS)
    job_id, deadline = page.url.rpartition("/")[2], time.monotonic() + WAIT_SECONDS
    while bench.api.status(job_id)["done"] < len(images.files):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{page.url} has not {len(images.files)} results after {WAIT_SECONDS:.0f} s")
        time.sleep(0.05)


@contextmanager
def _open_page(url: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=next(filter(None, map(which, BROWSERS)), None),
            args=["--no-sandbox"] if os.geteuid() == 0 else [],
        )
        yield browser.new_page(base_url=url)
        browser.close()


def _on_each_core(
    work: Callable[[str, Sequence[Path]], tuple[float, float]], network: str, files: Sequence[Path]
) -> tuple[int, float, dict[str, float]]:
    """Return photos, the seconds of the slower of two pinned processes, and the CPU seconds of both."""
    cores, half = two_cores(), len(files) // 2
    with ProcessPoolExecutor(len(cores), mp_context=get_context("spawn")) as pool:
        halves = [
            pool.submit(_pinned, core, work, network, part)
            for core, part in zip(cores, (files[:half], files[half:]), strict=True)
        ]
        took = [each.result() for each in halves]
    return len(files), max(seconds for seconds, _ in took), {"bare": sum(used for _, used in took)}


def _pinned(
    core: int, work: Callable[[str, Sequence[Path]], tuple[float, float]], network: str, files: Sequence[Path]
) -> tuple[float, float]:
    os.sched_setaffinity(0, {core})
    return work(network, files)


def bare(folder: str, files: Sequence[Path]) -> tuple[float, float]:
    """Return the seconds and CPU seconds of one thread that decodes and classifies `files` as a worker does."""
    bundle = load_bundle(Path(folder))
    engine, spec = open_engine("openvino", bundle, threads=1), bundle.manifest.preprocess
    return _timed(lambda part: engine.infer(np.stack([load_pixels(file.read_bytes(), spec) for file in part])), files)


def script(network: str, files: Sequence[Path]) -> tuple[float, float]:
    """Return the same for what torchvision's documentation shows, with random weights."""
    torch = import_torch()
    torch.set_num_threads(1)
    from PIL import Image
    from torchvision import models, transforms

    model = models.get_model(network, weights=None).eval()
    chain: Any = transforms.Compose(
        [
            transforms.Resize(232),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    def classify(part: Sequence[Path]) -> object:
        with torch.inference_mode():
            return model(torch.stack([chain(Image.open(file).convert("RGB")) for file in part])).softmax(1)

    return _timed(classify, files)


def _timed(classify: Callable[[Sequence[Path]], object], files: Sequence[Path]) -> tuple[float, float]:
    classify(files[:BATCH])  # memory and threads of a first batch
    started, used = time.perf_counter(), time.process_time()
    for first in range(0, len(files), BATCH):
        classify(files[first : first + BATCH])
    return time.perf_counter() - started, time.process_time() - used


def _figures(case: PhotoCase, ways: Mapping[str, Rounds]) -> dict[str, float]:
    figures = {f"{case}_{name}_per_second": way.speed for name, way in ways.items()}
    figures |= {f"{case}_{name}_to_bare_ratio": way.speed / ways["bare"].speed for name, way in ways.items()}
    figures[f"{case}_bare_cpu_ms"] = ways["bare"].cpu_ms("bare")
    processes = ways["api"].used_ms[0]
    return figures | {f"{case}_api_{process}_cpu_ms": ways["api"].cpu_ms(process) for process in processes}


def _bars(case: PhotoCase, ways: Mapping[str, Rounds]) -> Iterator[Bar]:
    bare_way, is_small = ways["bare"], case.images.title == "small"
    for name in ("api", "command", "browser"):
        least = 0.4 if name == "browser" else 0.6 if is_small else 0.8
        yield Bar(f"{case}, {name}: photos/s ÷ bare pipeline", ways[name].speed / bare_way.speed, at_least=least)
    if is_small:
        used, whole = ways["api"], bare_way.cpu_ms("bare")
        others = [process for process in used.used_ms[0] if process != "worker"]
        yield Bar(f"{case}: CPU of workers ÷ bare pipeline", used.cpu_ms("worker") / whole, at_most=1.15)
        yield Bar(f"{case}: CPU of all others ÷ bare pipeline", used.cpu_ms(*others) / whole, at_most=0.45)
    if "script" in ways:
        yield Bar(f"{case}: photos/s ÷ torchvision script", ways["api"].speed / ways["script"].speed, at_least=6)
