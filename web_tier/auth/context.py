"""The sign-in of an application: its services, by configuration, and the session of the current browser."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, current_app, request
from werkzeug.wrappers import Response

from core.credentials import PersonalTokens, RecoveryCodes, Revocations
from core.jobs.models import Job, Share
from core.tokens import TokenClaims, TokenVerifier, issuer_of, jwks_url, keys_at
from services.clock import CLOCK, Clock
from services.errors import ConfigError
from services.made_once import made_once
from services.recent_dict import RecentDict
from services.user_errors import SignedOutError, UserPoolError
from services.users import Account, PoolTokens, UserPool
from web_tier.auth.devices import describe_device, remember_device
from web_tier.auth.identity import Identity, set_identity, set_session
from web_tier.auth.session_keys import SessionKeys, load_session_keys
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

_log = logging.getLogger(__name__)


ACCOUNT_LIFETIME_SECONDS: Final = 60.0
"""Seconds for which a token still works after its user was disabled, deleted or removed from a group."""

MAX_ACCOUNTS: Final = 10_000
"""Accounts in the cache; the oldest is evicted first."""


@dataclass
class AccountCache:
    """Accounts of the user pool, cached for a minute: a token outlives changes of its account.

    Threads may share it.
    """

    pool: UserPool
    clock: Clock = CLOCK
    _cached: RecentDict[str, tuple[Account | None, float]] = field(
        default_factory=lambda: RecentDict(MAX_ACCOUNTS), init=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def find(self, sub: str) -> Account | None:
        """Return an account that exists and is enabled, or None."""
        now = self.clock.monotonic()
        with self._lock:
            account, fetched_at = self._cached.get(sub, (None, float("-inf")))
        if now - fetched_at >= ACCOUNT_LIFETIME_SECONDS:
            account = self.pool.account(sub)
            with self._lock:
                self._cached[sub] = account, now
        return account if account is not None and account.enabled else None

    def evict(self, sub: str) -> None:
        """Evict an account that has just changed; other processes fetch it again within a minute."""
        with self._lock:
            self._cached.pop(sub, None)


@dataclass(frozen=True)
class AuthServices:
    """The services that authenticate users, for all threads of a process.

    Attributes:
        recovery_codes: of users who have lost their authenticator app.
        accounts: of the owners of tokens.
    """

    pool: UserPool
    verifier: TokenVerifier
    sessions: Sessions
    revocations: Revocations
    personal_tokens: PersonalTokens
    recovery_codes: RecoveryCodes
    accounts: AccountCache

    def begin(self, tokens: PoolTokens, answer: _Answer, *, second_factor: bool = False) -> _Answer:
        """Sign in the user of `tokens`, which the pool has just issued, and set the cookie in `answer`.

        The session is always a new one; a session that the browser already has is ended. From now on the request is
        that user's.

        Args:
            tokens: of the pool.
            answer: the response to the browser.
            second_factor: whether the pool asked for a code of an authenticator app, too.

        Raises:
            TokenRefusedError: the tokens are not of this pool, for instance if `auth` names another one.
        """
        claims = self.verifier.verify(tokens.id_token)
        return self.begin_session(claims, tokens.refresh_token, answer, second_factor=second_factor)

    def begin_session(
        self, claims: TokenClaims, refresh_token: str, answer: _Answer, *, second_factor: bool = False
    ) -> _Answer:
        """Begin a session as `begin`; an empty refresh token means that the pool has no sign-in for it."""
        self._end_current()
        cookie = self.sessions.begin(claims, refresh_token, describe_device(), second_factor=second_factor)
        set_cookie(answer, cookie)
        set_session(self.sessions.open(cookie))
        set_identity(Identity(claims.sub, claims.email, claims.groups, "session", claims.signed_in, second_factor))
        remember_device(self.sessions.keys, claims.email, answer, second_factor=second_factor)
        return answer

    def end(self, answer: _Answer) -> _Answer:
        """Sign out the user of the current request, and delete the cookie in `answer`."""
        self._end_current()
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
        return answer

    def end_all_of(self, owner: str) -> None:
        """End every session and token of a user, also in the pool; a sign-in after the return counts.

        The revocation comes first: it ends the credentials that the pool alone could not end.
        """
        self.revocations.revoke_all_of(owner)
        self.accounts.evict(owner)
        self.pool.sign_out_everywhere(owner)

    def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token that is no longer stored; if the pool does not reply, it stays unused."""
        try:
            self.pool.sign_out(refresh_token)
        except (BotoCoreError, ClientError, UserPoolError) as error:
            _log.warning("the user pool did not revoke a refresh token: %s", error)

    def _end_current(self) -> None:
        set_session(None)  # a cookie that the guard has renewed must not be sent
        cookie = request.cookies.get(COOKIE)
        refresh_token = self.sessions.end(cookie) if cookie else None
        if refresh_token is not None:
            self.revoke(refresh_token)


class AuthContext:
    """The sign-in of one process, for all its threads.

    Args:
        create: creates the services on first use, so after gunicorn's fork; None without sign-in.

    Attributes:
        signs_in: whether users sign in; if not, the services must not be used.
    """

    def __init__(self, create: Callable[[], AuthServices] | None) -> None:
        self.signs_in = create is not None
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
    """Set the sign-in of `app`."""
    app.extensions[_EXTENSION] = auth


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
        ConfigError: the configuration requires sign-in, and the pool or the session keys are missing.
    """
    auth = backend.config.auth
    if auth.mode == "none":
        return AuthContext(None)
    if auth.user_pool_id is None or auth.client_id is None:
        raise ConfigError(
            "auth.mode is cognito, and auth.user_pool_id and auth.client_id are null: name the pool that people sign "
            "in by, and its client for the web tier"
        )
    pool_id, client_id, keys = auth.user_pool_id, auth.client_id, load_session_keys()
    return AuthContext(lambda: _create_services(backend, pool_id, client_id, keys))


def _create_services(backend: Backend, pool_id: str, client_id: str, keys: SessionKeys) -> AuthServices:
    config, table = backend.config, backend.store.table
    pool = UserPool(backend.clients.cognito_idp, pool_id, client_id)
    region, auth = config.aws.region, config.auth
    fetch_keys = keys_at(jwks_url(config.aws.endpoint_url, region, pool_id))
    verifier = TokenVerifier(issuer_of(region, pool_id), client_id, fetch_keys, CLOCK)
    revocations = Revocations(table)
    times = SessionTimes(
        idle=timedelta(minutes=auth.session_idle_minutes).total_seconds(),
        longest=timedelta(hours=auth.session_hours).total_seconds(),
    )

    def renew(owner: str, refresh_token: str) -> RenewedTokens:
        if not refresh_token:
            account = pool.account(owner)
            if account is None or not account.enabled:
                raise SignedOutError
            return RenewedTokens(account, "")
        tokens = pool.refresh(refresh_token)
        return RenewedTokens(verifier.verify(tokens.id_token), tokens.refresh_token)

    return AuthServices(
        pool=pool,
        verifier=verifier,
        sessions=Sessions(SessionStore(table), keys, times, renew, revocations),
        revocations=revocations,
        personal_tokens=PersonalTokens(table, revocations),
        recovery_codes=RecoveryCodes(table),
        accounts=AccountCache(pool),
    )
