"""Sessions: who is signed in, for how long, and under which id; stored in the job table.

A session ends when its user signs out, is idle for too long, or signed in too long ago, and with a revocation of the
user's credentials (`core.credentials.Revocations`). Every 15 minutes it is
rotated: it continues under another id, so that a stolen cookie soon expires. The old id is accepted for a minute
longer, for requests that were already under way. At each rotation the provider is asked whether it still knows the
sign-in, by a refresh token, if it has given one. If not, the session ends with the personal tokens that were made in
it.

A session is an item among its user's other items, under the SHA-256 of its id: so a reader of the table learns no id.
A rotated session leaves a marker under its old id for a while, which only refers to the new id.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from typing import Final

from core.credentials import MAX_AHEAD_SECONDS, PersonalTokens, Revocations, user_partition
from core.tokens import TokenClaims, TokenRefusedError, TokenUncheckedError
from services.clock import CLOCK, Clock
from services.table import CLOUD_ERRORS, EXPIRES_AT, Item, Table
from web_tier.auth.provider import ProviderUnreachableError, SignedOutError
from web_tier.auth.session_keys import SessionId, SessionKeys, owner_of

_SESSION = "OIDC-SESSION#"

_LIVE: Final = "attribute_exists( #family )"
"""True for a session, false for the marker of a rotated session and for no item."""

ROTATE_SECONDS: Final = 15 * 60

OLD_ID_SECONDS: Final = 60

CLAIM_SECONDS: Final = 30
"""Seconds after which another request may rotate a session, because the one that claimed it has died."""

MAX_UNVERIFIED_SECONDS: Final = 60 * 60
"""Seconds that a session continues while the provider does not reply, or not with a valid token."""

ACTIVITY_SECONDS: Final = 60
"""Seconds after which the activity of a user is recorded again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session; times in epoch seconds.

    Attributes:
        family: identifies the session under all its ids.
        owner, email, is_operator: of the user, as the provider last reported them.
        refresh_token: of the provider, encrypted; of an empty text if it gives none.
        begun: time at which it began here.
        signed_in: time of the sign-in, by the provider.
        made_after: id of the user's last revocation before it.
        seen: time of the user's last activity, to the minute.
        rotated: time of the last rotation.
        ends: time at which the table may delete it.
        claimed: time at which a request last started to rotate it.
    """

    family: str
    owner: str
    email: str
    is_operator: bool
    refresh_token: str = field(repr=False)
    begun: int
    signed_in: int
    seen: int
    rotated: int
    ends: int
    claimed: int = 0
    made_after: str = ""


@dataclass(frozen=True, slots=True)
class RotatedSession:
    """The marker of a rotated session under its old id: it refers to the new id `until` that time."""

    until: int


@dataclass(frozen=True)
class SessionStore:
    """Sessions in the job table, read consistently: a session that one process ends is ended for all at once."""

    table: Table

    def find(self, session_id: str) -> SessionRecord | RotatedSession | None:
        """Return the session or marker under an id."""
        item = self.table.get(*_key(session_id))
        if item is None:
            return None
        if "family" not in item:
            return RotatedSession(int(item[EXPIRES_AT]))
        return _record(item)

    def add(self, session_id: str, record: SessionRecord) -> bool:
        """Store a session under an id unless one exists; return whether it was stored."""
        return self.table.put_if(_item(session_id, record), "attribute_not_exists( #family )")

    def touch(self, session_id: str, now: int) -> None:
        """Record the user's activity, unless the session has ended."""
        self.table.set(*_key(session_id), {"seen": now}, _LIVE)

    def replace(self, session_id: str, found: SessionRecord, record: SessionRecord) -> bool:
        """Replace `found` by `record` unless another process has claimed the rotation; return whether it did."""
        return self.table.put_if(_item(session_id, record), "#claimed = :was", {"was": found.claimed})

    def mark_rotated(self, session_id: str, mark: RotatedSession) -> bool:
        """Replace a session by a marker unless it has ended; return whether it was replaced."""
        pk, sk = _key(session_id)
        return self.table.put_if({"pk": pk, "sk": sk, EXPIRES_AT: mark.until}, _LIVE)

    def delete(self, session_id: str) -> None:
        """Delete a session or its marker; a missing one is no error."""
        self.table.delete_all([_key(session_id)])


