"""Where the sign-in leads back to: whatever a link says, it is a page of ours."""

from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from flask import Request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from web_tier.access.own_path import MAX_CHARACTERS, own_path, sign_in_for

HERE = "https://here.example/sign-in"


def as_browsers_read_it(address: str) -> str:
    """Return an address as the URL standard has browsers read it (https://url.spec.whatwg.org/#url-parsing)."""
    return address.strip("".join(map(chr, range(33)))).translate({9: None, 10: None, 13: None}).replace("\\", "/")


@given(st.one_of(st.text(), st.text("/\\\t\n\r .:@?#ehtpsvilx%", max_size=12).map("/".__add__)))
@example("//evil.example")
@example("/\\evil.example")
@example("/\t/evil.example")
@example("\x00//evil.example")
@example("https://evil.example")
@example("javascript:alert(1)")
def test_it_is_always_on_this_site(text: str) -> None:
    path = own_path(text)
    there = urlsplit(urljoin(HERE, as_browsers_read_it(path)))
    assert (there.scheme, there.netloc) == ("https", "here.example")


@pytest.mark.parametrize("path", ["/", "/jobs?q=a%20b&before=x", "/jobs/01KAH8Z9M5J6C0Q2V4T7W1X3YD#x", "/é"])
def test_our_own_pages_stay_as_they_are(path: str) -> None:
    assert own_path(path) == path


def test_a_path_that_is_too_long_is_the_first_page() -> None:
    assert own_path("/" + "x" * MAX_CHARACTERS) == "/"


def asked_for(path: str, query: str = "") -> Request:
    return Request(EnvironBuilder(path=path, query_string=query).get_environ())


def test_the_address_of_the_sign_in_holds_the_page_that_was_asked_for_with_its_query() -> None:
    location = sign_in_for(asked_for("/jobs", "q=a%26b&before=x"))
    assert parse_qs(urlsplit(location).query) == {"next": ["/jobs?q=a%26b&before=x"]}


def test_the_first_page_needs_no_saying() -> None:
    assert sign_in_for(asked_for("/")) == "/sign-in"


@given(st.text(), st.text(st.characters(codec="latin-1")))
def test_whatever_was_asked_for_the_address_is_one_of_ours(path: str, query: str) -> None:
    environ = EnvironBuilder().get_environ()
    environ["PATH_INFO"] = f"/{path}".encode(errors="replace").decode("latin-1")
    environ["QUERY_STRING"] = query
    location = sign_in_for(Request(environ))
    assert location.isascii()
    assert location.isprintable()
    assert urlsplit(location).path == "/sign-in"
    [back] = parse_qs(urlsplit(location).query).get("next", ["/"])
    assert own_path(back) == back
