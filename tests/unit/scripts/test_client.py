"""A token goes to its own server alone, and never where others can read it (row 42)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from flask import Flask, request

from fleetsight_client.api import TOKEN_VARIABLE, ApiClient, ApiError, token_from_environment
from scripts.load.runner import ClassicClient
from tests.support.servers import served

TOKEN = "fst_secret"


@dataclass
class Heard:
    """A server that answers everything with `status`, and the credentials that it received."""

    url: str = ""
    status: int = 200
    location: str | None = None
    authorizations: list[str | None] = field(default_factory=list)

    def answer(self) -> tuple[dict[str, str], int, dict[str, str]]:
        """Answer a request."""
        self.authorizations.append(request.headers.get("Authorization"))
        return {}, self.status, {} if self.location is None else {"Location": self.location}


@pytest.fixture
def heard() -> Iterator[Heard]:
    app, heard = Flask("heard"), Heard()
    app.before_request(heard.answer)
    with served(app) as heard.url:
        yield heard


def test_each_api_call_sends_the_token(heard: Heard) -> None:
    ApiClient(heard.url, token=TOKEN).status("a")
    ApiClient(heard.url).status("a")
    assert heard.authorizations == [f"Bearer {TOKEN}", None]


def test_a_classic_client_sends_the_token(heard: Heard) -> None:
    ClassicClient(heard.url, 5.0, TOKEN).post("a.png", b"")
    assert heard.authorizations == [f"Bearer {TOKEN}"]


def test_a_redirect_does_not_forward_the_token(heard: Heard) -> None:
    heard.status, heard.location = 302, f"{heard.url}/elsewhere"
    with pytest.raises(ApiError, match="302"):
        ApiClient(heard.url, token=TOKEN).status("a")
    assert len(heard.authorizations) == 1


def test_the_token_is_never_sent_unencrypted() -> None:
    with pytest.raises(ApiError, match=f"would show the token .{TOKEN_VARIABLE}. to everybody on the way: use https"):
        ApiClient("http://photos.example.org", token=TOKEN)
    assert TOKEN not in repr(ApiClient("https://photos.example.org", token=TOKEN))


def test_an_unauthorized_call_says_how_to_get_a_token(heard: Heard) -> None:
    heard.status = 401
    with pytest.raises(ApiError, match=f"put it into {TOKEN_VARIABLE}"):
        ApiClient(heard.url).status("a")


def test_the_token_comes_from_the_environment_unless_it_is_empty() -> None:
    assert token_from_environment({TOKEN_VARIABLE: f"{TOKEN}\n"}) == TOKEN
    assert token_from_environment({TOKEN_VARIABLE: " "}) is token_from_environment({}) is None
