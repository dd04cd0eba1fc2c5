"""What sign-in is made of, for the application that serves the current request."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, current_app, request
from werkzeug.wrappers import Response

from core.personal_tokens import PersonalTokens
from core.recovery_codes import RecoveryCodes
from core.tokens import TokenVerifier
from services.user_errors import UserPoolError
from services.users import PoolTokens, UserPool
from web_tier.access.current_session import set_session
from web_tier.access.known_accounts import KnownAccounts
from web_tier.access.known_device import remember_device
from web_tier.access.sessions import Sessions

COOKIE: Final = "__Host-fleetsight"
"""With this prefix browsers take it only from the very host that it is for, by TLS, and for every path."""

_EXTENSION = "fleetsight-access"
_Answer = TypeVar("_Answer", bound=Response)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What people are known by."""

    pool: UserPool
    verifier: TokenVerifier
    sessions: Sessions
    personal_tokens: PersonalTokens
    recovery_codes: RecoveryCodes
    accounts: KnownAccounts


class Access:
    """Sign-in of one process, for all its threads.

    Args:
        make: makes the parts, on first use, so after gunicorn's fork; None without sign-in.

    Attributes:
        signs_in: whether people sign in; where they do not, the parts may not be asked for.
    """

    def __init__(self, make: Callable[[], Parts] | None) -> None:
        self.signs_in = make is not None
        self._make = make
        self._made: Parts | None = None
        self._lock = threading.Lock()

    @property
    def pool(self) -> UserPool:
        """Who has an account."""
        return self._parts().pool

    @property
    def verifier(self) -> TokenVerifier:
        """What tells a token of the pool from a forged one."""
        return self._parts().verifier

    @property
    def sessions(self) -> Sessions:
        """Who is signed in."""
        return self._parts().sessions

    @property
    def personal_tokens(self) -> PersonalTokens:
        """What people let their scripts come in by."""
        return self._parts().personal_tokens

    @property
    def recovery_codes(self) -> RecoveryCodes:
        """What lets users in who have lost their authenticator app."""
        return self._parts().recovery_codes

    @property
    def accounts(self) -> KnownAccounts:
        """What the pool says of the owner of a personal token."""
        return self._parts().accounts

    def begin(self, tokens: PoolTokens, answer: _Answer, *, second_factor: bool = False) -> _Answer:
        """Sign in the user of `tokens`, which the pool has just given, and let `answer` say so to the browser.

        The session is always a new one, and the one that the browser came with ends.

        Args:
            tokens: of the pool.
            answer: what the browser gets.
            second_factor: whether the pool asked for a code of an authenticator app, too.

        Raises:
            TokenRefusedError: when the tokens are not of this pool, as when `auth` names another one.
        """
        claims = self.verifier.verify(tokens.id_token)
        self._end_current()
        set_cookie(answer, self.sessions.begin(claims, tokens.refresh_token, second_factor=second_factor))
        remember_device(self.sessions.keys, claims.email, answer, second_factor=second_factor)
        return answer

    def end(self, answer: _Answer) -> _Answer:
        """Sign out the user of the current request, and let `answer` say so to the browser."""
        self._end_current()
        answer.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
        return answer

    def end_all_of(self, owner: str) -> None:
        """End every session and revoke every personal token of a user: what an old password has opened."""
        self.sessions.end_all_of(owner)
        self.personal_tokens.revoke_all(owner)

    def revoke(self, refresh_token: str) -> None:
        """Revoke a refresh token that is not kept any more; where the pool does not answer, it stays unused."""
        try:
            self.pool.sign_out(refresh_token)
        except (BotoCoreError, ClientError, UserPoolError) as error:
            _log.warning("the user pool did not revoke a refresh token: %s", error)

    def _end_current(self) -> None:
        set_session(None)  # what the guard has renewed must not be sent after all
        cookie = request.cookies.get(COOKIE)
        refresh_token = self.sessions.end(cookie) if cookie else None
        if refresh_token is not None:
            self.revoke(refresh_token)

    def _parts(self) -> Parts:
        with self._lock:
            if self._made is None:
                if self._make is None:
                    raise LookupError("there is no sign-in (auth.mode none): ask `signs_in` first")
                self._made = self._make()
            return self._made


def set_cookie(answer: Response, value: str) -> None:
    """Let `answer` give the browser a session; it forgets it when it is closed."""
    answer.set_cookie(COOKIE, value, secure=True, httponly=True, samesite="Lax")


def install_access(app: Flask, access: Access) -> None:
    """Make `access` that of `app`."""
    app.extensions[_EXTENSION] = access


def current_access() -> Access:
    """Return that of the application which serves the current request."""
    return cast(Access, current_app.extensions[_EXTENSION])
