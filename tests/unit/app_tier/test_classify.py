import json
from dataclasses import dataclass

import numpy as np
import pytest

from app_tier.bundle.errors import EngineError
from app_tier.central_crop import central_crop
from app_tier.classify import Classifier, top_labels
from app_tier.decode import decode
from app_tier.engines import Batch
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
