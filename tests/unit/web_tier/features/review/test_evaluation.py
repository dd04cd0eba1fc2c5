"""The evaluation of labels against true labels: laws of its sums and shares, and its confusion matrix."""

from collections import Counter
from fractions import Fraction
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.label_names import ClassNames
from web_tier.features.review.evaluation import ConfusionMatrix, Evaluation, wilson_interval

LABELS = st.sampled_from(["cat", "dog", "ship", "none of them"])
PAIRS = st.lists(st.tuples(LABELS, LABELS), max_size=40)
ANY = ClassNames(())
"""Of a model whose classes are not known."""


@given(PAIRS)
def test_true_labels_that_are_no_class_count_apart(pairs: list[tuple[str, str]]) -> None:
    others = [(truth, label) for truth, label in pairs if truth == "none of them"]
    rest = [pair for pair in pairs if pair not in others]
    found = Evaluation.from_pairs(pairs, ClassNames(["cat", "Dog", "ship"]))
    expected = Evaluation.from_pairs(((truth.replace("dog", "Dog"), label) for truth, label in rest), ANY)
    assert found.unknown == ({"none of them": len(others)} if others else {})
    assert (found.counted, found.correct, found.classes) == (len(rest), expected.correct, expected.classes)


@given(PAIRS)
def test_the_figures_agree_with_their_definitions(pairs: list[tuple[str, str]]) -> None:
    found = Evaluation.from_pairs(pairs, ANY)
    hits = [truth for truth, label in pairs if truth == label]
    assert (found.counted, found.correct) == (len(pairs), len(hits))
    assert {each.label for each in found.classes} == {name for pair in pairs for name in pair}
    for each in found.classes:
        truly = [pair for pair in pairs if pair[0] == each.label]
        labelled = [pair for pair in pairs if pair[1] == each.label]
        both = hits.count(each.label)
        assert (each.support, each.predicted, each.correct) == (len(truly), len(labelled), both)
        assert each.precision == (both / len(labelled) if labelled else None)
        assert each.recall == (both / len(truly) if truly else None)
        precision, recall = Fraction(both, len(labelled) or 1), Fraction(both, len(truly) or 1)
        harmonic = 2 * precision * recall / (precision + recall) if both else Fraction(0)
        assert each.f1 == pytest.approx(float(harmonic))
    assert {(cell.truth, cell.label): cell.images for cell in found.confusions} == Counter(pairs)


@given(PAIRS, st.integers(0, 5))
def test_matrix_and_other_errors_hold_every_error_once(pairs: list[tuple[str, str]], classes: int) -> None:
    found = Evaluation.from_pairs(pairs, ANY)
    matrix = ConfusionMatrix.from_evaluation(found, classes)
    shown = {
        (truth, label): images
        for truth, row in zip(matrix.labels, matrix.rows, strict=True)
        for label, images in zip(matrix.labels, row, strict=True)
        if images and truth != label
    }
    others = {(cell.truth, cell.label): cell.images for cell in matrix.others}
    assert not shown.keys() & others.keys()
    assert shown | others == Counter(pair for pair in pairs if pair[0] != pair[1])


@given(PAIRS, st.randoms())
def test_the_order_of_the_images_changes_nothing(pairs: list[tuple[str, str]], random: Random) -> None:
    assert Evaluation.from_pairs(random.sample(pairs, len(pairs)), ANY) == Evaluation.from_pairs(pairs, ANY)


@given(PAIRS.filter(bool))
@example([("cat", "cat")] * 4)
def test_the_interval_contains_the_accuracy_and_narrows_with_more_images(pairs: list[tuple[str, str]]) -> None:
    few, many = Evaluation.from_pairs(pairs, ANY), Evaluation.from_pairs(pairs * 4, ANY)
    assert few.interval is not None
    assert many.interval is not None
    assert few.accuracy is not None
    low, high = few.interval
    assert 0 <= low <= few.accuracy <= high <= 1
    assert many.interval[1] - many.interval[0] < high - low


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_confidence_interval_is_that_of_newcombes_table(right: int, count: int, low: float, high: float) -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3."""
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=6e-5)


def test_without_images_no_share_is_known() -> None:
    found = Evaluation.from_pairs([], ANY)
    assert (found.accuracy, found.interval, found.classes, found.confusions) == (None, None, (), ())
