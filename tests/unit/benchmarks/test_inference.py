"""Benchmarks of inference: the engines against torch, and a worker against its engine and decode alone."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from numpy.typing import NDArray

from app_tier.bundle import load_bundle
from app_tier.engines import Batch, OpenVinoEngine
from app_tier.preprocess import Preprocess
from benchmarks.agreement import BATCH, AgreementReport, classify_all, speed_of
from benchmarks.agreement import bars_of as agreement_bars
from benchmarks.agreement import figures_of as agreement_figures
from benchmarks.bare import Bare, measure
from benchmarks.engine import TORCH, EngineCase, bars_of, figures_of, side_by_side, to_fp32
from benchmarks.flood import Flood
from benchmarks.measure import CpuSample, Window
from benchmarks.worker import LEAST, cases, in_precision
from benchmarks.worker import figures_of as worker_figures
from scripts.demo_model.data import Images
from scripts.demo_model.signs import draw, encode

BARRED = EngineCase("resnet18", threads=2, batch=8)


def test_each_speed_is_relative_to_torch_to_the_fp32_peak_and_to_the_peak_of_its_own_number_type() -> None:
    speeds = {TORCH: 50.0, "openvino_int8": 250.0, "exact_bf16_first": 100.0}
    figures = figures_of(BARRED, speeds, {"fp32": 200.0, "bf16": 400.0, "int8": 800.0}, gigaflop=4.0)
    assert figures["resnet18_2t_batch8_openvino_int8_to_torch_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_peak_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_own_peak_ratio"] == 1.25
    assert figures["resnet18_2t_batch8_exact_bf16_first_to_own_peak_ratio"] == 1
    assert figures[f"resnet18_2t_batch8_{TORCH}_to_own_peak_ratio"] == 1


def test_the_bars_are_of_a_batch_of_eight_on_two_threads() -> None:
    speeds = {TORCH: 10.0, "openvino_fp32": 20.0, "openvino_bf16": 31.0, "openvino_int8": 59.0}
    assert [(bar.at_least, bar.ok) for bar in bars_of(BARRED, speeds, {})] == [(3.0, True), (6.0, False)]
    others = (EngineCase("resnet18", 1, 8), EngineCase("resnet18", 2, 32))
    assert [bars_of(case, speeds, {"exact_bf16_first": 1.0}) for case in others] == [[], []]


def test_exact_must_be_as_fast_as_fp32_whatever_it_asks_first() -> None:
    speeds = {TORCH: 10.0, "openvino_fp32": 20.0, "exact_int8_first": 15.0, "exact_bf16_first_all_unsure": 19.5}
    assert [(bar.value, bar.ok) for bar in bars_of(BARRED, {}, to_fp32(speeds))] == [(0.75, False), (0.975, True)]


def test_a_machine_without_int8_has_no_bar_for_it() -> None:
    assert len(bars_of(BARRED, {TORCH: 10.0, "openvino_bf16": 31.0}, {})) == 1


class Meeting:
    """An engine that answers once two threads ask at the same time."""

    def __init__(self) -> None:
        self.barrier = Barrier(2, timeout=60)

    def infer(self, batch: Batch) -> Batch:
        self.barrier.wait()
        return batch


def test_streams_are_asked_at_the_same_time_and_all_their_images_count() -> None:
    pixels = np.zeros((8, 3, 2, 2), np.float32)
    run = side_by_side(Meeting(), pixels, 2)
    assert run.amount == 16
    assert len(run.action()) == 2  # type: ignore[arg-type]


TRUTH = np.array([0, 1, 2, 3])


def report(answers: list[int], seconds: float) -> AgreementReport:
    return AgreementReport(np.array(answers), seconds)


def test_a_way_is_described_by_its_agreement_with_torch_the_accuracy_it_loses_and_its_speed() -> None:
    figures = agreement_figures(
        "signs", {"torch": report([0, 1, 2, 0], 3.0), "int8": report([0, 1, 0, 3], 0.5)}, TRUTH
    )
    assert figures["signs_int8_agreement_ratio"] == 0.5
    assert figures["signs_int8_lost_points"] == 0
    assert figures["signs_int8_to_torch_ratio"] == 6


def test_every_way_that_the_machine_has_must_hold_its_bars() -> None:
    same = report([0, 1, 2, 3], 1.0)
    ways = {"torch": report([0, 1, 2, 3], 2.0), "exact": same, "int8": report([0, 1, 2, 0], 0.5)}
    bars = list(agreement_bars("signs", agreement_figures("signs", ways, TRUTH), ways))
    assert [(bar.what, bar.value, bar.ok) for bar in bars] == [
        ("signs: exact, same label as torch fp32", 1.0, True),
        ("signs: int8, points of accuracy lost", 25.0, False),
    ]


def test_speed_is_that_of_all_images_together() -> None:
    signs, cifar = (
        {"torch": report([0], torch), "exact": report([0], exact)} for torch, exact in ((9.0, 1.0), (1.0, 1.0))
    )
    assert speed_of("exact", [signs, cifar]) == 5


def test_all_images_are_asked_about_in_batches_twice_and_answered_once() -> None:
    squares = np.zeros((BATCH + 3, 32, 32, 3), np.uint8)
    squares[:, 0, 0, 0] = range(0, 2 * (BATCH + 3), 2)
    sizes: list[int] = []
    seconds = iter(range(100))

    def infer(pixels: Batch) -> Batch:
        sizes.append(len(pixels))
        first: Batch = pixels[:, 0, 0, 0]
        return np.stack([first < 0, first >= first.mean()], 1).astype(np.float32)

    images = Images(squares, np.zeros(len(squares), np.int64))
    answers = classify_all({"ours": infer}, images, clock=lambda: float(next(seconds)))["ours"]
    assert sizes == [BATCH, 3, BATCH, 3]
    assert len(answers.answers) == BATCH + 3
    assert answers.seconds == pytest.approx(1.0)


SPEC = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PHOTOS = [encode(draw(0, seed, (16, 16))[0], "JPEG") for seed in range(3)]


class FakeEngine:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.float32]] = []

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(batch)
        return np.zeros((len(batch), 2), np.float32)


def ticks(step: float) -> Iterator[float]:
    return itertools.count(0.0, step)


def test_batches_are_measured_until_the_time_is_over_and_the_first_only_warms_up() -> None:
    engine, wall, cpu = FakeEngine(), ticks(1.0), ticks(0.25)
    bare = measure(engine, SPEC, PHOTOS, 4, 3.0, clock=lambda: next(wall), cpu_clock=lambda: next(cpu))
    assert bare == Bare(images=12, seconds=3.0, decode_s=0.75, infer_s=0.75)
    assert [batch.shape for batch in engine.batches] == [(4, 3, 8, 8)] * 4


def test_photos_come_in_turn_and_over_again() -> None:
    engine, wall = FakeEngine(), ticks(1.0)
    measure(engine, SPEC, PHOTOS, 2, 2.0, clock=lambda: next(wall))
    first, second, third = engine.batches
    np.testing.assert_array_equal(np.concatenate([first, second, third])[:3], np.concatenate([second, third])[1:4])


def test_two_measurements_make_one_of_their_sums() -> None:
    both = Bare(10, 1.0, 0.1, 0.4) + Bare(30, 3.0, 0.3, 1.2)
    assert both.images_per_second == pytest.approx(10)
    assert both.decode_ms == pytest.approx(10)
    assert both.infer_ms == pytest.approx(40)


BARE = Bare(images=100, seconds=1.0, decode_s=0.3, infer_s=0.7)
NOTHING = dict.fromkeys(("worker", "cloud", "worker_core", "other_core"), 0.0)
USED = {"worker": 6.0, "cloud": 2.0, "worker_core": 7.0, "other_core": 5.0}
FLOOD = Flood(
    images=1000,
    window=Window(0.0, 10.0, 500),
    samples=[CpuSample(0.0, NOTHING), CpuSample(10.0, USED)],
    calls={"s3": 2000, "sqs": 300},
    fetched_ms=25.0,
    stored_ms=30.0,
)


def test_the_worker_is_held_against_its_engine_and_decode_alone() -> None:
    figures = worker_figures(BARE, FLOOD)
    assert figures["images_per_second"] == pytest.approx(50)
    assert figures["bare_images_per_second"] == pytest.approx(100)
    assert figures["to_bare_ratio"] == pytest.approx(0.5)


def test_what_is_neither_decode_nor_network_is_the_rest() -> None:
    figures = worker_figures(BARE, FLOOD)
    assert figures["worker_cpu_ms"] == pytest.approx(12)
    assert figures["decode_cpu_ms"] + figures["infer_cpu_ms"] + figures["rest_cpu_ms"] == pytest.approx(12)
    assert figures["rest_cpu_ms"] == pytest.approx(2)
    assert figures["to_bare_cpu_ratio"] == pytest.approx(10 / 12)


def test_the_cores_time_is_split_by_who_had_it() -> None:
    figures = worker_figures(BARE, FLOOD)
    assert figures["core_idle"] == pytest.approx(0.3)
    assert figures["core_of_others"] == pytest.approx(0.1)
    assert figures["other_core_busy"] == pytest.approx(0.5)
    assert figures["other_core_of_cloud"] == pytest.approx(0.2)


def test_what_others_took_of_the_core_does_not_count_in_the_undisturbed_ratio() -> None:
    slowed = replace(BARE, seconds=2.0)
    assert worker_figures(slowed, FLOOD)["to_bare_undisturbed_ratio"] == pytest.approx(500 / 9 / 100)


def test_calls_are_counted_for_each_image() -> None:
    figures = worker_figures(BARE, FLOOD)
    assert figures["s3_calls_per_image"] == 2
    assert figures["sqs_calls_per_image"] == 0.3


@pytest.mark.parametrize(
    ("quick", "fast", "measured"),
    [
        (False, {"fp32", "bf16", "int8"}, ["bf16", "int8"]),
        (True, {"fp32", "bf16", "int8"}, ["int8"]),
        (False, {"fp32", "int8"}, ["int8"]),
        (False, {"fp32"}, ["fp32"]),
        (True, {"fp32"}, ["fp32"]),
    ],
)
def test_both_networks_are_measured_in_what_the_cpu_is_fast_at(
    quick: bool, fast: set[str], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", staticmethod(fast.__contains__))
    assert [str(case) for case in cases(quick)] == [f"{net}_{each}" for net in LEAST for each in measured]


def test_a_bundle_in_another_precision_is_whole_and_has_the_same_network(tmp_path: Path) -> None:
    original = load_bundle()
    made = load_bundle(in_precision(original, "fp32", tmp_path / "fp32"))
    assert made.manifest.precision == "fp32"
    assert made.manifest.files == original.manifest.files


def test_a_service_that_was_not_called_has_no_figure() -> None:
    assert "sqs_calls_per_image" not in worker_figures(BARE, replace(FLOOD, calls={"s3": 1}))
