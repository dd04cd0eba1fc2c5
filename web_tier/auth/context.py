"""The sign-in of an application: its services, by configuration, and the session of the current browser."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar, cast

from flask import Flask, current_app, request
from werkzeug.wrappers import Response

from core.credentials import PersonalTokens, Profile, Profiles, Revocations
from core.jobs.models import Job, Share
from core.tokens import TokenClaims, TokenKeys, TokenRefusedError, TokenUncheckedError, TokenVerifier
from services.clock import CLOCK, Clock
from services.made_once import made_once
from services.recent_dict import RecentDict
from services.table import Table
from web_tier.auth.identity import Identity, set_identity, set_session
from web_tier.auth.provider import STATE_COOKIE, Provider, ProviderTokens
from web_tier.auth.session_keys import SessionKeys, load_client_secret, load_session_keys
from web_tier.auth.sessions import RenewedTokens, Sessions, SessionStore, SessionTimes
from web_tier.http.backend import Backend

COOKIE: Final = "__Host-fleetsight"
"""The session cookie. With this prefix, browsers accept it only from its own host, over TLS, and for every path."""

LINK_COOKIE: Final = "__Secure-fleetsight-link"
"""The cookie with the token of a link to a shared job. Its path is that of the job; it is sent for no other."""

ShareOf = Callable[[Job], Share | None]
"""Returns the share by which the sender of the current request may read a job of another user, or None."""

SHARING: Final = "fleetsight-sharing"
"""The extension of the application that returns a `ShareOf` for the current request, or None."""

_EXTENSION = "fleetsight-auth"

_Answer = TypeVar("_Answer", bound=Response)

PROFILE_LIFETIME_SECONDS: Final = 60.0
"""Seconds for which a personal token still acts by its owner's last profile."""

MAX_PROFILES: Final = 10_000
"""Profiles in the cache; the oldest is evicted first."""


