"""Results of a job: pages, filters, orders, the model and the class scores, and their export as CSV."""

import csv
import re
from datetime import timedelta, timezone
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, new_id
from core.jobs.models import Counts, ImageRecord, Job, JobStatus
from core.jobs.reader import JobReader
from core.jobs.store import JobStore
from core.messages import ClassificationResult, LabelScore, Prediction
from services.errors import NotFoundError
from tests.support.jobs import NOW, add_images, done, failed, put_results
from web_tier.auth import job_access
from web_tier.results import query
from web_tier.results.export import CSV_HEADER, ImageBody, csv_lines, safe_cell
from web_tier.results.query import ImageResult, ResultsFilter, filtered_page, sorted_page
from web_tier.results.services import ClassLabels


def test_a_filter_without_a_match_examines_a_bounded_number_of_images(
    store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PAGE", 2)
    monkeypatch.setattr(query, "MAX_EXAMINED", 4)
    images = add_images(store, job, *["a.jpg"] * 4, "wanted.jpg")
    wanted = ResultsFilter(filename="WANTED")
    first = filtered_page(store, job.job_id, wanted, limit=10)
    assert (first.items, first.next_after) == ((), images[3].ref.image_id)
    second = filtered_page(store, job.job_id, wanted, after=first.next_after, limit=10)
    assert ([item.record for item in second.items], second.next_after) == ([images[4]], None)


def test_a_search_for_jobs_examines_a_bounded_number_of_them(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_access, "PAGE", 2)
    monkeypatch.setattr(job_access, "MAX_EXAMINED", 4)
    jobs = [Job(new_id(), "wanted" if index == 0 else "x", NOW) for index in range(5)]
    for each in jobs:
        store.create(each)
    users = job_access.UserJobs(store.table, "")
    first = users.find(limit=10, name="WANTED")
    assert (first.jobs, first.next_before) == ((), jobs[1].job_id)
    assert users.find(before=first.next_before, limit=10, name="WANTED").jobs == (jobs[0],)


READS = [name for name in vars(JobReader) if not name.startswith("_")]


@pytest.mark.parametrize("name", READS)
def test_a_read_of_another_users_job_finds_no_job(store: JobStore, job: Job, name: str) -> None:
    [image] = add_images(store, job, "a.jpg")
    read, by_ref = getattr(job_access.UserJobs(store.table, "anna"), name), {"result": image.ref}
    with pytest.raises(NotFoundError, match="there is no job"):
        read(by_ref.get(name, [image.ref] if name.endswith("_of") else job.job_id))


def status(job: Job, results: int, seconds: float | None) -> JobStatus:
    last = None if seconds is None else NOW + timedelta(seconds=seconds)
    return JobStatus(job, 2_000, Counts(results, 0, 2_000, None if last is None else NOW, last))


@pytest.fixture
def mixed(store: JobStore, job: Job) -> Job:
    """Return a job with four images: two labels, one failure, one that waits."""
    images = add_images(store, job, "img 10.jpg", "IMG 9.jpg", "b.jpg", "a.jpg")
    early = done(images[0], "cat", 0.5).model_copy(update={"recorded_at": NOW})
    late = done(images[1], "ant", 0.9).model_copy(update={"recorded_at": NOW + timedelta(seconds=1)})
    put_results(store, early, late, failed(images[2]))
    return job


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", ["a.jpg", "b.jpg", "IMG 9.jpg", "img 10.jpg"]),
        ("label", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
        ("sure", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
        ("unsure", ["img 10.jpg", "IMG 9.jpg", "b.jpg", "a.jpg"]),
        ("state", ["b.jpg", "a.jpg", "img 10.jpg", "IMG 9.jpg"]),
        ("recent", ["IMG 9.jpg", "img 10.jpg", "b.jpg", "a.jpg"]),
    ],
)
def test_images_are_sorted_by_each_order(store: JobStore, mixed: Job, order: str, names: list[str]) -> None:
    found, is_last = sorted_page(store, mixed.job_id, ResultsFilter(), order, number=1, limit=10)
    assert [item.record.filename for item in found.items] == names
    assert is_last


def test_a_bounded_number_of_images_is_sorted(store: JobStore, mixed: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_SORTED", 2)
    found, _ = sorted_page(store, mixed.job_id, ResultsFilter(), "name", number=1, limit=10)
    assert len(found.items) == 2
    assert not query.can_sort(store.status(mixed.job_id))


IDS = {"job_id": "01M7VZC4WFV7NFCGGR65PAXY7J", "image_id": "01M7VZC4WFV7NFCGGR65PAXY7K"}


def prediction(best: str, score: float, *probabilities: float) -> Prediction:
    top = (LabelScore(label=best, score=score),)
    return Prediction(
        **IDS, status="done", label=best, score=score, top=top, worker="i-0", attempts=1, probabilities=probabilities
    )


@pytest.fixture
def labels() -> ClassLabels:
    return ClassLabels(["cat", "dog"], {"dog": "A dog."})


def test_all_classes_are_listed_best_first_by_name(labels: ClassLabels) -> None:
    scores = labels.all_scores(prediction("dog", 0.9, 0.1, 0.9))
    assert [(pair.label, pair.score) for pair in scores] == [("dog", 0.9), ("cat", 0.1)]
    assert labels.messages["dog"] == "A dog."


@pytest.mark.parametrize(
    ("best", "score", "probabilities"),
    [("ship", 0.9, (0.1, 0.9)), ("cat", 0.9, (0.1, 0.9)), ("dog", 0.9, (0.05, 0.9, 0.05))],
    ids=["another label", "another order", "more classes"],
)
def test_classes_of_another_bundle_have_numbers(
    labels: ClassLabels, best: str, score: float, probabilities: tuple[float, ...]
) -> None:
    assert labels.all_scores(prediction(best, score, *probabilities))[0].label == "class 1"


def image(filename: str) -> ImageRecord:
    return ImageRecord(ImageRef(new_id(), new_id()), filename, "jpg", (10,), NOW)


def rows(*results: ImageResult) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO("".join(csv_lines(results)), newline="")))


