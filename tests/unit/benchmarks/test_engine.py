"""The benchmark `engine`: the engines beside torch."""

from threading import Barrier

import numpy as np

from app_tier.engines import Batch, Possible
from benchmarks.engine import TORCH, EngineCase, figures_of, side_by_side

BARRED = EngineCase("resnet18", threads=2, batch=8)


def test_speeds_are_relative_to_torch_the_fp32_peak_and_the_peak_of_their_precision() -> None:
    speeds = {TORCH: 50.0, "openvino_int8": 250.0, "exact_bf16_first": 100.0}
    figures = figures_of(BARRED, speeds, {"fp32": 200.0, "bf16": 400.0, "int8": 800.0}, gigaflop=4.0)
    assert figures["resnet18_2t_batch8_openvino_int8_to_torch_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_peak_ratio"] == 5
    assert figures["resnet18_2t_batch8_openvino_int8_to_own_peak_ratio"] == 1.25
    assert figures["resnet18_2t_batch8_exact_bf16_first_to_own_peak_ratio"] == 1
    assert figures[f"resnet18_2t_batch8_{TORCH}_to_own_peak_ratio"] == 1


class Meeting:
    """An engine that answers once two threads ask at the same time."""

    def __init__(self) -> None:
        self.barrier = Barrier(2, timeout=60)

    def infer(self, batch: Batch, _possible: Possible | None = None) -> Batch:
        self.barrier.wait()
        return batch


def test_streams_are_asked_at_the_same_time_and_all_their_images_count() -> None:
    pixels = np.zeros((8, 3, 2, 2), np.float32)
    run = side_by_side(Meeting(), pixels, 2)
    assert run.amount == 16
    assert len(run.action()) == 2  # type: ignore[arg-type]
