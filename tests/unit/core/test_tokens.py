"""Tokens of an OpenID provider: the keys that are fetched, and the tokens that are accepted or refused."""

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
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from core.tokens import (
    FIRST_FETCH_INTERVAL,
    KEYS_LIFETIME,
    MAX_DOCUMENT_BYTES,
    MAX_TOKEN_CHARACTERS,
    MIN_FETCH_INTERVAL,
    KeysUnreachableError,
    TokenClaims,
    TokenKeys,
    TokenRefusedError,
    TokenUncheckedError,
    keys_at,
    owner_of_subject,
    parse_keys,
)
from tests.support.clocks import PlayedClock
from tests.support.provider_tokens import (
    ACCESS,
    CLIENT,
    CURVE_KEY,
    HEADER,
    ID,
    ISSUER,
    NOW,
    OTHER_KEY,
    PROVIDER_KEY,
    SECONDS,
    SUB,
    encoded,
    es256,
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


def without(claims: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in claims.items() if name not in names}


CURVE_HEADER = {"kid": "curve", "alg": "ES256"}


@pytest.mark.parametrize(("header", "sign"), [(HEADER, rs256), (CURVE_HEADER, es256)], ids=["RS256", "ES256"])
def test_id_and_access_tokens_of_both_algorithms_tell_the_user(
    header: dict[str, Any], sign: Callable[[bytes], bytes]
) -> None:
    ends = NOW + timedelta(hours=1)
    assert VERIFIER.verify(token(header, ACCESS, sign)) == TokenClaims(SUB, "", False, True, ends, SECONDS)
    of_id = VERIFIER.verify(token({**header, "typ": "JWT"}, ID, sign))
    assert of_id == TokenClaims(SUB, "ann@example.org", True, True, ends, SECONDS)


@pytest.mark.parametrize(
    "claims",
    [
        {**ACCESS, "aud": [CLIENT]},
        {**ACCESS, "aud": ["account", CLIENT]},
        {**without(ACCESS, "aud"), "client_id": CLIENT, "token_use": "access"},
    ],
    ids=["in a list", "beside another", "Cognito's access token"],
)
def test_the_audience_is_a_text_a_list_or_cognitos_client_id(claims: dict[str, Any]) -> None:
    assert VERIFIER.verify(token(HEADER, claims)).owner == SUB


@pytest.mark.parametrize(
    ("groups", "is_operator"),
    [
        (["staff", "operators"], True),
        ("operators", True),
        ([["operators"], "operators"], True),
        (["Operators", "/operators", "operators "], False),
        ("staff operators", False),
        ([["operators"]], False),
        ({"operators": True}, False),
        ([], False),
        (None, False),
        (True, False),
    ],
)
def test_an_operator_is_in_a_list_of_groups_or_the_only_one(groups: Any, is_operator: bool) -> None:
    assert VERIFIER.verify(token(HEADER, {**ACCESS, "groups": groups})).is_operator is is_operator
    assert not VERIFIER.verify(token(HEADER, without(ACCESS, "groups"))).is_operator
    assert not VERIFIER.verify(token(HEADER, {**without(ACCESS, "groups"), "roles": groups})).is_operator


@pytest.mark.parametrize(
    ("stated", "is_verified"),
    [(True, True), ("true", True), (False, False), ("false", False), ("True", False), ("1", False), ("", False)],
)
def test_an_address_is_verified_only_if_the_provider_says_so(stated: Any, is_verified: bool) -> None:
    assert VERIFIER.verify(token(HEADER, {**ID, "email_verified": stated})).is_verified is is_verified
    assert not VERIFIER.verify(token(HEADER, without(ID, "email_verified"))).is_verified


def test_the_time_of_the_sign_in_is_that_of_the_token_if_the_provider_does_not_tell_it() -> None:
    earlier = {**ACCESS, "auth_time": SECONDS - 600}
    assert VERIFIER.verify(token(HEADER, earlier)).signed_in == SECONDS - 600
    assert VERIFIER.verify(token(HEADER, without(earlier, "auth_time"))).signed_in == SECONDS


@pytest.mark.parametrize(
    "subject", ["JOB#1", "auth0|5f7c", "ann@example.org", "a/b", "é", SUB + "\n", " ", "x" * 64, "x" * 255]
)
def test_an_odd_subject_owns_jobs_by_its_digest(subject: str) -> None:
    owner = VERIFIER.verify(token(HEADER, {**ACCESS, "sub": subject})).owner
    assert owner == hashlib.sha256(subject.encode()).hexdigest()


@given(st.text(min_size=1, max_size=255).filter(lambda text: not any(0xD800 <= ord(each) <= 0xDFFF for each in text)))
def test_an_owner_is_short_and_of_few_characters_for_any_subject(subject: str) -> None:
    owner = owner_of_subject(subject)
    assert 1 <= len(owner) <= 64
    assert owner.isascii()
    assert owner.replace("-", "a").isalnum()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_an_unsigned_token_is_refused(name: str) -> None:
    refused(token({**HEADER, "alg": name}, ACCESS, lambda _: b""), "algorithm")


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_the_public_key_is_no_secret_to_sign_with(encoding: serialization.Encoding) -> None:
    public = PROVIDER_KEY.public_key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    forged = token({**HEADER, "alg": "HS256"}, ACCESS, lambda text: hmac.digest(public, text, hashlib.sha256))
    refused(forged, "algorithm")


def rs384(content: bytes) -> bytes:
    return raw(PROVIDER_KEY).sign(content, padding.PKCS1v15(), hashes.SHA384())


def ps256(content: bytes) -> bytes:
    return raw(PROVIDER_KEY).sign(content, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())


@pytest.mark.parametrize(("name", "sign"), [("RS384", rs384), ("PS256", ps256)])
def test_no_other_algorithm_is_taken_even_by_the_right_key(name: str, sign: Callable[[bytes], bytes]) -> None:
    refused(token({**HEADER, "alg": name}, ACCESS, sign), "algorithm")
    refused(token(HEADER, ACCESS, sign), "BadSignatureError")


def test_a_key_of_another_type_than_the_algorithms_is_refused() -> None:
    refused(token({**HEADER, "kid": "curve"}, ACCESS, es256), "key that the provider does not have")
    refused(token({**CURVE_HEADER, "kid": "provider"}, ACCESS), "key that the provider does not have")


def test_another_providers_key_is_refused_under_its_own_id_and_under_this_ones() -> None:
    refused(
        token({**HEADER, "kid": "other"}, ACCESS, lambda text: rs256(text, OTHER_KEY)),
        "key that the provider does not have",
    )
    refused(token(HEADER, ACCESS, lambda text: rs256(text, OTHER_KEY)), "BadSignatureError")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": "https://login.example.org/realms/other"}, "issuer"),
        ({"iss": ISSUER + "/"}, "issuer"),
        ({"iss": None}, "iss"),
        ({"aud": "another"}, "client"),
        ({"aud": ["another", CLIENT + "2"]}, "client"),
        ({"aud": ["another"], "client_id": CLIENT}, "client"),
        ({"aud": "another", "azp": CLIENT}, "client"),
        ({"aud": []}, "client"),
        ({"aud": ""}, "client"),
        ({"aud": [1]}, "aud"),
        ({"aud": None}, "aud"),
        ({"aud": [], "client_id": "another"}, "client"),
        ({"exp": SECONDS}, "expired"),
        ({"exp": SECONDS - 1}, "expired"),
        ({"exp": str(SECONDS + 60)}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 10**20}, "exp"),
        ({"exp": 1e400}, "exp"),
        ({"exp": None}, "exp"),
        ({"iat": SECONDS + 120}, "not good yet"),
        ({"nbf": SECONDS + 120}, "not good yet"),
        ({"iat": None}, "iat"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"sub": ["a"]}, "sub"),
        ({"sub": None}, "sub"),
        ({"email": ["ann@example.org"]}, "email"),
        ({"email_verified": 1}, "email_verified"),
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(changed: dict[str, Any], reason: str) -> None:
    refused(token(HEADER, {**ACCESS, **changed}), reason)


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "dpop+jwt", "JWE", "", 1, None])
def test_a_token_of_another_type_is_refused(kind: Any) -> None:
    refused(token({**HEADER, "typ": kind}, ACCESS), "type")


