"""True labels of a job: set by id, by a file and by folders; exported, filtered, and shown with the evaluation."""

import csv
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import Any, Literal
from zipfile import ZipFile

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from core.ids import new_id
from core.jobs.models import ImageRecord, Job, TrueLabel
from core.jobs.store import JobStore
from core.label_names import ClassNames
from tests.support.api import AppMaker, problem
from tests.support.jobs import NOW, UNKNOWN_ID, add_images, done, failed, put_results, record
from tests.support.memory_aws.s3 import MemoryBucket
from web_tier.features.review import truth
from web_tier.features.review.truth import TruthFileError, TruthOutcome, match_folders, match_rows, parse_truth_file

CLASSES = ("stop sign", "dog", "give way")


@pytest.fixture
def images(store: JobStore, job: Job) -> list[ImageRecord]:
    """Return four images: two labelled as dogs, one that failed, one that waits."""
    found = add_images(store, job, "day1/a.jpg", "day2/a.jpg", "day2/b.jpg", "c.jpg")
    put_results(store, done(found[0], "dog", 0.9), done(found[1], "dog", 0.6), failed(found[2]))
    return found


@pytest.fixture
def review(client: FlaskClient, job: Job) -> Callable[..., TestResponse]:
    """Set true labels, each of an image or of an id."""

    def put(labels: dict[Any, str | None]) -> TestResponse:
        ids = {key if isinstance(key, str) else key.ref.image_id: label for key, label in labels.items()}
        return client.put(f"/api/v1/jobs/{job.job_id}/truth", json={"labels": ids})

    # `ImageRecord` is hashable, since it is frozen.
    return put


# The API


def test_a_true_label_is_set_replaced_and_removed_and_the_prediction_stays(
    client: FlaskClient, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    path = f"/api/v1/jobs/{job.job_id}/images/{images[0].ref.image_id}"
    seen = []
    for label in ("dog", "  wolf \u202e ", None):
        assert review({images[0]: label}).status_code == 200
        body = client.get(path).get_json()
        seen.append((body["label"], body["truth"], body["correct"]))
    assert seen == [("dog", "dog", True), ("dog", "wolf", False), ("dog", None, None)]


def test_many_true_labels_are_set_at_once_and_ids_of_other_jobs_are_named(
    store: JobStore, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    other = Job(new_id(), "other", NOW)
    store.create(other)
    [foreign] = add_images(store, other, "x.jpg")
    answer = review({images[0]: "dog", images[1]: "cat", images[2]: None, foreign: "dog", UNKNOWN_ID: "dog"})
    body = answer.get_json()
    assert (body["job_id"], body["set"], body["removed"]) == (job.job_id, 2, 1)
    assert set(body["unknown"]) == {foreign.ref.image_id, UNKNOWN_ID}
    assert {key: each.label for key, each in store.truths(job.job_id).items()} == {
        images[0].ref.image_id: "dog",
        images[1].ref.image_id: "cat",
    }
    assert store.truths(other.job_id) == {}


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"x": "dog"},
        {UNKNOWN_ID: ""},
        {UNKNOWN_ID: 1},
        {UNKNOWN_ID: "x" * 201},
        {new_id(): "a" for _ in range(1_001)},
    ],
    ids=["none", "no id", "empty", "number", "long", "too many"],
)
def test_wrong_true_labels_get_422_with_an_example(client: FlaskClient, job: Job, labels: dict[str, Any]) -> None:
    answer = client.put(f"/api/v1/jobs/{job.job_id}/truth", json={"labels": labels})
    assert '{"labels": {"IMAGE_ID": "dog"}}' in problem(answer, 422)


def test_an_invisible_true_label_gets_422(images: list[ImageRecord], review: Callable[..., TestResponse]) -> None:
    assert "no visible character" in problem(review({images[0]: " \u202e "}), 422)


