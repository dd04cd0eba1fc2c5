"""Results by model: what the controller counts for each digest, so that operators can compare models.

All figures are absolute and count results of workers. Of a failed image that succeeds after a retry, both results
count. One item of the fleet's partition holds the figures of all models (`FleetStore.put_model_results`).
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AwareDatetime, BeforeValidator, Field, PlainSerializer

from core.messages import ClassificationResult, WireModel

BINS: Final = 10
"""Bins of equal width for scores from 0 to 1."""

MAX_MODELS: Final = 20
"""Models that are counted at the same time; the one without results for longest is dropped for another one."""

MAX_LABELS: Final = 1_000
"""Labels of a model that are counted one by one, as many as ImageNet has. A network with more rarely uses all, but
counting only the most frequent ones would hide changes between the others."""

MAX_CODES: Final = 20
"""Codes of failures of a model that are counted one by one."""

MAX_BYTES: Final = 100_000
"""Size of the item: a quarter of what DynamoDB allows."""

OTHER: Final = "other"
"""Counts failures with further codes."""


def _counts(value: Any) -> Any:
    return Counter(dict(value)) if isinstance(value, list) else value


Images = Annotated[Counter[str], BeforeValidator(_counts), PlainSerializer(lambda counts: list(counts.items()))]
"""Images by a name. As JSON these are pairs, since objects may get fields in later releases."""


@dataclass(slots=True)
class JobTally:
    """The results of a model of one job: from it follows how alike the images of a job are."""

    results: int = 0
    done: int = 0
    values: Counter[Hashable] = field(default_factory=Counter)

    def add(self, kind: str, value: Hashable) -> int:
        """Count an image with this label, score or outcome; return how many of the job had it before."""
        before = self.values[kind, value]
        self.values[kind, value] = before + 1
        return before


class ModelResults(WireModel, frozen=False):
    """The results of one model.

    Attributes:
        first_at, last_at: when the first and the last result was recorded, by the controller's clock.
        failures: failed images by the code of the failure.
        scores: labelled images by their score, in `BINS` bins.
        score_sum: sum of these scores.
        labels: labelled images by label; `other_labels` counts those of further labels.
        inferred_milliseconds: sum of the inference times that workers reported, of `inferred` images.
        jobs: jobs with a result. After another controller has taken over, a job may count as two.
        labelled_pairs: pairs of labelled images of the same job; of these, `alike_labels` have the same label, and
            `alike_scores` scores in the same bin.
        result_pairs: pairs of results of the same job; of these, `alike_outcomes` are both labelled, or have the same
            code of failure.
    """

    name: str
    digest: str
    first_at: AwareDatetime
    last_at: AwareDatetime
    failures: Images = Field(default_factory=Counter)
    scores: list[int] = Field(default_factory=lambda: [0] * BINS, min_length=BINS, max_length=BINS)
    score_sum: float = 0.0
    labels: Images = Field(default_factory=Counter)
    other_labels: int = 0
    inferred_milliseconds: float = 0.0
    inferred: int = 0
    jobs: int = 0
    labelled_pairs: int = 0
    alike_labels: int = 0
    alike_scores: int = 0
    result_pairs: int = 0
    alike_outcomes: int = 0

    @property
    def done(self) -> int:
        """Images with a label."""
        return sum(self.scores)

    @property
    def failed(self) -> int:
        """Images that failed."""
        return self.failures.total()

    def count(self, result: ClassificationResult, job: JobTally) -> None:
        """Count a result, also in the tally of its job."""
        code = "" if result.error is None else result.error.code
        self.jobs += not job.results
        self.result_pairs += job.results
        self.alike_outcomes += job.add("outcome", code)
        job.results += 1
        if result.error is not None:
            self._count_failures(code)
            return
        label, score = result.label or "", result.score or 0.0
        place = min(max(int(score * BINS), 0), BINS - 1)
        if label in self.labels or len(self.labels) < MAX_LABELS:
            self.labels[label] += 1
        else:
            self.other_labels += 1
        self.scores[place] += 1
        self.score_sum += score
        if result.timings.inferred is not None:
            self.inferred_milliseconds += result.timings.inferred
            self.inferred += 1
        self.labelled_pairs += job.done
        self.alike_labels += job.add("label", label)
        self.alike_scores += job.add("score", place)
        job.done += 1

    def merge(self, other: Self) -> None:
        """Add the figures of another count of the same model."""
        self.first_at, self.last_at = min(self.first_at, other.first_at), max(self.last_at, other.last_at)
        for code, images in other.failures.items():
            self._count_failures(code, images)
        self.scores = [mine + theirs for mine, theirs in zip(self.scores, other.scores, strict=True)]
        self.labels += other.labels
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.limit_labels(MAX_LABELS)

    def _count_failures(self, code: str, images: int = 1) -> None:
        self.failures[code if code in self.failures or len(self.failures) < MAX_CODES else OTHER] += images

    def limit_labels(self, count: int) -> None:
        """Move all but the `count` most frequent labels to `other_labels`."""
        for label, images in self.labels.most_common()[count:]:
            del self.labels[label]
            self.other_labels += images


_SUMS: Final = (
    *("score_sum", "other_labels", "inferred_milliseconds", "inferred"),
    *("jobs", "labelled_pairs", "alike_labels", "alike_scores", "result_pairs", "alike_outcomes"),
)
"""Attributes of `ModelResults` that are added up."""


class ModelResultsReport(WireModel):
    """The results of all models.

    Attributes:
        since: when the counts began: with the last roll-out to a share of the new jobs; None if there was none.
    """

    version: Literal[1] = 1
    since: AwareDatetime | None = None
    models: tuple[ModelResults, ...] = ()

    def limited_json(self) -> str:
        """Return the report as JSON of at most `MAX_BYTES`, with as many labels as fit."""
        report, labels = self, MAX_LABELS
        while len((body := report.to_json()).encode()) > MAX_BYTES and labels:
            report, labels = self.model_copy(deep=True), labels // 2
            for each in report.models:
                each.limit_labels(labels)
        return body
