"""Classify: one run of the network for a batch of one model, and what each image's probabilities say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import Bundle, EngineError
from app_tier.decode import Pixels
from app_tier.engines import Batch, LoadedModel, Possible
from app_tier.task import Task, refuse
from core.jobs.pack_objects import object_key
from core.label_sets import classes_in
from core.messages import MODEL_FAILED, PROBABILITY_DIGITS, LabelScore, Model, Prediction
from services.clock import CLOCK


@dataclass(frozen=True)
class Classifier:
    """Runs the models and formats their results. As many threads may use it at once as an engine has streams.

    Attributes:
        top_k: label and score pairs in a result.
    """

    worker: str
    top_k: int

    def classify(self, tasks: Sequence[Task[Pixels]]) -> list[Task[Prediction]]:
        """Return each task of one model with its prediction; `inferred` is how long the batch took.

        An image that the network answers with what is no number fails: another try would have the same answer.

        Raises:
            EngineError: the network has not answered each image with a score for each label.
        """
        before, model = CLOCK.monotonic(), tasks[0].model
        listed = [_possible_classes(task) for task in tasks]
        possible = None
        if any(classes is not None for classes in listed):
            possible = np.zeros((len(tasks), len(model.bundle.labels)), np.bool_)
            for row, classes in zip(possible, listed, strict=True):
                row[slice(None) if classes is None else classes] = True
        probabilities = _infer(model, np.stack([task.payload for task in tasks]), possible)
        took = (CLOCK.monotonic() - before) * 1000
        return [
            self._answer(task.with_payload(None, inferred=took), model.bundle, row, classes)
            for task, row, classes in zip(tasks, probabilities, listed, strict=True)
        ]

    def _answer(
        self, task: Task[None], bundle: Bundle, row: NDArray[np.floating[Any]], possible: list[int] | None
    ) -> Task[Prediction]:
        if not np.isfinite(row).all():
            return refuse(task, MODEL_FAILED, self.worker)
        probabilities, labels = row, bundle.labels
        best = probabilities
        if possible is not None:
            if not bundle.manifest.has_independent_labels:
                probabilities = shares_of(row)
            best, labels = probabilities[possible], tuple(labels[each] for each in possible)
        top = top_labels(best, labels, self.top_k)
        ref, request = task.ref, task.delivery.request
        prediction = Prediction(
            job_id=ref.job_id,
            image_id=ref.image_id,
            status="done",
            label=top[0].label,
            score=top[0].score,
            top=top,
            possible_labels=None if possible is None else len(possible),
            probabilities=tuple(_rounded(probabilities)),
            model=Model(name=bundle.name, digest=bundle.digest),
            worker=self.worker,
            attempts=task.delivery.receives,
            attempt=request.attempt,
            key=None if request.source else object_key(request),
            queued_at=task.delivery.queued_at,
            timings=task.timings,
            traceparent=task.traceparent,
            **dict(task.content),
        )
        return task.with_payload(prediction)


def check_engine(model: LoadedModel) -> Batch:
    """Return the scores of an even grey image, which every network can classify.

    Raises:
        EngineError: the network's answer has another shape.
        Exception: the engine does not work.
    """
    return _infer(model, np.full((1, 3, *model.bundle.manifest.preprocess.input_shape), 0.5, np.float32))


def _possible_classes(task: Task[Any]) -> list[int] | None:
    """Return the classes that can occur in an image; None for all."""
    requested = task.delivery.request.model
    return None if requested is None or requested.only is None else list(classes_in(requested.only))


def shares_of(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return each probability's share of the sum in float64: a softmax over those labels alone that are not 0.

    Where float32 has no probability above 0 for any label that can occur, all are 0.
    """
    shares = probabilities.astype(np.float64)
    total = shares.sum()
    return shares / total if total else shares


def _infer(model: LoadedModel, batch: Batch, possible: Possible | None = None) -> Batch:
    probabilities, expected = model.engine.infer(batch, possible), (len(batch), len(model.bundle.labels))
    if probabilities.shape != expected:
        raise EngineError(f"bundle {model.bundle.name} answered {probabilities.shape}, not {expected}")
    return probabilities


def top_labels(probabilities: NDArray[np.floating[Any]], labels: Sequence[str], count: int) -> tuple[LabelScore, ...]:
    """Return the `count` likeliest labels with their probabilities, best first; equals in class order."""
    best = np.argsort(-probabilities, kind="stable")[:count]
    scores = _rounded(probabilities[best])
    return tuple(LabelScore(label=labels[index], score=score) for index, score in zip(best, scores, strict=True))


def _rounded(probabilities: NDArray[np.floating[Any]]) -> list[float]:
    # By way of float64: a rounded float32 shows its binary tail when it is written out.
    return np.round(probabilities.astype(np.float64), PROBABILITY_DIGITS).tolist()  # type: ignore[no-any-return]
