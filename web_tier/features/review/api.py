"""The API of reviews: true labels of a job's images, one by one, from a file or from folders, and the evaluation.

A true label changes no prediction. It stays until it is removed, or the job is deleted or expires.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final, Self

from flask import Response, request, stream_with_context
from pydantic import Field
from werkzeug.exceptions import RequestEntityTooLarge, UnprocessableEntity

from core.ids import ULID_PATTERN, ImageRef
from core.jobs.models import ImageRecord, TrueLabel, TruthSource
from core.label_names import ClassNames
from services.clock import utc_now
from web_tier.auth.job_access import UserJobs, user_jobs
from web_tier.auth.permissions import Right
from web_tier.features.review.evaluation import MAX_UNKNOWN_LISTED, Evaluation
from web_tier.features.review.truth import (
    MAX_TRUTH_BYTES,
    Reason,
    TruthFileError,
    TruthOutcome,
    class_names,
    clean_label,
    match_folders,
    match_rows,
    parse_truth_file,
    read_evaluation,
    set_truths,
    truth_lines,
)
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import MAX_LABEL, known_id
from web_tier.http.parsing import Label, json_response, parse_body
from web_tier.http.routes import Routes
from web_tier.results.query import ResultsFilter, all_results

api = Routes("review_api")

MAX_CHANGES: Final = 1_000
"""Images of which one request sets the true label."""

CSV: Final = "text/csv"

ImageId = Annotated[str, Field(pattern=ULID_PATTERN)]


class ChangeTruth(ApiBody):
    """True labels by image id; null removes one."""

    labels: dict[ImageId, Label | None] = Field(
        min_length=1,
        max_length=MAX_CHANGES,
        description=f"Up to {MAX_CHANGES:,} images. A label may be a class of the model or another text.",
    )


class TruthChanged(ApiBody):
    """How many true labels were set and removed; `unknown` are ids that are no images of the job."""

    job_id: str
    set: int
    removed: int
    unknown: tuple[str, ...]


class FaultyLine(ApiBody):
    """A line of the file that set no true label."""

    line: int
    name: str = Field(description="What the line calls the image.")
    reason: Reason


class TruthMatched(ApiBody):
    """What a file or the names of folders set."""

    job_id: str
    matched: int = Field(description="Images that have their true label now.")
    changed: int = Field(description="Those of them that had another one, or none.")
    without: int = Field(description="Lines without a label, or images without a folder.")
    faulty: int = Field(description="Lines that set no true label.")
    faults: tuple[FaultyLine, ...] = Field(description="Each of them.")
    unknown_classes: tuple[str, ...] = Field(
        description="Labels that are no class of the model; they were set, but have no part in the accuracy."
    )

    @classmethod
    def from_outcome(cls, job_id: str, outcome: TruthOutcome, changed: int) -> Self:
        """Return the body of an outcome that changed so many true labels."""
        cut = [replace(each, name=each.name[:MAX_LABEL]) for each in outcome.faults]
        faults = tuple(map(FaultyLine.copied_from, cut))
        counts = {"matched": len(outcome.labels), "changed": changed, "faulty": len(faults)}
        return cls.copied_from(outcome, job_id=job_id, faults=faults, **counts)


class ClassBody(ApiBody):
    """Figures of one class; a share is null where it has no images."""

    label: str
    support: int = Field(description="Images that truly show the class.")
    predicted: int = Field(description="Images to which the model gave this label.")
    correct: int
    precision: float | None
    recall: float | None
    f1: float


class ConfusionBody(ApiBody):
    """A cell of the confusion matrix; omitted cells are 0."""

    truth: str
    label: str
    images: int


class EvaluationBody(ApiBody):
    """How the model's labels compare with the true labels; only images that have both count."""

    job_id: str
    reviewed: int = Field(description="Images with a label of the model and a true label that is one of its classes.")
    unknown: int = Field(description="Images whose true label is no class of the model; nothing here counts them.")
    unknown_classes: tuple[str, ...] = Field(
        description=f"Up to {MAX_UNKNOWN_LISTED} of these labels, the most frequent first."
    )
    correct: int
    accuracy: float | None = Field(description="Share of correct images; null where no image was reviewed.")
    accuracy_low: float | None = Field(
        description="Lower end of the 95 % Wilson interval, which holds for images that were chosen at random."
    )
    accuracy_high: float | None = Field(description="Upper end of that interval.")
    classes: tuple[ClassBody, ...] = Field(description="Classes that occur, those with the most errors first.")
    confusion: tuple[ConfusionBody, ...] = Field(description="Errors first, then the largest first.")

    @classmethod
    def from_evaluation(cls, job_id: str, evaluation: Evaluation) -> Self:
        """Return the body of an evaluation."""
        low, high = evaluation.interval or (None, None)
        return cls.copied_from(
            evaluation,
            job_id=job_id,
            reviewed=evaluation.counted,
            unknown=sum(evaluation.unknown.values()),
            unknown_classes=tuple(evaluation.unknown)[:MAX_UNKNOWN_LISTED],
            accuracy_low=low,
            accuracy_high=high,
            classes=tuple(map(ClassBody.copied_from, evaluation.classes)),
            confusion=tuple(map(ConfusionBody.copied_from, evaluation.confusions)),
        )


