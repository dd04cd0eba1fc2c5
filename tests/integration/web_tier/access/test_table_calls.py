"""Ownership costs nothing where there is no sign-in: the table is not called more often than before there was any."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.clients import Clients
from tests.support.pictures import picture
from web_tier.backend import current_backend

PICTURE = picture()


@contextmanager
def counted(clients: Clients) -> Iterator[Counter[str]]:
    """Count the calls of the job table, by operation, while the context lasts."""
    calls: Counter[str] = Counter()

    def note(model: Any, **_more: Any) -> None:
        calls[model.name] += 1

    clients.dynamodb.meta.events.register("before-call.dynamodb", note)
    try:
        yield calls
    finally:
        clients.dynamodb.meta.events.unregister("before-call.dynamodb", note)


def clients_of(app: Flask) -> Clients:
    """Return those that the web tier calls the table with."""
    with app.app_context():
        return current_backend().shared_clients()


def form() -> dict[str, Any]:
    """Return two images as a form has them."""
    return {"files": [(BytesIO(PICTURE), "a.jpg"), (BytesIO(picture(shade=9)), "b.jpg")]}


def single(web: FlaskClient) -> TestResponse:
    """Send an image alone."""
    return web.post("/api/v1/classify?wait=0", data=PICTURE, content_type="image/jpeg")


Step = Callable[[FlaskClient, str, str], TestResponse]
BEFORE: list[tuple[str, int, Step]] = [
    ("a job", 2, lambda web, _job, _image: web.post("/api/v1/jobs")),
    ("a job once", 5, lambda web, _job, _image: web.post("/api/v1/jobs", headers={"Idempotency-Key": "k"})),
    ("an upload", 5, lambda web, job, _image: web.post(f"/api/v1/jobs/{job}/images", data=form())),
    ("the form", 6, lambda web, _job, _image: web.post("/", data=form())),
    ("the first single image", 5, lambda web, _job, _image: single(web)),
    ("another single image", 5, lambda web, _job, _image: single(web)),
    ("the status", 3, lambda web, job, _image: web.get(f"/api/v1/jobs/{job}")),
    ("results", 4, lambda web, job, _image: web.get(f"/api/v1/jobs/{job}/results")),
    ("all results", 4, lambda web, job, _image: web.get(f"/api/v1/jobs/{job}/results.csv")),
    ("an image", 3, lambda web, job, image: web.get(f"/api/v1/jobs/{job}/images/{image}")),
    ("a ticket", 2, lambda web, job, image: web.get(f"/predictions/{job}-{image}")),
    ("a thumbnail", 1, lambda web, job, image: web.get(f"/jobs/{job}/images/{image}/thumbnail")),
    ("the page of a job", 7, lambda web, job, _image: web.get(f"/jobs/{job}")),
    ("the page of an image", 4, lambda web, job, image: web.get(f"/jobs/{job}/images/{image}")),
    ("rows", 4, lambda web, job, _image: web.get(f"/jobs/{job}/rows")),
    ("progress", 3, lambda web, job, _image: web.get(f"/jobs/{job}/progress")),
    ("a list", 1, lambda web, _job, _image: web.get("/api/v1/jobs")),
    ("the page of all jobs", 12, lambda web, _job, _image: web.get("/jobs")),
    ("a retry", 2, lambda web, job, _image: web.post(f"/api/v1/jobs/{job}/retry")),
    ("a deletion", 3, lambda web, job, _image: web.delete(f"/api/v1/jobs/{job}")),
]
"""Calls of the table for each step as the web tier made them when jobs had no owners. There is one more where images
are recorded (is their job being deleted?) and where results are listed (which requests were sent again?)."""


def test_no_step_calls_the_table_more_often_than_before_jobs_had_owners(app: Flask, client: FlaskClient) -> None:
    job = client.post("/api/v1/jobs").get_json()["job_id"]
    image = client.post(f"/api/v1/jobs/{job}/images", data=form()).get_json()["accepted"][0]["image_id"]
    more = {}
    for name, most, step in BEFORE:
        with counted(clients_of(app)) as calls:
            answer = step(client, job, image)
            answer.get_data()
        assert answer.status_code < 400, (name, answer.text)
        if calls.total() > most:
            more[name] = (calls, most)
    assert more == {}
