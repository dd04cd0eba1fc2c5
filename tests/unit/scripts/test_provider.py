"""The development provider, by Authlib's client: the code flow with PKCE, refreshing, signing out, and refusals."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from click.testing import CliRunner
from joserfc import jwt
from joserfc.jwk import KeySet

from scripts.run.provider import CODE_SECONDS, MAX_SIGN_INS, SignIn, SignIns, main
from tests.support.clocks import ManualClock
from tests.support.development_provider import development_provider

CALLBACK = "http://127.0.0.1:8000/sign-in/callback"
VERIFIER = "v" * 50


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with development_provider() as address:
        yield address


@pytest.fixture
def discovery(issuer: str) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{issuer}/.well-known/openid-configuration", timeout=30).json()
    assert found["issuer"] == issuer
    return found


def client_of(callback: str = CALLBACK) -> Any:
    return OAuth2Session(
        "fleetsight", scope="openid email", redirect_uri=callback, code_challenge_method="S256",
        token_endpoint_auth_method="none",
    )  # fmt: skip


def chosen(address: str, person: str, **headers: str) -> requests.Response:
    """Press a button of the page at an address, and return where the browser is sent."""
    return requests.post(address, {"person": person}, headers=headers, timeout=30, allow_redirects=False)


def asked(discovery: dict[str, Any], callback: str = CALLBACK) -> str:
    client = client_of(callback)
    address, _ = client.create_authorization_url(
        discovery["authorization_endpoint"], state="the state", nonce="the nonce", code_verifier=VERIFIER
    )
    return str(address)


def fetched(discovery: dict[str, Any], callback_with_code: str, verifier: str = VERIFIER) -> dict[str, Any]:
    token: dict[str, Any] = client_of().fetch_token(
        discovery["token_endpoint"], authorization_response=callback_with_code, state="the state",
        code_verifier=verifier,
    )  # fmt: skip
    return token


def claims_of(discovery: dict[str, Any], token: str) -> dict[str, Any]:
    keys = KeySet.import_key_set(requests.get(discovery["jwks_uri"], timeout=30).json())
    decoded = jwt.decode(token, keys, algorithms=["RS256"])
    assert decoded.header["kid"] == keys.keys[0].kid
    return decoded.claims


@pytest.mark.parametrize(("person", "groups"), [("user", []), ("operator", ["operators"])])
def test_a_client_signs_a_person_in_and_refreshes_the_tokens(
    discovery: dict[str, Any], person: str, groups: list[str]
) -> None:
    sent = chosen(asked(discovery), person).headers["Location"]
    assert sent.startswith(f"{CALLBACK}?")
    token = fetched(discovery, sent)
    of_id, of_access = (claims_of(discovery, token[name]) for name in ("id_token", "access_token"))
    expected = {
        "iss": discovery["issuer"], "aud": "fleetsight", "sub": person, "email": f"{person}@example.org",
        "email_verified": True, "groups": groups,
    }  # fmt: skip
    assert expected.items() <= of_id.items()
    assert expected.items() <= of_access.items()
    assert of_id["nonce"] == "the nonce"
    assert of_id["auth_time"] <= of_id["iat"] < of_id["exp"]

    renewed = client_of().refresh_token(discovery["token_endpoint"], refresh_token=token["refresh_token"])
    again = claims_of(discovery, renewed["id_token"])
    assert expected.items() <= again.items()
    assert again["auth_time"] == of_id["auth_time"]
    assert "nonce" not in again


def test_the_page_names_both_people_and_loads_nothing(discovery: dict[str, Any]) -> None:
    page = requests.get(asked(discovery), timeout=30)
    assert re.findall(r"<button[^>]*>([^<]*)</button>", page.text) == [
        "Continue as user@example.org",
        "Continue as operator@example.org",
    ]
    assert '<html lang="en">' in page.text
    assert "<title>Sign in to Fleetsight</title>" in page.text
    assert "for development" in page.text
    assert not re.search(r"\b(src|href)=|<script|<style", page.text)
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


def test_a_code_counts_once_and_with_its_verifier_alone(discovery: dict[str, Any]) -> None:
    sent = chosen(asked(discovery), "user").headers["Location"]
    fetched(discovery, sent)
    other = chosen(asked(discovery), "user").headers["Location"]
    for address, verifier in ((sent, VERIFIER), (other, "w" * 50), (other, VERIFIER)):
        with pytest.raises(Exception, match="invalid_grant"):
            fetched(discovery, address, verifier)


@pytest.mark.parametrize(
    "callback",
    [
        "https://example.org/sign-in/callback",
        "http://127.0.0.1.example.org/sign-in/callback",
        "http://127.0.0.1@example.org/sign-in/callback",
        "http://example.org\\@127.0.0.1/sign-in/callback",
        "http://[::1/sign-in/callback",
        "javascript://127.0.0.1/%0aalert()",
    ],
)
def test_a_redirect_uri_elsewhere_is_refused_without_a_redirect(discovery: dict[str, Any], callback: str) -> None:
    for answer in (
        requests.get(asked(discovery, callback), timeout=30, allow_redirects=False),
        chosen(asked(discovery, callback), "operator"),
    ):
        assert (answer.status_code, answer.headers.get("Location")) == (400, None)


@pytest.mark.parametrize("wanted", ["", "code_challenge_method=plain", "code_challenge_method=S256"])
def test_a_request_without_pkce_by_s256_gets_no_code(discovery: dict[str, Any], wanted: str) -> None:
    challenge = "" if wanted.endswith("S256") else f"&code_challenge={VERIFIER}"
    parameters = f"response_type=code&client_id=fleetsight&redirect_uri={CALLBACK}&state=s&{wanted}{challenge}"
    answer = chosen(f"{discovery['authorization_endpoint']}?{parameters}", "user")
    assert "error=invalid_request" in answer.headers["Location"]
    assert "code=" not in answer.headers["Location"]


def test_a_form_of_another_site_and_a_person_it_does_not_know_sign_in_no_one(discovery: dict[str, Any]) -> None:
    for answer in (
        chosen(asked(discovery), "operator", **{"Sec-Fetch-Site": "cross-site"}),
        chosen(asked(discovery), "root"),
        chosen(asked(discovery), "operator", Host="attacker.example"),
    ):
        assert answer.status_code in {400, 403}
        assert "Location" not in answer.headers


def test_signing_out_leads_back_to_this_machine_alone(discovery: dict[str, Any]) -> None:
    def signed_out(address: str) -> requests.Response:
        parameters = {"post_logout_redirect_uri": address, "client_id": "fleetsight"}
        place = discovery["end_session_endpoint"]
        return requests.get(place, parameters, timeout=30, allow_redirects=False)

    here = "http://localhost:8000/signed-out"
    assert signed_out(here).headers["Location"] == here
    assert "Signed out" in signed_out("https://example.org/signed-out").text


def test_sign_ins_expire_and_are_bounded() -> None:
    clock = ManualClock()
    sign_ins, sign_in = SignIns(CODE_SECONDS, clock.monotonic), SignIn("user", 0, CALLBACK, None, VERIFIER)
    for number in range(MAX_SIGN_INS + 1):
        sign_ins.add(str(number), sign_in)
    assert sign_ins.find("0") is None
    assert sign_ins.find("1") == sign_in
    clock.advance(CODE_SECONDS)
    assert sign_ins.find("1") is None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org"])
def test_it_listens_on_this_machine_only(host: str) -> None:
    refused = CliRunner().invoke(main, ["--host", host, "--port", "21000"])
    assert refused.exit_code == 2
    assert host in refused.output
    assert "--host 127.0.0.1" in refused.output
