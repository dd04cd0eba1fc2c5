"""The whole system, from the first POST of a batch to its last result.

A cold fleet and a warm one. The images are drawn before any clock starts. Throughput is also given as a share of the
bare pipeline's (one thread that decodes and classifies the same files, nothing around it), measured in the same run.
Two more systems, one with a state on disk and one without, take turns: the ratio of their throughput is of pairs.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from timeit import repeat
from typing import Final

from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels
from benchmarks.measure import percentile
from benchmarks.report import Bar, Report
from benchmarks.running import (
    ALWAYS_WARM,
    OURS,
    PATIENCE_SECONDS,
    WORKERS,
    Bench,
    Measured,
    running,
)
from scripts.load.runner import ClassicClient
from scripts.run.images import ImageSet, draw_signs
from scripts.run.state import open_state
from services.sqs import OutgoingMessage, Queue

COLD_ROUNDS: Final = 3
BARE_ROUNDS: Final = 3
MANY: Final = 2_000
MAX_FORECAST_RATIO: Final = 1.5
STATE_ROUNDS: Final = 7
MIN_STATE_RATIO: Final = 0.85

LONE_IMAGES: Final = 100
HOP_PAUSE_SECONDS: Final = 0.03
"""Before a message is sent: by then its receiver waits."""
MAX_LONE_RATIO: Final = 2.0


def run(quick: bool) -> Report:
    """Measure batches of 100 and 2,000 images; `quick` has fewer rounds of the cold ones."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        images = draw(home / "images", MANY)
        bare, bare_cpu_ms = bare_pipeline(images.files[:200])
        cold = _cold(home, images, quick)
        warm, lone_s, hop_s = _warm(home, images)
        with_state = _with_state(home, images, 3 if quick else STATE_ROUNDS)
    figures = {"bare_images_per_second": bare, "bare_cpu_ms": bare_cpu_ms}
    for temperature, batches in (("cold", cold), ("warm", warm)):
        for count, measured in batches.items():
            figures |= figures_of(f"{temperature}_{count}", measured, bare)
    figures |= {f"lone_p{percent}_s": percentile(lone_s, percent) for percent in (50, 95)}
    figures |= {f"hop_p{percent}_s": percentile(hop_s, percent) for percent in (50, 95)}
    figures |= {f"with_state_ratio_{number}": ratio for number, ratio in enumerate(with_state, 1)}
    parts = 1 / bare + 2 * percentile(hop_s, 95)
    bars = (
        *bars_of(cold, warm, bare, bare_cpu_ms),
        Bar(
            "warm, a lone image: p95 ÷ that of the bare pipeline and two hops",
            percentile(lone_s, 95) / parts,
            at_most=MAX_LONE_RATIO,
        ),
        Bar("warm, 2,000 images: images/s with a state ÷ without", median(with_state), at_least=MIN_STATE_RATIO),
    )
    return Report("end_to_end", figures, bars)


def draw(folder: Path, count: int) -> ImageSet:
    """Draw `count` signs of 64 x 64 pixels into `folder`."""
    truth = draw_signs(folder, count, seed=11, side=64)
    return ImageSet("end-to-end", [folder / name for name in truth], truth)


def bare_pipeline(files: Sequence[Path]) -> tuple[float, float]:
    """Return images/s of one thread that decodes and classifies `files`, and its CPU milliseconds an image.

    The fastest of several rounds counts: what else the machine does only slows it.
    """
    bundle = load_bundle()
    engine = open_engine("openvino", bundle, threads=1)
    content = [path.read_bytes() for path in files]

    def classify() -> None:
        for data in content:
            engine.infer(load_pixels(data, bundle.manifest.preprocess)[None])

    used = time.process_time()
    seconds = min(repeat(classify, repeat=BARE_ROUNDS, number=1))
    cpu_seconds = (time.process_time() - used) / BARE_ROUNDS
    return len(content) / seconds, 1e3 * cpu_seconds / len(content)


def _cold(home: Path, images: ImageSet, quick: bool) -> dict[int, Measured]:
    """Measure batches that find no worker; of 100 images, the fastest of several."""
    with running(home / "cold", {"FLEETSIGHT__WORKER__IDLE_SECONDS": "1"}) as bench:
        hundred = []
        for _ in range(2 if quick else COLD_ROUNDS):
            bench.wait_for_workers(0)
            hundred.append(bench.batch(_first(images, 100)))
        bench.wait_for_workers(0)
        many = bench.batch(images)
    return {100: min(hundred, key=lambda measured: measured.seconds), MANY: many}