def test_every_image_has_a_row_in_each_state() -> None:
    one, two, three = image("a.jpg"), image("b.jpg"), image("c.jpg")
    found = rows(ImageResult(one, done(one, "cat", 0.5)), ImageResult(two, failed(two)), ImageResult(three, None))
    assert [tuple(row) for row in found] == [CSV_HEADER] * 3
    assert [row["status"] for row in found] == ["done", "failed", "waiting"]
    assert (found[0]["label"], found[0]["score"], found[0]["model"]) == ("cat", "0.500000", "demo")
    assert (found[1]["error_code"], found[1]["label"]) == ("crashed_worker", "")
    assert {(row["bytes"], row["accepted_at"]) for row in found} == {("10", f"{NOW:%Y-%m-%d %H:%M:%S}")}


def test_the_api_shows_every_field_of_a_result_but_those_for_the_system() -> None:
    internal = {"version", "key", "queued_at", "attempt", "repeated", "traceparent"}
    assert ClassificationResult.model_fields.keys() - ImageBody.model_fields.keys() == internal


def test_the_columns_of_earlier_versions_are_the_first_ones() -> None:
    earlier = "image_id,filename,status,label,score,error_code,error_message,model,model_digest,worker,attempts"
    assert ",".join(CSV_HEADER).startswith(f"{earlier},bytes,")


def test_a_row_has_up_to_five_labels_and_when_the_result_came() -> None:
    one, two = image("a.jpg"), image("b.jpg")
    top = tuple(
        LabelScore(label=name, score=score)
        for name, score in zip("abcdef", (0.5, 0.2, 0.1, 0.05, 0.04, 0.03), strict=True)
    )
    came = NOW.astimezone(timezone(timedelta(hours=5)))
    many = done(one, "a", 0.5).model_copy(update={"top": top, "recorded_at": came})
    few = done(two, "a", 0.5).model_copy(update={"top": top[:2]})
    first, second = rows(ImageResult(one, many), ImageResult(two, few))
    labels = [first[name] for name in ("label", *(f"label_{place}" for place in range(2, 6)))]
    assert (labels, first["score_5"]) == (list("abcde"), "0.040000")
    assert first["recorded_at"] == f"{NOW:%Y-%m-%d %H:%M:%S}", "in UTC"
    assert (second["label_2"], second["score_2"], second["label_3"]) == ("b", "0.200000", "")


@pytest.mark.parametrize(
    "name", ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "\uff1d1+1.png", "\uff0b1", "\uff0d1", "\uff20A1"]
)
def test_s15_no_name_is_taken_for_a_formula(name: str) -> None:
    assert safe_cell(name) == f"'{name}"


@given(st.text(alphabet="=+-@\uff1d\uff0b\uff0d\uff20;\t\n\r,'\"a1", max_size=12))
def test_s15_no_name_holds_a_formula_wherever_a_spreadsheet_splits_it(name: str) -> None:
    line = "".join(csv_lines([ImageResult(image(name), None)])).partition("\r\n")[2]
    cells = [cell.strip('"') for cell in re.split("[;\t\r\n]", line)]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\uff1d\uff0b\uff0d\uff20"))]


def test_s15_a_name_with_semicolons_is_unchanged_without_formula() -> None:
    assert safe_cell("a;b.png") == "a;b.png"
    assert safe_cell("a;=1+1.png") == "a;'=1+1.png"


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
def test_any_name_comes_back_from_the_csv_as_it_was_shown(name: str) -> None:
    named = image(name)
    [row] = rows(ImageResult(named, None))
    assert row["filename"].replace("'", "") == name.replace("'", "")
    assert not row["filename"].startswith(("=", "+", "-", "@"))
