"""Row 39: the pool's keys are kept, asked for again within bounds, and serve on while nobody answers for them."""

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from joserfc.jwk import ECKey, RSAKey

from core.tokens import (
    KEPT,
    MAX_BYTES,
    PAUSE,
    KeysUnreachableError,
    TokenKeys,
    issuer_of,
    jwks_url,
    keys_at,
    parse_keys,
)
from tests.support.served import serving
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS

KEYS = {name: RSAKey.generate_key(2048, {"kid": name}).as_dict(private=False) for name in ("one", "two")}


def document(*names: str) -> bytes:
    return json.dumps({"keys": [KEYS[name] for name in names]}).encode()


@dataclass
class Pool:
    """What answers for the keys, and what time it is there."""

    answer: bytes | None = document("one")
    now: datetime = datetime(2026, 3, 1, tzinfo=UTC)
    asked: int = 0
    keys: TokenKeys = field(init=False)

    def __post_init__(self) -> None:
        self.keys = TokenKeys(self._fetch, lambda: self.now)

    def _fetch(self) -> bytes:
        self.asked += 1
        if self.answer is None:
            raise KeysUnreachableError("no answer")
        return self.answer


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_keys_are_asked_for_once(pool: Pool) -> None:
    assert all(pool.keys.find("one") is not None for _ in range(3))
    assert pool.asked == 1


def test_an_unknown_key_is_asked_for_again_once_a_minute_at_most(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer = document("one", "two")
    for _ in range(50):
        assert pool.keys.find("two") is None
    pool.now += PAUSE
    assert pool.keys.find("two") is not None
    for made_up in range(50):
        assert pool.keys.find(f"made up {made_up}") is None
    assert pool.asked == 2


def test_a_key_that_the_pool_has_withdrawn_ends_within_an_hour(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer = document("two")
    pool.now += KEPT
    assert pool.keys.find("one") is None


def test_old_keys_serve_while_their_address_does_not_answer(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer = None
    for _ in range(3):
        pool.now += KEPT
        assert pool.keys.find("one") is not None
    pool.answer = b"<html>Sorry</html>"
    pool.now += KEPT
    assert pool.keys.find("one") is not None
    assert pool.asked == 5


def test_a_pool_that_did_not_answer_at_first_is_asked_again_soon(pool: Pool) -> None:
    pool.answer = None
    for _ in range(5):
        with pytest.raises(KeysUnreachableError):
            pool.keys.find("one")
    assert pool.asked == 1
    pool.answer, pool.now = document("one"), pool.now + timedelta(seconds=5)
    assert pool.keys.find("one") is not None


def test_a_clock_that_was_set_back_does_not_stop_the_asking(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer, pool.now = document("two"), pool.now - timedelta(days=1)
    assert pool.keys.find("two") is not None


def test_one_asks_for_many_and_whoever_knows_the_key_does_not_wait(pool: Pool) -> None:
    pool.keys.find("one")
    pool.now += KEPT
    begun, may_end, answer = threading.Event(), threading.Event(), pool.answer or b""

    def slowly() -> bytes:
        begun.set()
        may_end.wait(NEVER_SECONDS)
        return answer

    pool.keys.fetch = slowly
    asking = threading.Thread(target=lambda: pool.keys.find("one"))
    asking.start()
    assert begun.wait(DEADLINE_SECONDS)
    with ThreadPoolExecutor(1) as another:
        found = another.submit(pool.keys.find, "one")
        try:
            assert found.result(DEADLINE_SECONDS) is not None
        finally:
            may_end.set()
    asking.join(DEADLINE_SECONDS)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{}", b'{"keys": null}', b'{"keys": []}', b'{"keys": [1]}', b"[" * 60_000, b"\xff"],
    ids=itertools.count(),
)
def test_what_is_no_document_of_keys_is_not_taken(content: bytes) -> None:
    with pytest.raises(KeysUnreachableError):
        parse_keys(content)


def test_keys_that_cannot_have_signed_a_token_are_left_out() -> None:
    small = {**KEYS["one"], "kid": "small", "n": "AQAB"}
    others: list[Any] = [
        {**KEYS["one"], "kid": "for encryption", "use": "enc"},
        {**KEYS["one"], "kid": "PS256", "alg": "PS256"},
        {name: value for name, value in KEYS["one"].items() if name != "kid"},
        ECKey.generate_key("P-256", {"kid": "curve"}).as_dict(private=False),
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        small,
    ]
    assert set(parse_keys(json.dumps({"keys": [*others, KEYS["two"]]}).encode())) == {"two"}


def test_where_keys_are_follows_from_region_and_pool() -> None:
    assert issuer_of("eu-west-1", "eu-west-1_a") == "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_a"
    assert issuer_of("cn-north-1", "p") == "https://cognito-idp.cn-north-1.amazonaws.com.cn/p"
    assert jwks_url(None, "eu-west-1", "p") == issuer_of("eu-west-1", "p") + "/.well-known/jwks.json"
    assert jwks_url("http://127.0.0.1:1/", "eu-west-1", "p") == "http://127.0.0.1:1/p/.well-known/jwks.json"


class _Site(BaseHTTPRequestHandler):
    """Answers as its path says."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, body = {"/keys": (200, document("one")), "/huge": (200, b" " * (MAX_BYTES + 1))}.get(
            self.path, (404, b"")
        )
        self.send_response(302 if self.path == "/away" else status)
        self.send_header("Location", "/keys")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def site() -> Iterator[str]:
    _Site.asked = []
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Site)) as address:
        yield address


def test_the_document_is_fetched(site: str) -> None:
    fetch = keys_at(f"{site}/keys")
    assert set(parse_keys(fetch())) == {"one"}
    fetch()


@pytest.mark.parametrize("path", ["/away", "/huge", "/missing"])
def test_what_leads_elsewhere_is_too_large_or_not_there_is_not_taken(site: str, path: str) -> None:
    with pytest.raises(KeysUnreachableError, match=path):
        keys_at(site + path)()
    assert _Site.asked == [path]


def test_an_address_that_does_not_answer_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        with pytest.raises(KeysUnreachableError, match="cannot be fetched"):
            keys_at(url, read_seconds=0.05)()
    with pytest.raises(KeysUnreachableError, match="cannot be fetched"):
        keys_at(url)()
