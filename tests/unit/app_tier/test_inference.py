"""Inference: the engines' answers, and the predictions that follow from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app_tier.bundle.errors import EngineError
from app_tier.central_crop import central_crop
from app_tier.classify import Classifier, top_labels
from app_tier.decode import decode
from app_tier.engines import Batch, ExactEngine, has_int8_dot_products, top_two_gap
from app_tier.task import new_task
from core.images import ImageLimits
from tests.support.worker import COLOURS, ColourEngine, FakeClock, colour_bundle, delivery, picture

BUNDLE = colour_bundle()


def test_a_batch_is_one_run_and_each_image_gets_its_own_answer() -> None:
    engine = ColourEngine()
    tasks = [
        decode(
            new_task(delivery(number)).with_payload(picture(colour)),
            BUNDLE.manifest.preprocess,
            ImageLimits(),
            central_crop,
        )
        for number, colour in enumerate(COLOURS)
    ]
    answers = Classifier(engine, BUNDLE, "i-1", 2, FakeClock()).classify(tasks)
    assert engine.batches == [3]
    assert [answer.payload.label for answer in answers] == list(COLOURS)
    assert [answer.payload.image_id for answer in answers] == [task.delivery.request.image_id for task in tasks]


def test_a_prediction_says_everything_that_its_reader_needs() -> None:
    one = delivery(count=3)
    task = decode(
        new_task(one).with_payload(picture("green"), fetched=1.0),
        BUNDLE.manifest.preprocess,
        ImageLimits(),
        central_crop,
    )
    prediction = Classifier(ColourEngine(), BUNDLE, "i-1", 2).classify([task])[0].payload
    assert prediction.status == "done"
    assert prediction.ref == one.request.ref
    assert [pair.label for pair in prediction.top] == ["green", "red"]
    assert prediction.score == prediction.top[0].score == prediction.probabilities[1]
    assert prediction.model is not None
    assert (prediction.model.name, prediction.model.digest) == ("colours", BUNDLE.digest)
    assert (prediction.worker, prediction.attempts) == ("i-1", 3)
    assert prediction.timings.fetched == 1.0
    assert prediction.timings.inferred is not None
    assert prediction.timings.stored is None


@dataclass(frozen=True)
class SameAnswer:
    """Returns the same probabilities for each batch, as a network does after a failure that it did not report."""

    answer: Batch

    def infer(self, _batch: Batch) -> Batch:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (np.ones((1, 3), np.float32), r"answered \(1, 3\), not \(2, 3\)"),
        (np.ones((2, 4), np.float32), r"answered \(2, 4\), not \(2, 3\)"),
        (np.full((2, 3), np.nan, np.float32), "answered what is no number"),
    ],
)
def test_what_cannot_be_the_answer_to_this_batch_is_the_engines_fault(answer: Batch, complaint: str) -> None:
    tasks = [
        decode(
            new_task(delivery(number)).with_payload(picture("red")),
            BUNDLE.manifest.preprocess,
            ImageLimits(),
            central_crop,
        )
        for number in range(2)
    ]
    with pytest.raises(EngineError, match=complaint):
        Classifier(SameAnswer(answer), BUNDLE, "i-1", 2).classify(tasks)


def test_of_equally_likely_labels_the_earlier_class_comes_first() -> None:
    top = top_labels(np.array([0.2, 0.4, 0.4], np.float32), ("a", "b", "c"), 3)
    assert [pair.label for pair in top] == ["b", "c", "a"]


def test_no_more_labels_are_named_than_there_are() -> None:
    assert len(top_labels(np.array([0.5, 0.5], np.float32), ("a", "b"), 5)) == 2


def test_probabilities_are_written_with_six_digits() -> None:
    top = top_labels(np.array([1 / 3, 2 / 3], np.float32), ("a", "b"), 2)
    assert json.loads(top[0].to_json()) == {"label": "b", "score": 0.666667}


class Scripted:
    """An engine whose answer to image k is row k of a table; the first pixel of an image is its number."""

    def __init__(self, table: list[list[float]]) -> None:
        self.table = np.asarray(table, np.float32)
        self.asked: list[list[int]] = []

    def infer(self, batch: Batch) -> Batch:
        numbers = batch[:, 0, 0, 0].astype(int)
        self.asked.append(numbers.tolist())
        answers: Batch = self.table[numbers]
        return answers


def numbered(count: int) -> Batch:
    return np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)


def test_only_the_unsure_images_are_asked_again_and_get_the_reference_answer() -> None:
    fast = Scripted([[0.9, 0.1], [0.51, 0.49], [0.1, 0.9], [0.49, 0.51]])
    reference = Scripted([[0.8, 0.2], [0.48, 0.52], [0.2, 0.8], [0.52, 0.48]])
    answers = ExactEngine(fast, reference, margin=0.2).infer(numbered(4))
    assert reference.asked == [[1, 3]]
    assert answers == pytest.approx(np.array([[0.9, 0.1], [0.48, 0.52], [0.1, 0.9], [0.52, 0.48]]))


@pytest.mark.parametrize(
    ("unsure", "sizes"), [(1, [1]), (2, [2]), (3, [2, 1]), (4, [4]), (7, [4, 2, 1]), (9, [4, 4, 1])]
)
def test_many_unsure_images_are_asked_again_in_batches_of_three_sizes(unsure: int, sizes: list[int]) -> None:
    reference = Scripted([[0.4, 0.6]] * unsure)
    answers = ExactEngine(Scripted([[0.5, 0.5]] * unsure), reference, margin=0.2).infer(numbered(unsure))
    assert [len(asked) for asked in reference.asked] == sizes
    assert [number for asked in reference.asked for number in asked] == list(range(unsure))
    assert (answers.argmax(1) == 1).all()


def test_a_batch_that_is_sure_never_reaches_the_reference() -> None:
    reference = Scripted([[0.5, 0.5]])
    ExactEngine(Scripted([[0.9, 0.1]]), reference, margin=0.2).infer(numbered(1))
    assert reference.asked == []


def test_the_best_two_of_a_thousand_unlikely_labels_are_told_apart_by_their_logits() -> None:
    row = np.full((1, 1000), 1e-4, np.float32)
    row[0, [3, 5]] = 0.02, 0.01
    assert top_two_gap(row)[0] == pytest.approx(np.log(2), rel=1e-5)


def test_certainty_beyond_float32_is_sure_and_no_warning() -> None:
    assert top_two_gap(np.array([[1, 0, 0]], np.float32))[0] > 80


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30))
def test_the_gap_is_the_difference_of_the_two_largest_logits(logits: list[float]) -> None:
    exponentials = np.exp(np.array(logits) - max(logits))
    probabilities = (exponentials / exponentials.sum()).astype(np.float32)
    second, first = sorted(logits)[-2:]
    assert top_two_gap(probabilities[None])[0] == pytest.approx(first - second, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2 avx512f avx512_vnni", True), ("fpu avx2 avx_vnni", True), ("fpu avx2 avx512f", False), ("", False)],
)
def test_int8_is_fast_where_the_cpu_multiplies_and_adds_at_once(flags: str, fast: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: a CPU\nflags\t\t: {flags}\n")
    assert has_int8_dot_products(tmp_path / "cpuinfo") is fast


def test_a_machine_that_does_not_tell_is_taken_for_slow(tmp_path: Path) -> None:
    assert not has_int8_dot_products(tmp_path / "missing")
