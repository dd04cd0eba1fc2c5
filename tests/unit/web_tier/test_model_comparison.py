"""The comparison of models: its statistics against known values, and what the page, API and command show."""

import random
import re
from collections import Counter
from datetime import timedelta
from math import comb

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.models import Job
from core.model_catalog import Canary, CatalogStore, ModelCatalog, ModelVersion
from core.model_results import JobTally, ModelResults, ModelResultsReport
from services.table import Table
from tests.support.jobs import NOW, done, failed, record
from web_tier.backend import Backend
from web_tier.model_comparison import (
    LEVEL,
    MAX_CHANGED,
    MIN_JOBS,
    OTHER_LABELS,
    ComparedModel,
    Difference,
    ModelComparison,
    Sample,
    chance_variation,
    chi_squared_tail,
    homogeneity,
    likeness,
    total_variation,
)

SAMPLES = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 200), min_size=1)


def sample(images: dict[str, int], jobs: int = 50, pairs: int = 0, alike: int = 0) -> Sample:
    return Sample(images, jobs, pairs, alike)


@pytest.mark.parametrize(
    ("statistic", "degrees", "tail"),
    [
        # Percentage points of the chi-squared distribution: Abramowitz and Stegun 1972, table 26.8
        (3.84146, 1, 0.05),
        (10.8276, 1, 0.001),
        (5.99146, 2, 0.05),
        (16.2662, 3, 0.001),
        (18.3070, 10, 0.05),
        (43.7729, 30, 0.05),
        (149.449, 100, 0.001),
        # exp(-x / 2) with two degrees of freedom, and the end of the range
        (2.0, 2, 0.36787944),
        (0.0, 5, 1.0),
        # scipy.stats.chi2.sf
        (1073.6426, 999, 0.05),
        (5000.0, 999, 0.0),
    ],
)
def test_the_tail_of_the_chi_squared_distribution_is_that_of_the_tables(
    statistic: float, degrees: int, tail: float
) -> None:
    assert chi_squared_tail(statistic, degrees) == pytest.approx(tail, rel=2e-4, abs=1e-12)


def test_the_test_of_homogeneity_agrees_with_a_table_of_known_statistic() -> None:
    # Fisher's table of criminal twins (Statistical Methods for Research Workers, section 21): 13.032 with one degree
    first, second = {"convicted": 10, "not": 3}, {"convicted": 2, "not": 15}
    assert homogeneity(first, second) == pytest.approx(chi_squared_tail(13.032, 1), rel=1e-3)


def test_rare_values_are_tested_together_and_none_is_left_out() -> None:
    first, second = dict.fromkeys("abcdef", 1) | {"g": 2}, dict.fromkeys("abcdef", 1)
    together = {"ab": 2, "cd": 2, "efg": 4}, {"ab": 2, "cd": 2, "efg": 2}
    assert homogeneity(first, second) == homogeneity(*together)
    assert homogeneity({"a": 1, "b": 400}, {"a": 1, "b": 800}) is None


@given(first=SAMPLES, second=SAMPLES)
def test_distances_are_symmetric_and_those_of_equal_shares_are_zero(
    first: dict[str, int], second: dict[str, int]
) -> None:
    distance = total_variation(first, second)
    assert 0 <= distance <= 1 + 1e-9
    assert distance == pytest.approx(total_variation(second, first))
    assert homogeneity(first, second) == pytest.approx(homogeneity(second, first))
    tripled = {value: 3 * images for value, images in first.items()}
    assert total_variation(first, tripled) == pytest.approx(0)
    assert (homogeneity(first, tripled) or 1) == pytest.approx(1)
    if not first.keys() & second.keys():
        assert distance == pytest.approx(1)


def draws(count: int, weights: dict[str, int], source: random.Random) -> Counter[str]:
    return Counter(source.choices(list(weights), list(weights.values()), k=count))


