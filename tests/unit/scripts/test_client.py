"""A token goes to its own server alone, and never where others can read it (row 42)."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.client import TOKEN_VARIABLE, ApiClient, ApiError, token_from_environment
from scripts.load.classic import ClassicClient
from scripts.load.inputs import parse_target

TOKEN = "fst_secret"


@dataclass
class Heard:
    """A server that answers everything with `status`, and what it was told of who asks."""

    url: str
    status: int = 200
    location: str | None = None
    authorizations: list[str | None] = field(default_factory=list)


@pytest.fixture
def heard() -> Iterator[Heard]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said.authorizations.append(self.headers.get("Authorization"))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(said.status)
            if said.location is not None:
                self.send_header("Location", said.location)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        said = Heard(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield said
        server.shutdown()


def test_each_call_of_the_api_carries_the_token(heard: Heard) -> None:
    ApiClient(heard.url, token=TOKEN).status("a")
    ApiClient(heard.url).status("a")
    assert heard.authorizations == [f"Bearer {TOKEN}", None]


def test_a_classic_client_carries_it_too(heard: Heard) -> None:
    target = parse_target(heard.url, anywhere=False)
    ClassicClient(target, "/", "myfile", 5.0, TOKEN).post("a.png", b"")
    assert heard.authorizations == [f"Bearer {TOKEN}"]


def test_a_form_for_the_bucket_does_not(heard: Heard) -> None:
    ApiClient(heard.url, token=TOKEN).send_form(f"{heard.url}/bucket", {"key": "k"}, "a.png", b"")
    assert heard.authorizations == [None]


def test_a_redirect_does_not_lead_it_elsewhere(heard: Heard) -> None:
    heard.status, heard.location = 302, f"{heard.url}/elsewhere"
    with pytest.raises(ApiError, match="302"):
        ApiClient(heard.url, token=TOKEN).status("a")
    assert len(heard.authorizations) == 1


def test_it_goes_over_no_network_in_the_clear() -> None:
    with pytest.raises(ApiError, match=f"would show the token .{TOKEN_VARIABLE}. to everybody on the way: use https"):
        ApiClient("http://photos.example.org", token=TOKEN)
    assert TOKEN not in repr(ApiClient("https://photos.example.org", token=TOKEN))


def test_without_a_token_a_refusal_says_how_to_get_one(heard: Heard) -> None:
    heard.status = 401
    with pytest.raises(ApiError, match=f"put it into {TOKEN_VARIABLE}"):
        ApiClient(heard.url).status("a")


def test_it_is_taken_from_the_environment_and_an_empty_one_is_none() -> None:
    assert token_from_environment({TOKEN_VARIABLE: f"{TOKEN}\n"}) == TOKEN
    assert token_from_environment({TOKEN_VARIABLE: " "}) is token_from_environment({}) is None