def _has_passed(seconds: float, since: float, now: float) -> bool:
    """Return whether `seconds` have passed since a stored moment; or it is of the future, and proves nothing."""
    return not since - MAX_AHEAD_SECONDS <= now < since + seconds


def _key(session_id: str) -> tuple[str, str]:
    return user_partition(owner_of(session_id)), f"{_SESSION}{sha256(session_id.encode()).hexdigest()}"


def _record(item: Item) -> SessionRecord:
    return SessionRecord(
        family=str(item["family"]),
        owner=str(item["owner"]),
        email=str(item["email"]),
        is_operator=bool(item["is_operator"]),
        refresh_token=str(item["refresh_token"]),
        begun=int(item["begun"]),
        signed_in=int(item["signed_in"]),
        made_after=str(item["made_after"]),
        seen=int(item["seen"]),
        rotated=int(item["rotated"]),
        claimed=int(item["claimed"]),
        ends=int(item[EXPIRES_AT]),
    )


def _item(session_id: str, record: SessionRecord) -> Item:
    pk, sk = _key(session_id)
    fields = asdict(record)
    own = {"is_operator": int(record.is_operator), EXPIRES_AT: fields.pop("ends")}
    return {"pk": pk, "sk": sk, **fields, **own}


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """Limits of sessions in seconds: without activity, and in total."""

    idle: float
    longest: float

    def is_over(self, record: SessionRecord, now: int) -> bool:
        """Return whether the session has ended."""
        # A wrong clock has stored an activity of the future; the last one that is known then is the sign-in.
        seen = record.seen if record.seen - MAX_AHEAD_SECONDS <= now else record.begun
        return _has_passed(self.longest, record.begun, now) or now >= seen + self.idle

    def needs_touch(self, record: SessionRecord, now: int) -> bool:
        """Return whether to record the user's activity: not at each request, but well before it is idle."""
        return _has_passed(min(ACTIVITY_SECONDS, self.idle / 4), record.seen, now)