@pytest.mark.parametrize("sizes", [(900, 150), (60, 40)])
def test_samples_of_one_distribution_differ_as_much_as_chance_is_said_to_give(sizes: tuple[int, int]) -> None:
    source, weights = random.Random(7), {f"class {number}": 40 - number for number in range(30)}
    pairs = [(draws(sizes[0], weights, source), draws(sizes[1], weights, source)) for _ in range(400)]
    p_values = [homogeneity(*pair) for pair in pairs]
    assert all(p_value is not None for p_value in p_values)
    for level, most in ((0.05, 36), (0.5, 240)):  # five standard deviations above the 20 and 200 to expect
        assert sum((p_value or 0) < level for p_value in p_values) < most
    assert sum((p_value or 0) < 0.5 for p_value in p_values) > 150
    distances = [total_variation(*pair) for pair in pairs]
    assert sum(distances) / 400 == pytest.approx(sum(chance_variation(*pair) for pair in pairs) / 400, rel=0.06)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ({"a": 1}, {"b": 1}, "too_few"),
        ({"a": 3, "b": 4}, {"a": 4, "b": 3}, "chance"),
        ({"a": 900, "b": 0}, {"a": 500}, "chance"),
        ({"a": 500, "b": 480}, {"a": 510, "b": 470}, "chance"),
        ({"a": 700, "b": 280}, {"a": 510, "b": 470}, "different"),
        ({"a": 700, "b": 280}, {"c": 510, "d": 470}, "different"),
        (dict.fromkeys("abcdefghijklmno", 3), dict.fromkeys("ABCDEFGHIJKLMNO", 3), "different"),
    ],
)
def test_a_verdict_follows_from_the_images(first: dict[str, int], second: dict[str, int], verdict: str) -> None:
    difference = Difference.of("label", sample(first), sample(second))
    assert difference is not None
    assert difference.verdict == verdict


