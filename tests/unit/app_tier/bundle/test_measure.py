"""What a bundle says about its precision was measured, and its margin keeps fp32's answers."""

from pathlib import Path

import numpy as np
import pytest

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import load_bundle
from app_tier.bundle.measure import (
    SAFETY,
    Compared,
    Probabilities,
    Target,
    choose_margin,
    compare,
    measure_precision,
    summarise,
)
from app_tier.bundle.sample_images import DRAWN_IMAGES, Labelled, images_for, source_of
from app_tier.demo.signs import samples
from app_tier.engines import OpenVinoEngine

needs_bf16 = pytest.mark.skipif(not OpenVinoEngine.has_fast_bf16(), reason="this CPU has no bf16")


def softmax(logits: list[list[float]]) -> Probabilities:
    exponentials = np.exp(np.asarray(logits))
    probabilities: Probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def compared(fp32: list[list[float]], bf16: list[list[float]], truth: list[int]) -> Compared:
    return Compared(softmax(fp32), softmax(bf16), np.asarray(truth), fp32_seconds=2.0, bf16_seconds=0.5)


def test_the_margin_is_twice_the_largest_gap_at_which_bf16_was_wrong() -> None:
    both = compared([[1.0, 1.02, 0], [5, 0, 0]], [[1.06, 1.0, 0], [5, 0, 0]], [-1, -1])
    assert choose_margin(both) == pytest.approx(SAFETY * 0.06, abs=1e-5)


def test_without_a_wrong_answer_the_margin_is_the_most_that_bf16_moved_a_gap() -> None:
    both = compared([[3.0, 1.0, 0], [5, 0, 0]], [[3.1, 1.0, 0], [4.8, 0, 0]], [-1, -1])
    assert choose_margin(both) == pytest.approx(0.2, abs=1e-5)


def test_with_the_chosen_margin_every_measured_image_is_answered_as_fp32_does() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(500, 4))
    both = compared(logits.tolist(), (logits + random.normal(scale=0.05, size=logits.shape)).tolist(), [-1] * 500)
    figures = summarise(both, choose_margin(both), "noise")
    assert figures.bf16_same_top1 < 1
    assert figures.same_top1 == 1
    assert 0 < figures.repeated < 0.5


def test_accuracy_is_of_the_images_whose_label_is_known() -> None:
    both = compared([[1, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [1, 0]], [0, 1, -1])
    figures = summarise(both, None, "a folder")
    assert (figures.labelled, figures.accuracy, figures.accuracy_fp32) == (2, 0.5, 1.0)
    assert (figures.speed, figures.repeated) == (4.0, 0.0)


def test_without_any_label_there_is_no_accuracy() -> None:
    assert summarise(compared([[1, 0]], [[1, 0]], [-1]), None, "a folder").accuracy is None


@needs_bf16
def test_the_demo_network_is_exact_on_a_folder_of_signs_with_labels(tmp_path: Path) -> None:
    for number, sample in enumerate(samples(40, seed=11)):
        (tmp_path / sample.label).mkdir(exist_ok=True)
        (tmp_path / sample.label / f"{number}.png").write_bytes(sample.data)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    fields = measure_precision(load_bundle(), Target("exact", tmp_path))
    measured = fields["measured"]
    assert (measured.images, measured.labelled, measured.same_top1) == (40, 40, 1)
    assert measured.accuracy == measured.accuracy_fp32
    assert 0 < fields["margin"] < 2
    assert measured.source == f"folder {tmp_path.name}"


def test_without_a_folder_signs_and_noise_are_drawn_and_the_measurement_says_so() -> None:
    drawn = list(images_for(None))
    assert len(drawn) == DRAWN_IMAGES
    assert sum(image.label is None for image in drawn) == DRAWN_IMAGES / 2
    assert "drawn" in source_of(None)


def test_a_cpu_without_bf16_builds_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoEngine, "has_fast_bf16", lambda: False)
    assert measure_precision(load_bundle(), Target("exact")) == {"precision": "fp32"}


def test_a_folder_that_is_not_there_and_one_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"no folder .*missing: .* --images"):
        list(images_for(tmp_path / "missing"))
    with pytest.raises(BundleBuildError, match="none of the images can be classified"):
        compare(load_bundle(), [Labelled(b"no picture", None)])
