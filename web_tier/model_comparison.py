"""The comparison of models by their results: labels, scores and failures of each one beside those of the default.

**Distance.** The total variation of two distributions, 0 to 1: the share of the images that would need another value
for the distributions to be equal. Samples of one distribution differ, too; `by_chance` is the mean of that distance
if the values of images are independent, by the normal approximation of the difference of two shares.

**Test.** Pearson's chi-squared test of homogeneity. Values that are expected less than `MIN_EXPECTED` times in a
sample are tested together (Cochran 1954, Biometrics 10:417-451, allows 1). Pooling more would hide that two models
use different labels, each of which is rare. Where most values are rare, equal models have a p-value below 0.001 in up
to 3 of 1,000 comparisons, as simulated; in the others in about 1.

**Images of one job** are often alike, and then are worth fewer independent images than they are. So the test is made
twice: as if images were independent, and with the counts of each sample divided by its design effect (Rao and Scott
1992, Biometrics 48:577-585). That is 1 + (m - 1) r (Kish 1965, Survey Sampling, 5.4), where m is the mean size of the
job of an image, and r the intra-class correlation: how much likelier two images of one job have the same value than
two images of different jobs. With few jobs r cannot be estimated, and is taken to be 1: each job counts as one image.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from core.model_catalog import ModelCatalog
from core.model_results import BINS, ModelResults, ModelResultsReport
from web_tier.backend import current_backend

LEVEL: Final = 0.001
"""Chance gives a difference as large with at most this probability where one is reported. It is small, since several
values are tested, and operators look more than once."""

MIN_EXPECTED: Final = 1.0
"""Least expected number of a value in each sample for which the test holds."""

MIN_JOBS: Final = 5
"""Jobs of each model from which on the likeness of their images is estimated."""

UNSURE_BINS: Final = BINS // 2
"""Bins of scores below 50%: the model believes more in the other classes together."""

MAX_CHANGED: Final = 5
"""Labels that are listed with their change."""

OTHER_LABELS: Final = "(other labels)"

Role = Literal["default", "canary"]

Verdict = Literal["too_few", "chance", "jobs", "different"]
"""What a test says: nothing for too few images; chance explains the difference; chance does as images of one job are
alike; it does not."""

_VERDICTS: Final[Mapping[Verdict, str]] = {
    "too_few": "There are too few images for a test.",
    "chance": "Chance can explain it.",
    "jobs": "Chance can explain it, since images within a job are alike.",
    "different": "Chance cannot explain it, nor can the likeness of images within a job.",
}


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Sample:
    """The values of the images of a model.

    Attributes:
        images: images by value.
        jobs: number of their jobs.
        pairs: pairs of images of the same job; `alike` of them have the same value.
    """

    images: Mapping[str, int]
    jobs: int
    pairs: int
    alike: int

    @property
    def count(self) -> int:
        """Number of the images."""
        return sum(self.images.values())

    def effective(self, correlation: float) -> Mapping[str, float]:
        """Return the images divided by their design effect, by value."""
        effect = 1 + correlation * 2 * self.pairs / self.count
        return {value: images / effect for value, images in self.images.items()}


class Difference(_Body):
    """How the values of two models differ."""

    distance: float = Field(description="Total variation, 0 to 1: the share of images that would have to change.")
    by_chance: float = Field(description="The distance to expect if the models were the same, of independent images.")
    p_value: float | None = Field(
        description="Probability of such a difference by chance, if images are independent; null for too few images."
    )
    p_value_by_job: float | None = Field(
        description="The same, with the likeness of images of one job taken into account."
    )
    verdict: Verdict = Field(
        description=f"`different` if both p-values are below {LEVEL}, `jobs` if only `p_value` is, else `chance`."
    )
    sentence: str = Field(description="The difference in words.")

    @classmethod
    def of(cls, noun: str, first: Sample, second: Sample) -> Self | None:
        """Return the difference of the values of two models, called `noun`; None if one has no such images."""
        if not (first.count and second.count):
            return None
        correlation, samples = likeness(first, second), (first, second)
        p_value = homogeneity(first.images, second.images)
        p_value_by_job = homogeneity(*(each.effective(correlation) for each in samples))
        distance = total_variation(first.images, second.images)
        by_chance = chance_variation(first.images, second.images)
        verdict = _verdict(p_value, p_value_by_job)
        return cls(
            distance=round(distance, 4),
            by_chance=round(by_chance, 4),
            p_value=p_value,
            p_value_by_job=p_value_by_job,
            verdict=verdict,
            sentence=f"{distance:.1%} of the images would need another {noun} to match; "
            f"chance alone gives {by_chance:.1%}. "
            f"{_VERDICTS[verdict]}",
        )


class ChangedLabel(_Body):
    """A label with its share of the labelled images of two models, each 0 to 1."""

    label: str
    share: float
    reference_share: float


class ModelDifferences(_Body):
    """How a model differs from the reference; null if one of both has no such images."""

    labels: Difference | None
    scores: Difference | None = Field(description="By the score in ten bins.")
    failures: Difference | None = Field(description="Labelled images, and failed ones by their code.")
    changed_labels: tuple[ChangedLabel, ...] = Field(
        description=f"The {MAX_CHANGED} labels with the largest differences of their shares."
    )


class ComparedModel(_Body):
    """The results of a model, and how they differ from those of the reference."""

    name: str = Field(description="In the catalogue of models, or else that of the bundle.")
    digest: str
    role: Role | None = Field(description="What new jobs get it as; null for other models.")
    is_reference: bool
    first_at: datetime
    last_at: datetime
    share: float = Field(description="Of the results of all models, 0 to 1.")
    done: int
    failed: int
    failures: dict[str, int] = Field(description="Failed images by the code of the failure.")
    jobs: int = Field(description="Jobs with results.")
    mean_score: float | None = Field(description="Null without labelled images.")
    unsure_share: float | None = Field(description="Share of the labelled images with a score below 0.5.")
    scores: tuple[int, ...] = Field(description="Labelled images by score: below 0.1, below 0.2, up to 1.")
    labels: dict[str, int] = Field(description="Labelled images by label, most frequent first.")
    other_labels: int = Field(description="Labelled images with further labels.")
    inferred_milliseconds: float | None = Field(description="Mean inference time of an image; null if unknown.")
    differences: ModelDifferences | None = Field(description="Null for the reference.")


class ModelComparison(_Body):
    """The results of the models, those of the reference first, then those with the most results.

    The reference is the default model, or the one with the most results if the default has none.
    """

    since: datetime | None = Field(
        description="When the count began: with the last roll-out to a share of the new jobs; null without one."
    )
    models: tuple[ComparedModel, ...]

    @classmethod
    def of(cls, report: ModelResultsReport, catalog: ModelCatalog | None) -> Self:
        """Return the comparison; `catalog` is None if the web tier cannot read any model."""
        canary_since = None if catalog is None else catalog.canary_since
        if canary_since not in {None, report.since}:  # the controller has counted nothing since
            return cls(since=canary_since, models=())
        roles: dict[str, Role] = {}
        names: dict[str, str] = {}
        if catalog is not None:
            roles |= {catalog.canary.digest: "canary"} if catalog.canary is not None else {}
            roles[catalog.default] = "default"
            names = {each.digest: each.name for each in catalog.versions}
        models = [each.model_copy(update={"name": names.get(each.digest, each.name)}) for each in report.models]
        models.sort(key=lambda each: (roles.get(each.digest) != "default", -each.done - each.failed))
        total = sum(each.done + each.failed for each in models)
        compared = (_compared(each, models[0], roles.get(each.digest), total) for each in models)
        return cls(since=report.since, models=tuple(compared))


def current_comparison() -> ModelComparison:
    """Return the comparison of the models of this system."""
    backend = current_backend()
    return ModelComparison.of(backend.fleet.model_results(), backend.served.recent_catalog())


def total_variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return the distance of two samples that are not empty, given as counts by value."""
    of_first, of_second = sum(first.values()), sum(second.values())
    values = first.keys() | second.keys()
    return sum(abs(first.get(each, 0) / of_first - second.get(each, 0) / of_second) for each in values) / 2