def test_a_token_ends_to_the_second_and_the_providers_clock_may_be_a_minute_ahead() -> None:
    last = verifier(NOW + timedelta(seconds=3599))
    assert last.verify(token(HEADER, ACCESS)).owner == SUB
    assert VERIFIER.verify(token(HEADER, {**ACCESS, "iat": SECONDS + 60})).owner == SUB


@pytest.mark.parametrize(
    "more",
    [{"crit": []}, {"crit": ["exp"], "exp": 1}, {"b64": False, "crit": ["b64"]}, {"crit": None}],
    ids=itertools.count(),
)
def test_a_token_that_asks_for_extensions_is_refused(more: dict[str, Any]) -> None:
    refused(token({**HEADER, **more}, ACCESS), "extensions")


@pytest.mark.parametrize(
    "more",
    [
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/certificate"},
        {"x5c": ["MIIB"]},
        {"jwk": OTHER_KEY.as_dict(private=False)},
    ],
    ids="-".join,
)
def test_a_token_does_not_say_where_its_key_is(more: dict[str, Any]) -> None:
    refused(token({**HEADER, **more}, ACCESS, lambda text: rs256(text, OTHER_KEY)), "not signed by the provider")


def test_a_name_that_stands_there_twice_is_refused_in_header_and_claims() -> None:
    refused(token(b'{"alg": "none", "alg": "RS256", "kid": "provider"}', ACCESS), "no token")
    twice = json.dumps(ACCESS).encode()[:-1] + b', "sub": "another"}'
    refused(token(HEADER, twice), "InvalidPayloadError")


