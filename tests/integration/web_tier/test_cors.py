"""Pages of the configured origins may call the API; nobody else's, and nothing else."""

import pytest
from flask.testing import FlaskClient

from services.clients import Clients
from tests.conftest import ConfigMaker
from web_tier.app import create_app

FRIEND, STRANGER = "https://photos.example.org", "https://evil.example"
CROSS = {"Sec-Fetch-Site": "cross-site"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "idempotency-key"}


@pytest.fixture
def client(make_config: ConfigMaker, provisioned: Clients) -> FlaskClient:
    return create_app(make_config(web={"cors_origins": [FRIEND]})).test_client()


def test_a_page_of_a_configured_origin_may_create_a_job_and_read_the_answer(client: FlaskClient) -> None:
    preflight = client.options("/api/v1/jobs", headers={"Origin": FRIEND, **CROSS, **PREFLIGHT})
    assert preflight.status_code == 204
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    for header in ("Authorization", "Idempotency-Key"):
        assert header in preflight.headers["Access-Control-Allow-Headers"]
    answer = client.post("/api/v1/jobs", headers={"Origin": FRIEND, **CROSS})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, FRIEND)
    assert "Location" in answer.headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("path", ["/api/v1/jobs/x", "/api/v1/nothing", "/api/v1/jobs?limit=0"])
def test_it_may_read_errors_too(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers={"Origin": FRIEND, **CROSS})
    assert (answer.status_code >= 400, answer.headers["Access-Control-Allow-Origin"]) == (True, FRIEND)


@pytest.mark.parametrize(
    "origin", [STRANGER, "null", "https://photos.example.org.evil.example", "http://photos.example.org"]
)
def test_pages_of_other_origins_may_not(client: FlaskClient, origin: str) -> None:
    headers = {"Origin": origin, **CROSS}
    assert client.post("/api/v1/jobs", headers=headers).status_code == 403
    for answer in (
        client.options("/api/v1/jobs", headers=headers | PREFLIGHT),
        client.post("/api/v1/jobs", headers=headers),
        client.get("/api/v1/jobs", headers=headers),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_even_a_configured_origin_may_not_send_the_pages_form(client: FlaskClient) -> None:
    answer = client.post("/", headers={"Origin": FRIEND, **CROSS})
    assert answer.status_code == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_without_configuration_nobody_may(config_client: FlaskClient) -> None:
    assert config_client.post("/api/v1/jobs", headers={"Origin": FRIEND, **CROSS}).status_code == 403


@pytest.fixture
def config_client(make_config: ConfigMaker, provisioned: Clients) -> FlaskClient:
    return create_app(make_config()).test_client()


def test_a_star_stands_for_every_origin(make_config: ConfigMaker, provisioned: Clients) -> None:
    client = create_app(make_config(web={"cors_origins": ["*"]})).test_client()
    answer = client.post("/api/v1/jobs", headers={"Origin": STRANGER, **CROSS})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (201, STRANGER)
