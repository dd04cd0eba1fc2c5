"""The instance metadata service, version 2, on loopback."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from services.errors import MetadataError
from services.metadata import Metadata

pytestmark = pytest.mark.processes


class Service(ThreadingHTTPServer):
    """Answers what `documents` holds to those who show a token that it gave."""

    documents: dict[str, str]
    tokens: int
    status: int


class Handler(BaseHTTPRequestHandler):
    """IMDSv2: PUT for a token, GET with it."""

    server: Service

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
        self.server.tokens += 1
        self._answer(self.server.status, f"token-{self.server.tokens}")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != f"token-{self.server.tokens}":
            self._answer(401, "")
            return
        document = self.server.documents.get(self.path.removeprefix("/latest/"))
        self._answer(404 if document is None else 200, document or "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Handler) as server:
        server.documents = {"meta-data/instance-id": "i-1", "meta-data/placement/region": "eu-west-1"}
        server.tokens, server.status = 0, 200
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def metadata(service: Service, clock: list[float]) -> Metadata:
    return Metadata(f"http://127.0.0.1:{service.server_port}", clock=lambda: clock[0])


def test_identity_is_read_with_one_token_that_is_renewed_when_it_ages(service: Service) -> None:
    clock = [0.0]
    client = metadata(service, clock)
    assert (client.instance_id(), client.region()) == ("i-1", "eu-west-1")
    assert service.tokens == 1
    clock[0] = 20_000
    assert client.instance_id() == "i-1"
    assert service.tokens == 2


def test_there_is_no_spot_notice_until_there_is_one(service: Service) -> None:
    client = metadata(service, [0.0])
    assert client.spot_action() is None
    service.documents["meta-data/spot/instance-action"] = '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'
    assert client.spot_action() == "terminate"


@pytest.mark.parametrize("notice", ["", "soon", "[]", "{}"])
def test_a_spot_notice_that_cannot_be_read_is_told(service: Service, notice: str) -> None:
    service.documents["meta-data/spot/instance-action"] = notice
    with pytest.raises(MetadataError, match="has no action"):
        metadata(service, [0.0]).spot_action()


def test_what_is_missing_is_named(service: Service) -> None:
    del service.documents["meta-data/placement/region"]
    with pytest.raises(MetadataError, match="has no meta-data/placement/region"):
        metadata(service, [0.0]).region()


def test_a_service_that_refuses_is_told(service: Service) -> None:
    service.status = 403
    with pytest.raises(MetadataError, match="answered 403"):
        metadata(service, [0.0]).instance_id()


def test_a_machine_that_is_no_instance_is_told_so() -> None:
    with pytest.raises(MetadataError, match="this is no EC2 instance"):
        Metadata("http://127.0.0.1:9", timeout_seconds=0.5).instance_id()


def test_the_address_is_that_which_boto3_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1234/")
    assert Metadata().endpoint == "http://127.0.0.1:1234"
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
    assert Metadata().endpoint == "http://169.254.169.254"
