"""Whose word is taken for where a client comes from."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from werkzeug.test import Client

from services.clients import Clients
from tests.conftest import ConfigMaker
from web_tier.app import create_app
from web_tier.middleware import PROXY, BehindProxy

TOLD = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
HSTS = "Strict-Transport-Security"


def seen(headers: Mapping[str, str], peer: str) -> dict[str, Any]:
    """Return what an application behind the proxy hears of a request from `peer`."""
    heard: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        heard.update(environ)
        start_response("200 OK", [])
        return [b""]

    Client(BehindProxy(app)).get("/", headers=dict(headers), environ_base={"REMOTE_ADDR": peer})
    return heard


def test_nginx_on_this_machine_is_believed() -> None:
    heard = seen(TOLD, PROXY)
    assert (heard["REMOTE_ADDR"], heard["wsgi.url_scheme"]) == ("203.0.113.9", "https")


def test_what_a_client_has_put_before_the_word_of_nginx_is_not() -> None:
    heard = seen({"X-Forwarded-For": "10.0.0.1, 203.0.113.9", "X-Forwarded-Proto": "http, https"}, PROXY)
    assert (heard["REMOTE_ADDR"], heard["wsgi.url_scheme"]) == ("203.0.113.9", "https")


@pytest.mark.parametrize("peer", ["203.0.113.7", "10.0.0.1", "::1", "127.0.0.2"])
def test_nobody_else_is_believed(peer: str) -> None:
    heard = seen(TOLD, peer)
    assert (heard["REMOTE_ADDR"], heard["wsgi.url_scheme"]) == (peer, "http")


def test_host_port_and_prefix_are_never_taken_from_a_proxy() -> None:
    heard = seen(
        {**TOLD, "X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/x"}, PROXY
    )
    assert (heard["HTTP_HOST"], heard["SERVER_PORT"], heard["SCRIPT_NAME"]) == ("localhost", "80", "")


@pytest.mark.parametrize("behind", [True, False])
def test_the_proxys_word_counts_only_where_the_configuration_says_that_there_is_one(
    provisioned: Clients, make_config: ConfigMaker, behind: bool
) -> None:
    client = create_app(make_config(web={"behind_proxy": behind})).test_client()
    answer = client.get("/healthz", headers=TOLD, environ_base={"REMOTE_ADDR": PROXY})
    assert (HSTS in answer.headers) is behind


def test_tls_is_asked_for_from_then_on_by_tls_alone(provisioned: Clients, make_config: ConfigMaker) -> None:
    client = create_app(make_config()).test_client()
    assert client.get("/healthz", base_url="https://localhost").headers[HSTS] == "max-age=31536000"
    assert client.get("/nowhere", base_url="https://localhost").headers[HSTS] == "max-age=31536000"
    assert HSTS not in client.get("/healthz").headers