def test_a_thousand_long_labels_fit_into_one_request(client: FlaskClient, store: JobStore, job: Job) -> None:
    images = add_images(store, job, *["a.jpg"] * 1_000)
    labels = {image.ref.image_id: "\N{SNOWMAN}" * 200 for image in images}
    assert client.put(f"/api/v1/jobs/{job.job_id}/truth", json={"labels": labels}).get_json()["set"] == 1_000


def test_results_have_the_true_label_as_columns_and_fields(
    client: FlaskClient, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    review({images[0]: "dog", images[1]: "=wolf", images[3]: "dog"})
    path = f"/api/v1/jobs/{job.job_id}/results"
    rows = csv.DictReader(StringIO(client.get(f"{path}.csv").text), strict=True)
    wanted = [("dog", "true"), ("'=wolf", "false"), ("", ""), ("dog", "")]
    assert [(row["truth"], row["correct"]) for row in rows] == wanted
    lines = [json.loads(line) for line in client.get(f"{path}.jsonl").text.splitlines()]
    assert [(line["truth"], line["correct"]) for line in lines] == [
        ("dog", True), ("=wolf", False), (None, None), ("dog", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("truth=dog", ["day1/a.jpg", "c.jpg"]),
        ("truth=dog&label=dog", ["day1/a.jpg"]),
        ("correct=true", ["day1/a.jpg"]),
        ("correct=false", ["day2/a.jpg"]),
        ("reviewed=true", ["day1/a.jpg", "day2/a.jpg", "c.jpg"]),
        ("reviewed=false", ["day2/b.jpg"]),
    ],
)
def test_results_and_the_page_are_filtered_by_true_label(
    client: FlaskClient,
    job: Job,
    images: list[ImageRecord],
    review: Callable[..., TestResponse],
    query: str,
    names: list[str],
) -> None:
    review({images[0]: "dog", images[1]: "wolf", images[3]: "dog"})
    body = client.get(f"/api/v1/jobs/{job.job_id}/results?{query}").get_json()
    assert [item["filename"] for item in body["results"]] == names
    page = client.get(f"/jobs/{job.job_id}?{query}").text.partition("<template")[0]
    assert [image.filename for image in images if f'title="{image.filename}"' in page] == names


def test_the_evaluation_counts_images_with_both_labels(
    client: FlaskClient, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    review({images[0]: "dog", images[1]: "ship", images[2]: "dog", images[3]: "dog"})
    body = client.get(f"/api/v1/jobs/{job.job_id}/evaluation").get_json()
    assert (body["reviewed"], body["correct"], body["accuracy"]) == (2, 1, 0.5)
    assert 0 < body["accuracy_low"] < 0.5 < body["accuracy_high"] < 1
    assert body["confusion"] == [
        {"truth": "ship", "label": "dog", "images": 1}, {"truth": "dog", "label": "dog", "images": 1},
    ]  # fmt: skip
    assert [(each["label"], each["support"], each["precision"]) for each in body["classes"]] == [
        ("dog", 1, 0.5), ("ship", 1, None),
    ]  # fmt: skip


def test_a_true_label_that_is_no_class_is_named_and_is_no_error(
    client: FlaskClient, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    review({images[0]: "DOG", images[1]: "<wolf>"})
    body = client.get(f"/api/v1/jobs/{job.job_id}/evaluation").get_json()
    assert (body["reviewed"], body["correct"], body["accuracy"]) == (1, 1, 1.0)
    assert (body["unknown"], body["unknown_classes"]) == (1, ["<wolf>"])
    assert [each["label"] for each in body["classes"]] == ["dog"]
    page = client.get(f"/jobs/{job.job_id}/evaluation").text
    assert "<strong>100.0%</strong> of the model's labels are right: 1 of 1 reviewed" in page
    assert "no class of the model: 1 image (" in page
    assert "<bdi>&lt;wolf&gt;</bdi></a>)." in page


# Files


def outcome_of(
    text: str | bytes, names: Sequence[str], classes: Sequence[str] = CLASSES
) -> tuple[dict[str, str], TruthOutcome]:
    """Return the true labels that a file gives to images of these names, by name, and its outcome."""
    job = Job(new_id(), "job", NOW)
    images = [record(job, name) for name in names]
    rows = parse_truth_file(text if isinstance(text, bytes) else text.encode())
    outcome = match_rows(rows, images, ClassNames(classes))
    by_id = {image.ref.image_id: image.filename for image in images}
    return {by_id[key]: label for key, label in outcome.labels.items()}, outcome


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg,dog\nb.jpg,stop sign\n",
        "filename,label\na.jpg,dog\nb.jpg,stop sign\n",
        "\ufeffFile Name;True_Label\r\na.jpg;dog\r\nb.jpg;stop sign\r\n",
        "id\ttruth\timage\n1\tdog\ta.jpg\n2\tstop sign\tb.jpg\n",
        'label,truth,path\ncat,dog,a.jpg\ncat,"stop sign",b.jpg',
        "\n\na.jpg,dog\n\nb.jpg,Stop_Sign\n",
        "a.jpg,dog,more\nb.jpg,STOP-SIGN,more",
        "class,file\nDog,photos\\a.jpg\nstop sign,./b.jpg\n".encode("utf-16"),
        "\ufeffsep=;\r\nlabel;file\r\ndog;a.jpg\r\nstop sign;b.jpg\r\n",
        "SEP=|\nfile|label\na.jpg|dog\nb.jpg|stop sign\n",
    ],
    ids=[
        *("plain", "header", "semicolon and BOM", "tab", "our export", "blank lines", "more columns", "utf-16"),
        *("for Excel", "a separator of its own"),
    ],
)
def test_files_of_many_forms_are_read(text: str | bytes) -> None:
    labels, outcome = outcome_of(text, ["a.jpg", "b.jpg"])
    assert labels == {"a.jpg": "dog", "b.jpg": "stop sign"}
    assert (outcome.faults, outcome.unknown_classes) == ([], ())


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_and_classes_match_in_any_unicode_normalization(
    form: Literal["NFC", "NFD"], other: Literal["NFC", "NFD"]
) -> None:
    name, label = unicodedata.normalize(form, "été/ñandú.jpg"), unicodedata.normalize(form, "café")
    text = unicodedata.normalize(other, f"\u202eété\\ñandú.jpg\t,{'CAFÉ'}\n")
    labels, outcome = outcome_of(text, [name], [label])
    assert labels == {name: label}
    assert (outcome.faults, outcome.unknown_classes) == ([], ())


def test_only_the_first_thousand_columns_of_a_header_are_searched() -> None:
    assert outcome_of(f"file,{',' * 997},label\na.jpg,{',' * 997},dog", ["a.jpg"])[0] == {"a.jpg": "dog"}
    with pytest.raises(TruthFileError, match="needs two columns"):
        outcome_of(f"file,{',' * 998},label\na.jpg,{',' * 998},dog", ["a.jpg"])


_PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join)


