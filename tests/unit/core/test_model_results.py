"""The results of a model: each image is counted once, in whichever order and by however many controllers."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import combinations
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import model_results
from core.ids import new_id
from core.jobs.models import Job
from core.messages import ClassificationResult, Timings
from core.model_results import BINS, MAX_BYTES, OTHER, JobTally, ModelResults, ModelResultsReport
from tests.support.jobs import MODEL, NOW, done, failed, record

JOB = Job(new_id(), "signs", NOW)
LABELS = [f"class {number}" for number in range(8)]
LABELLED = st.builds(
    lambda label, score, inferred: done(record(JOB), label, score).model_copy(
        update={"timings": Timings(inferred=inferred)}
    ),
    st.sampled_from(LABELS),
    st.integers(0, 64).map(lambda number: number / 64),
    st.none() | st.integers(0, 100).map(float),
)
FAILED = st.builds(lambda code: failed(record(JOB), code=code), st.sampled_from("abcdef"))
RESULTS = st.lists(LABELLED | FAILED, max_size=30)


@pytest.fixture(autouse=True)
def _low_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_results, "MAX_LABELS", 5)
    monkeypatch.setattr(model_results, "MAX_CODES", 3)


def counted(results: Sequence[ClassificationResult], minute: int = 0) -> ModelResults:
    at = NOW + timedelta(minutes=minute)
    figures = ModelResults(name=MODEL.name, digest=MODEL.digest, first_at=at, last_at=at)
    tally = JobTally()
    for result in results:
        figures.count(result, tally)
    return figures


def check_sums(figures: ModelResults, results: Sequence[ClassificationResult]) -> None:
    labelled = [result for result in results if result.error is None]
    times = [result.timings.inferred for result in labelled if result.timings.inferred is not None]
    assert figures.done == len(labelled) == figures.labels.total() + figures.other_labels
    assert figures.failed == len(results) - len(labelled)
    assert figures.score_sum == sum(result.score or 0 for result in labelled)
    assert (figures.inferred_milliseconds, figures.inferred) == (sum(times), len(times))
    assert len(figures.labels) <= 5
    assert len(figures.failures) <= 4


@given(results=RESULTS)
def test_labels_and_scores_add_up_to_the_images_within_the_bounds(results: list[ClassificationResult]) -> None:
    figures = counted(results)
    check_sums(figures, results)
    labelled = [result for result in results if result.error is None]

    def alike(found: Sequence[ClassificationResult], value: Callable[[ClassificationResult], object]) -> int:
        return sum(value(one) == value(other) for one, other in combinations(found, 2))

    assert figures.jobs == bool(results)
    assert (figures.labelled_pairs, figures.result_pairs) == (comb(len(labelled), 2), comb(len(results), 2))
    assert figures.alike_labels == alike(labelled, lambda each: each.label)
    assert figures.alike_scores == alike(labelled, lambda each: min(int((each.score or 0) * BINS), BINS - 1))
    assert figures.alike_outcomes == alike(results, lambda each: each.error and each.error.code)
    for label, images in figures.labels.items():
        assert images == sum(result.label == label for result in labelled)


@given(first=RESULTS, second=RESULTS)
def test_merged_figures_are_those_of_all_results(
    first: list[ClassificationResult], second: list[ClassificationResult]
) -> None:
    figures = counted(second, minute=5)
    figures.merge(counted(first))
    check_sums(figures, [*first, *second])
    assert (figures.first_at, figures.last_at) == (NOW, NOW + timedelta(minutes=5))
    assert figures.scores == [
        mine + theirs for mine, theirs in zip(counted(first).scores, counted(second).scores, strict=True)
    ]


@given(results=RESULTS)
def test_a_report_is_read_as_it_was_stored(results: list[ClassificationResult]) -> None:
    report = ModelResultsReport(since=NOW, models=(counted(results),))
    assert ModelResultsReport.from_json(report.limited_json()) == report


@pytest.mark.parametrize(("score", "place"), [(0.0, 0), (0.0999, 0), (0.1, 1), (0.95, 9), (1.0, 9), (1.0000001, 9)])
def test_a_score_is_in_its_bin(score: float, place: int) -> None:
    assert counted([done(record(JOB), score=score)]).scores == [int(each == place) for each in range(BINS)]


def test_further_codes_of_failures_count_together() -> None:
    figures = counted([failed(record(JOB), code=code) for code in ("a", "b", "c", "d", "e", "a")])
    assert figures.failures == {"a": 2, "b": 1, "c": 1, OTHER: 2}


def test_a_report_that_is_too_large_keeps_the_most_frequent_labels_of_each_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_results, "MAX_LABELS", 1_000)
    figures = counted([])
    for number in range(1_000):
        figures.labels[f"{number:04} {'é' * 200}"] = number + 1
    figures.scores[9] = figures.labels.total()
    body = ModelResultsReport(models=(figures, figures.model_copy(deep=True))).limited_json()
    assert len(body.encode()) <= MAX_BYTES
    for stored in ModelResultsReport.from_json(body).models:
        assert len(stored.labels) > 50
        assert min(stored.labels.values()) == 1_000 - len(stored.labels) + 1
        assert stored.labels.total() + stored.other_labels == stored.done == figures.done
    assert len(figures.labels) == 1_000