@dataclass
class ProfileCache:
    """Profiles of users, cached for a minute; threads may share it."""

    profiles: Profiles
    clock: Clock = CLOCK
    _cached: RecentDict[str, tuple[Profile | None, float]] = field(
        default_factory=lambda: RecentDict(MAX_PROFILES), init=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def put(self, claims: TokenClaims) -> None:
        """Store what the provider has just told of a user; other processes read it within a minute."""
        self.profiles.put(Profile(claims.owner, claims.email, claims.is_verified, claims.is_operator))
        with self._lock:
            self._cached.pop(claims.owner, None)

    def find(self, owner: str) -> Profile | None:
        """Return the profile of a user who has signed in here, or None."""
        now = self.clock.monotonic()
        with self._lock:
            profile, fetched_at = self._cached.get(owner, (None, float("-inf")))
        if now - fetched_at >= PROFILE_LIFETIME_SECONDS:
            profile = self.profiles.find(owner)
            with self._lock:
                self._cached[owner] = profile, now
        return profile


@dataclass(frozen=True)
class AuthServices:
    """The services that authenticate users, for all threads of a process.

    Attributes:
        profiles: of the owners of personal tokens, and of the users that jobs are shared with.
    """

    provider: Provider
    verifier: TokenVerifier
    sessions: Sessions
    revocations: Revocations
    personal_tokens: PersonalTokens
    profiles: ProfileCache

    def begin(self, tokens: ProviderTokens, answer: _Answer) -> _Answer:
        """Sign in the user of `tokens`, which the provider has just issued, and set the cookie in `answer`.

        The session is always a new one; a session that the browser already has is ended. From now on the request is
        that user's.

        Raises:
            TokenRefusedError: the tokens are not of this provider and client, or from a sign-in before the user's
                last revocation, which the provider still remembers.
        """
        claims = self.verifier.verify(tokens.id_token, tokens.nonce)
        if self.revocations.last_of(claims.owner).covers(claims.signed_in):
            raise TokenRefusedError("this sign-in is older than your last sign-out everywhere: sign in again")
        self._end_current()
        self.profiles.put(claims)
        cookie = self.sessions.begin(claims, tokens.refresh_token)
        set_cookie(answer, cookie)
        set_session(self.sessions.open(cookie))
        set_identity(Identity(claims.owner, claims.email, claims.is_operator, "session", claims.signed_in))
        return answer

    def end(self, answer: _Answer) -> _Answer:
        """Sign out the user of the current request, and delete the cookie in `answer`."""
        self._end_current()
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
        return answer

    def _end_current(self) -> None:
        set_session(None)  # a cookie that the guard has renewed must not be sent
        if cookie := request.cookies.get(COOKIE):
            self.sessions.end(cookie)


class AuthContext:
    """The sign-in of one process, for all its threads.

    Args:
        create: creates the services on first use, so after gunicorn's fork; None without sign-in.
        keys: of sessions.

    Attributes:
        signs_in: whether users sign in; if not, the services must not be used.
    """

    def __init__(self, create: Callable[[], AuthServices] | None, keys: SessionKeys | None = None) -> None:
        self.signs_in, self.keys = create is not None, keys
        self._create = create
        self._lock = threading.Lock()

    @made_once
    def services(self) -> AuthServices:
        """The services; without sign-in there are none, which raises `LookupError`."""
        if self._create is None:
            raise LookupError("there is no sign-in (auth.mode none): check `signs_in` first")
        return self._create()


def set_cookie(answer: Response, value: str) -> None:
    """Set the session cookie in `answer`; browsers delete it when they are closed."""
    answer.set_cookie(COOKIE, value, secure=True, httponly=True, samesite="Lax")


def install_auth(app: Flask, auth: AuthContext) -> None:
    """Set the sign-in of `app`, and the cookie that a browser keeps while its user is at the provider."""
    app.extensions[_EXTENSION] = auth
    if auth.keys is not None:
        app.secret_key, *earlier = auth.keys.secrets_of("sign-in")
        app.config.update(
            SECRET_KEY_FALLBACKS=earlier,
            SESSION_COOKIE_NAME=STATE_COOKIE,
            PERMANENT_SESSION_LIFETIME=3_600,
            SESSION_COOKIE_SECURE=True,
            SESSION_COOKIE_SAMESITE="Lax",
        )


def signs_in() -> bool:
    """Return whether the users of the application that serves the current request sign in."""
    return _context().signs_in


def current_auth() -> AuthServices:
    """Return the sign-in of the application that serves the current request; it must have one: `signs_in`."""
    return _context().services


def _context() -> AuthContext:
    return cast(AuthContext, current_app.extensions[_EXTENSION])


def create_auth(backend: Backend) -> AuthContext:
    """Return the sign-in of the backend's configuration; it calls no service before its first use.

    Raises:
        ConfigError: users sign in, and the keys of sessions or the secret of the client cannot be read.
    """
    if backend.config.auth.mode == "none":
        return AuthContext(None)
    keys, secret = load_session_keys(), load_client_secret()
    return AuthContext(lambda: _create_services(backend, keys, secret), keys)


def _create_services(backend: Backend, keys: SessionKeys, secret: str | None) -> AuthServices:
    auth = backend.config.auth
    provider = Provider(auth, secret)
    verifier = TokenVerifier(
        provider.issuer, provider.client_id, auth.groups_claim, auth.operators_group, TokenKeys(provider.keys, CLOCK)
    )
    times = SessionTimes(
        idle=timedelta(minutes=auth.session_idle_minutes).total_seconds(),
        longest=timedelta(hours=auth.session_hours).total_seconds(),
    )
    return auth_services(provider, verifier, backend.store.table, keys, times)


def auth_services(
    provider: Provider,
    verifier: TokenVerifier,
    table: Table,
    keys: SessionKeys,
    times: SessionTimes,
    clock: Clock = CLOCK,
) -> AuthServices:
    """Return the services of the users of `provider`; they store everything in `table`."""
    revocations, profiles = Revocations(table, clock), ProfileCache(Profiles(table), clock)
    personal_tokens = PersonalTokens(table, revocations, clock)

    def renew(refresh_token: str) -> RenewedTokens:
        if not refresh_token:
            return RenewedTokens(None, "")
        tokens = provider.refresh(refresh_token)
        try:
            claims = verifier.verify(tokens.id_token) if tokens.id_token else None
        except TokenUncheckedError:
            claims = None  # the new refresh token must not be lost: a provider that rotates them ends the sign-in
        if claims is not None:
            profiles.put(claims)
        return RenewedTokens(claims, tokens.refresh_token)

    sessions = Sessions(SessionStore(table), keys, times, renew, revocations, personal_tokens, clock)
    return AuthServices(provider, verifier, sessions, revocations, personal_tokens, profiles)
