"""Everything that goes wrong is told in one form, and never more than the user can use."""

import json
import logging

import pytest
from botocore.exceptions import EndpointConnectionError
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config
from core.ids import is_id
from core.logs import JsonFormatter
from services.table import TableBusyError
from web_tier.app import create_app
from web_tier.problems import ProblemType
from web_tier.uploads.memory_limiter import BusyError


def test_a_program_gets_problem_json_and_a_person_a_page(client: FlaskClient) -> None:
    for_programs = client.get("/api/v1/nowhere")
    assert for_programs.content_type == "application/problem+json"
    body = json.loads(for_programs.data)
    assert (body["type"], body["status"]) == ("urn:fleetsight:problem:not-found", 404)
    assert body["request_id"] == for_programs.headers["X-Request-Id"]
    for_people = client.get("/nowhere")
    assert for_people.status_code == 404
    assert for_people.headers["X-Request-Id"] in for_people.text


@pytest.mark.parametrize(
    "error", [EndpointConnectionError(endpoint_url="http://inside"), TableBusyError("inside"), BusyError("inside")]
)
def test_a_service_that_does_not_answer_is_a_503_that_tells_nothing_of_the_inside(
    app: Flask, error: Exception
) -> None:
    answer = _failing(app, error).get("/api/fails")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "inside" not in answer.text


def test_a_defect_is_a_500_with_the_trace_in_the_log_only(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    answer = _failing(app, RuntimeError("the inside")).get("/fails")
    assert answer.status_code == 500
    assert "inside" not in answer.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert vars(record)["request_id"] == answer.headers["X-Request-Id"]


def _failing(app: Flask, error: Exception) -> FlaskClient:
    def fail() -> str:
        raise error

    app.add_url_rule("/api/fails", "api_fails", fail)
    app.add_url_rule("/fails", "fails", fail)
    return app.test_client()


def test_a_wrong_method_is_told_which_are_right(client: FlaskClient) -> None:
    answer = client.delete("/api/v1/jobs")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")


def test_each_request_has_a_line_of_the_log_that_its_address_cannot_forge(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = client.get('/x%0a{"level":"forged"}')
    [record] = [record for record in caplog.records if record.name == "web_tier.middleware"]
    line = JsonFormatter("web").format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["request_id"]) == ("GET 404", answer.headers["X-Request-Id"])
    assert found["path"] == '/x\n{"level":"forged"}'
    assert is_id(found["request_id"])


def test_the_application_starts_without_any_service(config: Config) -> None:
    unreachable = config.model_copy(
        update={"aws": config.aws.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})}
    )
    assert create_app(unreachable).test_client().get("/healthz").status_code == 200


def test_a_problem_without_a_type_of_its_own_says_no_more_than_its_status() -> None:
    assert ProblemType.from_name("I'm a teapot") == "about:blank"
    assert ProblemType.from_name("Not Found") == "urn:fleetsight:problem:not-found"
