"""Evaluation of predictions against true labels: accuracy, precision and recall of each class, confusion matrix.

Only images with both a true label and a label of the model count. An image without a label, since it failed or
waits, is neither right nor wrong. Nor is one whose true label is no class of the model, which cannot give it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from core.label_names import ClassNames

Z_95: Final = 1.959964
"""Two-sided 95 % quantile of the standard normal distribution."""

MAX_UNKNOWN_LISTED: Final = 20
"""True labels that are no class of the model and that an evaluation names; it counts all of them."""


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Figures of one class, in images.

    Attributes:
        label: the class, as the model or the user calls it.
        support: images that truly show it.
        predicted: images to which the model gave this label.
        correct: images of both kinds.
    """

    label: str
    support: int
    predicted: int
    correct: int

    @property
    def errors(self) -> int:
        """Images that show the class or have its label, but not both."""
        return self.support + self.predicted - 2 * self.correct

    @property
    def precision(self) -> float | None:
        """Share of the images with this label that truly show the class; None without such images."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Share of the images of the class that have its label; None without such images."""
        return self.correct / self.support if self.support else None

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 if one of them is 0 or not known."""
        return 2 * self.correct / (self.support + self.predicted)


@dataclass(frozen=True, slots=True)
class Confusion:
    """A cell of the confusion matrix that is not empty."""

    truth: str
    label: str
    images: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the model's labels compare with the true ones.

    Attributes:
        counted: images with a label of the model and a true label that is one of its classes.
        correct: those of them where both are equal.
        unknown: images by true label that is no class of the model, the most frequent first.
        classes: every class that occurs, those with the most errors first.
        confusions: every cell of the matrix that is not empty: errors before hits, then the largest first.
    """

    counted: int
    correct: int
    unknown: Mapping[str, int]
    classes: tuple[ClassScores, ...]
    confusions: tuple[Confusion, ...]

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]], names: ClassNames) -> Self:
        """Return the evaluation of pairs of an image's true label and the label of a model with these classes."""
        cells = Counter((names.respelled(truth), label) for truth, label in pairs)
        support, predicted, unknown = Counter[str](), Counter[str](), Counter[str]()
        for truth, label in [cell for cell in cells if names.is_unknown(cell[0])]:
            unknown[truth] += cells.pop((truth, label))
        for (truth, label), images in cells.items():
            support[truth] += images
            predicted[label] += images
        classes = [
            ClassScores(name, support[name], predicted[name], cells[name, name]) for name in support | predicted
        ]
        confusions = [Confusion(truth, label, images) for (truth, label), images in cells.items()]
        return cls(
            counted=cells.total(),
            correct=sum(each.correct for each in classes),
            unknown=dict(sorted(unknown.items(), key=lambda each: (-each[1], each[0]))),
            classes=tuple(sorted(classes, key=lambda each: (-each.errors, -each.support, each.label))),
            confusions=tuple(
                sorted(confusions, key=lambda each: (each.truth == each.label, -each.images, each.truth, each.label))
            ),
        )

    @property
    def accuracy(self) -> float | None:
        """Share of the counted images that are correct; None without any."""
        return self.correct / self.counted if self.counted else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the accuracy; None without counted images."""
        return wilson_interval(self.correct, self.counted) if self.counted else None


@dataclass(frozen=True, slots=True)
class ConfusionMatrix:
    """The confusion matrix of the classes with the most errors, as a table.

    Attributes:
        labels: its rows (true labels) and its columns (labels of the model), those with the most errors first.
        rows: images by true label, then by label.
        others: errors that are not in the table, the largest first.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    others: tuple[Confusion, ...]

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, max_classes: int) -> Self:
        """Return the matrix of at most `max_classes` classes."""
        labels = tuple(each.label for each in evaluation.classes[:max_classes])
        shown = set(labels)
        cells = {(each.truth, each.label): each.images for each in evaluation.confusions}
        others = (
            each
            for each in evaluation.confusions
            if each.truth != each.label and not {each.truth, each.label} <= shown
        )
        rows = tuple(tuple(cells.get((truth, label), 0) for label in labels) for truth in labels)
        return cls(labels, rows, tuple(others))


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of the share `right` of `count`, 0 to 1; `count` is not 0.

    Source: https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval#Wilson_score_interval
    """
    share = right / count
    centre = share + Z_95**2 / (2 * count)
    width = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    scale = 1 + Z_95**2 / count
    # Rounding may leave the share itself out, where every image or none is right.
    return max(0.0, min(share, (centre - width) / scale)), min(1.0, max(share, (centre + width) / scale))
