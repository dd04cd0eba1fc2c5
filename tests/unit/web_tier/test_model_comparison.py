"""The comparison of models by the API and on the fleet's page: the share of failed images and the mean score."""

from datetime import timedelta
from random import Random

import pytest
from flask.testing import FlaskClient

from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.messages import CANCELLED, CRASHED_WORKER, MODEL_FAILED
from core.model_catalog import Canary, CatalogStore, ModelCatalog, ModelVersion, model_for_job
from core.model_results import MAX_FAULTY_JOBS, ModelResults, ModelResultsReport
from services.table import Table
from tests.support.jobs import NOW, done, failed, record
from web_tier.features.models.comparison import ComparedModel, ModelComparison
from web_tier.features.models.roll_out_guard import clear_difference
from web_tier.http.backend import Backend

DEFAULT, CANARY, UNUSED = "d" * 64, "c" * 64, "e" * 64
SINCE = NOW + timedelta(hours=1)


def figures(name: str, digest: str, scores: dict[float, int], failures: int = 0) -> ModelResults:
    """Return the results of a model: the number of images by their score, and of failed ones."""
    found = ModelResults(name=name, digest=digest, last_at=NOW)
    image = record(Job(new_id(), "signs", NOW))
    for score, images in scores.items():
        for _ in range(images):
            found.count(done(image, "stop", score))
    for _ in range(failures):
        found.count(failed(image, code="undecodable"))
    return found


def report() -> ModelResultsReport:
    default = figures("<b>signs", DEFAULT, {0.9: 500, 0.8: 400, 0.45: 100})
    canary = figures("signs-2", CANARY, {0.9: 30, 0.8: 60, 0.45: 10}, failures=3)
    return ModelResultsReport(since=SINCE, models=(canary, default))


def catalog(default: str = DEFAULT, **changes: object) -> ModelCatalog:
    """Return a catalogue in which the models have other names than their bundles."""
    versions = tuple(
        ModelVersion(name=name, digest=digest, place=f"s3://bucket/models/{digest}", added_at=NOW)
        for name, digest in (("old", DEFAULT), ("new", CANARY), ("unused", UNUSED))
    )
    fields = {"versions": versions, "default": default, "configured": DEFAULT, "since": SINCE}
    return ModelCatalog.model_validate({**fields, **changes})


def compared(known: ModelCatalog | None = None) -> tuple[ComparedModel, ...]:
    return ModelComparison.from_report(report(), known).models


def test_the_default_is_first_or_else_the_model_with_the_most_results() -> None:
    assert [(model.name, model.role) for model in compared()] == [("<b>signs", None), ("signs-2", None)]
    assert [(model.name, model.role) for model in compared(catalog())] == [("old", "default"), ("new", None)]
    assert [(model.name, model.role) for model in compared(catalog(CANARY))] == [("new", "default"), ("old", None)]
    assert [(model.name, model.role) for model in compared(catalog(UNUSED))] == [("old", None), ("new", None)]
    assert ModelComparison.from_report(ModelResultsReport(), None).models == ()


def test_counts_from_before_a_roll_out_are_not_shown_in_it() -> None:
    canary = Canary(digest=CANARY, share=0.1)
    assert [each.role for each in compared(catalog(canary=canary))] == ["default", "canary"]
    later = catalog(canary=canary, since=SINCE + timedelta(minutes=1))
    assert ModelComparison.from_report(report(), later) == ModelComparison(since=later.since, models=())


def test_a_model_has_the_share_of_its_failed_images_and_its_mean_score() -> None:
    default, canary = compared()
    assert (default.done, default.failed, default.failed_share, default.mean_score) == (1_000, 0, 0, 0.815)
    assert (canary.done, canary.failed, canary.failed_share, canary.mean_score) == (100, 3, 0.0291, 0.795)


def test_a_model_without_labels_has_no_mean_score_and_one_without_results_is_omitted() -> None:
    models = figures("broken", DEFAULT, {}, failures=2), figures("unused", UNUSED, {})
    [broken] = ModelComparison.from_report(ModelResultsReport(models=models), None).models
    assert (broken.name, broken.failed_share, broken.mean_score) == ("broken", 1, None)


@pytest.mark.parametrize(
    ("share", "default", "canary", "points"),
    [
        (0.1, {0.9: 100}, {0.79: 100}, "11 points"),
        (0.1, {0.9: 100}, {0.81: 100}, None),
        (0.1, {0.9: 99}, {0.2: 500}, None),
        (0.1, {0.7: 100}, {0.9: 100}, None),
        (None, {0.9: 100}, {0.2: 100}, None),
    ],
)
def test_a_clearly_lower_mean_score_of_a_canary_is_a_warning(
    share: float | None, default: dict[float, int], canary: dict[float, int], points: str | None
) -> None:
    models = figures("d", DEFAULT, default), figures("c", CANARY, canary)
    known = catalog(canary=None if share is None else Canary(digest=CANARY, share=share))
    found = ModelComparison.from_report(ModelResultsReport(since=SINCE, models=models), known).warning
    assert (found or None) == (
        points and f"The mean score of new is {points} below that of old. Check its labels before you promote it."
    )


