"""Drawn signs are known without limit; low precision keeps fp32's answers, and int8 that loses is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app_tier.bundle import BundleBuildError
from core.bundle_manifest import Measurement
from core.images import FORMATS, sniff
from scripts.demo_model.signs import SIGN_LABELS, draw, face, samples
from scripts.model.precision import SAFETY, Compared, Probabilities, choose_margin, refuse_losses, summarise

SMALL = (((64, 64), 0.5), ((96, 64), 0.5))


def test_no_two_signs_are_alike_even_at_16_pixels() -> None:
    small = [face(label).resize((16, 16), Image.Resampling.BOX).convert("RGBa") for label in SIGN_LABELS]
    pixels = [np.asarray(image, np.float32) for image in small]
    for i, one in enumerate(pixels):
        for other in pixels[i + 1 :]:
            assert np.abs(one - other).mean() > 8


@given(seed=st.integers(0, 2**63 - 1), label=st.none() | st.integers(0, 19))
def test_a_seed_gives_the_same_image_every_time(seed: int, label: int | None) -> None:
    (first, truth), (second, again) = draw(label, seed, (64, 48)), draw(label, seed, (64, 48))
    assert truth == again == (truth if label is None else SIGN_LABELS[label])
    assert first.tobytes() == second.tobytes()
    assert (first.mode, first.size) == ("RGB", (64, 48))


def test_filenames_are_unique_and_say_what_they_hold() -> None:
    drawn = list(samples(40, seed=1, sizes=SMALL))
    assert len({sample.filename for sample in drawn}) == 40
    for sample in drawn:
        assert sample.label.replace(" ", "-") in sample.filename
        assert sample.filename.rsplit(".")[-1] == FORMATS[sniff(sample.data)].extension


def softmax(logits: list[list[float]]) -> Probabilities:
    exponentials = np.exp(np.asarray(logits))
    probabilities: Probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def compared(fp32: list[list[float]], low: list[list[float]], truth: list[int]) -> Compared:
    return Compared(softmax(fp32), softmax(low), np.asarray(truth), fp32_seconds=2.0, low_seconds=0.5)


def measured(same: float, accuracy: float | None, accuracy_fp32: float | None) -> Measurement:
    return Measurement(
        images=1000,
        source="folder signs",
        alone_same_top1=same,
        same_top1=same,
        largest_difference=0.1,
        repeated=0,
        speed=3,
        labelled=0 if accuracy is None else 1000,
        accuracy=accuracy,
        accuracy_fp32=accuracy_fp32,
    )


def test_the_margin_is_twice_the_largest_gap_at_which_low_precision_was_wrong() -> None:
    both = compared([[1.0, 1.02, 0], [5, 0, 0]], [[1.06, 1.0, 0], [5, 0, 0]], [-1, -1])
    assert choose_margin(both) == pytest.approx(SAFETY * 0.06, abs=1e-5)


def test_with_the_chosen_margin_every_measured_image_is_answered_as_fp32_does() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(size=(500, 4))
    both = compared(logits.tolist(), (logits + random.normal(scale=0.05, size=logits.shape)).tolist(), [-1] * 500)
    figures = summarise(both, choose_margin(both), "noise")
    assert figures.alone_same_top1 < 1
    assert figures.same_top1 == 1
    assert 0 < figures.repeated < 0.5


def test_accuracy_is_of_the_images_whose_label_is_known() -> None:
    both = compared([[1, 0], [0, 1], [0, 1]], [[1, 0], [1, 0], [1, 0]], [0, 1, -1])
    figures = summarise(both, None, "a folder")
    assert (figures.labelled, figures.accuracy, figures.accuracy_fp32) == (2, 0.5, 1.0)
    assert (figures.speed, figures.repeated) == (4.0, 0.0)


def test_without_any_label_there_is_no_accuracy() -> None:
    assert summarise(compared([[1, 0]], [[1, 0]], [-1]), None, "a folder").accuracy is None


@pytest.mark.parametrize(
    ("figures", "complaint"),
    [
        (measured(0.99, 0.894, 0.9), r"loses 0\.60 points of accuracy and answers 1\.00% of 1000 images otherwise"),
        (measured(0.975, 0.9, 0.9), r"loses 0\.00 points of accuracy and answers 2\.50% of 1000 images otherwise"),
        (
            measured(0.9, None, None),
            r"loses an unknown share of accuracy and answers 10\.00% of 1000 images .*folder signs",
        ),
    ],
)
def test_int8_that_loses_too_much_is_refused_with_both_figures_and_a_remedy(
    figures: Measurement, complaint: str
) -> None:
    with pytest.raises(BundleBuildError, match=rf"{complaint}.*or take --precision exact$"):
        refuse_losses(figures)


@pytest.mark.parametrize("figures", [measured(0.98, 0.895, 0.9), measured(1, None, None), measured(0.99, 0.91, 0.9)])
def test_int8_within_its_limits_gets_through(figures: Measurement) -> None:
    refuse_losses(figures)