@given(names=st.lists(_PATHS, max_size=6), row=_PATHS)
def test_a_line_finds_the_same_path_or_else_paths_that_end_alike(names: list[str], row: str) -> None:
    like = [name for name in names if f"/{name}".endswith(f"/{row}") or f"/{row}".endswith(f"/{name}")]
    found = [name for name in names if name == row] or like
    labels, outcome = outcome_of(f"{row},dog\n", names)
    assert labels == (dict.fromkeys(found, "dog") if len(found) == 1 else {})
    reasons = {0: ["no image has this name"], 1: []}
    assert [fault.reason for fault in outcome.faults] == reasons.get(len(found), ["several images have this name"])


def test_the_same_filename_in_many_folders_is_not_compared_with_each_line() -> None:
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    job = Job(new_id(), "job", NOW)
    images = [record(job, f"day{number}/a.jpg") for number in range(600)]
    rows = parse_truth_file("".join(f"night{number}/a.jpg,dog\n" for number in range(600)).encode())
    sys.setprofile(count)
    try:
        outcome = match_rows(rows, images, ClassNames(CLASSES))
    finally:
        sys.setprofile(None)
    assert len(outcome.faults) == 600
    assert calls < 600 * 600


def test_an_earlier_line_stands_and_lines_without_a_label_are_counted() -> None:
    labels, outcome = outcome_of("a.jpg,dog\na.jpg,cat\na.jpg,dog\nb.jpg,\n", ["a.jpg", "b.jpg"])
    assert (labels, outcome.without) == ({"a.jpg": "dog"}, 1)
    assert [(fault.line, fault.reason) for fault in outcome.faults] == [(2, "an earlier line has another label")]


