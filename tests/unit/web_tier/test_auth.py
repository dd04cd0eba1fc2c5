"""Authentication: session keys, the client's secret, cached profiles, and safe redirects."""

from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from flask import Request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from core.credentials import Profile, Profiles
from core.tokens import TokenClaims
from services.errors import ConfigError
from services.table import Table
from tests.support.clocks import ManualClock
from tests.support.people import BEGIN
from web_tier.auth.context import PROFILE_LIFETIME_SECONDS, ProfileCache
from web_tier.auth.guard import MAX_PATH_CHARACTERS, safe_redirect, sign_in_for
from web_tier.auth.session_keys import (
    KEYS_FILE_VARIABLE,
    SECRET_FILE_VARIABLE,
    SECRET_VARIABLE,
    SessionKeys,
    load_client_secret,
    load_session_keys,
)

OLD, NEW = "the key that signed until yesterday!", "the key that signs since this morning"


def keys(*lines: str) -> SessionKeys:
    return SessionKeys(lines)


def test_a_cookie_is_read_only_whole_and_with_its_key() -> None:
    good = keys(OLD).sign("an-id")
    ids = keys(OLD).read(good)
    assert ids is not None
    assert ids.own == "an-id"
    assert "an-id" not in repr(ids)
    assert keys(OLD).read(keys(NEW).sign("an-id")) is None
    assert keys(OLD).read(good[:-1]) is None
    assert keys(OLD).read(keys(OLD).sign("x" * 10_000)) is None


@given(st.text(max_size=300))
def test_any_unsigned_text_is_rejected(text: str) -> None:
    assert keys(OLD).read(text) is None


@given(st.integers(0, 48), st.characters(codec="ascii"))
@example(32, "+")
def test_a_cookie_of_which_one_character_was_changed_is_not_read(place: int, other: str) -> None:
    good = keys(OLD).sign("an-id")
    changed = good[:place] + other + good[place + 1 :]
    assert changed == good or keys(OLD).read(changed) is None


def test_machines_agree_while_their_keys_change_on_signatures_and_next_ids() -> None:
    cookie = keys(OLD).sign("an-id")
    before, after = keys(OLD, NEW).read(cookie), keys(NEW, OLD).read(cookie)
    assert before is not None
    assert before == after
    ours = keys(NEW).read(keys(NEW, OLD).sign("an-id"))
    assert ours is not None
    assert ours.next != before.next, "the next id cannot be derived without the key"


def test_encrypted_text_is_read_with_any_remaining_key() -> None:
    secret = keys(OLD).encrypt("refresh")
    assert "refresh" not in secret
    assert keys(NEW, OLD).decrypt(secret) == "refresh"
    assert keys(NEW).decrypt(secret) is None
    assert keys(OLD).decrypt(secret[:-8]) is None


def test_a_code_is_for_one_purpose_and_for_its_facts() -> None:
    code = keys(OLD).mac("csrf", "family", "salt")
    assert keys(NEW, OLD).verify(code, "csrf", "family", "salt")
    assert not keys(OLD).verify(code, "csrf", "familys", "alt")
    assert not keys(OLD).verify(code, "next", "family", "salt")
    assert not keys(OLD).verify("é\ud800", "csrf", "family", "salt")


