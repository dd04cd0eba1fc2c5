"""Class scores have labels only if the configured bundle made the prediction."""

import pytest

from core.messages import LabelScore, Prediction
from web_tier.results.details import ClassLabels

IDS = {"job_id": "01M7VZC4WFV7NFCGGR65PAXY7J", "image_id": "01M7VZC4WFV7NFCGGR65PAXY7K"}


def prediction(best: str, score: float, *probabilities: float) -> Prediction:
    top = (LabelScore(label=best, score=score),)
    return Prediction(
        **IDS, status="done", label=best, score=score, top=top, worker="i-0", attempts=1, probabilities=probabilities
    )


@pytest.fixture
def labels() -> ClassLabels:
    return ClassLabels(["cat", "dog"], {"dog": "A dog."})


def test_all_classes_are_listed_best_first_by_name(labels: ClassLabels) -> None:
    scores = labels.all_scores(prediction("dog", 0.9, 0.1, 0.9))
    assert [(pair.label, pair.score) for pair in scores] == [("dog", 0.9), ("cat", 0.1)]
    assert labels.messages["dog"] == "A dog."


@pytest.mark.parametrize(
    ("best", "score", "probabilities"),
    [("ship", 0.9, (0.1, 0.9)), ("cat", 0.9, (0.1, 0.9)), ("dog", 0.9, (0.05, 0.9, 0.05))],
    ids=["another label", "another order", "more classes"],
)
def test_classes_of_another_bundle_have_numbers(
    labels: ClassLabels, best: str, score: float, probabilities: tuple[float, ...]
) -> None:
    assert labels.all_scores(prediction(best, score, *probabilities))[0].label == "class 1"
