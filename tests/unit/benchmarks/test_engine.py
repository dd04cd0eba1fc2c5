"""What the engines are held to: speed against torch, and the same answers as torch."""

from threading import Barrier

import numpy as np
import pytest

from app_tier.engines import Batch
from benchmarks.agreement import BATCH, AgreementReport, ask_all, speed_of
from benchmarks.agreement import bars_of as agreement_bars
from benchmarks.agreement import figures_of as agreement_figures
from benchmarks.engine import TORCH, EngineCase, bars_of, figures_of, side_by_side
from scripts.demo_model.data import Images

BARRED = EngineCase("resnet18", threads=2, batch=8)


def test_each_speed_is_told_by_torch_by_the_fp32_peak_and_by_the_peak_of_its_own_number_type() -> None:
    speeds = {TORCH: 50.0, "openvino_int8": 250.0, "exact_bf16_first": 100.0}
    figures = figures_of(BARRED, speeds, {"fp32": 200.0, "bf16": 400.0, "int8": 800.0}, gigaflop=4.0)
    assert figures["resnet18_2t_batch8_openvino_int8_to_torch_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_peak_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_own_peak_ratio"] == 1.25
    assert figures["resnet18_2t_batch8_exact_bf16_first_to_own_peak_ratio"] == 1
    assert figures[f"resnet18_2t_batch8_{TORCH}_to_own_peak_ratio"] == 1


def test_the_bars_are_of_a_batch_of_eight_on_two_threads() -> None:
    speeds = {TORCH: 10.0, "openvino_fp32": 20.0, "openvino_bf16": 31.0, "openvino_int8": 59.0}
    assert [(bar.at_least, bar.ok) for bar in bars_of(BARRED, speeds)] == [(3.0, True), (6.0, False)]
    assert bars_of(EngineCase("resnet18", 1, 8), speeds) == bars_of(EngineCase("resnet18", 2, 32), speeds) == []


def test_a_machine_without_int8_has_no_bar_for_it() -> None:
    assert len(bars_of(BARRED, {TORCH: 10.0, "openvino_bf16": 31.0})) == 1


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


def told(answers: list[int], seconds: float) -> AgreementReport:
    return AgreementReport(np.array(answers), seconds)


def test_a_way_is_told_by_its_agreement_with_torch_the_accuracy_it_loses_and_its_speed() -> None:
    figures = agreement_figures("signs", {"torch": told([0, 1, 2, 0], 3.0), "int8": told([0, 1, 0, 3], 0.5)}, TRUTH)
    assert figures["signs_int8_agreement_ratio"] == 0.5
    assert figures["signs_int8_lost_points"] == 0
    assert figures["signs_int8_to_torch_ratio"] == 6


def test_every_way_that_the_machine_has_must_hold_its_bars() -> None:
    same = told([0, 1, 2, 3], 1.0)
    ways = {"torch": told([0, 1, 2, 3], 2.0), "exact": same, "int8": told([0, 1, 2, 0], 0.5)}
    bars = list(agreement_bars("signs", agreement_figures("signs", ways, TRUTH), ways))
    assert [(bar.what, bar.value, bar.ok) for bar in bars] == [
        ("signs: exact, same label as torch fp32", 1.0, True),
        ("signs: int8, points of accuracy lost", 25.0, False),
    ]


def test_speed_is_that_of_all_images_together() -> None:
    signs, cifar = (
        {"torch": told([0], torch), "exact": told([0], exact)} for torch, exact in ((9.0, 1.0), (1.0, 1.0))
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
    answers = ask_all({"ours": infer}, images, clock=lambda: float(next(seconds)))["ours"]
    assert sizes == [BATCH, 3, BATCH, 3]
    assert len(answers.answers) == BATCH + 3
    assert answers.seconds == pytest.approx(1.0)
