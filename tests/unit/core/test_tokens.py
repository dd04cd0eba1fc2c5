"""Row 39: a token is taken when the pool has signed it for this client, and it is good now; nothing else is.

What is forged here is forged with all that a stranger can know: the pool's public key, and good tokens.
"""

import hashlib
import hmac
import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st

from core.tokens import (
    MAX_TOKEN_CHARACTERS,
    KeysUnreachableError,
    TokenClaims,
    TokenRefusedError,
    TokenUncheckedError,
    issuer_of,
)
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

VERIFIER = verifier()


def refused(text: str, reason: str) -> None:
    with pytest.raises(TokenRefusedError, match=reason) as raised:
        VERIFIER.verify(text)
    assert text not in str(raised.value)


def test_an_access_token_says_who_it_is_of() -> None:
    said = VERIFIER.verify(token(HEADER, ACCESS))
    ends = NOW + timedelta(hours=1)
    assert said == TokenClaims(SUB, "", SUB, frozenset({"operators"}), "access", ends)


def test_an_id_token_says_the_address_too() -> None:
    said = VERIFIER.verify(token({**HEADER, "typ": "JWT"}, ID))
    assert (said.use, said.email) == ("id", "ann@example.org")
    assert said.groups == {"operators"}


def test_an_account_without_groups_is_in_none() -> None:
    assert VERIFIER.verify(token(HEADER, {**ACCESS, "cognito:groups": []})).groups == frozenset()
    assert VERIFIER.verify(token(HEADER, {k: v for k, v in ACCESS.items() if k != "cognito:groups"})).groups == set()


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_that_nobody_signed_is_refused(name: str) -> None:
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


def test_a_token_that_cannot_be_checked_is_told_from_one_that_is_wrong() -> None:
    def unreachable() -> bytes:
        raise KeysUnreachableError("no answer")

    with pytest.raises(TokenUncheckedError):
        verifier(fetch=unreachable).verify(GOOD)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=200) | st.text(alphabet="eyJhbGci.=-_", max_size=200))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(text)


@given(st.sampled_from(sorted(ACCESS)), json_values)
def test_no_claim_that_the_pool_signs_does_more_than_be_refused(name: str, value: Any) -> None:
    try:
        said = VERIFIER.verify(token(HEADER, {**ACCESS, name: value}))
    except TokenRefusedError:
        return
    assert said.sub
    assert said.expires_at > NOW


@given(st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "x"]), json_values))
def test_no_header_does_more_than_be_refused(header: dict[str, Any]) -> None:
    with pytest.raises(TokenRefusedError):
        VERIFIER.verify(token(header, ACCESS))
