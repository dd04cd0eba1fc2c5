"""A development provider of OpenID Connect: a user and an operator sign in by a button, on this machine only.

`./scripts/run.sh --sign-in` runs it beside the web tier. Authlib validates requests: authorization code with PKCE,
and refresh tokens. Everything is in memory. The key that signs tokens is made at the start.
"""

import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import click
from authlib.common.urls import add_params_to_uri
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, InvalidRequestError
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7636 import CodeChallenge
from flask import Flask, Response, abort, render_template, request
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

from core.config import is_loopback
from fleetsight_client.terminal import clean_terminal_output
from scripts.client import web_url
from scripts.run.sign_in import CLIENT_ID, GROUPS_CLAIM, OPERATOR, OPERATORS_GROUP, PEOPLE

SCOPE: Final = "openid email"
CODE_SECONDS, TOKEN_SECONDS, REFRESH_SECONDS = 60, 3_600, 12 * 3_600
MAX_SIGN_INS: Final = 1_000
"""Largest number of codes, and of refresh tokens; one more ends the oldest."""
MAX_REQUEST_BYTES: Final = 16 * 1024
LOOPBACK_PAGE: Final = re.compile(r"https?://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?/[a-z/_-]*", re.ASCII)
"""The pages to which browsers are sent: of this machine, without the characters that programs read differently."""


@dataclass(frozen=True)
class SignIn:
    """A sign-in of a person, for which a code or a refresh token stands; Authlib calls the methods."""

    sub: str
    auth_time: int
    redirect_uri: str
    nonce: str | None
    code_challenge: str
    code_challenge_method: str = "S256"

    def get_scope(self) -> str:
        """Return the granted scopes, which are always the same."""
        return SCOPE

    def get_redirect_uri(self) -> str:
        """Return the URI to which the code was sent."""
        return self.redirect_uri

    def check_client(self, _client: ClientMixin) -> bool:
        """Return True: there is one client."""
        return True


