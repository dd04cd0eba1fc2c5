"""The OpenID provider by which users sign in: authorization code flow with PKCE, by Authlib.

What a browser needs between the redirect to the provider and its return (state, nonce, code verifier, and the page to
continue with) is in Flask's session cookie, which is signed. Each start has its own, for an hour. The provider takes
each code once.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

from authlib.integrations.base_client import OAuthError
from authlib.integrations.flask_client import FlaskIntegration, FlaskOAuth2App
from flask import redirect, request, session
from requests import RequestException
from werkzeug.wrappers import Response

from core.config import AuthSettings
from core.tokens import KeysUnreachableError, keys_at
from services.clock import CLOCK
from services.errors import FleetsightError

STATE_COOKIE: Final = "__Host-fleetsight-sign-in"

MAX_STARTED: Final = 5
"""Sign-ins that a browser has started and not finished, as in several tabs: all are in one cookie of 4 KB."""

MAX_STARTED_CHARACTERS: Final = 2_700
"""Maximum characters of their JSON: its Base64, with a signature, fits into a cookie of 4,096 characters."""

START_SECONDS: Final = 3_600
"""Longest time from a start to its return."""

TIMEOUT_SECONDS: Final = 5.0

PAUSE_SECONDS: Final = 2.0
"""Seconds after a failed discovery in which the next ones fail at once."""

_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
"""What every provider has."""

_PROMPTS: Final = {"https://accounts.google.com": "select_account"}
"""What asks a user once more at providers that do not know the standard's `login`.