def job_of(*, canary: bool, share: float) -> str:
    """Return the id of a new job that the draw gives the canary, or the default."""
    known = catalog(canary=Canary(digest=CANARY, share=share))
    digest = CANARY if canary else DEFAULT
    return next(each for each in iter(new_id, "") if model_for_job(known, None, each).digest == digest)


def roll_out_of(
    share: float, faulty: int, others: int, images: int = 1_000, code: str = MODEL_FAILED.code, each: int = 20
) -> str:
    """Return why a canary is rolled back with so many faulty jobs of its own and of the default; empty if it is not.

    Each faulty job has `each` faulty images.
    """
    good, bad = figures("d", DEFAULT, {0.9: 1_000}), figures("c", CANARY, {0.9: images})
    for results, count, is_canary in ((bad, faulty, True), (good, others, False)):
        for _ in range(count):
            job = Job(job_of(canary=is_canary, share=share), "signs", NOW)
            for _ in range(each):
                results.count(failed(record(job), code=code))
    known = catalog(canary=Canary(digest=CANARY, share=share))
    report = ModelResultsReport(since=SINCE, models=(good, bad))
    assert clear_difference(known.model_copy(update={"since": NOW}), report) == "", "the counts are of before"
    return clear_difference(known, report)


@pytest.mark.parametrize(
    ("share", "faulty", "others", "stops"),
    [
        (0.1, 4, 0, False),
        (0.1, 5, 0, True),
        (0.1, 5, 3, False),
        (0.5, 11, 0, False),
        (0.5, 12, 0, True),
        (0.5, 40, 40, False),
        (0.1, MAX_FAULTY_JOBS, MAX_FAULTY_JOBS, False),
    ],
)
def test_a_canary_with_clearly_more_faulty_jobs_is_rolled_back(
    share: float, faulty: int, others: int, stops: bool
) -> None:
    reason = roll_out_of(share, faulty, others)
    assert bool(reason) is stops
    if stops:
        assert reason == (
            f"{20 * faulty} of {1_000 + 20 * faulty:,} images ended their workers or got no scores, "
            f"in {faulty} of its jobs and {others} of the default's"
        )


@pytest.mark.parametrize("code", ["undecodable", "too_costly", "gone", "model_refused", "model_gone", CANCELLED.code])
def test_failures_of_images_and_of_storage_stop_no_roll_out(code: str) -> None:
    assert roll_out_of(0.1, 20, 0, code=code) == ""
    assert roll_out_of(0.1, 20, 0, code=CRASHED_WORKER) != ""


def test_one_job_of_many_faulty_images_and_rare_faults_stop_no_roll_out() -> None:
    assert roll_out_of(0.1, 1, 0, images=10) == ""
    assert roll_out_of(0.1, 5, 0, images=44, each=1) == ""
    assert roll_out_of(0.1, 5, 0, images=45, each=1) != ""
    assert roll_out_of(0.1, 5, 0, images=50_000) == ""


def test_jobs_that_name_the_canary_are_no_evidence_against_it() -> None:
    bad, share = figures("c", CANARY, {0.9: 1_000}), 0.1
    for _ in range(20):
        job = Job(job_of(canary=False, share=share), "signs", NOW)
        for _ in range(20):
            bad.count(failed(record(job), code=MODEL_FAILED.code))
    report = ModelResultsReport(since=SINCE, models=(figures("d", DEFAULT, {0.9: 1_000}), bad))
    assert clear_difference(catalog(canary=Canary(digest=CANARY, share=share)), report) == ""


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_equal_models_are_rarely_told_apart_however_often_they_are_compared(share: float) -> None:
    known, stopped, drawn = catalog(canary=Canary(digest=CANARY, share=share)), 0, Random(7)
    jobs = [new_id() for _ in range(4_000)]
    is_canary = {each: model_for_job(known, None, each).digest == CANARY for each in jobs}
    for _ in range(300):
        of_models: dict[str, tuple[str, ...]] = {CANARY: (), DEFAULT: ()}
        for job in drawn.sample(jobs, 30):
            digest = CANARY if is_canary[job] else DEFAULT
            of_models[digest] += (job,)
            models = tuple(
                ModelResults(name="m", digest=each, last_at=NOW, done=50, faulty=50, faulty_jobs=found)
                for each, found in of_models.items()
            )
            if clear_difference(known, ModelResultsReport(since=SINCE, models=models)):
                stopped += 1
                break
    assert stopped <= 4, "one in 1,000 is expected at most; five of 300 happen once in 60,000 runs"


def test_the_api_compares_the_models(client: FlaskClient, table: Table) -> None:
    backend = client.application.extensions["fleetsight"]
    assert isinstance(backend, Backend)
    assert client.get("/api/v1/models/comparison").get_json() == {"since": None, "models": [], "warning": None}
    FleetStore(table).put_model_results(report(), token=1)
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.from_report(report(), None)
    canary = Canary(digest=CANARY, share=0.1)
    CatalogStore(table).change(lambda before: before, lambda: catalog(canary=canary))
    assert backend.served.catalog() == CatalogStore(table).find()
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.from_report(report(), catalog(canary=canary))