def chance_variation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return the mean distance of two such samples if both were drawn from all images together."""
    of_first, of_second = sum(first.values()), sum(second.values())
    scale = 2 / math.pi * (1 / of_first + 1 / of_second)
    shares = [
        (first.get(each, 0) + second.get(each, 0)) / (of_first + of_second) for each in first.keys() | second.keys()
    ]
    # The mean of |x| is sqrt(2 / pi) standard deviations of a normal x, and at most the sum of two rare shares.
    return sum(min(math.sqrt(scale * share * (1 - share)), 2 * share) for share in shares) / 2


def homogeneity(first: Mapping[str, float], second: Mapping[str, float]) -> float | None:
    """Return the p-value of the test that two samples have the same distribution; None for too few images."""
    of_first, of_second = sum(first.values()), sum(second.values())
    least = (of_first + of_second) * MIN_EXPECTED / min(of_first, of_second)
    columns, column = list[tuple[float, float]](), (0.0, 0.0)
    values = {each for sample in (first, second) for each in sample if sample[each]}
    for each in sorted(values, key=lambda value: (first.get(value, 0) + second.get(value, 0), value)):
        column = column[0] + first.get(each, 0), column[1] + second.get(each, 0)
        if sum(column) >= least:
            columns.append(column)
            column = 0.0, 0.0
    if columns:  # what is left of the rarest values goes to the most frequent one
        columns[-1] = columns[-1][0] + column[0], columns[-1][1] + column[1]
    if len(columns) < 2:
        return None if len(values) > 1 else 1.0
    statistic, share = 0.0, of_first / (of_first + of_second)
    for column in columns:
        expected = share * sum(column)
        statistic += (column[0] - expected) ** 2 * (1 / expected + 1 / (sum(column) - expected))
    return chi_squared_tail(statistic, len(columns) - 1)


def likeness(first: Sample, second: Sample) -> float:
    """Return the intra-class correlation of the images of a job, 0 to 1: 1 if all have the same value."""
    samples = first, second
    within, within_alike = sum(each.pairs for each in samples), sum(each.alike for each in samples)
    if not within:
        return 0.0
    between = sum(math.comb(each.count, 2) for each in samples) - within
    if min(first.jobs, second.jobs) < MIN_JOBS or between <= 0:
        return 1.0
    # Further labels are different ones.
    counts = (images for each in samples for value, images in each.images.items() if value != OTHER_LABELS)
    by_chance = (sum(math.comb(images, 2) for images in counts) - within_alike) / between
    if by_chance >= 1:
        return 0.0
    return min(1.0, max(0.0, (within_alike / within - by_chance) / (1 - by_chance)))


def chi_squared_tail(statistic: float, degrees: int) -> float:
    """Return the probability that a chi-squared variable is larger.

    Source: Abramowitz and Stegun 1972, 26.4.4 and 26.4.5 (https://dlmf.nist.gov/8.4: Q(n, x) and Q(n + 1/2, x)).
    """
    half = statistic / 2
    if half <= 0:
        return 1.0
    first = degrees % 2 / 2
    powers = (first + number for number in range(degrees // 2))
    terms = (math.exp(-half + power * math.log(half) - math.lgamma(power + 1)) for power in powers)
    return min(1.0, sum(terms) + (math.erfc(math.sqrt(half)) if degrees % 2 else 0.0))


def _compared(model: ModelResults, reference: ModelResults, role: Role | None, total: int) -> ComparedModel:
    done = model.done
    return ComparedModel(
        name=model.name,
        digest=model.digest,
        role=role,
        is_reference=model is reference,
        first_at=model.first_at,
        last_at=model.last_at,
        share=round((done + model.failed) / total, 4),
        done=done,
        failed=model.failed,
        failures=dict(model.failures.most_common()),
        jobs=model.jobs,
        mean_score=round(model.score_sum / done, 4) if done else None,
        unsure_share=round(sum(model.scores[:UNSURE_BINS]) / done, 4) if done else None,
        scores=tuple(model.scores),
        labels=dict(model.labels.most_common()),
        other_labels=model.other_labels,
        inferred_milliseconds=round(model.inferred_milliseconds / model.inferred, 2) if model.inferred else None,
        differences=None if model is reference else _differences(model, reference),
    )


def _differences(model: ModelResults, reference: ModelResults) -> ModelDifferences:
    def difference(noun: str, sample: Callable[[ModelResults], Sample]) -> Difference | None:
        return Difference.of(noun, sample(model), sample(reference))

    return ModelDifferences(
        labels=difference(
            "label", lambda each: Sample(_labels(each), each.jobs, each.labelled_pairs, each.alike_labels)
        ),
        scores=difference(
            "score", lambda each: Sample(_scores(each), each.jobs, each.labelled_pairs, each.alike_scores)
        ),
        failures=difference(
            "outcome",
            lambda each: Sample({"": each.done, **each.failures}, each.jobs, each.result_pairs, each.alike_outcomes),
        ),
        changed_labels=_changed_labels(_labels(model), _labels(reference)),
    )


def _labels(model: ModelResults) -> Counter[str]:
    return model.labels + Counter({OTHER_LABELS: model.other_labels})


def _scores(model: ModelResults) -> Mapping[str, int]:
    return {str(place): images for place, images in enumerate(model.scores)}


def _changed_labels(labels: Mapping[str, int], reference: Mapping[str, int]) -> tuple[ChangedLabel, ...]:
    done, of_reference = sum(labels.values()), sum(reference.values())
    if not (done and of_reference):
        return ()
    changed = [
        ChangedLabel(
            label=label,
            share=round(labels.get(label, 0) / done, 4),
            reference_share=round(reference.get(label, 0) / of_reference, 4),
        )
        for label in labels.keys() | reference.keys()
    ]
    changed.sort(key=lambda each: (-abs(each.share - each.reference_share), each.label))
    return tuple(each for each in changed[:MAX_CHANGED] if each.share != each.reference_share)


def _verdict(p_value: float | None, p_value_by_job: float | None) -> Verdict:
    if p_value is None:
        return "too_few"
    if p_value >= LEVEL:
        return "chance"
    return "different" if p_value_by_job is not None and p_value_by_job < LEVEL else "jobs"
