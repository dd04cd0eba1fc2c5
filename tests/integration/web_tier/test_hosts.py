"""Which names the page may be called by."""

import json

import pytest
from flask.testing import FlaskClient

from services.clients import Clients
from tests.conftest import ConfigMaker
from web_tier.app import create_app
from web_tier.middleware import claimed_authority, is_own_name

NAMES = {"photos.example.org", "localhost"}


@pytest.mark.parametrize(
    "authority",
    [
        "photos.example.org",
        "PHOTOS.example.ORG",
        "photos.example.org:8443",
        "localhost:8000",
        "127.0.0.1:8000",
        "203.0.113.9",
        "[::1]:8000",
        "[2001:db8::1]",
    ],
)
def test_the_page_answers_to_its_names_and_to_addresses(authority: str) -> None:
    assert is_own_name(authority, NAMES)


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "evil.example",
        "photos.example.org.",
        "photos.example.org.evil.example",
        "evil.example/photos.example.org",
        "evil.example#photos.example.org",
        "user@photos.example.org",
        "photos.example.org:80:80",
        "photos.example.org:port",
        "photos.example.org:",
        "photos.example.org:999999",
        "photos.example.org, evil.example",
        "photos.example.org evil.example",
        " photos.example.org",
        "photos.example.org\n",
        "127.0.0.1.evil.example",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "010.0.0.1",
        "::1",
        "[::1",
        "[127.0.0.1]",
        "[evil.example]",
        "[::1%25eth0]",
        "\u0661\u0662\u0667.0.0.1",
        "\uff4cocalhost",
    ],
)
def test_it_answers_to_nothing_that_only_looks_like_one(authority: str) -> None:
    assert not is_own_name(authority, NAMES)


@pytest.mark.parametrize(
    ("target", "claimed"),
    [
        ("/jobs?next=http://evil.example", None),
        ("*", None),
        ("//evil.example/", None),
        ("http://evil.example/jobs", "evil.example"),
        ("HTTP://a@evil.example:80", "a@evil.example:80"),
        ("http://[/", ""),
    ],
)
def test_a_target_in_absolute_form_claims_a_name_too(target: str, claimed: str | None) -> None:
    assert claimed_authority(target) == claimed


@pytest.fixture
def named(provisioned: Clients, make_config: ConfigMaker) -> FlaskClient:
    return create_app(make_config(web={"hosts": ["photos.example.org"]})).test_client()


def test_a_request_for_another_name_is_refused_as_a_problem_whatever_it_asks(named: FlaskClient) -> None:
    for path in ("/api/v1/jobs", "/healthz", "/api/v1/nowhere"):
        answer = named.get(path, headers={"Host": "evil.example"})
        assert answer.status_code == 421
        assert json.loads(answer.data)["type"] == "urn:fleetsight:problem:misdirected-request"
        assert "web.hosts" in json.loads(answer.data)["detail"]
    page = named.post("/", headers={"Host": "<img onerror=x>"})
    assert (page.status_code, "<img onerror" in page.text) == (421, False)
    assert named.get("/static/fleetsight.css", headers={"Host": "evil.example"}).status_code == 421


def test_a_request_for_one_of_its_names_is_answered(named: FlaskClient) -> None:
    for host in ("photos.example.org", "Photos.Example.Org:443", "localhost", "10.0.0.7:8000", "[::1]"):
        assert named.get("/api/v1/healthz", headers={"Host": host}).status_code == 200


def test_a_target_that_names_another_host_than_the_header_is_refused(named: FlaskClient) -> None:
    def ask(target: str) -> int:
        return named.get("/healthz", headers={"Host": "localhost"}, environ_overrides={"RAW_URI": target}).status_code

    assert ask("http://LOCALHOST/healthz") == ask("/healthz") == 200
    assert ask("http://evil.example/healthz") == ask("http://localhost@evil.example/") == 421


def test_nobody_can_say_the_host_by_another_header(named: FlaskClient) -> None:
    for header in ("X-Forwarded-Host", "X-Host", "X-Original-Host", "Forwarded"):
        sent = {"Host": "evil.example", header: "host=localhost" if header == "Forwarded" else "localhost"}
        assert named.get("/healthz", headers=sent).status_code == 421