def test_keys_are_read_from_the_file_the_first_one_signs(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{NEW}\n\n{OLD}\n")
    loaded = load_session_keys({KEYS_FILE_VARIABLE: str(file)})
    assert loaded.read(keys(OLD).sign("an-id")) is not None
    assert keys(NEW).read(loaded.sign("an-id")) is not None


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"too short\n", f"{OLD}\nshort\n".encode(), b"\xff" * 40])
def test_an_invalid_file_of_keys_is_rejected_with_a_remedy_and_without_its_content(
    tmp_path: Path, content: bytes | None
) -> None:
    """Row 42."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match="openssl rand") as refused:
        load_session_keys({KEYS_FILE_VARIABLE: str(file)})
    assert "short\n" not in str(refused.value)
    assert OLD not in str(refused.value)


def test_each_key_gives_another_secret_for_each_purpose_the_signing_one_first() -> None:
    [old], [new] = keys(OLD).secrets_of("sign-in"), keys(NEW).secrets_of("sign-in")
    assert keys(NEW, OLD).secrets_of("sign-in") == [new, old]
    assert len({old, new, *keys(OLD).secrets_of("another"), OLD, NEW}) == 5


def test_the_secret_of_the_client_is_in_a_file_or_the_environment_or_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("of the file\n")
    assert load_client_secret({}) is None
    assert load_client_secret({SECRET_VARIABLE: "", SECRET_FILE_VARIABLE: ""}) is None
    assert load_client_secret({SECRET_VARIABLE: "of the variable"}) == "of the variable"
    both = {SECRET_VARIABLE: "of the variable", SECRET_FILE_VARIABLE: str(file)}
    assert load_client_secret(both) == "of the file"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff" * 40])
def test_an_unreadable_or_empty_file_of_the_secret_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{SECRET_FILE_VARIABLE}='{file}'.*secret of the provider's client"):
        load_client_secret({SECRET_VARIABLE: "of the variable", SECRET_FILE_VARIABLE: str(file)})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def claims(owner: str, *, is_operator: bool) -> TokenClaims:
    return TokenClaims(owner, f"{owner}@example.org", True, is_operator, BEGIN, 0)


def test_a_profile_is_read_once_a_minute_even_if_there_is_none(table: Table, clock: ManualClock) -> None:
    here, elsewhere = ProfileCache(Profiles(table), clock), ProfileCache(Profiles(table), clock)
    elsewhere.put(claims("ada", is_operator=True))
    seen = here.find("ada")
    assert seen == Profile("ada", "ada@example.org", True, True)
    assert here.find("bob") is None
    elsewhere.put(claims("ada", is_operator=False))
    elsewhere.put(claims("bob", is_operator=True))
    assert (here.find("ada"), here.find("bob")) == (seen, None)
    clock.advance(PROFILE_LIFETIME_SECONDS)
    assert here.find("ada") == Profile("ada", "ada@example.org", True, False)
    assert here.find("bob") is not None


def test_a_process_acts_by_the_profile_that_it_has_stored_at_once(table: Table, clock: ManualClock) -> None:
    cache = ProfileCache(Profiles(table), clock)
    for is_operator in (True, False):
        cache.put(claims("ada", is_operator=is_operator))
        assert cache.find("ada") == Profile("ada", "ada@example.org", True, is_operator)


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
def test_a_redirect_is_always_to_this_site(text: str) -> None:
    path = safe_redirect(text)
    there = urlsplit(urljoin(HERE, as_browsers_read_it(path)))
    assert (there.scheme, there.netloc) == ("https", "here.example")


@pytest.mark.parametrize("path", ["/", "/jobs?q=a%20b&before=x", "/jobs/01KAH8Z9M5J6C0Q2V4T7W1X3YD#x", "/é"])
def test_paths_of_this_site_are_unchanged_up_to_a_length(path: str) -> None:
    assert safe_redirect(path) == path
    assert safe_redirect(path + "x" * MAX_PATH_CHARACTERS) == "/"


def test_the_address_of_the_sign_in_holds_the_requested_page_with_its_query() -> None:
    request = Request(EnvironBuilder(path="/jobs", query_string="q=a%26b&before=x").get_environ())
    assert parse_qs(urlsplit(sign_in_for(request)).query) == {"next": ["/jobs?q=a%26b&before=x"]}
    assert sign_in_for(Request(EnvironBuilder().get_environ())) == "/sign-in", "the first page needs no parameter"


@given(st.text(), st.text(st.characters(codec="latin-1")))
def test_the_sign_in_address_of_any_request_is_on_this_site(path: str, query: str) -> None:
    environ = EnvironBuilder().get_environ()
    environ["PATH_INFO"] = f"/{path}".encode(errors="replace").decode("latin-1")
    environ["QUERY_STRING"] = query
    location = sign_in_for(Request(environ))
    assert location.isascii()
    assert location.isprintable()
    assert urlsplit(location).path == "/sign-in"
    [back] = parse_qs(urlsplit(location).query).get("next", ["/"])
    assert safe_redirect(back) == back