@pytest.mark.parametrize("classes", [30, 1_000])
@pytest.mark.parametrize("sizes", [(90, 90), (30, 300)])
def test_equal_models_with_many_rare_labels_are_rarely_called_different(sizes: tuple[int, int], classes: int) -> None:
    source = random.Random(1)
    weights = {f"class {number}": 10_000 // (number + 1) for number in range(classes)}
    pairs = [[draws(size, weights, source) for size in sizes] for _ in range(500)]
    found = sum((homogeneity(first, second) or 0) < 0.01 for first, second in pairs)
    assert found < 16  # five standard deviations above the 5 to expect


def test_images_that_are_alike_explain_what_independent_ones_do_not() -> None:
    # Of each model 49 jobs of 20 images: 190 pairs each
    first, second, pairs = {"a": 700, "b": 280}, {"a": 510, "b": 470}, 49 * 190
    alike, unlike = (
        Difference.of("label", sample(first, 49, pairs, pairs * share // 10), sample(second, 49, pairs, pairs // 2))
        for share in (9, 6)
    )
    assert alike is not None
    assert unlike is not None
    assert (alike.verdict, unlike.verdict) == ("jobs", "different")
    assert alike.p_value == unlike.p_value
    assert (alike.p_value or 1) < LEVEL
    assert alike.sentence.endswith("Chance can explain it, since images within a job are alike.")
    assert Difference.of("label", sample(first), sample({})) is None


def test_the_likeness_of_images_of_one_job_is_their_intra_class_correlation() -> None:
    source, classes = random.Random(3), [f"class {number}" for number in range(10)]
    for share in (0.0, 0.3, 1.0):  # of the images of a job that show its own class, instead of any
        jobs = [
            Counter(own if source.random() < share else source.choice(classes) for _ in range(20))
            for own in source.choices(classes, k=400)
        ]
        found = sample(
            dict(sum(jobs, Counter[str]())), 400, 400 * 190, sum(comb(n, 2) for job in jobs for n in job.values())
        )
        assert likeness(found, found) == pytest.approx(share**2, abs=0.02)


def test_few_jobs_count_as_one_image_each_and_single_images_as_such() -> None:
    many, few = sample({"a": 60, "b": 40}, 20, 200, 100), sample({"a": 60, "b": 40}, MIN_JOBS - 1, 1_200, 600)
    assert likeness(many, few) == likeness(few, many) == 1.0
    assert few.effective(1.0) == {"a": pytest.approx(2.4), "b": pytest.approx(1.6)}  # like four images
    single = sample({"a": 60, "b": 40}, 100)
    assert likeness(single, single) == 0.0
    assert single.effective(1.0) == single.images
    same = sample({"a": 100}, 20, 200, 200)
    assert likeness(same, same) == 0.0
    further = sample({OTHER_LABELS: 100}, 20, 200, 150)
    assert likeness(further, further) > 0.7


def test_models_without_a_difference_rarely_get_one_although_images_of_a_job_are_alike() -> None:
    source, classes = random.Random(5), [f"class {number}" for number in range(6)]

    def drawn(jobs: int) -> ModelResults:
        found = ModelResults(name="", digest="", first_at=NOW, last_at=NOW)
        for _ in range(jobs):
            tally, own = JobTally(), source.choice(classes)
            for _ in range(12):
                found.count(results[own if source.random() < 0.7 else source.choice(classes)], tally)
        return found

    job = Job(new_id(), "signs", NOW)
    results = {label: done(record(job), label) for label in classes}
    compared = [
        ModelComparison.of(ModelResultsReport(models=(drawn(60), drawn(20))), None).models[1] for _ in range(150)
    ]
    found = [each.differences.labels for each in compared if each.differences and each.differences.labels]
    assert len(found) == 150
    assert sum((each.p_value or 0) < 0.05 for each in found) > 75, "images are not independent"
    assert 1 <= sum((each.p_value_by_job or 0) < 0.05 for each in found) <= 18  # 7.5 are to be expected


# Models

DEFAULT, CANARY, UNUSED = "d" * 64, "c" * 64, "e" * 64
SINCE = NOW + timedelta(hours=1)


def figures(name: str, digest: str, labels: dict[str, tuple[int, float]], jobs: int = 50) -> ModelResults:
    """Return the results of a model: the number of images and the score of each label, over jobs of equal size."""
    found, tallies = (
        ModelResults(name=name, digest=digest, first_at=NOW, last_at=NOW),
        [JobTally() for _ in range(jobs)],
    )
    image = record(Job(new_id(), "signs", NOW))
    for number, (label, score) in enumerate((label, score) for label, (n, score) in labels.items() for _ in range(n)):
        found.count(done(image, label, score), tallies[number % jobs])
    return found


def report() -> ModelResultsReport:
    default = figures("signs", DEFAULT, {"stop": (500, 0.9), "yield": (400, 0.8), "<b>parking": (100, 0.45)})
    canary = figures("signs-2", CANARY, {"stop": (30, 0.9), "yield": (60, 0.8), "parking": (10, 0.45)}, jobs=5)
    default.inferred_milliseconds, default.inferred = 12_340.0, 1_000
    for _ in range(3):
        canary.count(failed(record(Job(new_id(), "signs", NOW)), code="undecodable"), JobTally())
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
    return ModelComparison.of(report(), known).models


def test_the_default_is_the_reference_or_else_the_model_with_the_most_results() -> None:
    assert [(model.name, model.role) for model in compared()] == [("signs", None), ("signs-2", None)]
    assert [(model.name, model.role) for model in compared(catalog())] == [("old", "default"), ("new", None)]
    assert [(model.name, model.role) for model in compared(catalog(CANARY))] == [("new", "default"), ("old", None)]
    assert [(model.name, model.role) for model in compared(catalog(UNUSED))] == [("old", None), ("new", None)]
    reference, other = compared()
    assert (reference.is_reference, reference.differences) == (True, None)
    assert other.differences is not None
    assert ModelComparison.of(ModelResultsReport(), None).models == ()


def test_counts_from_before_a_roll_out_are_not_shown_in_it() -> None:
    canary = Canary(digest=CANARY, share=0.1)
    assert [each.role for each in compared(catalog(canary=canary))] == ["default", "canary"]
    later = catalog(canary=canary, since=SINCE + timedelta(minutes=1))
    assert ModelComparison.of(report(), later) == ModelComparison(since=later.since, models=())


def test_a_model_has_its_shares_means_and_changed_labels() -> None:
    reference, canary = compared()
    assert (reference.done, reference.failed, canary.done, canary.failed) == (1_000, 0, 100, 3)
    assert canary.share == round(103 / 1_103, 4)
    assert (canary.mean_score, canary.unsure_share) == (0.795, 0.1)
    assert (reference.inferred_milliseconds, canary.inferred_milliseconds) == (12.34, None)
    assert canary.differences is not None
    labels, changed = canary.differences.labels, canary.differences.changed_labels
    assert labels is not None
    assert labels.distance == 0.3  # 20 points from stop to yield, 10 from <b>parking to parking
    assert [each.label for each in changed] == ["stop", "yield", "<b>parking", "parking"]
    assert (changed[0].reference_share, changed[0].share) == (0.5, 0.3)
    scores, failures = canary.differences.scores, canary.differences.failures
    assert scores is not None
    assert (scores.distance, scores.verdict) == (0.2, "different")
    assert failures is not None
    assert failures.distance == round(3 / 103, 4)


def test_further_labels_are_one_value_and_few_changed_ones_are_listed() -> None:
    default = figures("a", DEFAULT, {f"class {number}": (10, 0.9) for number in range(10)})
    canary = default.model_copy(deep=True, update={"digest": CANARY})
    canary.limit_labels(3)
    _, other = ModelComparison.of(ModelResultsReport(models=(default, canary)), catalog()).models
    assert other.differences is not None
    assert other.differences.changed_labels[0].label == OTHER_LABELS
    assert len(other.differences.changed_labels) == MAX_CHANGED


def test_the_api_compares_the_models(client: FlaskClient, table: Table) -> None:
    backend = client.application.extensions["fleetsight"]
    assert isinstance(backend, Backend)
    assert client.get("/api/v1/models/comparison").get_json() == {"since": None, "models": []}
    FleetStore(table).put_model_results(report(), token=1)
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.of(report(), None)
    assert list(body["models"][0]["labels"]) == ["stop", "yield", "<b>parking"]
    canary = Canary(digest=CANARY, share=0.1)
    CatalogStore(table).change(lambda before: before, lambda: catalog(canary=canary))
    assert backend.served.catalog() == CatalogStore(table).find()
    body = client.get("/api/v1/models/comparison").get_json()
    assert ModelComparison.model_validate(body) == ModelComparison.of(report(), catalog(canary=canary))


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_fleet_page_compares_the_models_once_two_have_results(client: FlaskClient, table: Table) -> None:
    store, whole = FleetStore(table), report()
    store.put_model_results(whole.model_copy(update={"models": whole.models[1:]}), token=1)
    hidden = 'id="models" aria-labelledby="models-title" hidden>'
    assert hidden in client.get("/fleet").text
    assert hidden in client.get("/fleet/models").text
    store.put_model_results(whole, token=1)
    for path in ("/fleet", "/fleet/models"):
        page = client.get(path).text
        assert hidden not in page
        assert "&lt;b&gt;parking" in page
        assert "<b>parking" not in page
        text = text_of(page)
        assert "signs-2 cccccccccccc 9.3% 100 3 8 79.5% 10.0% \u2013" in text
        assert "Labels 30.0% of the images would need another label to match; " in text
        assert "stop 50.0% 30.0%" in text
        assert "since the roll-out at 01 Mar 13:00 UTC" in text
