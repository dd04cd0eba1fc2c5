"""Agreement is with torch, accuracy lost is against torch, and every image is asked about once."""

import numpy as np
import pytest

from app_tier.engines import Batch
from benchmarks.agreement import BATCH, AgreementReport, ask_all, bars_of, figures_of, speed_of
from scripts.demo_model.data import Images

TRUTH = np.array([0, 1, 2, 3])


def told(answers: list[int], seconds: float) -> AgreementReport:
    return AgreementReport(np.array(answers), seconds)


def test_a_way_is_told_by_its_agreement_with_torch_the_accuracy_it_loses_and_its_speed() -> None:
    figures = figures_of("signs", {"torch": told([0, 1, 2, 0], 3.0), "int8": told([0, 1, 0, 3], 0.5)}, TRUTH)
    assert figures["signs_int8_agreement_ratio"] == 0.5
    assert figures["signs_int8_lost_points"] == 0
    assert figures["signs_int8_to_torch_ratio"] == 6


def test_every_way_that_the_machine_has_must_hold_its_bars() -> None:
    same = told([0, 1, 2, 3], 1.0)
    ways = {"torch": told([0, 1, 2, 3], 2.0), "exact": same, "int8": told([0, 1, 2, 0], 0.5)}
    bars = list(bars_of("signs", figures_of("signs", ways, TRUTH), ways))
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
