"""Health and readiness of a web process."""

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config
from services.clients import Clients
from services.sqs import Queue
from services.table import Table
from tests.support.people import Clock, PlayedPool, access_of
from web_tier import backend
from web_tier.app import create_app


@pytest.mark.parametrize("prefix", ["", "/api/v1"])
def test_the_process_is_ready_if_bucket_table_and_queue_respond(client: FlaskClient, prefix: str) -> None:
    assert client.get(f"{prefix}/healthz").get_json() == {"status": "alive"}
    assert client.get(f"{prefix}/readyz").get_json() == {"ready": True, "missing": {}}


def test_an_unready_process_names_the_missing_service(
    client: FlaskClient, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    answer = client.get("/readyz")
    assert (answer.status_code, list(answer.get_json()["missing"])) == (503, ["request queue"])
    assert requests_queue.url not in answer.text


def test_with_sign_in_readiness_hides_the_kind_of_the_error(
    config: Config, table: Table, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    access = access_of(table, PlayedPool(), Clock())
    answer = create_app(config, auth=access).test_client().get("/readyz")
    assert (answer.status_code, answer.get_json()["missing"]) == (503, {"request queue": "does not answer"})


def test_without_sign_in_readiness_shows_the_kind_of_the_error(
    client: FlaskClient, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    [why] = client.get("/readyz").get_json()["missing"].values()
    assert "NonExistentQueue" in why


def test_frequent_readiness_requests_share_one_check(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked = 100.0, 0

    def look(_: object) -> dict[str, str]:
        nonlocal looked
        looked += 1
        return {}

    monkeypatch.setattr(backend.Backend, "_found_faults", look)
    monkeypatch.setattr("web_tier.backend.time.monotonic", lambda: now)
    client = app.test_client()
    assert [client.get("/readyz").status_code for _ in range(9)] == [200] * 9
    assert looked == 1
    now += backend.CHECKED_SECONDS + 0.1
    client.get("/readyz")
    assert looked == 2
