"""A job's border of doubt is the same on its page, in the API, in every download and in the live feed."""

import csv
import io
import json
from collections.abc import Callable
from itertools import count
from typing import Any
from zipfile import ZipFile

import pytest
from flask.testing import FlaskClient

from core.jobs.figures import JobFigures
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import MergedFile, MinScores
from core.jobs.store import JobStore
from tests.support.clocks import ManualClock
from tests.support.jobs import NOW, add_images, done, failed, picture, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from web_tier.results.live_feed import JobFeed


def new_job(client: FlaskClient, **wanted: Any) -> str:
    made = client.post("/api/v1/jobs", json={"name": "a", "keep": True, **wanted})
    assert made.status_code == 201, made.text
    return str(made.get_json()["job_id"])


def test_unsure_is_a_label_of_its_own_wherever_a_job_is_read(
    client: FlaskClient, store: JobStore, input_bucket: MemoryBucket
) -> None:
    job_id = new_job(client, min_score=0.8, label_min_scores={"stop": 0.3})
    job = store.job(job_id)
    assert job.min_scores == MinScores(0.8, {"stop": 0.3})
    body = client.get(f"/api/v1/jobs/{job_id}").get_json()
    assert (body["min_score"], body["label_min_scores"]) == (0.8, {"stop": 0.3})
    images = add_images(store, job, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    found = [("stop", 0.3), ("stop", 0.29), ("yield", 0.8), ("yield", 0.79)]
    responses = [done(image, *each) for image, each in zip(images, found, strict=False)]
    put_results(store, *responses, failed(images[4]))
    for image in images:
        input_bucket.put(image.key, picture(), "image/jpeg")
    decisions = ["stop", "unsure", "yield", "unsure", None]

    api = f"/api/v1/jobs/{job_id}"
    assert [each["decision"] for each in client.get(f"{api}/results").get_json()["results"]] == decisions
    lines = client.get(f"{api}/results.jsonl").text.splitlines()
    assert [json.loads(line)["decision"] for line in lines] == decisions
    table = list(csv.DictReader(io.StringIO(client.get(f"{api}/results.csv").text)))
    assert [each["decision"] or None for each in table] == decisions
    assert [each["label"] for each in table] == ["stop", "stop", "yield", "yield", ""]
    unsure = client.get(f"{api}/results?state=unsure").get_json()["results"]
    assert [each["filename"] for each in unsure] == ["b.jpg", "d.jpg"]
    archive = ZipFile(io.BytesIO(client.get(f"{api}/images.zip").data))
    assert {name for name in archive.namelist() if name.startswith("_")} == {
        *("_unsure/b.jpg", "_unsure/d.jpg", "_failed/e.jpg")
    }

    page = client.get(f"/jobs/{job_id}").text.partition("<template")[0]
    assert [page.count(f"Unsure: {label}") for label in ("stop", "yield")] == [1, 1]
    assert "below 80%; some labels have their own" in page
    filtered = client.get(f"/jobs/{job_id}?state=unsure").text.partition("<template")[0]
    assert [name in filtered for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg")] == [False, True, False, True]
    [unsure_page, sure_page] = [client.get(f"/jobs/{job_id}/images/{images[at].ref.image_id}").text for at in (1, 0)]
    assert ("Unsure: " in unsure_page, "Unsure: " in sure_page) == (True, False)
    rows = client.get(f"/jobs/{job_id}/rows").get_json()["rows"]
    assert [row.get("unsure", False) for row in rows] == [False, True, False, True, False]


def test_live_rows_have_the_border_of_their_job(client: FlaskClient, store: JobStore) -> None:
    job = store.job(new_job(client, min_score=0.95))
    [image] = add_images(store, job, "a.jpg")
    feed = JobFeed(store, job.job_id, lambda _: ("{}", False), clock=ManualClock(0.0))
    feed.poll()
    [(cursor, _)] = list(feed.wait(None, 0.0))[-1:]
    put_results(store, done(image, "stop", 0.93))
    feed.poll()
    results = [json.loads(event.data) for _, event in feed.wait(cursor, 0.0) if event.kind == "results"]
    assert [row["unsure"] for each in results for row in each["rows"]] == [True]


def test_a_border_that_is_moved_holds_everywhere_and_results_files_are_written_again(
    client: FlaskClient, store: JobStore
) -> None:
    job = store.job(new_job(client))
    images, api, page = add_images(store, job, "a.jpg", "b.jpg"), f"/api/v1/jobs/{job.job_id}", f"/jobs/{job.job_id}"
    put_results(store, done(images[0], "stop", 0.6), done(images[1], "yield", 0.6))
    feed = JobFeed(store, job.job_id, lambda _: ("{}", False), clock=ManualClock(0.0))
    feed.poll()
    [(cursor, _)] = list(feed.wait(None, 0.0))[-1:]
    JobFigures(store.table).put_merged(job.job_id, MergedFile("key", store.status(job.job_id).edition, NOW))
    store.table.delete_all([("OPEN", job.job_id)])

    def unsure() -> list[str]:
        found = client.get(f"{api}/results?state=unsure").get_json()["results"]
        return [each["filename"] for each in found]

    moved = client.put(f"{api}/min-scores", json={"min_score": 0.7, "label_min_scores": {"stop": 0.2}})
    assert (moved.status_code, moved.get_json()["min_score"], unsure()) == (200, 0.7, ["b.jpg"])
    assert store.job(job.job_id).min_scores == MinScores(0.7, {"stop": 0.2})
    feed.poll()
    assert next(event.kind for _, event in feed.wait(cursor, 0.0)) == "resync", "pages that are open follow"
    assert not client.get(api).get_json()["results_file"]["current"]
    progress = client.get(f"{page}/progress").get_json()
    assert progress["border"] == store.job(job.job_id).min_scores.digest, "and so do pages with a feed that has ended"
    assert OpenJobs(store.table).is_open(job.job_id), "the controller writes the file again"
    assert client.post(f"{page}/min-scores", data={"below": "10"}).status_code == 303
    assert (store.job(job.job_id).min_scores, unsure()) == (MinScores(0.1, {"stop": 0.2}), [])
    for nothing in ({}, {"min_score": None}):
        refused = client.put(f"{api}/min-scores", json=nothing)
        assert (refused.status_code, "send {" in refused.text) == (422, True), refused.text
    for wanted, found in [
        ({"label_min_scores": {"stop": 0.9}}, MinScores(0.1, {"stop": 0.9})),
        ({"min_score": 0.5}, MinScores(0.5, {"stop": 0.9})),
        ({"label_min_scores": {}}, MinScores()),
    ]:
        assert client.put(f"{api}/min-scores", json=wanted).status_code == 200
        assert store.job(job.job_id).min_scores == found, "a field that is not sent keeps its value"
    assert client.get(api).get_json()["results_file"]["current"], "the file has this border"


@pytest.mark.parametrize("is_page", [True, False], ids=["page", "API"])
def test_two_concurrent_changes_of_different_fields_both_hold(
    client: FlaskClient, store: JobStore, *, is_page: bool
) -> None:
    job_id, table = new_job(client), store.table
    assert isinstance(table, MemoryTable)
    calls = count()

    def other_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem" and next(calls) == 0:
            other = client.put(f"/api/v1/jobs/{job_id}/min-scores", json={"label_min_scores": {"stop": 0.9}})
            assert other.status_code == 200
        return effect()

    table.call = other_first
    if is_page:
        client.post(f"/jobs/{job_id}/min-scores", data={"below": "70"})
    else:
        changed = client.put(f"/api/v1/jobs/{job_id}/min-scores", json={"min_score": 0.7}).get_json()
        assert (changed["min_score"], changed["label_min_scores"]) == (0.7, {"stop": 0.9})
    assert store.job(job_id).min_scores == MinScores(0.7, {"stop": 0.9})


@pytest.mark.parametrize("below", ["", "x", "101", "nan", "-1"])
def test_no_border_is_moved_to_where_no_score_is(client: FlaskClient, store: JobStore, below: str) -> None:
    job_id = new_job(client, min_score=0.8)
    assert client.post(f"/jobs/{job_id}/min-scores", data={"below": below}).status_code == 422
    assert client.put(f"/api/v1/jobs/{job_id}/min-scores", json={"label_min_scores": {"x": 0.5}}).status_code == 422
    assert store.job(job_id).min_scores == MinScores(0.8)


@pytest.mark.parametrize(("border", "is_said"), [({"min_score": 0.9}, False), ({}, True)])
def test_only_scores_that_are_low_may_be_of_none_of_the_classes(
    client: FlaskClient, store: JobStore, border: dict[str, float], is_said: bool
) -> None:
    job = store.job(new_job(client, **border))
    put_results(store, *(done(image, "stop", 0.4) for image in add_images(store, job, "a.jpg", "b.jpg")))
    page = client.get(f"/jobs/{job.job_id}").text
    assert (">they may be none of its" in page, ">their scores are below 90%" in page) == (is_said, not is_said)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"min_score": 1.1}, "min_score"),
        ({"label_min_scores": {"": 0.5}}, "label_min_scores"),
        ({"label_min_scores": {f"{at}": 0.5 for at in range(201)}}, "label_min_scores"),
        (
            {"label_min_scores": {"stop": 0.5, "no such sign": 0.5}},
            "of the model's 30 classes none is 'no such sign'",
        ),
    ],
)
def test_a_border_that_cannot_be_meant_is_refused(client: FlaskClient, wanted: dict[str, Any], words: str) -> None:
    refused = client.post("/api/v1/jobs", json=wanted)
    assert refused.status_code == 422
    assert words in refused.text