@api.put("/jobs/<job_id>/truth", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "What was set and removed.", TruthChanged), name="set_truth", tag="Review", body=ChangeTruth
)
def change_truth(job_id: str) -> Response:
    """Set or remove true labels of images.

    A true label changes no prediction. It is exported with the results, and the evaluation compares both.
    """
    jobs = user_jobs()
    names = class_names(jobs.job(known_id("job", job_id)))
    request.max_content_length = MAX_TRUTH_BYTES
    wanted = parse_body(ChangeTruth, '{"labels": {"IMAGE_ID": "dog"}}', may_be_empty=False).labels
    known = {ref.image_id for ref in jobs.images_of([ImageRef(job_id, key) for key in wanted])}
    now = utc_now()
    truths = {key: _true_label(label, names, now) for key, label in wanted.items() if key in known}
    if truths:
        jobs.set_truths(job_id, truths)
    removed = sum(truth is None for truth in truths.values())
    unknown = tuple(key for key in wanted if key not in known)
    return json_response(TruthChanged(job_id=job_id, set=len(truths) - removed, removed=removed, unknown=unknown))


def _true_label(text: str | None, names: ClassNames, now: datetime) -> TrueLabel | None:
    """Return a label of the API as a true label, None to remove it."""
    label = None if text is None else clean_label(text)
    if label == "":
        raise UnprocessableEntity("labels: a true label has no visible character; send null to remove it")
    return None if label is None else TrueLabel(names.respelled(label), now)


_TRUTH_FILE: dict[str, Any] = {
    "type": "string",
    "description": "Lines of a filename, path or image id, and its true label; at most "
    f"{MAX_TRUTH_BYTES // 2**20} MB of UTF-8. The separator is a comma, a semicolon or a tab; a header is optional.",
}


@api.post("/jobs/<job_id>/truth.csv", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "How many lines found their image.", TruthMatched),
    name="upload_truth",
    tag="Review",
    body={CSV: _TRUTH_FILE},
    problems=(400, 408),
)
def send_truth_file(job_id: str) -> Response:
    """Set true labels from a CSV file.

    A line belongs to the image with the same path, or else to the only image of which one path ends with the other.
    The same file can be sent again. A class may be spelled with other capitals, `_` or `-`.
    """
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    size = MAX_TRUTH_BYTES if request.content_length is None else request.content_length
    with current_backend().reading.acquired(min(size, MAX_TRUTH_BYTES)):
        request.max_content_length = MAX_TRUTH_BYTES
        try:
            data = request.get_data(cache=False)
        except RequestEntityTooLarge as error:
            raise RequestEntityTooLarge(
                f"the file is larger than {MAX_TRUTH_BYTES // 2**20} MB; send it in parts"
            ) from error
        outcome, changed = apply_truth_file(jobs, job_id, data)
    return json_response(TruthMatched.from_outcome(job_id, outcome, changed))


@api.post("/jobs/<job_id>/truth/folders", right=Right.CLASSIFY)
@operation(ApiResponse(200, "How many images have a folder.", TruthMatched), name="use_folders", tag="Review")
def use_folder_names(job_id: str) -> Response:
    """Set the name of each image's folder as its true label.

    The folder is the last one in the path that was sent as the filename: `dog` of `photos/dog/1.jpg`.
    """
    outcome, changed = apply_folders(user_jobs(), known_id("job", job_id))
    return json_response(TruthMatched.from_outcome(job_id, outcome, changed))


@api.get("/jobs/<job_id>/truth.csv", right=Right.READ)
@operation(
    ApiResponse(200, "A header, and filename and true label of each image that has one.", CSV),
    name="download_truth",
    tag="Review",
)
def truth_file(job_id: str) -> Response:
    """Read the true labels as CSV.

    The same file sets the labels again: `POST` it to this address.
    """
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    lines = truth_lines(all_results(jobs, job_id, ResultsFilter(is_reviewed=True)))
    answer = Response(stream_with_context(lines), content_type=f"{CSV}; charset=utf-8")
    answer.headers.set("Content-Disposition", "attachment", filename=f"{job_id}-truth.csv")
    return answer


@api.get("/jobs/<job_id>/evaluation", right=Right.READ)
@operation(
    ApiResponse(200, "Accuracy, figures of each class, and the confusion matrix.", EvaluationBody), tag="Review"
)
def evaluation(job_id: str) -> Response:
    """Compare the model's labels with the true labels."""
    jobs = user_jobs()
    status = jobs.status(known_id("job", job_id))
    return json_response(EvaluationBody.from_evaluation(job_id, read_evaluation(jobs, status)))


def apply_truth_file(jobs: UserJobs, job_id: str, data: bytes) -> tuple[TruthOutcome, int]:
    """Set the true labels of a CSV file; return what it says, and how many true labels changed.

    Raises:
        UnprocessableEntity: it is not such a file.
    """
    try:
        return _apply(jobs, job_id, partial(match_rows, parse_truth_file(data)), "csv")
    except TruthFileError as error:
        raise UnprocessableEntity(str(error)) from error


def apply_folders(jobs: UserJobs, job_id: str) -> tuple[TruthOutcome, int]:
    """Set the names of folders as true labels; return them, and how many true labels changed."""
    return _apply(jobs, job_id, match_folders, "folder")


def _apply(
    jobs: UserJobs,
    job_id: str,
    match: Callable[[Iterable[ImageRecord], ClassNames], TruthOutcome],
    source: TruthSource,
) -> tuple[TruthOutcome, int]:
    outcome = match(jobs.images(job_id), class_names(jobs.job(job_id)))
    return outcome, set_truths(jobs, job_id, outcome.labels, source)
