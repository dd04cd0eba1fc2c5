"""Row 37: bodies that are too large, have too many parts, come too slowly or break off; memory stays bounded."""

import re
import socket
import subprocess
import sys
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from core.config import WebSettings
from services.clients import Clients
from tests.conftest import ROOT, ConfigMaker
from tests.support import fixtures
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.app import SMALL_BODY_BYTES, create_app
from web_tier.uploads.multipart import SPARE_PARTS


@pytest.fixture
def tight(provisioned: Clients, make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A web tier that takes two files of 2 kB each and 20 kB in all."""
    monkeypatch.setattr(WebSettings, "max_files_per_request", 2)
    limits = {"max_image_bytes": 2_000, "max_request_bytes": 20_000}
    return create_app(make_config(web=limits)).test_client()


@pytest.mark.parametrize(
    ("path", "sent", "counted"),
    [
        ("/api/v1/fleet/pause", {"data": b"{" + b" " * SMALL_BODY_BYTES}, "has 65537 bytes"),
        ("/", {"data": {"f": (BytesIO(b"x" * 30_000), "a.jpg")}}, "has 0.028"),
        ("/", {"data": {"f": [(BytesIO(b"x"), "a.jpg") for _ in range(3)]}}, "more than 2 files"),
        ("/", {"data": {f"field {number}": "x" for number in range(SPARE_PARTS + 3)}}, f"more than {SPARE_PARTS}"),
        ("/api/v1/classify", {"data": b"x" * 30_000, "content_type": "image/jpeg"}, "0.0 MB is more than"),
        ("/api/v1/classify", {"json": {"data": "A" * 100_000}}, "has 0.09538 MB"),
        ("/classify-image", {"data": {"f": (BytesIO(b"x" * 30_000), "a.jpg")}}, "has 0.028"),
    ],
    ids=["json", "form", "files", "fields", "image", "base64", "classic"],
)
def test_what_is_too_large_gets_a_413_with_a_sentence(
    tight: FlaskClient, path: str, sent: dict[str, Any], counted: str
) -> None:
    if path == "/" and "f" not in sent["data"]:
        sent = {**sent, "content_type": "multipart/form-data"}
    answer = tight.post(path, **sent, headers={"Accept": "text/html"})
    assert answer.status_code == 413
    assert counted in answer.text
    assert len(re.sub("<[^>]*>", "", answer.text).split()) > 5


class Stalled:
    """A client that sends nothing."""

    def read(self, _: int = -1, /) -> bytes:
        raise TimeoutError


def stalled(connection: socket.socket) -> dict[str, object]:
    """Return what gunicorn says of a request whose body does not come."""
    return {"gunicorn.socket": connection, "wsgi.input": Stalled(), "CONTENT_LENGTH": "10"}


connection = fixtures.connection


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/api/v1/jobs", "application/json"), ("/", "multipart/form-data; boundary=b"), ("/classify", "image/jpeg")],
)
def test_a_body_that_stalls_gets_a_408_that_says_so(
    client: FlaskClient, connection: socket.socket, path: str, kind: str
) -> None:
    answer = client.post(
        path,
        content_type=kind,
        environ_overrides=stalled(connection),
    )
    assert answer.status_code == 408
    assert "stalled after 0 of 10 bytes" in answer.text
    assert connection.recv(1) == b"", "the rest of the body is not waited for"


PROGRAM = """
from pathlib import Path
from web_tier.http.memory import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

return_freed_memory()
bytes(4_000_000)  # once freed, blocks of this size are kept from here on, unless configured otherwise
before = resident()
blocks = [bytearray(1_000_000) for _ in range(100)]
for block in blocks:
    block[::4096] = bytes(len(range(0, 1_000_000, 4096)))
last = bytearray(1_000_000)  # above the others, so that a heap cannot shrink
del blocks, block
print(resident() - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_that_are_freed_go_back_to_the_system() -> None:
    command = [sys.executable, "-c", PROGRAM]
    kept = int(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=DEADLINE_SECONDS).stdout)
    assert kept < 20_000_000
