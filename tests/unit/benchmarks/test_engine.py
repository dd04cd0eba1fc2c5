"""The benchmark `engine`: the engines beside torch."""

from threading import Barrier

import numpy as np

from app_tier.engines import Batch
from benchmarks.engine import TORCH, EngineCase, bars_of, figures_of, side_by_side, to_fp32

BARRED = EngineCase("resnet18", threads=2, batch=8)


def test_speeds_are_relative_to_torch_the_fp32_peak_and_the_peak_of_their_precision() -> None:
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
