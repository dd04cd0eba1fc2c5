"""The controller's metrics over HTTP: for programs of this machine, and not for pages in its browser."""

import http.client
import logging
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry, Counter

from tests.support.waiting import DEADLINE_SECONDS
from web_tier.controller.metrics_server import serve_metrics


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server with one metric."""
    registry = CollectorRegistry()
    Counter("fleetsight_things", "Things.", registry=registry).inc(3)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    server = serve_metrics(registry, free)
    assert server is not None
    yield free
    server.shutdown()
    server.server_close()


def ask(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Return status and body of the answer; `Host` is the server's address unless it is given."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_SECONDS)) as connection:
        connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        answer = connection.getresponse()
        assert answer.getheader("Access-Control-Allow-Origin") is None
        return answer.status, answer.read().decode()


def test_programs_of_this_machine_read_the_metrics(port: int) -> None:
    status, text = ask(port)
    assert (status, "fleetsight_things_total 3.0\n" in text) == (200, True)
    assert ask(port, Host=f"localhost:{port}")[0] == 200
    assert ask(port, Sec_Fetch_Site="none")[0] == 200, "a person who opens the address"
    assert ask(port, "/")[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 421),
        ({"Host": "127.0.0.1.attacker.example"}, 421),
        ({"Host": "[::1"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_a_page_in_a_browser_of_this_machine_reads_nothing(port: int, headers: dict[str, str], status: int) -> None:
    answered, text = ask(port, **headers)
    assert (answered, "fleetsight_things" in text) == (status, False)


def test_it_listens_on_the_loopback_interface_only_and_only_if_a_port_is_set(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert serve_metrics(CollectorRegistry(), 0) is None
    with caplog.at_level(logging.ERROR):
        assert serve_metrics(CollectorRegistry(), port) is None, "a port in use does not stop the controller"
    assert f"127.0.0.1:{port}" in caplog.text
    assert "metrics.controller_port" in caplog.text
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # of another address the port is free
