"""Classes have their names only where this machine knows the bundle that answered."""

import pytest

from core.messages import LabelScore, Prediction
from web_tier.results.scores import ClassLabels

IDS = {"job_id": "01M7VZC4WFV7NFCGGR65PAXY7J", "image_id": "01M7VZC4WFV7NFCGGR65PAXY7K"}


def prediction(best: str, score: float, *probabilities: float) -> Prediction:
    top = (LabelScore(label=best, score=score),)
    return Prediction(
        **IDS, status="done", label=best, score=score, top=top, worker="i-0", attempts=1, probabilities=probabilities
    )


@pytest.fixture
def words() -> ClassLabels:
    return ClassLabels(["cat", "dog"], {"dog": "A dog."})


def test_all_classes_are_listed_best_first_by_name(words: ClassLabels) -> None:
    scores = words.all_scores(prediction("dog", 0.9, 0.1, 0.9))
    assert [(pair.label, pair.score) for pair in scores] == [("dog", 0.9), ("cat", 0.1)]
    assert words.messages["dog"] == "A dog."


@pytest.mark.parametrize(
    ("best", "score", "probabilities"),
    [("ship", 0.9, (0.1, 0.9)), ("cat", 0.9, (0.1, 0.9)), ("dog", 0.9, (0.05, 0.9, 0.05))],
    ids=["another label", "another order", "more classes"],
)
def test_classes_of_another_bundle_have_numbers(
    words: ClassLabels, best: str, score: float, probabilities: tuple[float, ...]
) -> None:
    assert words.all_scores(prediction(best, score, *probabilities))[0].label == "class 1"
