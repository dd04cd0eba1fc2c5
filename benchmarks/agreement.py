"""How precisely each precision answers: the demo network, against torch in fp32, on images that it never saw.

10,000 drawn signs, and the 10,000 test images of CIFAR-10 where a zip of them lies beside the checkout. int8 is
calibrated, and ``exact`` measured, on the drawn images of a build without a folder: what any user gets. Where that
build finds fp32 alone to be the fastest exact way, ``exact`` is fp32.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import TORCH_NAME, LowPrecision, Precision, load_bundle
from app_tier.engine_imports import export_warnings_off, import_torch
from app_tier.engines import Batch, open_engine
from app_tier.preprocess import normalise
from benchmarks.networks import KEPT, demo_network
from benchmarks.report import Bar, Report
from scripts.demo_model.data import (
    DEMO_LABELS,
    DEMO_PREPROCESS,
    FRESH_SEED,
    FRESH_SIGNS,
    Images,
    cifar_from_zip,
    drawn_signs,
)
from scripts.run.system import ROOT

CIFAR_ZIP: Final = ROOT.parent / "shared" / "data" / "cifar10-jpeg.zip"
THREADS: Final = 2
BATCH: Final = 8
TURN: Final = 200
"""Images that one way is asked about, twice, before it is the next one's turn; threads of the one before spin on."""

MIN_AGREEMENT: Final = 0.9999
MIN_SPEED: Final = 3.0
"""Times as fast as torch that ``exact`` is on a CPU with bf16."""

MIN_EXACT_RATIO: Final = 0.97
"""Times as fast as fp32 that ``exact`` is on any CPU: 1, less what two timings of one network differ by in a run."""

MAX_POINTS_LOST: Final[Mapping[LowPrecision, float]] = {"bf16": 0.2, "int8": 0.5}
Infer = Callable[[Batch], Batch]


@dataclass(frozen=True)
class AgreementReport:
    """What one way answered about all images of one kind, and the seconds that it took."""

    answers: NDArray[np.int64]
    seconds: float


def run() -> Report:
    """Classify all images with every way."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    ways: dict[str, Infer] = {"torch": _torch_eager()}
    for precision in get_args(Precision):
        bundle = demo_network(precision)
        if precision in {bundle.manifest.precision, "exact"}:
            ways[precision] = open_engine("openvino", bundle, THREADS).infer
    drawn = KEPT / f"signs-{FRESH_SIGNS}.npz"
    if not drawn.exists():  # drawn once: it takes two minutes
        images = drawn_signs(FRESH_SIGNS, FRESH_SEED)
        drawn.parent.mkdir(parents=True, exist_ok=True)
        np.savez(drawn, pixels=images.pixels, labels=images.labels)
    with np.load(drawn) as saved:
        kinds, measured = {"signs": Images(saved["pixels"], saved["labels"])}, []
    if CIFAR_ZIP.exists():
        kinds["cifar"] = cifar_from_zip(CIFAR_ZIP, "test")
    else:
        print(f"no CIFAR-10 in {CIFAR_ZIP.name} beside this checkout: measured on drawn signs alone")
    for name, images in kinds.items():
        reports = classify_all(ways, images)
        figures |= figures_of(name, reports, images.labels)
        bars += bars_of(name, figures, reports)
        measured.append(reports)
    for way in ways:
        figures[f"all_{way}_to_torch_ratio"] = speed_of(way, measured)
    speed = figures["all_exact_to_torch_ratio"]
    to_fp32 = speed / figures["all_fp32_to_torch_ratio"]
    figures["all_exact_to_fp32_ratio"] = to_fp32
    bars.append(Bar("exact ÷ fp32, demo network, batch 8, 2 threads", to_fp32, at_least=MIN_EXACT_RATIO))
    if "bf16" in ways:
        bars.append(Bar("exact ÷ torch eager fp32, demo network, batch 8, 2 threads", speed, at_least=MIN_SPEED))
    return Report("agreement", figures, tuple(bars))


def speed_of(way: str, kinds: Sequence[Mapping[str, AgreementReport]]) -> float:
    """Return how many times as fast as torch `way` answered all kinds of images together."""
    return sum(reports["torch"].seconds for reports in kinds) / sum(reports[way].seconds for reports in kinds)


def figures_of(name: str, reports: Mapping[str, AgreementReport], truth: NDArray[np.int64]) -> dict[str, float]:
    """Return each way's agreement with torch, points of accuracy lost against it, and speed by torch's."""
    torch = reports["torch"]
    figures: dict[str, float] = {f"{name}_images": len(truth)}
    for way, one in reports.items():
        figures[f"{name}_{way}_agreement_ratio"] = float(np.mean(one.answers == torch.answers))
        lost = np.mean(torch.answers == truth) - np.mean(one.answers == truth)
        figures[f"{name}_{way}_lost_points"] = 100 * float(lost)
        figures[f"{name}_{way}_to_torch_ratio"] = torch.seconds / one.seconds
    return figures


def bars_of(name: str, figures: Mapping[str, float], reports: Mapping[str, AgreementReport]) -> Iterator[Bar]:
    """Yield the bars of one kind of images, for the ways that this machine has."""
    if "exact" in reports:
        agreement = figures[f"{name}_exact_agreement_ratio"]
        yield Bar(f"{name}: exact, same label as torch fp32", agreement, at_least=MIN_AGREEMENT)
    for way, most in MAX_POINTS_LOST.items():
        if way in reports:
            yield Bar(f"{name}: {way}, points of accuracy lost", figures[f"{name}_{way}_lost_points"], at_most=most)


def classify_all(
    ways: Mapping[str, Infer], images: Images, clock: Callable[[], float] = time.perf_counter
) -> dict[str, AgreementReport]:
    """Classify all images with each way, `TURN` at a time and in turns; the faster of the two times counts."""
    answers: dict[str, list[NDArray[np.int64]]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for start in range(0, len(images), TURN):
        pixels = np.stack([normalise(square, DEMO_PREPROCESS) for square in images.pixels[start : start + TURN]])
        for name, infer in ways.items():
            took = []
            for _ in range(2):
                before = clock()
                part = [infer(pixels[first : first + BATCH]).argmax(1) for first in range(0, len(pixels), BATCH)]
                took.append(clock() - before)
            seconds[name] += min(took)
            answers[name] += part
    return {name: AgreementReport(np.concatenate(answers[name]), seconds[name]) for name in ways}


def _torch_eager() -> Infer:
    """Return the demo network as torch's own modules, on as many threads."""
    torch = import_torch()
    from scripts.demo_model.training import CifarResNet

    torch.set_num_threads(THREADS)
    with export_warnings_off():
        state: dict[str, Any] = torch.export.load(load_bundle().path(TORCH_NAME)).state_dict
    network = CifarResNet(len(DEMO_LABELS)).eval()
    network.load_state_dict({name.removeprefix("0."): value for name, value in state.items()})

    def infer(pixels: Batch) -> Batch:
        with torch.inference_mode():
            probabilities: Batch = network(torch.from_numpy(pixels)).softmax(1).numpy()
        return probabilities

    return infer
