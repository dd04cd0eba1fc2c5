"""`report_ready.py` against a page and a metadata service that are there."""

import http.server
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ami.files.web.opt.fleetsight import report_ready
from ami.files.web.opt.fleetsight.prepare_web import self_signed
from scripts.run.system import free_port
from tests.support.metadata_service import INSTANCE_ID, MetadataService
from tests.support.served import serving
from tests.support.stubs import stubbed


class Page(http.server.ThreadingHTTPServer):
    """A page with a certificate of its own; a test says how healthy it is."""

    status = 200


class Handler(http.server.BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    page = Page(("127.0.0.1", 0), Handler)
    page.socket = context.wrap_socket(page.socket, server_side=True)
    with serving(page):
        yield page


@pytest.mark.parametrize(("status", "answers"), [(200, True), (502, False)])
def test_the_page_answers_when_it_is_healthy(page: Page, status: int, answers: bool) -> None:
    page.status = status
    assert report_ready.page_answers(port=page.server_port) is answers


def test_where_nothing_listens_yet_the_page_does_not_answer() -> None:
    assert not report_ready.page_answers(port=free_port())


def test_the_instance_signals_under_its_own_id_and_in_its_own_region(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str | None]] = []
    with MetadataService.serve() as metadata, stubbed("cloudformation") as stub:
        metadata.answers["placement/region"] = [(200, "eu-central-1")]
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        wanted = {"StackName": "fs", "LogicalResourceId": "WebGroup", "UniqueId": INSTANCE_ID, "Status": "FAILURE"}
        stub.add_response("signal_resource", {}, wanted)

        def client_of(service: str, region: str, endpoint_url: str | None) -> Any:
            asked.append((service, region, endpoint_url))
            return stub.client

        monkeypatch.setattr(report_ready, "client_of", client_of)
        report_ready.main(["--failed"], {"FLEETSIGHT_STACK": "fs"})
    assert asked == [("cloudformation", "eu-central-1", None)]


def test_without_metadata_the_program_says_so_and_does_not_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with MetadataService.serve() as metadata:
        metadata.token_status = 500
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        report_ready.main(["--failed"], {"FLEETSIGHT_STACK": "fs", "FLEETSIGHT__AWS__REGION": "us-east-1"})
    assert "answered 500" in capsys.readouterr().out