def test_labels_that_are_no_class_are_set_and_named() -> None:
    labels, outcome = outcome_of("a.jpg,dog\nb.jpg,nothing known\n", ["a.jpg", "b.jpg"])
    assert (labels["b.jpg"], outcome.unknown_classes) == ("nothing known", ("nothing known",))
    assert outcome_of("a.jpg,x\n", ["a.jpg"], classes=())[1].unknown_classes == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a.jpg\nb.jpg\n", "two columns"),
        (b"filename,size\na.jpg,1\n", "two columns"),
        ("stra\xdfe.jpg,dog".encode("latin-1"), "not UTF-8"),
        (b'a.jpg,"' + b"x" * 200_000, "line 1 is not CSV"),
        (b"a.jpg,dog\n" * 4, "more than 3 lines"),
    ],
    ids=["empty", "one column", "no label", "latin-1", "long field", "long"],
)
def test_a_file_that_cannot_be_read_gets_422_and_sets_nothing(
    client: FlaskClient, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch, data: bytes, reason: str
) -> None:
    monkeypatch.setattr(truth, "MAX_TRUTH_ROWS", 3)
    add_images(store, job, "a.jpg")
    assert reason in problem(client.post(f"/api/v1/jobs/{job.job_id}/truth.csv", data=data), 422)
    assert store.truths(job.job_id) == {}


def test_a_file_that_is_too_large_gets_413(client: FlaskClient, job: Job) -> None:
    data = b"x" * (2 * 2**20 + 1)
    assert "2 MB" in problem(client.post(f"/api/v1/jobs/{job.job_id}/truth.csv", data=data), 413)


