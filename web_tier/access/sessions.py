"""Sessions: who is signed in, for how long, and under which id.

A session ends when its user signs out, has done nothing for a while, or began long ago. Every quarter of an hour it
goes on under another id, so that a cookie that was copied is soon worth nothing; the old id is taken a minute longer,
for requests that were already on their way. With each new id the pool is asked whether the account may still come in.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from core.tokens import TokenClaims, TokenRefusedError
from services.user_errors import SignedOutError, UserPoolError
from web_tier.access.keys import SessionId, SessionKeys
from web_tier.access.session_records import Rotated, SessionRecord, SessionRecords

ROTATE_SECONDS: Final = 15 * 60
OLD_ID_SECONDS: Final = 60
CLAIM_SECONDS: Final = 30
"""How long other requests leave it to one to rotate a session; then it has died."""

UNASKED_SECONDS: Final = 60 * 60
"""How long a session goes on while the pool, which should say whether it may, does not answer."""

MAX_SECONDS_UNSEEN: Final = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """How long sessions last, in seconds: without anything done, and at all."""

    idle: float
    longest: float

    def is_over(self, record: SessionRecord, now: int) -> bool:
        """Return whether the session has come to its end."""
        return now >= record.begun + self.longest or now >= record.seen + self.idle

    def is_to_be_seen(self, record: SessionRecord, now: int) -> bool:
        """Return whether it is time to note the user's activity: not at each request, but well before idle."""
        return now >= record.seen + min(MAX_SECONDS_UNSEEN, self.idle / 4)


@dataclass(frozen=True, slots=True)
class Renewed:
    """What the pool said at a rotation."""

    claims: TokenClaims
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session that a request is known by.

    Attributes:
        record: it.
        cookie: what the browser is to send from now on, None when that has not changed.
    """

    record: SessionRecord
    cookie: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Sessions:
    """The sessions of all processes.

    Attributes:
        renew: asks the pool for new tokens by a refresh token and returns what they say, or raises SignedOutError
            when the pool has ended the sign-in.
        clock: in epoch seconds.
    """

    records: SessionRecords
    keys: SessionKeys
    times: SessionTimes
    renew: Callable[[str], Renewed]
    clock: Callable[[], float] = time.time

    def begin(self, claims: TokenClaims, refresh_token: str, *, second_factor: bool = False) -> str:
        """Begin a session, always under a new id; return its cookie."""
        now, session_id = int(self.clock()), self.keys.new_id(claims.sub)
        record = SessionRecord(
            family=self.keys.random_id(),
            owner=claims.sub,
            email=claims.email,
            groups=claims.groups,
            refresh_token=self.keys.encrypt(refresh_token),
            begun=now,
            seen=now,
            rotated=now,
            ends=int(now + self.times.longest),
            second_factor=second_factor,
        )
        self.records.add(session_id, record)
        return self.keys.sign(session_id)

    def open(self, cookie: str, *, acts: bool = True) -> OpenSession | None:
        """Return the session that a cookie opens, None when it opens none or no longer.

        Args:
            cookie: as the browser sent it.
            acts: whether the user does something; a page that refreshes itself keeps no session alive.
        """
        ids = self.keys.read(cookie)
        if ids is None:
            return None
        now, found = int(self.clock()), self.records.find(ids.own)
        if isinstance(found, Rotated):
            return self._led_on(ids, found, now)
        if found is None or self.times.is_over(found, now):
            return None
        if now >= found.rotated + ROTATE_SECONDS and now >= found.claimed + CLAIM_SECONDS:
            return self._rotate(ids, found, now, acts=acts)
        if acts and self.times.is_to_be_seen(found, now):
            self.records.see(ids.own, now)
        return OpenSession(found)

    def is_open(self, cookie: str) -> bool:
        """Return True until the session that a cookie opens has ended, under its next id, too; change nothing."""
        ids = self.keys.read(cookie)
        found = self.records.find(ids.own) if ids else None
        if ids and isinstance(found, Rotated):
            found = self.records.find(ids.next)
        return isinstance(found, SessionRecord) and not self.times.is_over(found, int(self.clock()))

    def end(self, cookie: str) -> str | None:
        """End the session that a cookie opens, under every id; return the refresh token, which is to be revoked.

        Its own id first: who rotates it at this moment then finds it gone, and takes the next one back.
        """
        ids = self.keys.read(cookie)
        if ids is None:
            return None
        found = self.records.find(ids.own)
        if isinstance(found, Rotated):
            found = self.records.find(ids.next)
        self.records.delete(ids.own)
        self.records.delete(ids.next)
        return self.keys.decrypt(found.refresh_token) if isinstance(found, SessionRecord) else None

    def end_all_of(self, owner: str) -> None:
        """End every session of a user, in every process at once."""
        self.records.delete_all_of(owner)

    def csrf_token(self, session: OpenSession) -> str:
        """Return a token for the forms of a session, another each time: a compressed page must not give it away."""
        salt = self.keys.random_id()
        return f"{salt}.{self.keys.token('csrf', session.record.family, salt)}"

    def csrf_matches(self, session: OpenSession, token: str) -> bool:
        """Return whether a token is one of a session; it is as long as the session lasts."""
        salt, _, code = token.partition(".")
        return self.keys.knows(code, "csrf", session.record.family, salt)

    def _led_on(self, ids: SessionId, mark: Rotated, now: int) -> OpenSession | None:
        following = self.records.find(ids.next) if now < mark.until else None
        if not isinstance(following, SessionRecord) or self.times.is_over(following, now):
            return None
        return OpenSession(following, self.keys.sign(ids.next))

    def _rotate(self, ids: SessionId, found: SessionRecord, now: int, *, acts: bool) -> OpenSession | None:
        """Let a session go on under its next id; requests at the same moment keep the old one until it stands."""
        record = replace(found, seen=now, claimed=now) if acts else replace(found, claimed=now)
        if not self.records.replace(ids.own, found, record):
            return OpenSession(found)
        try:
            following = self._following(record, now)
        except (BotoCoreError, ClientError, UserPoolError, TokenRefusedError) as error:
            if now >= record.rotated + UNASKED_SECONDS:
                self.records.replace(ids.own, record, replace(record, claimed=0))  # its claim lets no user in
                raise
            _log.warning("the user pool does not answer, a session goes on without its word: %s", error)
            return OpenSession(record)
        if following is None:
            self.records.delete(ids.own)
            return None
        return self._go_on(ids, following, now)

    def _following(self, record: SessionRecord, now: int) -> SessionRecord | None:
        """Return the session as it goes on by the pool's word, None where it may not."""
        refresh_token = self.keys.decrypt(record.refresh_token)
        try:
            renewed = self.renew(refresh_token) if refresh_token is not None else None
        except SignedOutError:
            return None
        if renewed is None or renewed.claims.sub != record.owner:
            return None
        return replace(
            record,
            email=renewed.claims.email,
            groups=renewed.claims.groups,
            refresh_token=self.keys.encrypt(renewed.refresh_token),
            rotated=now,
            claimed=0,
        )

    def _go_on(self, ids: SessionId, following: SessionRecord, now: int) -> OpenSession | None:
        """Let a session go on under its next id, unless it has ended, or has gone on there already."""
        mark = Rotated(now + OLD_ID_SECONDS)
        if not self.records.add(ids.next, following):
            return self._led_on(ids, mark, now)
        if not self.records.leave_mark(ids.own, mark):
            self.records.delete(ids.next)
            return None
        return OpenSession(following, self.keys.sign(ids.next))