@pytest.mark.parametrize("key_id", [None, 1, [], {}])
def test_a_key_id_that_is_no_text_is_refused(key_id: Any) -> None:
    refused(token({**HEADER, "kid": key_id}, ACCESS), "key id")


def test_a_token_without_key_id_is_of_the_only_key_and_of_none_if_there_are_more() -> None:
    text = token({"alg": "RS256"}, ACCESS)
    refused(text, "key that the provider does not have")
    for only in (PROVIDER_KEY.as_dict(private=False), without(PROVIDER_KEY.as_dict(private=False), "kid")):
        alone = json.dumps({"keys": [only]}).encode()
        assert verifier(fetch=lambda found=alone: found).verify(text).owner == SUB  # type: ignore[misc]


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
    huge = token(HEADER, {**ACCESS, "groups": ["g" * 200] * 100})
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
class Provider:
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
def provider() -> Provider:
    return Provider()


def test_keys_are_asked_for_once(provider: Provider) -> None:
    assert all(provider.keys.find("one") is not None for _ in range(3))
    assert provider.asked == 1


def test_an_unknown_key_is_asked_for_again_once_a_minute_at_most(provider: Provider) -> None:
    provider.keys.find("one")
    provider.answer = document("one", "two")
    for _ in range(50):
        assert provider.keys.find("two") is None
    provider.now += MIN_FETCH_INTERVAL
    assert provider.keys.find("two") is not None
    for made_up in range(50):
        assert provider.keys.find(f"made up {made_up}") is None
    assert provider.asked == 2


def test_a_key_that_the_provider_has_withdrawn_ends_within_an_hour(provider: Provider) -> None:
    provider.keys.find("one")
    provider.answer = document("two")
    provider.now += KEYS_LIFETIME
    assert provider.keys.find("one") is None


