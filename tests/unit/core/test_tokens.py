"""Tokens of the user pool: the keys that are fetched, and the tokens that are accepted or refused."""

import hashlib
import hmac
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import ECKey, RSAKey

from core.tokens import (
    KEYS_LIFETIME,
    MAX_DOCUMENT_BYTES,
    MAX_TOKEN_CHARACTERS,
    MIN_FETCH_INTERVAL,
    KeysUnreachableError,
    TokenClaims,
    TokenKeys,
    TokenRefusedError,
    TokenUncheckedError,
    issuer_of,
    jwks_url,
    keys_at,
    parse_keys,
)
from tests.support.clocks import PlayedClock
from tests.support.pool_tokens import (
    ACCESS,
    CLIENT,
    HEADER,
    ID,
    ISSUER,
    NOW,
    OTHER_KEY,
    POOL_KEY,
    SECONDS,
    SUB,
    encoded,
    raw,
    rs256,
    token,
    verifier,
)
from tests.support.servers import serving
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS

VERIFIER = verifier()


def refused(text: str, reason: str) -> None:
    with pytest.raises(TokenRefusedError, match=reason) as raised:
        VERIFIER.verify(text)
    assert text not in str(raised.value)


def test_an_access_token_says_who_it_is_of() -> None:
    said = VERIFIER.verify(token(HEADER, ACCESS))
    ends = NOW + timedelta(hours=1)
    assert said == TokenClaims(SUB, "", SUB, frozenset({"operators"}), "access", ends, SECONDS)


def test_an_id_token_says_the_address_too() -> None:
    said = VERIFIER.verify(token({**HEADER, "typ": "JWT"}, ID))
    assert (said.use, said.email) == ("id", "ann@example.org")
    assert said.groups == {"operators"}


def test_an_account_without_groups_is_in_none() -> None:
    assert VERIFIER.verify(token(HEADER, {**ACCESS, "cognito:groups": []})).groups == frozenset()
    assert VERIFIER.verify(token(HEADER, {k: v for k, v in ACCESS.items() if k != "cognito:groups"})).groups == set()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(name: str) -> None:
    refused(token({**HEADER, "alg": name}, ACCESS, lambda _: b""), "algorithm")


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_the_public_key_is_no_secret_to_sign_with(encoding: serialization.Encoding) -> None:
    public = POOL_KEY.public_key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = token({**HEADER, "alg": "HS256"}, ACCESS, lambda text: hmac.digest(public, text, hashlib.sha256))
    refused(forged, "algorithm")


def rs384(content: bytes) -> bytes:
    return raw(POOL_KEY).sign(content, padding.PKCS1v15(), hashes.SHA384())


def ps256(content: bytes) -> bytes:
    return raw(POOL_KEY).sign(content, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


@pytest.mark.parametrize(("name", "sign"), [("RS384", rs384), ("PS256", ps256)])
def test_no_other_algorithm_is_taken_even_by_the_right_key(name: str, sign: Callable[[bytes], bytes]) -> None:
    refused(token({**HEADER, "alg": name}, ACCESS, sign), "algorithm")
    refused(token(HEADER, ACCESS, sign), "BadSignatureError")


def test_another_pools_key_is_refused_under_its_own_name_and_under_this_ones() -> None:
    refused(token({**HEADER, "kid": "other"}, ACCESS, lambda text: rs256(text, OTHER_KEY)), "key that the pool does")
    refused(token(HEADER, ACCESS, lambda text: rs256(text, OTHER_KEY)), "BadSignatureError")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": issuer_of("eu-central-1", "eu-central-1_other")}, "issuer"),
        ({"iss": ISSUER + "/"}, "issuer"),
        ({"client_id": "another"}, "client"),
        ({"client_id": None}, "client_id"),
        ({"exp": SECONDS}, "expired"),
        ({"exp": SECONDS - 1}, "expired"),
        ({"exp": str(SECONDS + 60)}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 10**20}, "exp"),
        ({"exp": 1e400}, "exp"),
        ({"iat": SECONDS + 120}, "not good yet"),
        ({"nbf": SECONDS + 120}, "not good yet"),
        ({"token_use": "refresh"}, "wrong"),
        ({"token_use": "id"}, "aud"),
        ({"token_use": None}, "wrong"),
        ({"sub": ""}, "sub"),
        ({"sub": "JOB#1"}, "sub"),
        ({"sub": SUB + "\n"}, "sub"),
        ({"sub": ["a"]}, "sub"),
        ({"cognito:groups": "operators"}, "cognito:groups"),
        ({"cognito:groups": [1]}, "cognito:groups"),
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(changed: dict[str, Any], reason: str) -> None:
    refused(token(HEADER, {**ACCESS, **changed}), reason)


@pytest.mark.parametrize("audience", ["another", [CLIENT], [CLIENT, "another"], None])
def test_an_id_token_is_for_one_client(audience: Any) -> None:
    refused(token(HEADER, {**ID, "aud": audience}), "client|aud")