@given(st.binary(max_size=200) | st.text(alphabet='a.jpg,;\t"\r\ndog', max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused_in_words(data: bytes) -> None:
    try:
        labels, _ = outcome_of(data, ["a.jpg", "dog", "d/a.jpg"])
    except TruthFileError as error:
        assert len(str(error)) > 20
    else:
        assert all(labels.values())


def test_the_downloaded_files_set_the_same_labels_again(
    client: FlaskClient, store: JobStore, job: Job, images: list[ImageRecord], review: Callable[..., TestResponse]
) -> None:
    review({images[0]: "=wolf", images[1]: '\'dog, or "cat"', images[3]: "stop sign"})
    truths = {key: each.label for key, each in store.truths(job.job_id).items()}
    for path in ("truth.csv", "results.csv"):
        download = client.get(f"/api/v1/jobs/{job.job_id}/{path}").data
        review(dict.fromkeys(images, None))
        assert store.truths(job.job_id) == {}
        outcome = client.post(f"/api/v1/jobs/{job.job_id}/truth.csv", data=download).get_json()
        assert (outcome["matched"], outcome["changed"], outcome["faulty"]) == (3, 3, 0)
        assert {key: each.label for key, each in store.truths(job.job_id).items()} == truths


def test_a_file_that_is_sent_again_writes_nothing(
    make_app: AppMaker, store: JobStore, job: Job, images: list[ImageRecord]
) -> None:
    client, data = make_app().test_client(), b"day1/a.jpg,dog\nc.jpg,cat\n"
    path = f"/api/v1/jobs/{job.job_id}/truth.csv"
    assert client.post(path, data=data).get_json()["changed"] == 2
    before = dict(store.truths(job.job_id))
    again = client.post(path, data=data).get_json()
    assert (again["matched"], again["changed"]) == (2, 0)
    assert store.truths(job.job_id) == before
    assert {each.source for each in before.values()} == {"csv"}


def test_folders_are_true_labels() -> None:
    job = Job(new_id(), "job", NOW)
    images = [
        record(job, name) for name in ("photos/Stop_Sign/1.jpg", "dog/2.jpg", "unknown/3.jpg", "4.jpg", "/5.jpg")
    ]
    outcome = match_folders(images, ClassNames(CLASSES))
    assert list(outcome.labels.values()) == ["stop sign", "dog", "unknown"]
    assert (outcome.without, outcome.unknown_classes) == (2, ("unknown",))


def test_folders_are_used_by_the_api_and_by_the_form(
    client: FlaskClient, store: JobStore, job: Job, images: list[ImageRecord]
) -> None:
    answer = client.post(f"/api/v1/jobs/{job.job_id}/truth/folders").get_json()
    assert (answer["matched"], answer["changed"], answer["without"]) == (3, 3, 1)
    assert {each.label for each in store.truths(job.job_id).values()} == {"day1", "day2"}
    page = client.post(f"/jobs/{job.job_id}/truth/folders").text
    assert "3 true labels set, 0 of them changed. 1 without a label." in page


# Pages


def test_a_form_uploads_a_file_and_shows_what_it_set(
    client: FlaskClient, store: JobStore, job: Job, images: list[ImageRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.features.review.pages.MAX_TRUTH_BYTES", 100)
    path = f"/jobs/{job.job_id}/truth/csv"
    file = (BytesIO(b"day1/a.jpg,dog\n<i>.jpg,dog\nc.jpg,\n"), "truth.csv")
    page = client.post(path, data={"file": file}).text
    assert "1 true label set. 1 without a label. 1 line set nothing:" in page
    assert "Line 2, <bdi>&lt;i&gt;.jpg</bdi>: no image has this name" in page
    assert len(store.truths(job.job_id)) == 1
    assert client.post(path, data={"x": "1"}, content_type="multipart/form-data").status_code == 422
    assert client.post(path, data={"file": (BytesIO(b"x" * 101), "x.csv")}).status_code == 413


def test_each_line_of_many_that_set_nothing_is_named(client: FlaskClient, job: Job) -> None:
    names = [f"{number}.jpg" for number in range(500)]
    file = (BytesIO("".join(f"{name},dog\n" for name in names).encode()), "truth.csv")
    page = client.post(f"/jobs/{job.job_id}/truth/csv", data={"file": file}).text
    assert re.findall(r"<bdi>([^<]*)</bdi>: no image has this name", page) == names


def test_a_training_set_has_a_folder_for_each_true_label(
    make_app: AppMaker, store: JobStore, input_bucket: MemoryBucket
) -> None:
    job = Job(new_id(), "kept", NOW, keep=True)
    store.create(job)
    images = add_images(store, job, "a/1.jpg", "b/1.jpg", "2.jpg", "3.jpg")
    for image in images:
        input_bucket.objects[image.key] = image.filename.encode()
    put_results(store, *[done(image, "dog") for image in images[:3]])
    labels = zip(images, ("../wolf", "../wolf", "dog"), strict=False)
    store.set_truths(job, {image.ref.image_id: TrueLabel(label, NOW) for image, label in labels})
    client = make_app().test_client()
    path = f"/api/v1/jobs/{job.job_id}/images.zip"
    training = ZipFile(BytesIO(client.get(f"{path}?by=truth").data))
    folders: dict[str, set[bytes]] = {}
    for name in training.namelist():
        folders.setdefault(name.partition("/")[0], set()).add(training.read(name))
    assert len(folders) == 2
    assert folders.pop("dog") == {b"2.jpg"}
    [(wolf, contents)] = folders.items()
    assert (".." not in wolf, "wolf" in wolf, contents) == (True, True, {b"a/1.jpg", b"b/1.jpg"})
    assert len(ZipFile(BytesIO(client.get(path).data)).namelist()) == 4
    assert len(ZipFile(BytesIO(client.get(f"{path}?by=truth&correct=true").data)).namelist()) == 1
    assert client.get(f"{path}?by=name").status_code == 400