def test_old_keys_serve_while_their_address_does_not_answer(provider: Provider) -> None:
    provider.keys.find("one")
    provider.answer = None
    for _ in range(3):
        provider.now += KEYS_LIFETIME
        assert provider.keys.find("one") is not None
    provider.answer = b"<html>Sorry</html>"
    provider.now += KEYS_LIFETIME
    assert provider.keys.find("one") is not None
    assert provider.asked == 5


def test_a_provider_that_did_not_answer_at_first_is_asked_again_soon(provider: Provider) -> None:
    provider.answer = None
    for _ in range(5):
        with pytest.raises(KeysUnreachableError):
            provider.keys.find("one")
    assert provider.asked == 1
    provider.answer, provider.now = document("one"), provider.now + timedelta(seconds=5)
    assert provider.keys.find("one") is not None


def test_callers_who_waited_for_a_provider_that_hung_do_not_ask_it_one_by_one(provider: Provider) -> None:
    def hang() -> bytes:
        provider.asked += 1
        provider.now += FIRST_FETCH_INTERVAL  # as long as a failed fetch keeps the next one away
        raise KeysUnreachableError("no answer in time")

    provider.keys.fetch = hang
    for _ in range(5):
        with pytest.raises(KeysUnreachableError):
            provider.keys.find("one")
    assert provider.asked == 1


def test_a_clock_that_was_set_back_does_not_stop_the_asking(provider: Provider) -> None:
    provider.keys.find("one")
    provider.answer, provider.now = document("two"), provider.now - timedelta(days=1)
    assert provider.keys.find("two") is not None


def test_one_caller_asks_for_many_and_a_caller_with_the_key_does_not_wait(provider: Provider) -> None:
    provider.keys.find("one")
    provider.now += KEYS_LIFETIME
    begun, may_end, answer = threading.Event(), threading.Event(), provider.answer or b""

    def slowly() -> bytes:
        begun.set()
        may_end.wait(NEVER_SECONDS)
        return answer

    provider.keys.fetch = slowly
    asking = threading.Thread(target=lambda: provider.keys.find("one"))
    asking.start()
    assert begun.wait(DEADLINE_SECONDS)
    with ThreadPoolExecutor(1) as another:
        found = another.submit(provider.keys.find, "one")
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
    others: list[Any] = [
        {**KEYS["one"], "kid": "for encryption", "use": "enc"},
        {**KEYS["one"], "kid": "PS256", "alg": "PS256"},
        {**KEYS["one"], "kid": "small", "n": "AQAB"},
        ECKey.generate_key("P-384", {"kid": "other curve"}).as_dict(private=False),
        {**CURVE_KEY.as_dict(private=False), "kid": "of the other type", "alg": "RS256"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"},
        {"kty": "RSA", "kid": "without a modulus", "e": "AQAB"},
        {"kty": "RSA", "kid": "with a number", "n": 1, "e": "AQAB"},
        {**KEYS["one"], "kid": "with a list", "alg": ["RS256"]},
        {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "kid": "no point of the curve"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AQAB", "kid": "of a type to come"},
    ]
    curve = CURVE_KEY.as_dict(private=False)
    assert set(parse_keys(json.dumps({"keys": [*others, KEYS["two"], curve]}).encode())) == {"two", "curve"}


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
    assert set(parse_keys(keys_at(f"{site}/keys"))) == {"one"}


@pytest.mark.parametrize("path", ["/away", "/huge", "/missing"])
def test_what_leads_elsewhere_is_too_large_or_not_there_is_not_taken(site: str, path: str) -> None:
    with pytest.raises(KeysUnreachableError, match=path):
        keys_at(site + path)
    assert _Site.asked == [path]


def test_an_address_that_does_not_answer_is_given_up_in_time() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        with pytest.raises(KeysUnreachableError, match="cannot be fetched"):
            keys_at(url, read_seconds=0.05)
    with pytest.raises(KeysUnreachableError, match="cannot be fetched"):
        keys_at(url)
