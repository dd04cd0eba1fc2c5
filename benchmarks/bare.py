"""``python -m benchmarks.bare``: engine and decode alone, one after the other, without any cloud.

What a worker could do at best with the core that this process runs on: decode a batch of photos, run the network on
it, and so on. Engine and batch size are those that a worker chooses here. The photos are in memory, and nothing is
kept of the answers.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np

from app_tier.engines import Engine
from app_tier.preprocess import Preprocess, load_pixels
from app_tier.startup import open_model
from benchmarks.measure import pinned
from core.config import PATH_VARIABLE, load_config

ROOT: Final = Path(__file__).resolve().parents[1]
MAX_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Bare:
    """What was done: images, in wall seconds, with CPU seconds for decode and for the network."""

    images: int
    seconds: float
    decode_s: float
    infer_s: float

    def __add__(self, other: "Bare") -> "Bare":
        """Return both together."""
        return Bare(
            self.images + other.images,
            self.seconds + other.seconds,
            self.decode_s + other.decode_s,
            self.infer_s + other.infer_s,
        )

    @property
    def images_per_second(self) -> float:
        """Throughput."""
        return self.images / self.seconds

    @property
    def decode_ms(self) -> float:
        """CPU milliseconds that the decode of an image takes."""
        return 1e3 * self.decode_s / self.images

    @property
    def infer_ms(self) -> float:
        """CPU milliseconds that the network takes for an image."""
        return 1e3 * self.infer_s / self.images

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of an image."""
        return self.decode_ms + self.infer_ms


def on_core(core: int, bundle: Path, photos: Path, seconds: float) -> Bare:
    """Measure the network in folder `bundle` on the files in `photos`, in a process of its own on `core` alone.

    Raises:
        subprocess.CalledProcessError: it could not be measured; the reason stands on stderr.
    """
    chosen = {"FLEETSIGHT__WORKER__BUNDLE": str(bundle), PATH_VARIABLE: str(ROOT / "config.yaml")}
    with pinned(core):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.bare", str(photos), str(seconds)],
            cwd=ROOT,
            env=os.environ | chosen,
            check=True,
            stdout=subprocess.PIPE,
            timeout=MAX_SECONDS,
        )
    return Bare(**json.loads(done.stdout))


def measure(
    engine: Engine,
    spec: Preprocess,
    photos: Sequence[bytes],
    batch: int,
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
) -> Bare:
    """Decode and run `batch` photos at a time, in turn and over again, for `seconds`; the first batch warms up."""
    endless, total, is_warm = cycle(photos), Bare(0, 0.0, 0.0, 0.0), False
    while total.seconds < seconds:
        part = list(islice(endless, batch))
        began, cpu_began = clock(), cpu_clock()
        pixels = [load_pixels(photo, spec) for photo in part]
        cpu_decoded = cpu_clock()
        engine.infer(np.stack(pixels))
        once = Bare(batch, clock() - began, cpu_decoded - cpu_began, cpu_clock() - cpu_decoded)
        total, is_warm = total + once if is_warm else total, True
    return total


def main() -> None:
    """Measure on the photos that the command line names, and print the outcome as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of images")
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    model, sizing = open_model(load_config())
    spec = model.bundle.manifest.preprocess
    photos = [path.read_bytes() for path in sorted(options.photos.iterdir())]
    print(json.dumps(asdict(measure(model.engine, spec, photos, sizing.batch_size, options.seconds))))


if __name__ == "__main__":
    main()