https://developers.google.com/identity/openid-connect/openid-connect#prompt
"""

_DISCOVERY: Final = "/.well-known/openid-configuration"


class ProviderError(FleetsightError):
    """Base of these errors; the message is for the user who is signing in."""


class SignInRefusedError(ProviderError):
    """Raised when a return from the provider is refused, and no user is signed in."""


class SignedOutError(ProviderError):
    """Raised when the provider has ended a sign-in, or its account."""


class ProviderUnreachableError(ProviderError):
    """Raised when the provider does not answer, or not as the standard says."""


@dataclass(frozen=True, slots=True)
class ProviderTokens:
    """What a sign-in gives, or its refresh.

    Attributes:
        id_token: empty if a refresh gives none.
        refresh_token: empty if the provider gives none.
        nonce: that the ID token of a sign-in must have.
    """

    id_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    nonce: str | None = field(default=None, repr=False)


class Provider:
    """The provider of one process, for all its threads; nothing is asked of it before the first use.

    Args:
        settings: `issuer` and `client_id` are set.
        secret: of the client; None if it is a public one.
    """

    def __init__(self, settings: AuthSettings, secret: str | None) -> None:
        self.issuer, self.client_id = str(settings.issuer), str(settings.client_id)
        self._failed: tuple[float, str] | None = None
        self._lock = threading.Lock()
        self._client = FlaskOAuth2App(
            FlaskIntegration("provider"),
            "provider",
            client_id=self.client_id,
            client_secret=secret,
            server_metadata_url=self.issuer.rstrip("/") + _DISCOVERY,
            client_kwargs={
                "scope": " ".join(settings.scopes),
                "code_challenge_method": "S256",
                "token_endpoint_auth_method": "none" if secret is None else "client_secret_basic",
                "default_timeout": TIMEOUT_SECONDS,
            },
        )

    def redirect_to_sign_in(self, callback: str, back: str, *, again: bool = False) -> Response:
        """Redirect the browser of the current request to the provider, which returns it to `callback`.

        Args:
            callback: the address of our route.
            back: path of the page to continue with.
            again: whether the provider is to ask the user once more, also if it knows the browser.

        Raises:
            ProviderUnreachableError: the provider's metadata cannot be fetched.
        """
        self._metadata()
        # With `max_age` the ID token must tell the time of the sign-in.
        asked = {"prompt": _PROMPTS.get(self.issuer, "login"), "max_age": 0} if again else {}
        started = self._client.create_authorization_url(callback, **asked)
        url, ends = started.pop("url"), int(CLOCK.epoch_seconds()) + START_SECONDS
        self._client.save_authorize_data(redirect_uri=callback, back=back, ends=ends, **started)
        earlier = sorted(session, key=lambda name: session[name]["exp"])[:-1]
        while earlier and (len(earlier) >= MAX_STARTED or len(json.dumps(dict(session))) > MAX_STARTED_CHARACTERS):
            del session[earlier.pop(0)]
        return redirect(url, 303)

    def tokens_of_return(self) -> tuple[ProviderTokens, str]:
        """Return the tokens for the code in the current request, and the path of the page to continue with.

        Raises:
            SignInRefusedError: this browser did not start the sign-in, the user or the provider has refused it, or
                what the provider says is not valid.
            ProviderUnreachableError: the provider does not answer.
        """
        state, framework = request.args.get("state", ""), self._client.framework
        started = framework.get_state_data(session, state)
        if started is None or started["ends"] < CLOCK.epoch_seconds():
            raise SignInRefusedError(
                "this sign-in was not started in this browser, took more than an hour, or is finished already: "
                "start again"
            )
        try:
            self._metadata()
            # https://datatracker.ietf.org/doc/html/rfc9207: an answer of another provider gets no code of this one.
            if request.args.get("iss", self.issuer) != self.issuer:
                raise SignInRefusedError("the answer is of another provider than the one that was asked: start again")
            if refusal := request.args.get("error"):
                raise SignInRefusedError(f"the provider has refused the sign-in ({refusal[:100]}): start again")
            tokens = self._tokens(
                grant_type="authorization_code",
                code=request.args.get("code", ""),
                redirect_uri=started["redirect_uri"],
                code_verifier=started["code_verifier"],
            )
        except OAuthError as error:
            raise SignInRefusedError(f"the provider has refused the sign-in ({error.error}): start again") from error
        finally:
            framework.clear_state_data(session, state)
        if not tokens.id_token:
            raise SignInRefusedError("the provider sent no ID token: allow its client of this site the scope openid")
        return replace(tokens, nonce=started["nonce"]), str(started["back"])

    def refresh(self, refresh_token: str) -> ProviderTokens:
        """Return new tokens for a refresh token, which may be the same one.

        Raises:
            SignedOutError: the provider accepts it no longer.
            ProviderUnreachableError: the provider does not answer, or refuses this client.
        """
        self._metadata()
        try:
            tokens = self._tokens(grant_type="refresh_token", refresh_token=refresh_token)
        except OAuthError as error:
            if error.error == "invalid_grant":
                raise SignedOutError("the provider has ended the sign-in: sign in again") from error
            raise self._unreachable(error) from error
        return replace(tokens, refresh_token=tokens.refresh_token or refresh_token)

    def _tokens(self, **grant: str) -> ProviderTokens:
        """Return the answer of the token endpoint; OAuthError passes through."""
        try:
            # Nothing secret follows a redirect.
            answer = self._client.fetch_access_token(**grant, allow_redirects=False)
        except (RequestException, ValueError) as error:
            raise self._unreachable(error) from error
        return ProviderTokens(str(answer.get("id_token") or ""), str(answer.get("refresh_token") or ""))

    def sign_out_address(self, back: str) -> str | None:
        """Return the address that ends the browser's session at the provider, and returns to `back`.

        None if the provider has no such address. Cognito reads `logout_uri` and all others the standard's name:
        https://openid.net/specs/openid-connect-rpinitiated-1_0.html

        Raises:
            ProviderUnreachableError: as above.
        """
        endpoint = self._metadata().get("end_session_endpoint")
        if not endpoint:
            return None
        query = {"client_id": self.client_id, "post_logout_redirect_uri": back, "logout_uri": back}
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    def keys(self) -> bytes:
        """Return the provider's document of keys.

        Raises:
            KeysUnreachableError: it cannot be fetched.
        """
        try:
            url = str(self._metadata()["jwks_uri"])
        except ProviderUnreachableError as error:
            raise KeysUnreachableError(f"the provider's keys cannot be fetched: {error}") from error
        return keys_at(url)

    def _metadata(self) -> Mapping[str, Any]:
        with self._lock:
            if self._failed is not None and CLOCK.monotonic() - self._failed[0] < PAUSE_SECONDS:
                raise ProviderUnreachableError(self._failed[1])
            try:
                return self._checked_metadata()
            except ProviderUnreachableError as error:
                self._client.server_metadata.clear()  # Authlib keeps it: the next request must ask again
                self._failed = CLOCK.monotonic(), str(error)
                raise

    def _checked_metadata(self) -> Mapping[str, Any]:
        try:
            found = cast(Mapping[str, Any], self._client.load_server_metadata())
        except (RequestException, ValueError) as error:
            raise self._unreachable(error) from error
        if found.get("issuer") != self.issuer:  # OpenID Connect Discovery 1.0, section 4.3
            raise ProviderUnreachableError(
                f"the provider at auth.issuer = {self.issuer} names itself {found.get('issuer')!r}: correct it"
            )
        scheme = f"{urlsplit(self.issuer).scheme}://"
        if wrong := [name for name in _ENDPOINTS if not str(found.get(name, "")).startswith(("https://", scheme))]:
            raise ProviderUnreachableError(
                f"the provider {self.issuer} states {wrong[0]} = {found.get(wrong[0])!r}, which is no https address: "
                "ask its operator"
            )
        return found

    def _unreachable(self, error: Exception) -> ProviderUnreachableError:
        return ProviderUnreachableError(
            f"the sign-in provider {self.issuer} does not answer ({type(error).__name__}): try again in a minute"
        )
