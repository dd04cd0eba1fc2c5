"""The engines against torch in eager mode, which peers run, and against the fastest matrix products of the machine.

Everything is measured in one process and in turns. Random weights cost what trained ones cost, in int8 too. A peak is
torch's product of two square matrices of that number type on as many threads: what this CPU can do, and so how far a
ratio to torch can go. A network's operations are those that torchvision publishes.

Where there is a GPU, ``engine: torch`` is measured on it too, copies and all; the peaks are the CPU's all the same.

``exact`` classifies the images again in fp32 of which low precision is not sure. How many these are says nothing with
random weights, so it is measured twice: with an eighth of the batch again, and with all of it. Each time ``exact``
has chosen before whether low precision comes first, or fp32 alone is faster; it must be as fast as fp32. That holds
for int8 first, too, which CPUs without bf16 have.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from app_tier.bundle import Bundle
from app_tier.engine_imports import import_torch
from app_tier.engines import TRIAL_BATCHES, Batch, Engine, ExactEngine, OpenVinoEngine, TorchEngine, top_two_gap
from benchmarks.measure import watch_others
from benchmarks.networks import quantised_network
from benchmarks.report import Bar, Report
from core.bundle_manifest import INT8_IR_NAME, NumberType

ARCHITECTURES: Final = ("resnet18", "resnet50")
THREADS: Final = (1, 2)
BATCHES: Final = (1, 8, 32)
STREAMED_BATCHES: Final = (1, 8)
TORCH: Final = "torch_fp32"
MIN_EXACT_RATIO: Final = 0.97
"""Times as fast as fp32 that ``exact`` is on any CPU: 1, less what two timings of one network differ by in a run."""

LEAST: Final[Mapping[str, float]] = {"openvino_bf16": 3.0, "openvino_int8": 6.0}
"""Times as fast as torch in eager fp32, at a batch of 8 on 2 threads."""

SIDE: Final = 2048
"""Rows and columns of the matrices."""

PEAKS: Final[tuple[NumberType, ...]] = ("fp32", "bf16", "int8")


@dataclass(frozen=True)
class Run:
    """An action, and how much (images, 10^9 operations) one call does."""

    action: Callable[[], object]
    amount: float


Runs = dict[str, Run]


@dataclass(frozen=True)
class EngineCase:
    """One network on so many threads with so many images at once."""

    architecture: str
    threads: int
    batch: int

    def __str__(self) -> str:
        """As figures name it."""
        return f"{self.architecture}_{self.threads}t_batch{self.batch}"


def run(quick: bool) -> Report:
    """Measure every case; `quick` measures the speed bars of ResNet-18 only."""
    with watch_others() as others:
        figures, bars = _speeds(quick)
    if not others.trusted:
        print(f"other work took {others.ratio:.0%} of the CPUs: measure again alone, torch has suffered most from it")
    return Report("engine", {"others_cpu_ratio": others.ratio} | figures, tuple(bars))


def _speeds(quick: bool) -> tuple[dict[str, float], list[Bar]]:
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    architectures, batches = (ARCHITECTURES[:1], (8,)) if quick else (ARCHITECTURES, BATCHES)
    for threads in (2,) if quick else THREADS:
        for case, runs in _cases(architectures, threads, batches):
            speeds, cpu_speeds = fastest_speeds(case, runs, 2 if quick else 7)
            peaks = {kind: speeds.pop(f"peak_{kind}") for kind in PEAKS}
            figures |= {f"{case}_peak_{kind}_gops": peak for kind, peak in peaks.items()}
            figures |= figures_of(case, speeds, peaks, gigaflop(case.architecture))
            exact = to_fp32(cpu_speeds)
            figures |= {f"{case}_{name}_to_fp32_cpu_ratio": ratio for name, ratio in exact.items()}
            bars += bars_of(case, speeds, exact)
    return figures, bars


def figures_of(
    case: EngineCase, speeds: Mapping[str, float], peaks: Mapping[NumberType, float], gigaflop: float
) -> dict[str, float]:
    """Return each engine's images/s, as multiples of torch's, and its share of the peaks (10^9 operations/s)."""
    return {
        f"{case}_{name}_{what}": value
        for name, speed in speeds.items()
        for what, value in (
            ("images_per_second", speed),
            ("to_torch_ratio", speed / speeds[TORCH]),
            ("to_peak_ratio", speed * gigaflop / peaks["fp32"]),
            # Of what the run computes in, or computes in first.
            ("to_own_peak_ratio", speed * gigaflop / next(peaks[kind] for kind in PEAKS if f"_{kind}" in name)),
        )
    }


def to_fp32(speeds: Mapping[str, float]) -> dict[str, float]:
    """Return how many times as fast as fp32 each ``exact`` is."""
    return {name: speed / speeds["openvino_fp32"] for name, speed in speeds.items() if name.startswith("exact_")}


def bars_of(case: EngineCase, speeds: Mapping[str, float], exact: Mapping[str, float]) -> list[Bar]:
    """Return the bars of `case`: there are some for a batch of 8 on 2 threads; `exact` is that of `to_fp32`."""
    if (case.threads, case.batch) != (2, 8):
        return []
    of_torch = [
        Bar(f"{case.architecture}: {name} ÷ torch eager fp32", speeds[name] / speeds[TORCH], at_least=least)
        for name, least in LEAST.items()
        if name in speeds
    ]
    of_fp32 = [
        Bar(f"{case.architecture}: {name} ÷ fp32, CPU time", ratio, at_least=MIN_EXACT_RATIO)
        for name, ratio in exact.items()
    ]
    return of_torch + of_fp32


def gigaflop(architecture: str) -> float:
    """Return the GFLOP of one image; torchvision publishes multiply-adds."""
    return 2 * float(_models().get_model_weights(architecture).DEFAULT.meta["_ops"])


def fastest_speeds(case: EngineCase, runs: Runs, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Return what each one did in a second of its fastest run, and in a CPU second of its cheapest.

    Two runs at a turn, since the threads of the one before spin on for a while.
    """
    import_torch().set_num_threads(case.threads)
    wall, cpu = dict.fromkeys(runs, float("inf")), dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, each in (pair for pair in runs.items() for _ in range(2)):
            started, cpu_started = time.perf_counter(), time.process_time()
            each.action()
            wall[name] = min(wall[name], time.perf_counter() - started)
            cpu[name] = min(cpu[name], time.process_time() - cpu_started)
    amounts = {name: each.amount for name, each in runs.items()}
    return (
        {name: amount / wall[name] for name, amount in amounts.items()},
        {name: amount / cpu[name] for name, amount in amounts.items()},
    )