@dataclass(frozen=True, slots=True)
class RenewedTokens:
    """The provider's reply at a rotation; without claims nothing has changed, as far as it tells."""

    claims: TokenClaims | None
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OpenSession:
    """The session of a request.

    Attributes:
        cookie: the new cookie of the browser, or None if it has not changed.
    """

    record: SessionRecord
    cookie: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Sessions:
    """The sessions of all processes.

    Attributes:
        renew: exchanges a user's refresh token, or an empty text, for new ones at the provider; raises SignedOutError
            if it has ended the sign-in.
    """

    store: SessionStore
    keys: SessionKeys
    times: SessionTimes
    renew: Callable[[str], RenewedTokens]
    revocations: Revocations
    tokens: PersonalTokens
    clock: Clock = CLOCK

    def begin(self, claims: TokenClaims, refresh_token: str) -> str:
        """Start a session, always under a new id; return its cookie."""
        now, session_id = int(self.clock.epoch_seconds()), self.keys.new_id(claims.owner)
        record = SessionRecord(
            family=self.keys.random_id(),
            owner=claims.owner,
            email=claims.email,
            is_operator=claims.is_operator,
            refresh_token=self.keys.encrypt(refresh_token),
            begun=now,
            signed_in=claims.signed_in,
            seen=now,
            rotated=now,
            ends=int(now + self.times.longest),
            made_after=self.revocations.last_of(claims.owner).revocation_id,
        )
        self.store.add(session_id, record)
        return self.keys.sign(session_id)

    def open(self, cookie: str, *, acts: bool = True) -> OpenSession | None:
        """Return the session of a cookie, or None if it is invalid or has ended.

        Args:
            cookie: as the browser sent it.
            acts: whether the request is an activity of the user; a page that refreshes itself is none.
        """
        ids = self.keys.read(cookie)
        if ids is None:
            return None
        now, found = int(self.clock.epoch_seconds()), self.store.find(ids.own)
        if isinstance(found, RotatedSession):
            return self._open_next(ids, found, now)
        if found is None or self._is_over(found, now):
            return None
        if _has_passed(ROTATE_SECONDS, found.rotated, now) and _has_passed(CLAIM_SECONDS, found.claimed, now):
            return self._rotate(ids, found, now, acts=acts)
        if acts and self.times.needs_touch(found, now):
            self.store.touch(ids.own, now)
        return OpenSession(found)

    def is_open(self, cookie: str) -> bool:
        """Return whether the session of a cookie has not ended, under its next id, too; change nothing."""
        ids = self.keys.read(cookie)
        found = self.store.find(ids.own) if ids else None
        if ids and isinstance(found, RotatedSession):
            found = self.store.find(ids.next)
        return isinstance(found, SessionRecord) and not self._is_over(found, int(self.clock.epoch_seconds()))

    def end(self, cookie: str) -> None:
        """End the session of a cookie under every id.

        Its own id first: a request that rotates it at this moment finds it deleted, and deletes the next one.
        """
        ids = self.keys.read(cookie)
        if ids is not None:
            self.store.delete(ids.own)
            self.store.delete(ids.next)

    def csrf_token(self, session: OpenSession) -> str:
        """Return a token for forms of a session, a different one each time, so that compression cannot reveal it."""
        salt = self.keys.random_id()
        return f"{salt}.{self.keys.mac('csrf', session.record.family, salt)}"

    def csrf_matches(self, session: OpenSession, token: str) -> bool:
        """Return whether a token belongs to a session; it is valid as long as the session."""
        salt, _, code = token.partition(".")
        return self.keys.verify(code, "csrf", session.record.family, salt)

    def _open_next(self, ids: SessionId, mark: RotatedSession, now: int) -> OpenSession | None:
        is_over = _has_passed(OLD_ID_SECONDS, mark.until - OLD_ID_SECONDS, now)
        following = None if is_over else self.store.find(ids.next)
        if not isinstance(following, SessionRecord) or self._is_over(following, now):
            return None
        return OpenSession(following, self.keys.sign(ids.next))

    def _rotate(self, ids: SessionId, found: SessionRecord, now: int, *, acts: bool) -> OpenSession | None:
        """Continue a session under its next id; concurrent requests use the old one until the new one is stored."""
        record = replace(found, seen=now, claimed=now) if acts else replace(found, claimed=now)
        if not self.store.replace(ids.own, found, record):
            return OpenSession(found)
        try:
            following = self._renewed(record, now)
        except (*CLOUD_ERRORS, ProviderUnreachableError, TokenRefusedError) as error:
            if now < record.rotated + MAX_UNVERIFIED_SECONDS:
                _log.warning("the provider does not confirm a session, which continues for now: %s", error)
                return OpenSession(record)
            if not isinstance(error, TokenRefusedError) or isinstance(error, TokenUncheckedError):
                # Release the claim, so that the next request tries to rotate the session.
                self.store.replace(ids.own, record, replace(record, claimed=0))
                raise
            following = None  # the user must sign in again
        if following is None:
            self.store.delete(ids.own)
            return None
        mark = RotatedSession(now + OLD_ID_SECONDS)
        if not self.store.add(ids.next, following):  # another request has stored it
            return self._open_next(ids, mark, now)
        if not self.store.mark_rotated(ids.own, mark):  # the session has ended meanwhile
            self.store.delete(ids.next)
            return None
        return OpenSession(following, self.keys.sign(ids.next))

    def _is_over(self, record: SessionRecord, now: int) -> bool:
        if self.times.is_over(record, now):
            return True
        return self.revocations.last_of(record.owner).covers(record.signed_in, record.made_after)

    def _renewed(self, record: SessionRecord, now: int) -> SessionRecord | None:
        """Return the session with the provider's current data, or None if the provider has ended the sign-in."""
        refresh_token = self.keys.decrypt(record.refresh_token)
        if refresh_token is None:  # its key has been removed
            return None
        try:
            renewed = self.renew(refresh_token)
        except SignedOutError:
            self.tokens.revoke_made_in(record.owner, record.family)
            return None
        following = replace(record, refresh_token=self.keys.encrypt(renewed.refresh_token), rotated=now, claimed=0)
        if renewed.claims is None:
            return following
        if renewed.claims.owner != record.owner:
            return None
        return replace(following, email=renewed.claims.email, is_operator=renewed.claims.is_operator)
