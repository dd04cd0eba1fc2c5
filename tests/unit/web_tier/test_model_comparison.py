"""The comparison of models by the API and on the fleet's page: the share of failed images and the mean score."""

from datetime import timedelta

from flask.testing import FlaskClient

from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.model_catalog import Canary, CatalogStore, ModelCatalog, ModelVersion
from core.model_results import ModelResults, ModelResultsReport
from services.table import Table
from tests.support.jobs import NOW, done, failed, record
from web_tier.features.models.comparison import ComparedModel, ModelComparison
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


def test_the_api_compares_the_models(client: FlaskClient, table: Table) -> None:
    backend = client.application.extensions["fleetsight"]
    assert isinstance(backend, Backend)
    assert client.get("/api/v1/models/comparison").get_json() == {"since": None, "models": []}
    FleetStore(table).put_model_results(report(), token=1)
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.from_report(report(), None)
    canary = Canary(digest=CANARY, share=0.1)
    CatalogStore(table).change(lambda before: before, lambda: catalog(canary=canary))
    assert backend.served.catalog() == CatalogStore(table).find()
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.from_report(report(), catalog(canary=canary))
