"""A job of some labels only: refused or created, and the same on its page, in the API, in exports and requests."""

import csv
import io
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from app_tier.bundle import DEMO_BUNDLE, read_manifest
from core.ids import ImageRef
from core.jobs.items import job_item, job_of
from core.jobs.models import Job
from core.jobs.packs import Pack, pack_in, pack_item
from core.jobs.store import JobStore
from core.label_sets import classes_in
from core.messages import RequestMessage
from tests.support.api import AppMaker
from tests.support.jobs import add_images, done, picture, put_results
from tests.support.memory_aws.sqs import MemoryQueue

LABELS = read_manifest(DEMO_BUNDLE).labels
DIGEST = read_manifest(DEMO_BUNDLE).digest
SOME = [LABELS[7], LABELS[3], LABELS[29]]


def new_job(client: FlaskClient, key: str | None = None, **wanted: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/api/v1/jobs", json={"name": "a", "keep": True, **wanted}, headers=headers)


def job_of_some_labels(client: FlaskClient, store: JobStore) -> Job:
    made = new_job(client, labels=SOME)
    assert made.status_code == 201, made.text
    return store.job(made.get_json()["job_id"])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([*SOME, f"{LABELS[5]}x"], f"labels: of the model's 30 classes none is {LABELS[5] + 'x'!r}; the nearest is"),
        ([f"{LABELS[5]}x"], f"the nearest is {LABELS[5]!r}"),
        ([f"{LABELS[5].upper()}X"], f"the nearest is {LABELS[5]!r}"),
        ([], "labels: "),
        ([""], "labels"),
        ("stop", "labels"),
    ],
)
def test_labels_that_the_model_does_not_have_are_refused_by_name(
    client: FlaskClient, labels: Any, words: str
) -> None:
    refused = new_job(client, labels=labels)
    assert refused.status_code == 422
    assert words in refused.get_json()["detail"]


def test_labels_and_scores_are_found_in_any_case_and_with_underscores(client: FlaskClient, store: JobStore) -> None:
    assert LABELS[28] == "road works"
    written = [LABELS[7].upper(), LABELS[3], "Road_Works"]
    made = new_job(client, labels=written, label_min_scores={written[0]: 0.9})
    assert made.status_code == 201, made.text
    job = store.job(made.get_json()["job_id"])
    assert job.model is not None
    assert classes_in(str(job.model.only)) == (3, 7, 28)
    assert job.min_scores.labels == {LABELS[7]: 0.9}
    twice = {LABELS[3]: 0.5, LABELS[3].upper(): 0.6}
    refused = client.put(f"/api/v1/jobs/{job.job_id}/min-scores", json={"label_min_scores": twice})
    assert (refused.status_code, f"{LABELS[3]!r} has two scores" in refused.text) == (422, True)


def test_requests_that_are_too_large_for_the_queue_are_refused_with_the_job(make_app: AppMaker) -> None:
    client = make_app(queues={"max_message_bytes": 1_024}).test_client()
    refused = new_job(client, labels=SOME)
    assert (refused.status_code, "queues.max_message_bytes" in refused.text) == (422, True)
    assert new_job(client).status_code == 201


def test_each_request_and_record_of_the_job_has_its_labels(
    client: FlaskClient, store: JobStore, requests_queue: MemoryQueue
) -> None:
    job = job_of_some_labels(client, store)
    assert job.model is not None
    assert (job.model.bundle, job.model.digest != DIGEST) == (DIGEST, True), "no other worker finds such a bundle"
    assert classes_in(str(job.model.only)) == (3, 7, 29)
    sent = client.post(
        f"/api/v1/jobs/{job.job_id}/images", data={"images": (io.BytesIO(picture()), "a.png")}
    ).get_json()
    [message] = requests_queue.receive()
    request = RequestMessage.from_json(message.body)
    assert request.model == job.requested_model
    record = store.image(ImageRef(job.job_id, sent["accepted"][0]["image_id"]))
    assert record.model == job.requested_model
    assert pack_in(pack_item(Pack.of([record]))).images() == [record]
    assert job_of(job_item(job)) == job


def test_page_api_and_exports_say_which_labels_can_occur(client: FlaskClient, store: JobStore) -> None:
    job = job_of_some_labels(client, store)
    [image] = add_images(store, job, "a.jpg")
    put_results(store, done(image, LABELS[3], 0.9).model_copy(update={"possible_labels": 3}))
    api = f"/api/v1/jobs/{job.job_id}"
    body = client.get(api).get_json()
    assert body["labels"] == [LABELS[3], LABELS[7], LABELS[29]]
    assert body["model"] == {"name": job.model and job.model.name, "digest": DIGEST}
    [line] = client.get(f"{api}/results.jsonl").text.splitlines()
    [row] = csv.DictReader(io.StringIO(client.get(f"{api}/results.csv").text))
    [result] = client.get(f"{api}/results").get_json()["results"]
    assert (json.loads(line)["possible_labels"], row["possible_labels"], result["possible_labels"]) == (3, "3", 3)
    page = client.get(f"/jobs/{job.job_id}").text
    listed = page.partition("3 labels can occur</summary>")[2].partition("</details>")[0]
    assert listed == f"<bdi>{LABELS[3]}</bdi>, <bdi>{LABELS[7]}</bdi>, <bdi>{LABELS[29]}</bdi>"
    whole = new_job(client).get_json()
    assert client.get(whole["links"]["self"]).get_json()["labels"] is None
    assert "can occur" not in client.get(whole["links"]["page"]).text


def test_a_repeated_request_makes_the_same_job_and_one_with_other_labels_is_refused(client: FlaskClient) -> None:
    first = new_job(client, "key", labels=SOME)
    again = new_job(client, "key", labels=[*reversed(SOME), SOME[0]])
    assert (first.status_code, again.get_json()) == (201, first.get_json()), "their order means nothing"
    for other in ({"labels": SOME[:2]}, {}):
        refused = new_job(client, "key", **other)
        assert (refused.status_code, refused.get_json()["code"]) == (422, "idempotency_key_reused")
