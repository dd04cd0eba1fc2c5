"""All class scores of an image, by the labels of the bundle that this machine knows, if it was that one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.messages import LabelScore, Prediction


@dataclass(frozen=True)
class ClassLabels:
    """What a bundle calls its classes, in the order of the probabilities, and its sentence for some of them."""

    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)

    def fit(self, prediction: Prediction) -> bool:
        """Return whether `prediction` was made with these labels: then its best ones are where they say."""
        scores = prediction.probabilities
        if len(self.labels) != len(scores):
            return False
        place = {label: index for index, label in enumerate(self.labels)}
        return all(
            pair.label in place and math.isclose(scores[place[pair.label]], pair.score, abs_tol=1e-5)
            for pair in prediction.top
        )

    def all_scores(self, prediction: Prediction) -> list[LabelScore]:
        """Return every class with its probability, best first; a class without a known name has a number."""
        names = self.labels if self.fit(prediction) else [f"class {n}" for n in range(len(prediction.probabilities))]
        pairs = [
            LabelScore(label=name, score=score) for name, score in zip(names, prediction.probabilities, strict=True)
        ]
        return sorted(pairs, key=lambda pair: -pair.score)
