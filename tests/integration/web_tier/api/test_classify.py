"""One image in, its prediction out: `/api/v1/classify`, the asynchronous pair, the poster."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.jobs.store import JobStore
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.api.conftest import AnsweringQueue
from tests.support.jobs import NOBODY, done, failed
from tests.support.pictures import picture
from web_tier.app import create_app

CLASSIFY = "/api/v1/classify"
SENT = base64.b64encode(picture()).decode()


def problem(answer: TestResponse, status: int) -> str:
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    return str(json.loads(answer.data)["detail"])


# POST /api/v1/classify


@pytest.mark.parametrize(
    ("request_", "filename"),
    [
        ({"data": {"f": (BytesIO(picture()), "a.jpg")}}, "a.jpg"),
        ({"data": picture(), "content_type": "image/jpeg", "query_string": {"name": "dir/b.jpg"}}, "b.jpg"),
        ({"data": picture(), "content_type": "application/octet-stream"}, "unnamed"),
        ({"json": {"data": SENT}}, "unnamed"),
        ({"json": {"name": "c.jpg", "data": f"data:image/jpeg;base64,{SENT}"}}, "c.jpg"),
    ],
)
def test_an_image_is_answered_with_its_prediction(
    asking: FlaskClient, request_: dict[str, Any], filename: str
) -> None:
    answer = asking.post(CLASSIFY, **request_)
    body = answer.get_json()
    assert answer.status_code == 200
    assert (body["status"], body["label"], body["filename"]) == ("done", "stop sign", filename)
    assert asking.get(body["location"]).get_json()["label"] == "stop sign"


def test_who_does_not_wait_is_told_where_to_look(asking: FlaskClient, fleet: AnsweringQueue, store: JobStore) -> None:
    fleet.answer = lambda record: None
    answer = asking.post(f"{CLASSIFY}?wait=0", json={"data": SENT})
    assert (answer.status_code, answer.get_json()["status"]) == (202, "waiting")
    assert answer.headers["Location"] == answer.get_json()["location"]
    assert asking.get(answer.headers["Location"]).get_json()["status"] == "waiting"
    store.put_done([done(store.image(fleet.images[0]))])
    assert asking.get(answer.headers["Location"]).get_json()["label"] == "stop sign"


def test_who_waits_in_vain_is_told_where_to_look(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: None
    assert asking.post(f"{CLASSIFY}?wait=1", json={"data": SENT}).status_code == 202


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", "", "100000", "²"])
def test_a_wait_out_of_range_is_refused(asking: FlaskClient, fleet: AnsweringQueue, wait: str) -> None:
    detail = problem(asking.post(CLASSIFY, json={"data": SENT}, query_string={"wait": wait}), 400)
    assert detail.startswith("wait: ")
    assert fleet.images == []


def test_an_image_that_cannot_be_classified_is_a_problem_with_the_reason(
    asking: FlaskClient, fleet: AnsweringQueue
) -> None:
    fleet.answer = failed
    assert "crashed" in problem(asking.post(CLASSIFY, json={"data": SENT}), 422)


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"data": b"text", "content_type": "image/png"}, 422, "not an image"),
        ({"data": b"", "content_type": "image/png"}, 422, "empty"),
        ({"data": b"x", "content_type": "text/html"}, 415, "multipart/form-data"),
        ({"data": b"x"}, 415, "without a type"),
        ({"data": {"a": "b"}, "content_type": "multipart/form-data"}, 422, "no file"),
        ({"data": b"{", "content_type": "application/json"}, 422, '{"name": "a.jpg"'),
        ({"json": {"name": "x"}}, 422, "data: Field required"),
        ({"json": {"data": "***"}}, 422, "not base64"),
        ({"json": {"data": "ä"}}, 422, "not base64"),
        ({"json": {"data": base64.b64encode(b"text").decode()}}, 422, "not an image"),
        (
            {"data": picture(), "content_type": "image/jpeg", "headers": {"Origin": "http://evil"}},
            403,
            "another site",
        ),
    ],
)
def test_what_is_no_image_is_refused_with_what_to_do(
    asking: FlaskClient, fleet: AnsweringQueue, request_: dict[str, Any], status: int, said: str
) -> None:
    assert said in problem(asking.post(CLASSIFY, **request_), status)
    assert fleet.images == []


@pytest.mark.parametrize(
    "request_",
    [
        {"data": bytes(3_000), "content_type": "image/png"},
        {"data": {"f": (BytesIO(bytes(3_000)), "a.jpg")}},
        {"json": {"data": "A" * 100_000}},
    ],
)
def test_what_is_too_large_is_refused(
    make_config: ConfigMaker, provisioned: Clients, request_: dict[str, Any]
) -> None:
    client = create_app(make_config(web={"max_image_bytes": 2_000})).test_client()
    assert "shrink" in problem(client.post(CLASSIFY, **request_), 413)


def test_what_is_read_is_given_back_to_the_budget(asking: FlaskClient, answering: Any, fleet: AnsweringQueue) -> None:
    for request_ in ({"json": {"data": SENT}}, {"data": b"x", "content_type": "image/png"}, {"data": {"a": "b"}}):
        asking.post(CLASSIFY, **request_)
    budget = answering.extensions["fleetsight"].reading
    assert budget._free == budget._capacity


# The asynchronous pair


@pytest.mark.parametrize("path", ["/inference/image", "/inference/image/"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_label_is_asked_for_with_the_uuid_that_the_image_got(
    asking: FlaskClient, path: str, content_type: str
) -> None:
    body = json.dumps({"name": "a.jpg", "data": SENT})
    answer = asking.post(path, data=body, content_type=content_type)
    assert (answer.status_code, list(answer.get_json())) == (200, ["uuid"])
    for address in (f"/predictions/{answer.get_json()['uuid']}", f"/predictions/{answer.get_json()['uuid']}/"):
        found = asking.get(address)
        assert (found.status_code, found.get_json()) == (200, {"prediction": "stop sign"})


def test_a_label_that_is_not_known_yet_is_202(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: None
    uuid = asking.post("/inference/image", json={"name": "a.jpg", "data": SENT}).get_json()["uuid"]
    found = asking.get(f"/predictions/{uuid}")
    assert (found.status_code, found.get_json()) == (202, {"prediction": None})


def test_an_image_without_a_label_says_why(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = failed
    uuid = asking.post("/inference/image", json={"name": "a.jpg", "data": SENT}).get_json()["uuid"]
    assert "crashed" in problem(asking.get(f"/predictions/{uuid}"), 422)


@pytest.mark.parametrize("uuid", ["x", "-", NOBODY, f"{NOBODY}-{NOBODY}", "0f8fad5b-d9cb-469f-a165-70867728950e"])
def test_an_id_that_is_not_known_is_404(asking: FlaskClient, uuid: str) -> None:
    problem(asking.get(f"/predictions/{uuid}"), 404)


def test_what_is_no_image_gets_no_uuid(asking: FlaskClient) -> None:
    assert "not an image" in problem(asking.post("/inference/image", json={"name": "a", "data": "AAAA"}), 422)


# The poster


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_poster_gets_what_to_say_about_its_image(asking: FlaskClient, content_type: str) -> None:
    body = json.dumps({"data": f"data:image/png;base64,{SENT}"})
    answer = asking.post("/classify", data=body, content_type=content_type)
    assert (answer.status_code, answer.mimetype, answer.get_json()) == (200, "application/json", "stop sign")


def test_a_poster_gets_the_sentence_of_the_label_where_the_bundle_has_one(
    make_config: ConfigMaker, provisioned: Clients, fleet: AnsweringQueue, tmp_path: Path
) -> None:
    words = {"labels": ["stop sign", "yield sign"], "messages": {"stop sign": "Stop: look both ways."}}
    (tmp_path / "bundle.json").write_text(json.dumps(words))
    client = create_app(make_config(worker={"bundle": str(tmp_path)}), request_queue=fleet).test_client()
    assert client.post("/classify", json={"data": SENT}).get_json() == "Stop: look both ways."


@pytest.mark.parametrize(("data", "status"), [(SENT, 200), ("AAAA", 422)])
def test_a_poster_on_an_allowed_site_may_read_answers_and_errors(
    make_config: ConfigMaker, provisioned: Clients, fleet: AnsweringQueue, data: str, status: int
) -> None:
    origin = "https://posters.example.org"
    client = create_app(make_config(web={"cors_origins": [origin]}), request_queue=fleet).test_client()
    answer = client.post("/classify", json={"data": data}, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, origin)
