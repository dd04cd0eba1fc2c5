"""Readiness tells strangers no more than they need, and asking for it costs next to nothing."""

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


def test_under_sign_in_strangers_are_told_what_is_missing_and_nothing_of_why(
    config: Config, table: Table, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    access = access_of(table, PlayedPool(), Clock())
    answer = create_app(config, auth=access).test_client().get("/readyz")
    assert (answer.status_code, answer.get_json()["missing"]) == (503, {"request queue": "does not answer"})


def test_without_sign_in_the_kind_of_the_error_is_said(
    client: FlaskClient, provisioned: Clients, requests_queue: Queue
) -> None:
    provisioned.sqs.delete_queue(QueueUrl=requests_queue.url)
    [why] = client.get("/readyz").get_json()["missing"].values()
    assert "NonExistentQueue" in why


def test_whoever_asks_all_the_time_does_not_make_us_look_all_the_time(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
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
