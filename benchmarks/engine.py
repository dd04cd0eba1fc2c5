"""The engines against torch in eager mode, which peers run, and against the fastest matrix product of the machine.

Everything is measured in one process and in turns. Random weights cost what trained ones cost. The peak is
``torch.mm`` of two float32 matrices on as many threads; a network's operations are those that torchvision publishes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, get_args

import numpy as np

from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import NumberType
from app_tier.bundle.torch_import import import_torch
from app_tier.bundle.torchvision_shim import import_torchvision
from app_tier.engines import OpenVinoEngine
from benchmarks.networks import random_network
from benchmarks.report import Bar, Report, seconds_of

ARCHITECTURES: Final = ("resnet18", "resnet50")
THREADS: Final = (1, 2)
BATCHES: Final = (1, 8, 32)
TORCH: Final = "torch_fp32"
PEAK: Final = "peak"
LEAST: Final[Mapping[str, float]] = {"openvino_bf16": 3.0, "openvino_int8": 6.0}
"""Times as fast as torch in eager fp32, at a batch of 8 on 2 threads."""
SIDE: Final = 2048
"""Rows and columns of the matrices of the peak."""

Runs = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Case:
    """One network on so many threads with so many images at once."""

    architecture: str
    threads: int
    batch: int

    def __str__(self) -> str:
        """As figures name it."""
        return f"{self.architecture}_{self.threads}t_batch{self.batch}"


def run(quick: bool) -> Report:
    """Measure every case; `quick` measures batches of 8 alone."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    for threads in THREADS:
        for case, runs in _cases(threads, (8,) if quick else BATCHES):
            seconds = fastest_seconds(case, runs, 2 if quick else 7)
            peak = 2 * SIDE**3 / 1e9 / seconds.pop(PEAK)
            speeds = {name: case.batch / each for name, each in seconds.items()}
            figures[f"{case}_peak_fp32_gflops"] = peak
            figures |= figures_of(case, speeds, peak, gigaflop(case.architecture))
            bars += bars_of(case, speeds)
    return Report("engine", figures, tuple(bars))


def figures_of(case: Case, speeds: Mapping[str, float], peak: float, gigaflop: float) -> dict[str, float]:
    """Return each engine's images/s, as multiples of torch's, and its share of the peak (GFLOP/s)."""
    return {
        f"{case}_{name}_{what}": value
        for name, speed in speeds.items()
        for what, value in (
            ("images_per_second", speed),
            ("to_torch_ratio", speed / speeds[TORCH]),
            ("to_peak_ratio", speed * gigaflop / peak),
        )
    }


def bars_of(case: Case, speeds: Mapping[str, float]) -> list[Bar]:
    """Return the bars of `case`: there are some for a batch of 8 on 2 threads."""
    if (case.threads, case.batch) != (2, 8):
        return []
    return [
        Bar(f"{case.architecture}: {name} ÷ torch eager fp32", speeds[name] / speeds[TORCH], at_least=least)
        for name, least in LEAST.items()
        if name in speeds
    ]


def gigaflop(architecture: str) -> float:
    """Return the GFLOP of one image; torchvision publishes multiply-adds."""
    return 2 * float(_models().get_model_weights(architecture).DEFAULT.meta["_ops"])


def _cases(threads: int, batches: tuple[int, ...]) -> Iterator[tuple[Case, Runs]]:
    for architecture in ARCHITECTURES:
        engines = {
            f"openvino_{precision}": _openvino(random_network(architecture), threads, precision)
            for precision in get_args(NumberType)
        }
        for batch in batches:
            pixels = np.random.default_rng(1).standard_normal((batch, 3, 224, 224)).astype(np.float32)
            runs: Runs = {PEAK: _matrix_product(), TORCH: _torch(architecture, pixels)}
            runs |= {name: partial(engine.infer, pixels) for name, engine in engines.items()}
            yield Case(architecture, threads, batch), runs


def _openvino(bundle: Bundle, threads: int, precision: NumberType) -> OpenVinoEngine:
    return OpenVinoEngine(bundle, threads, precision)


def _matrix_product() -> Callable[[], object]:
    torch = import_torch()
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    return lambda: torch.mm(left, right)


def _torch(architecture: str, pixels: Any) -> Callable[[], object]:
    """Return torch's way as peers run it: the network as it comes, float32, no gradients."""
    torch = import_torch()
    network = _models().get_model(architecture, weights=None).eval()
    batch = torch.from_numpy(pixels)

    def infer() -> object:
        with torch.inference_mode():
            return network(batch).softmax(1).numpy()

    return infer


def fastest_seconds(case: Case, runs: Runs, rounds: int) -> dict[str, float]:
    """Return each one's fastest run; two runs at a turn, since the threads of the one before spin on for a while."""
    import_torch().set_num_threads(case.threads)
    fastest = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run_once in runs.items():
            fastest[name] = min(fastest[name], seconds_of(run_once, 2, time.perf_counter))
    return fastest


def _models() -> Any:
    import_torch()
    return import_torchvision().models