def test_an_access_tokens_claims_do_not_make_an_id_token_and_the_other_way_round() -> None:
    refused(token(HEADER, {**ACCESS, "aud": CLIENT, "token_use": "id"}), "cognito:username")
    refused(token(HEADER, {**ID, "token_use": "access"}), "client_id")


def test_a_token_ends_to_the_second_and_the_pools_clock_may_be_a_minute_ahead() -> None:
    last = verifier(NOW + timedelta(seconds=3599))
    assert last.verify(token(HEADER, ACCESS)).sub == SUB
    assert VERIFIER.verify(token(HEADER, {**ACCESS, "iat": SECONDS + 60})).sub == SUB


@pytest.mark.parametrize(
    "more",
    [
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"b64": False, "crit": ["b64"]},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/certificate"},
        {"x5c": ["MIIB"]},
        {"jwk": OTHER_KEY.as_dict(private=False)},
        {"zip": "DEF"},
        {"cty": "JWT"},
        {"made-up": 1},
    ],
    ids="-".join,
)
def test_a_token_does_not_say_how_it_is_checked(more: dict[str, Any]) -> None:
    refused(token({**HEADER, **more}, ACCESS), "header")
    refused(token({**HEADER, **more}, ACCESS, lambda text: rs256(text, OTHER_KEY)), "header")


def test_a_name_that_stands_there_twice_is_refused_in_header_and_claims() -> None:
    refused(token(b'{"alg": "none", "alg": "RS256", "kid": "pool"}', ACCESS), "no token")
    twice = json.dumps(ACCESS).encode()[:-1] + b', "sub": "somebody-else"}'
    refused(token(HEADER, twice), "InvalidPayloadError")


@pytest.mark.parametrize("key_id", [None, 1, [], {}])
def test_a_token_without_the_name_of_its_key_is_refused(key_id: Any) -> None:
    refused(token({**HEADER, "kid": key_id}, ACCESS), "key id")
    refused(token({"alg": "RS256"}, ACCESS), "key id")


GOOD = token(HEADER, ACCESS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        GOOD + ".",
        GOOD + "=",
        GOOD + "\n",
        " " + GOOD,
        "." + GOOD,
        GOOD.rpartition(".")[0],
        GOOD.rpartition(".")[0] + ".",
        GOOD.replace(".", ".."),
        GOOD[:-8],
        "Bearer " + GOOD,
        json.dumps({"payload": "", "signatures": []}),
        "ä" + GOOD,
        encoded(b"[" * 3_000).decode() + ".e30.e30",
        token(HEADER, b"[" * 3_000),
        token(HEADER, b"[]"),
        token(HEADER, b"null"),
        token(HEADER, b"\xff\xfe"),
        token(HEADER, b'{"exp": ' + b"9" * 5_000 + b"}"),
        token([], ACCESS),
        token(b"\xff", ACCESS),
    ],
    ids=itertools.count(),
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(text)


def test_a_huge_token_is_not_even_read() -> None:
    huge = token(HEADER, {**ACCESS, "cognito:groups": ["g" * 200] * 100})
    assert len(huge) > MAX_TOKEN_CHARACTERS
    with pytest.raises(TokenRefusedError, match="too long"):
        verifier(fetch=lambda: pytest.fail("the keys were asked for")).verify(huge)


def test_every_change_to_a_signed_token_is_noticed() -> None:
    for place, letter in enumerate(GOOD):
        changed = GOOD[:place] + ("A" if letter != "A" else "B") + GOOD[place + 1 :]
        with pytest.raises(TokenRefusedError):
            VERIFIER.verify(changed)


def test_a_token_that_cannot_be_checked_is_distinguished_from_one_that_is_wrong() -> None:
    def unreachable() -> bytes:
        raise KeysUnreachableError("no answer")

    with pytest.raises(TokenUncheckedError):
        verifier(fetch=unreachable).verify(GOOD)


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
        self.keys = TokenKeys(self._fetch, PlayedClock(utc_now=lambda: self.now))

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
    pool.now += MIN_FETCH_INTERVAL
    assert pool.keys.find("two") is not None
    for made_up in range(50):
        assert pool.keys.find(f"made up {made_up}") is None
    assert pool.asked == 2


def test_a_key_that_the_pool_has_withdrawn_ends_within_an_hour(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer = document("two")
    pool.now += KEYS_LIFETIME
    assert pool.keys.find("one") is None


def test_old_keys_serve_while_their_address_does_not_answer(pool: Pool) -> None:
    pool.keys.find("one")
    pool.answer = None
    for _ in range(3):
        pool.now += KEYS_LIFETIME
        assert pool.keys.find("one") is not None
    pool.answer = b"<html>Sorry</html>"
    pool.now += KEYS_LIFETIME
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


def test_one_caller_asks_for_many_and_a_caller_with_the_key_does_not_wait(pool: Pool) -> None:
    pool.keys.find("one")
    pool.now += KEYS_LIFETIME
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
        status, body = {"/keys": (200, document("one")), "/huge": (200, b" " * (MAX_DOCUMENT_BYTES + 1))}.get(
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