def _warm(home: Path, images: ImageSet) -> tuple[dict[int, Measured], list[float], list[float]]:
    """Measure batches that find two workers waiting, lone images and hops."""
    with running(home / "warm", ALWAYS_WARM) as bench:
        bench.wait_for_workers(WORKERS)
        bench.batch(_first(images, 200))
        lone_s, hop_s = classify_singles(bench, images.files, LONE_IMAGES), _hops(bench, LONE_IMAGES)
        return {count: bench.batch(_first(images, count)) for count in (100, MANY)}, lone_s, hop_s


def _with_state(home: Path, images: ImageSet, rounds: int) -> list[float]:
    """Return images/s of a system with a state ÷ that of one without, of batches that follow each other."""
    state = open_state(home / "state")  # first: it sets the key of this process
    try:
        with running(home / "kept", ALWAYS_WARM, state) as kept, running(home / "plain", ALWAYS_WARM) as plain:
            for bench in (kept, plain):
                bench.wait_for_workers(WORKERS)
                bench.batch(_first(images, 200))
            ratios = []
            for number in range(rounds):
                order = (kept, plain) if number % 2 else (plain, kept)
                speeds = {bench is kept: bench.batch(images).images_per_second for bench in order}
                ratios.append(speeds[True] / speeds[False])
            return ratios
    finally:
        os.close(state.lock)


def classify_singles(bench: Bench, files: Sequence[Path], count: int) -> list[float]:
    """Send `count` single images, one after another; return the seconds of each.

    Raises:
        RuntimeError: the answer is not a label.
    """
    client = ClassicClient(bench.system.url, PATIENCE_SECONDS)
    seconds = []
    for file in islice(cycle(files), count):
        started = time.monotonic()
        answer = client.post(file.name, file.read_bytes())
        seconds.append(time.monotonic() - started)
        if answer.status != 200:
            raise RuntimeError(f"a single image was answered with {answer.status}: {answer.data[:200]!r}")
    return seconds


def _hops(bench: Bench, count: int) -> list[float]:
    """Return the seconds that each of `count` messages takes through a queue while a receiver waits for it."""
    name = bench.system.clients.sqs.create_queue(QueueName="hops")["QueueUrl"].rpartition("/")[2]
    queue, seconds = Queue.named(bench.system.clients.sqs, name), []
    with ThreadPoolExecutor(1) as receiver:
        for number in range(count):
            waiting = receiver.submit(queue.receive)
            time.sleep(HOP_PAUSE_SECONDS)
            started = time.monotonic()
            queue.send([OutgoingMessage(str(number), str(number))])
            received = waiting.result()
            seconds.append(time.monotonic() - started)
            queue.delete([message.receipt for message in received])
    return seconds


def _first(images: ImageSet, count: int) -> ImageSet:
    return ImageSet(images.title, images.files[:count], images.truth)


def figures_of(prefix: str, measured: Measured, bare: float) -> dict[str, float]:
    """Return one batch as flat figures; `bare` is in images/s."""
    latencies = {f"p{percent}_s": percentile(measured.latency_s, percent) for percent in (50, 95, 99)}
    figures = {
        "images_per_second": measured.images_per_second,
        "to_bare_ratio": measured.images_per_second / bare,
        "accuracy": measured.right / measured.images,
        "forecast_ratio": measured.forecast_ratio,
        "others_cores": measured.others_cores,
        **latencies,
        **{f"{name}_cpu_ms": milliseconds for name, milliseconds in measured.cpu_ms.items()},
    }
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def bars_of(
    cold: Mapping[int, Measured], warm: Mapping[int, Measured], bare: float, bare_cpu_ms: float
) -> tuple[Bar, ...]:
    """Return the bars, ratios to the bare pipeline."""
    hundred, many = cold[100], warm[MANY]
    cold_p95 = percentile(hundred.latency_s, 95) / (100 / bare)
    ours, cloud = (sum(many.cpu_ms[name] for name in names) / bare_cpu_ms for names in (OURS, ("cloud",)))
    return (
        Bar("cold, 100 images: images/s ÷ bare pipeline", hundred.images_per_second / bare, at_least=0.3),
        Bar("cold, 100 images: p95 from accepted to result ÷ time of the bare pipeline", cold_p95, at_most=3.3),
        Bar("warm, 2,000 images: images/s ÷ bare pipeline", many.images_per_second / bare, at_least=0.6),
        Bar("warm, 2,000 images: CPU of web, controller and workers ÷ bare pipeline", ours, at_most=2.5),
        Bar("warm, 2,000 images: CPU of the local cloud ÷ bare pipeline", cloud, at_most=0.5),
        *(
            Bar(
                f"{name}, {count:,} images: forecast ÷ run",
                each.forecast_ratio,
                MAX_FORECAST_RATIO,
                1 / MAX_FORECAST_RATIO,
            )
            for name, batches in (("cold", cold), ("warm", warm))
            for count, each in batches.items()
        ),
    )
