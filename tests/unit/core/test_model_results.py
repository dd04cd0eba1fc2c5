"""The results of a model: each image is counted once, in whichever order and by however many controllers."""

from collections.abc import Sequence
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from core.ids import new_id
from core.jobs.models import Job
from core.messages import ClassificationResult
from core.model_results import ModelResults, ModelResultsReport
from tests.support.jobs import MODEL, NOW, done, failed, record

JOB = Job(new_id(), "signs", NOW)
SCORES = st.integers(0, 64).map(lambda number: number / 64)  # their sums are exact
LABELLED = st.builds(lambda label, score: done(record(JOB), label, score), st.sampled_from("abc"), SCORES)
FAILED = st.builds(lambda code: failed(record(JOB), code=code), st.sampled_from("abc"))
RESULTS = st.lists(LABELLED | FAILED, max_size=30)


def counted(results: Sequence[ClassificationResult], minute: int = 0) -> ModelResults:
    figures = ModelResults(name=MODEL.name, digest=MODEL.digest, last_at=NOW + timedelta(minutes=minute))
    for result in results:
        figures.count(result)
    return figures


@given(first=RESULTS, second=RESULTS)
def test_merged_figures_are_those_of_all_results(
    first: list[ClassificationResult], second: list[ClassificationResult]
) -> None:
    figures = counted(first, minute=5)
    figures.merge(counted(second))
    labelled = [result for result in [*first, *second] if result.error is None]
    assert figures.done == len(labelled)
    assert figures.failed == len(first) + len(second) - len(labelled)
    assert figures.score_sum == sum(result.score or 0 for result in labelled)
    assert figures.last_at == NOW + timedelta(minutes=5)
    report = ModelResultsReport(since=NOW, models=(figures,))
    assert ModelResultsReport.from_json(report.to_json()) == report
