"""Sessions: who is signed in, for how long, and under which id; stored in the job table.

A session ends when its user signs out, is idle for too long, or signed in too long ago, and with a revocation of the
user's credentials (`core.credentials.Revocations`). Every 15 minutes it is
rotated: it continues under another id, so that a stolen cookie soon expires. The old id is accepted for a minute
longer, for requests that were already under way. At each rotation the user pool is asked whether the account is still
enabled.

A session is an item among its user's other items, under the SHA-256 of its id: so a reader of the table learns no id,
and the sessions of a user can be listed. A rotated session leaves a marker under its old id for a while, which only
refers to the new id.
"""

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from core.credentials import MAX_AHEAD_SECONDS, Revocations, user_partition
from core.tokens import TokenClaims, TokenRefusedError
from services.clock import CLOCK, Clock
from services.table import EXPIRES_AT, LAST, Item, Table
from services.user_errors import SignedOutError, UserPoolError
from services.users import Account
from web_tier.auth.session_keys import SessionId, SessionKeys, owner_of

_SESSION = "SESSION#"

_LIVE: Final = "attribute_exists( #family )"
"""True for a session, false for the marker of a rotated session and for no item."""

ROTATE_SECONDS: Final = 15 * 60

OLD_ID_SECONDS: Final = 60

CLAIM_SECONDS: Final = 30
"""Seconds after which another request may rotate a session, because the one that claimed it has died."""

MAX_UNVERIFIED_SECONDS: Final = 60 * 60
"""Seconds that a session continues while the pool does not reply whether the account is still enabled."""

ACTIVITY_SECONDS: Final = 60
"""Seconds after which the activity of a user is recorded again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session; times in epoch seconds.

    Attributes:
        family: identifies the session under all its ids.
        owner, email, groups: of the user, as the pool last reported them.
        refresh_token: of the pool, encrypted; empty if the session has gone on since its second factor was set up.
        begun: time at which it began here.
        signed_in: time of the sign-in, by the pool.
        made_after: id of the user's last revocation before it.
        seen: time of the user's last activity, to the minute.
        rotated: time of the last rotation.
        ends: time at which the table may delete it.
        second_factor: whether the sign-in included a code of an authenticator app.
        claimed: time at which a request last started to rotate it.
        device: what its user knows it by: browser, system and address of the sign-in.
    """

    family: str
    owner: str
    email: str
    groups: frozenset[str]
    refresh_token: str = field(repr=False)
    begun: int
    signed_in: int
    seen: int
    rotated: int
    ends: int
    second_factor: bool = False
    claimed: int = 0
    device: str = ""
    made_after: str = ""

    @property
    def begun_at(self) -> datetime:
        """`begun` as a date."""
        return datetime.fromtimestamp(self.begun, UTC)

    @property
    def seen_at(self) -> datetime:
        """`seen` as a date."""
        return datetime.fromtimestamp(self.seen, UTC)


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

    def list_of(self, owner: str) -> list[SessionRecord]:
        """Return the stored sessions of a user; some may be over."""
        return [_record(item) for item in self._items_of(owner)]

    def delete_family(self, owner: str, family: str) -> None:
        """Delete a user's session; return once it has no id left.

        A request may rotate it meanwhile. It either finds the old id deleted, and deletes the new one, or has stored
        the new one, which the next query finds.
        """
        while keys := [
            (str(item["pk"]), str(item["sk"])) for item in self._items_of(owner) if item["family"] == family
        ]:
            self.table.delete_all(keys)

    def _items_of(self, owner: str) -> Iterator[Item]:
        items = self.table.query(user_partition(owner), _SESSION, _SESSION + LAST)
        return (item for item in items if "family" in item)


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
        groups=frozenset(json.loads(str(item["groups"]))),
        refresh_token=str(item["refresh_token"]),
        begun=int(item["begun"]),
        # An earlier release stored neither.
        signed_in=int(item.get("signed_in", item["begun"])),
        made_after=str(item.get("made_after", "")),
        seen=int(item["seen"]),
        rotated=int(item["rotated"]),
        second_factor=bool(item.get("second_factor")),
        claimed=int(item["claimed"]),
        device=str(item.get("device", "")),
        ends=int(item[EXPIRES_AT]),
    )


def _item(session_id: str, record: SessionRecord) -> Item:
    pk, sk = _key(session_id)
    fields = asdict(record)
    ends, groups = fields.pop("ends"), json.dumps(sorted(record.groups))
    own = {"groups": groups, "second_factor": int(record.second_factor), EXPIRES_AT: ends}
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
    """The pool's reply at a rotation."""

    claims: TokenClaims | Account
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
        renew: exchanges a user's refresh token for new tokens at the pool, or without one reads their account; raises
            SignedOutError if the pool has ended the sign-in.
    """

    store: SessionStore
    keys: SessionKeys
    times: SessionTimes
    renew: Callable[[str, str], RenewedTokens]
    revocations: Revocations
    clock: Clock = CLOCK

    def begin(self, claims: TokenClaims, refresh_token: str, device: str = "", *, second_factor: bool = False) -> str:
        """Start a session, always under a new id; return its cookie. Its user knows it by `device`."""
        now, session_id = int(self.clock.epoch_seconds()), self.keys.new_id(claims.sub)
        record = SessionRecord(
            family=self.keys.random_id(),
            owner=claims.sub,
            email=claims.email,
            groups=claims.groups,
            refresh_token=self.keys.encrypt(refresh_token),
            begun=now,
            signed_in=claims.signed_in,
            seen=now,
            rotated=now,
            ends=int(now + self.times.longest),
            second_factor=second_factor,
            device=device,
            made_after=self.revocations.last_of(claims.sub).revocation_id,
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

    def end(self, cookie: str) -> str | None:
        """End the session of a cookie under every id; return the refresh token, which the caller must revoke.

        Its own id first: a request that rotates it at this moment finds it deleted, and deletes the next one.
        """
        ids = self.keys.read(cookie)
        if ids is None:
            return None
        found = self.store.find(ids.own)
        if isinstance(found, RotatedSession):
            found = self.store.find(ids.next)
        self.store.delete(ids.own)
        self.store.delete(ids.next)
        return self.keys.decrypt(found.refresh_token) if isinstance(found, SessionRecord) else None

    def list_of(self, owner: str) -> list[SessionRecord]:
        """Return the open sessions of a user, the one that was used last first."""
        now, last = int(self.clock.epoch_seconds()), self.revocations.last_of(owner)
        is_open = [
            each
            for each in self.store.list_of(owner)
            if not self.times.is_over(each, now) and not last.covers(each.signed_in, each.made_after)
        ]
        return sorted(is_open, key=lambda each: each.seen, reverse=True)

    def end_family(self, owner: str, family: str) -> None:
        """End a session of a user under every id."""
        self.store.delete_family(owner, family)

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
        except (BotoCoreError, ClientError, UserPoolError, TokenRefusedError) as error:
            if now >= record.rotated + MAX_UNVERIFIED_SECONDS:
                # Release the claim, so that the next request tries to rotate the session.
                self.store.replace(ids.own, record, replace(record, claimed=0))
                raise
            _log.warning("the user pool does not reply, a session continues unverified: %s", error)
            return OpenSession(record)
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
        """Return the session with the pool's current data, or None if the pool has ended the sign-in."""
        refresh_token = self.keys.decrypt(record.refresh_token)
        try:
            renewed = self.renew(record.owner, refresh_token) if refresh_token is not None else None
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