class SignIns:
    """Sign-ins by an unguessable text, each for `seconds`; threads share an instance."""

    def __init__(self, seconds: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock, self._lock = seconds, clock, threading.Lock()
        self._found: OrderedDict[str, tuple[float, SignIn]] = OrderedDict()

    def add(self, text: str, sign_in: SignIn) -> None:
        """Add a sign-in."""
        with self._lock:
            self._found[text] = (self._clock() + self._seconds, sign_in)
            if len(self._found) > MAX_SIGN_INS:
                self._found.popitem(last=False)

    def find(self, text: str, *, remove: bool = False) -> SignIn | None:
        """Return the sign-in of a text, or None if there is none any more."""
        with self._lock:
            ends_at, sign_in = (self._found.pop if remove else self._found.get)(text, (0.0, None))
        return sign_in if self._clock() < ends_at else None


class _Client(ClientMixin):  # type: ignore[misc]  # Authlib has no types
    """The web tier: a public client, with a page of this machine as its redirect URI."""

    def get_allowed_scope(self, _scope: str | None) -> str:
        return SCOPE

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return LOOPBACK_PAGE.fullmatch(redirect_uri) is not None

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        return method == "none"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token"}


class _CodeGrant(AuthorizationCodeGrant):  # type: ignore[misc]  # Authlib has no types
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def save_authorization_code(self, code: str, asked: Any) -> None:
        data, now = asked.payload.data, int(time.time())
        sign_in = SignIn(asked.user, now, data["redirect_uri"], data.get("nonce"), data["code_challenge"])
        self.server.codes.add(code, sign_in)

    def query_authorization_code(self, code: str, _client: ClientMixin) -> Any:
        return self.server.codes.find(code, remove=True)  # a wrong verifier uses the code up, too

    def delete_authorization_code(self, authorization_code: SignIn) -> None:
        """Do nothing: it is removed already."""

    def authenticate_user(self, authorization_code: SignIn) -> SignIn:
        return authorization_code


class _RefreshGrant(RefreshTokenGrant):  # type: ignore[misc]  # Authlib has no types
    TOKEN_ENDPOINT_AUTH_METHODS = ("none",)

    def authenticate_refresh_token(self, refresh_token: str) -> Any:
        return self.server.refresh_tokens.find(refresh_token)

    def authenticate_user(self, refresh_token: SignIn) -> SignIn:
        return refresh_token

    def revoke_old_credential(self, refresh_token: SignIn) -> None:
        """Do nothing: it stays valid, since processes of the web tier may use it at the same time."""


class _RequiredS256(CodeChallenge):  # type: ignore[misc]  # Authlib has no types
    def validate_code_challenge(self, grant: Any, redirect_uri: str) -> None:
        if grant.request.payload.data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("PKCE is required: give code_challenge and code_challenge_method=S256")
        super().validate_code_challenge(grant, redirect_uri)


class Provider(AuthorizationServer):  # type: ignore[misc]  # Authlib has no types
    """Authlib's server at the address `issuer`, with its key, and with what it has issued."""

    def __init__(self, issuer: str) -> None:
        super().__init__()
        self.issuer, self.key = issuer, RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256"}, auto_kid=True)
        self.codes, self.refresh_tokens = SignIns(CODE_SECONDS), SignIns(REFRESH_SECONDS)
        made = BearerTokenGenerator(self._signed, lambda **_: secrets.token_urlsafe(32), TOKEN_SECONDS)
        self.register_token_generator("default", made)
        self.register_grant(_CodeGrant, [_RequiredS256()])
        self.register_grant(_RefreshGrant)

    def query_client(self, client_id: str) -> _Client | None:
        """Return the client."""
        return _Client() if client_id == CLIENT_ID else None

    def save_token(self, token: dict[str, Any], asked: Any) -> None:
        """Add the ID token to an answer, and remember its refresh token; a refreshed ID token has no nonce."""
        is_new = "refresh_token" in token
        token["id_token"] = self._signed(asked.user, nonce=asked.user.nonce if is_new else None)
        if is_new:
            self.refresh_tokens.add(token["refresh_token"], asked.user)

    def _signed(self, user: SignIn, nonce: str | None = None, **_: object) -> str:
        now, groups = int(time.time()), [OPERATORS_GROUP] if user.sub == OPERATOR else []
        claims = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + TOKEN_SECONDS, "sub": user.sub}
        claims |= {"auth_time": user.auth_time, "email": f"{user.sub}@example.org", "email_verified": True}
        claims |= {GROUPS_CLAIM: groups, **({"nonce": nonce} if nonce else {})}
        return jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)

    def discovery(self) -> dict[str, Any]:
        """Answer with the addresses and abilities of the provider."""
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}  # nosec B105 (an address)
        return {
            "issuer": self.issuer,
            **{name: f"{self.issuer}/{path}" for name, path in names.items()},
            "end_session_endpoint": f"{self.issuer}/end-session",
            "scopes_supported": SCOPE.split(),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
        }

    def jwks(self) -> dict[str, Any]:
        """Answer with the public key."""
        return {"keys": [self.key.as_dict(private=False)]}

    def authorize(self) -> Any:
        """Answer a valid request with the page that asks who signs in, and its form with a code."""
        if not LOOPBACK_PAGE.fullmatch(request.values.get("redirect_uri", "")):
            abort(400)  # here, since Authlib's message cannot quote each character
        try:
            grant = self.get_consent_grant()
        except OAuth2Error as error:
            return self.handle_error_response(self.create_oauth2_request(None), error)
        if request.method == "GET":
            return render_template("provider.html", people=PEOPLE)
        person = request.form.get("person")
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if person not in PEOPLE or site not in {None, "same-origin"} or origin not in {None, self.issuer}:
            abort(403)  # a form of another page
        return self.create_authorization_response(grant_user=person, grant=grant)

    def end_session(self) -> Any:
        """Send the person back to the client; the provider itself has no session."""
        uri, state = request.values.get("post_logout_redirect_uri", ""), request.values.get("state")
        if not LOOPBACK_PAGE.fullmatch(uri):
            return render_template("provider.html")
        place = add_params_to_uri(uri, [("state", state)] if state else [])
        return self.handle_response(302, "", [("Location", place)])


def create_app(issuer: str) -> Flask:
    """Return the WSGI application of a new provider at the address `issuer`."""
    app, provider = Flask(__name__, template_folder="."), Provider(issuer)
    host = urlsplit(issuer).netloc.rpartition(":")[0]  # pages of other sites may give loopback a name of theirs
    app.config.update(TRUSTED_HOSTS=[host], MAX_CONTENT_LENGTH=MAX_REQUEST_BYTES)
    app.add_url_rule("/.well-known/openid-configuration", view_func=provider.discovery)
    app.add_url_rule("/jwks", view_func=provider.jwks)
    app.add_url_rule("/authorize", view_func=provider.authorize, methods=["GET", "POST"])
    app.add_url_rule("/token", "token", provider.create_token_response, methods=["POST"])
    app.add_url_rule("/end-session", view_func=provider.end_session, methods=["GET", "POST"])

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
        return response

    return app


@click.command("provider")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback address on which it listens.")
@click.option("--port", type=click.IntRange(1, 65_535), required=True, help="Port of the provider.")
def main(host: str, port: int) -> None:
    """Serve a development provider until it is stopped."""
    if not is_loopback(host):
        raise click.UsageError(
            f"--host {host}: clients of other machines could sign in as an operator without a password. "
            "Give a loopback address, such as --host 127.0.0.1"
        )
    make_server(host, port, create_app(web_url(host, port)), threaded=True).serve_forever()


if __name__ == "__main__":
    clean_terminal_output()
    main()
