"""Authentication: session keys and device cookies, cached accounts, and safe redirects."""

import time
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from flask import Request
from hypothesis import example, given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from services.errors import ConfigError
from services.users import Account, UserPool
from tests.support.clocks import ManualClock
from web_tier.auth import context
from web_tier.auth.context import ACCOUNT_LIFETIME_SECONDS, AccountCache
from web_tier.auth.guard import MAX_PATH_CHARACTERS, safe_redirect, sign_in_for
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, SessionKeys, load_session_keys

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


def test_sealed_facts_are_valid_for_their_purpose_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = keys(OLD).seal("challenge", "ann@example.org", "session")
    assert "ann" not in sealed
    assert keys(NEW, OLD).unseal(sealed, "challenge", seconds=60) == ["ann@example.org", "session"]
    assert keys(OLD).unseal(sealed, "setup", seconds=60) is None
    assert keys(NEW).unseal(sealed, "challenge", seconds=60) is None
    for text in ("", "made-up", sealed[:-4], keys(OLD).encrypt("a refresh token"), keys(OLD).encrypt("[]")):
        assert keys(OLD).unseal(text, "challenge", seconds=60) is None
    later = time.time() + 62
    monkeypatch.setattr("cryptography.fernet.time.time", lambda: later)
    assert keys(OLD).unseal(sealed, "challenge", seconds=60) is None
    assert keys(OLD).unseal(sealed, "challenge", seconds=90) is not None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Pool:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.enabled = True

    def account(self, sub: str) -> Account | None:
        self.asked.append(sub)
        return None if sub == "deleted" else Account(sub, "", self.enabled, frozenset())


def test_an_account_is_fetched_once_a_minute_even_if_deleted_or_disabled_meanwhile(clock: ManualClock) -> None:
    pool = Pool()
    known = AccountCache(cast(UserPool, pool), clock)
    for _ in range(2):
        assert known.find("ada") is not None
        assert known.find("deleted") is None
        pool.enabled = False
    assert pool.asked == ["ada", "deleted"]
    clock.advance(ACCOUNT_LIFETIME_SECONDS)
    assert known.find("ada") is None
    assert pool.asked == ["ada", "deleted", "ada"]


def test_the_account_cache_is_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "MAX_ACCOUNTS", 2)
    pool = Pool()
    known = AccountCache(cast(UserPool, pool), clock)
    for sub in ("ada", "bob", "eve", "bob", "ada"):
        known.find(sub)
    assert pool.asked == ["ada", "bob", "eve", "ada"]


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