def _cases(architectures: Sequence[str], threads: int, batches: Sequence[int]) -> Iterator[tuple[EngineCase, Runs]]:
    for architecture in architectures:
        bundle = quantised_network(architecture)
        engines = {kind: OpenVinoEngine(bundle, threads, kind) for kind in fast_types(bundle)}
        gpu = gpu_engines(bundle)
        streamed = {kind: OpenVinoEngine(bundle, threads, kind, streams=threads) for kind in engines if threads > 1}
        for batch in batches:
            pixels = np.random.default_rng(1).standard_normal((batch, 3, 224, 224)).astype(np.float32)
            runs: Runs = {f"peak_{kind}": matrix_product(kind) for kind in PEAKS}
            runs[TORCH] = _torch(architecture, pixels)
            runs |= {f"openvino_{kind}": _asking(engine, pixels) for kind, engine in engines.items()}
            for kind in (kind for kind in engines if kind != "fp32"):
                # With the margin that an eighth of the images lie within.
                gaps = np.sort(top_two_gap(engines[kind].infer(pixels)))
                margins = {"first": float(gaps[batch // 8]), "first_all_unsure": np.inf}
                for name, margin in margins.items():
                    exact = ExactEngine(engines[kind], engines["fp32"], margin, kind)
                    for _ in range(1 + TRIAL_BATCHES):  # it chooses
                        exact.infer(pixels)
                    runs[f"exact_{kind}_{name}"] = _asking(exact, pixels)
            runs |= {f"gpu_{kind}": _asking(engine, pixels) for kind, engine in gpu.items()}
            if batch in STREAMED_BATCHES:  # a stream for each thread; the others have one for all
                runs |= {
                    f"openvino_{kind}_{threads}_streams": side_by_side(engine, pixels, threads)
                    for kind, engine in streamed.items()
                }
            yield EngineCase(architecture, threads, batch), runs


def fast_types(bundle: Bundle) -> tuple[NumberType, ...]:
    """Return the number types that this CPU is fast in and the bundle holds a network for; fp32 always."""
    kinds: list[NumberType] = ["fp32", "bf16"]
    if INT8_IR_NAME in bundle.manifest.files:
        kinds.append("int8")
    return tuple(kind for kind in kinds if OpenVinoEngine.is_fast_in(kind))


def gpu_engines(bundle: Bundle) -> dict[NumberType, TorchEngine]:
    """Return ``engine: torch`` in each number type that it takes on a GPU; none without one."""
    if not import_torch().cuda.is_available():
        return {}
    kinds: tuple[NumberType, ...] = ("fp32", "bf16")
    return {
        kind: TorchEngine(bundle, precision=kind) for kind in kinds if kind == "fp32" or TorchEngine.is_fast_in(kind)
    }


def _asking(engine: Engine, pixels: Batch) -> Run:
    return Run(lambda: engine.infer(pixels), len(pixels))


def _torch(architecture: str, pixels: Batch) -> Run:
    """Return torch's way as peers run it: the network as it comes, float32, no gradients."""
    torch = import_torch()
    network = _models().get_model(architecture, weights=None).eval()
    batch = torch.from_numpy(pixels)

    def infer() -> object:
        with torch.inference_mode():
            return network(batch).softmax(1).numpy()

    return Run(infer, len(pixels))


def _models() -> Any:
    import_torch()
    from torchvision import models

    return models


def side_by_side(engine: Engine, pixels: Batch, threads: int) -> Run:
    """Return `threads` threads that each ask an engine with as many streams about all of `pixels` at once."""
    pool = ThreadPoolExecutor(threads)
    return Run(lambda: list(pool.map(engine.infer, [pixels] * threads)), threads * len(pixels))


def matrix_product(kind: NumberType) -> Run:
    """Return a product of two matrices of `kind`, which is 2 x SIDE³ operations, in units of 10^9."""
    torch = import_torch()
    multiply: Callable[[Any, Any], object] = torch._int_mm if kind == "int8" else torch.mm
    left, right = _matrix(kind), _matrix(kind)
    return Run(lambda: multiply(left, right), 2 * SIDE**3 / 1e9)


def _matrix(kind: NumberType) -> Any:
    torch = import_torch()
    if kind == "int8":
        return torch.randint(-128, 128, (SIDE, SIDE), dtype=torch.int8)
    return torch.rand(SIDE, SIDE).to(torch.bfloat16 if kind == "bf16" else torch.float32)
