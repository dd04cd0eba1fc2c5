"""Credentials of users: personal tokens for scripts, what the provider last told of a user, and revocations.

A personal token is an item of the job table under the SHA-256 of its text, so that a reader of the table has no
token. It is also in a list of its owner. Its text is returned once, when the token is created.

A personal token acts by the profile of its owner: what the OpenID provider told at the last sign-in or refresh of a
session.

Every credential ends with the sign-in that it was made from: `Revocations` has the one rule for sessions, personal
tokens and the provider's own tokens.
"""

import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Final

from core.ids import is_id, new_id
from services.clock import CLOCK, Clock
from services.errors import FleetsightError, NotFoundError
from services.table import EXPIRES_AT, LAST, Item, Table

PREFIX: Final = "fst_"
"""Prefix of every token, so that a leaked one can be found in a log or a repository."""

MAX_CHARACTERS: Final = 100
"""Maximum characters of a token, and of its name."""

MAX_DAYS: Final = 365

MAX_TOKENS: Final = 20
"""Maximum valid tokens of a user."""

MAX_AHEAD_SECONDS: Final = 10 * 60
"""How far a stored moment may be in the future, since clocks differ. A wrong clock has stored a later one."""

_TOKEN, _LISTED = "API-TOKEN", "API-TOKEN#"

_PROFILE: Final = "PROFILE"

_REVOKED: Final = "REVOKED"

_FIRST: Final = "0"
"""Below every sort key of a user's partition."""


class Scope(StrEnum):
    """An action that a token permits."""

    CLASSIFY = "classify"
    READ = "read"
    OPERATE = "operate"


class TokenNotMadeError(FleetsightError):
    """Raised when the requested token cannot be created; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """The last revocation of all credentials of a user, or none yet.

    Attributes:
        revocation_id: another one each time; empty if there was none.
        at: epoch seconds by the clock of the process that revoked.
    """

    revocation_id: str = ""
    at: int = 0

    def covers(self, signed_in: int, made_after: str | None = None) -> bool:
        """Return whether a credential is revoked.

        Args:
            signed_in: time of the sign-in that it was made from, in epoch seconds.
            made_after: for a credential of ours, the id of the last revocation when it was made, so that no clock
                that was wrong brings it back.
        """
        return signed_in <= self.at or made_after not in {None, self.revocation_id}


@dataclass(frozen=True)
class Revocations:
    """The last revocation of each user; botocore's errors and TableBusyError pass through.

    A credential counts if the sign-in that it was made from is later, whenever the credential itself was stored. So
    none survives that a request under way makes, renews or rotates meanwhile. OpenID providers call the time
    "not before".
    """

    table: Table
    clock: Clock = CLOCK

    def revoke_all_of(self, owner: str) -> None:
        """Revoke every credential that comes from a sign-in until now; return in the next second.

        Providers report the time of a sign-in in whole seconds, so each sign-in after the return counts.
        """
        now = self.clock.epoch_seconds()
        self.table.put_all([_revoked(owner, Revocation(new_id(), int(now)))])
        self.clock.sleep(1 - now % 1)

    def delete_all_of(self, owner: str) -> None:
        """Revoke and delete every credential of a user; the revocation stays, for what a request stores meanwhile."""
        self.revoke_all_of(owner)
        items = list(self.table.query(user_partition(owner), _FIRST, LAST))
        keys = [(str(item["pk"]), str(item["sk"])) for item in items if item["sk"] != _REVOKED]
        self.table.delete_all([*((str(item["partition"]), _TOKEN) for item in items if "partition" in item), *keys])

    def last_of(self, owner: str) -> Revocation:
        """Return the last revocation of a user."""
        item, now = self.table.get(user_partition(owner), _REVOKED), int(self.clock.epoch_seconds())
        if item is None:
            return Revocation()
        last = Revocation(str(item["revocation_id"]), int(item["at"]))
        if last.at <= now:
            return last
        present = replace(last, at=now)
        if last.at > now + MAX_AHEAD_SECONDS:  # by a clock that was wrong: it must not refuse later sign-ins
            self.table.put_if(_revoked(owner, present), "#at = :was", {"was": last.at})
        return present


def _revoked(owner: str, revocation: Revocation) -> Item:
    return {"pk": user_partition(owner), "sk": _REVOKED, **asdict(revocation)}


@dataclass(frozen=True, slots=True)
class PersonalToken:
    """A personal token, without its text.

    Attributes:
        token_id: identifies it for its owner.
        owner, email: of the user who created it.
        name: the owner's name for it.
        created_at, expires_at: it is valid from one to the other.
        signed_in: epoch seconds of the sign-in that it was made from.
        made_after: id of the user's last revocation before it.
        family: the session in which it was made; empty if none.
        last_used: the last day (UTC) on which it was used.
    """

    token_id: str
    owner: str
    email: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime
    signed_in: int
    made_after: str = ""
    family: str = ""
    last_used: date | None = None


@dataclass(frozen=True)
class PersonalTokens:
    """The tokens of all users; `random_text` returns unguessable texts of 43 characters."""

    table: Table
    revocations: Revocations
    clock: Clock = CLOCK
    random_text: Callable[[], str] = lambda: secrets.token_urlsafe(32)

    def make(  # noqa: PLR0917 - what a token has
        self,
        owner: str,
        email: str,
        name: str,
        scopes: Collection[str],
        days: int,
        signed_in: int,
        family: str = "",
    ) -> tuple[str, PersonalToken]:
        """Create a token for `owner`, who signed in at `signed_in`; return its text and its data.

        It expires after `days` days, or once the credentials of that sign-in are revoked. `family` is the session in
        which it is made.

        Raises:
            TokenNotMadeError: the name, the scopes or the days are not allowed, or the user has too many tokens.
        """
        name = name.strip()
        if not name or len(name) > MAX_CHARACTERS or not name.isprintable():
            raise TokenNotMadeError(f"give the token a name of 1 to {MAX_CHARACTERS} characters")
        if not scopes:
            raise TokenNotMadeError("choose at least one thing that the token may do")
        if not 1 <= days <= MAX_DAYS:
            raise TokenNotMadeError(f"a token expires after 1 to {MAX_DAYS} days, not after {days}")
        now = self._now()
        text = PREFIX + self.random_text()
        token = PersonalToken(
            token_id=new_id(),
            owner=owner,
            email=email,
            name=name,
            scopes=frozenset(map(str, scopes)),
            created_at=now,
            expires_at=now + timedelta(days=days),
            signed_in=signed_in,
            made_after=self.revocations.last_of(owner).revocation_id,
            family=family,
        )
        listed = _item(token, user_partition(owner), _LISTED + token.token_id)
        self.table.put_all([{**listed, "partition": _partition(text)}])
        # Tokens are counted after the new one is added, so that concurrent requests cannot exceed the limit.
        if len(self.list(owner)) > MAX_TOKENS:
            self.table.delete_all([(user_partition(owner), _LISTED + token.token_id)])
            raise TokenNotMadeError(
                f"there are {MAX_TOKENS} tokens already, and no more are allowed: revoke one first"
            )
        self.table.put_all([_item(token, _partition(text), _TOKEN)])
        return text, token

    def list(self, owner: str) -> Sequence[PersonalToken]:
        """Return the valid tokens of a user, newest first."""
        items = self.table.query(user_partition(owner), _LISTED, _LISTED + LAST, newest_first=True)
        last = self.revocations.last_of(owner)
        return [token for token in map(_token, items) if self._is_valid(token, last)]

    def revoke(self, owner: str, token_id: str) -> None:
        """Revoke a token of a user.

        Raises:
            NotFoundError: the user has no token with that id.
        """
        item = self.table.get(user_partition(owner), _LISTED + token_id) if is_id(token_id) else None
        if item is None:
            raise NotFoundError(f"there is no token {token_id[:40]!r}")
        self._delete(item)

    def revoke_made_in(self, owner: str, family: str) -> None:
        """Revoke the tokens of a user that were made in a session."""
        for item in self.table.query(user_partition(owner), _LISTED, _LISTED + LAST):
            if item["family"] == family:
                self._delete(item)

    def _delete(self, listed: Item) -> None:
        # The token first: if only one of the two is deleted, the token is still listed, and can be revoked again.
        self.table.delete_all([(str(listed["partition"]), _TOKEN)])
        self.table.delete_all([(str(listed["pk"]), str(listed["sk"]))])

    def find(self, text: str) -> PersonalToken | None:
        """Return the token with this text, or None if there is no valid one; record its use."""
        if not text.startswith(PREFIX) or len(text) > MAX_CHARACTERS:
            return None
        item = self.table.get(_partition(text), _TOKEN)
        token = None if item is None else _token(item)
        if token is None or not self._is_valid(token, self.revocations.last_of(token.owner)):
            return None
        if token.last_used != self._now().date():
            today = self._now().date().isoformat()
            for key in ((_partition(text), _TOKEN), (user_partition(token.owner), _LISTED + token.token_id)):
                # Only if the item exists: a use must not restore a token that was revoked meanwhile.
                self.table.set(*key, {"last_used": today}, "attribute_exists( #pk )")
        return token

    def _is_valid(self, token: PersonalToken, last: Revocation) -> bool:
        return token.expires_at > self._now() and not last.covers(token.signed_in, token.made_after)

    def _now(self) -> datetime:
        return self.clock.utc_now().replace(microsecond=0)  # as the table stores it


def _partition(text: str) -> str:
    return f"TOKEN#{sha256(text.encode()).hexdigest()}"


def user_partition(owner: str) -> str:
    """Return the partition of the job table with a user's personal tokens, sessions, and last revocation."""
    return f"USER#{owner}"


def _item(token: PersonalToken, pk: str, sk: str) -> Item:
    return {
        "pk": pk,
        "sk": sk,
        "id": token.token_id,
        "owner": token.owner,
        "email": token.email,
        "name": token.name,
        "scopes": json.dumps(sorted(token.scopes)),
        "created_at": token.created_at.isoformat(),
        "signed_in": token.signed_in,
        "made_after": token.made_after,
        "family": token.family,
        EXPIRES_AT: int(token.expires_at.timestamp()),
    }


def _token(item: Item) -> PersonalToken:
    used = item.get("last_used")
    return PersonalToken(
        token_id=str(item["id"]),
        owner=str(item["owner"]),
        email=str(item["email"]),
        name=str(item["name"]),
        scopes=frozenset(json.loads(str(item["scopes"]))),
        created_at=datetime.fromisoformat(str(item["created_at"])),
        expires_at=datetime.fromtimestamp(int(item[EXPIRES_AT]), UTC),
        signed_in=int(item["signed_in"]),
        made_after=str(item["made_after"]),
        family=str(item["family"]),
        last_used=None if used is None else date.fromisoformat(str(used)),
    )


@dataclass(frozen=True, slots=True)
class Profile:
    """What the provider last told of a user.

    Attributes:
        email: the user's address, or empty.
        is_verified: whether the provider has verified the address.
        is_operator: whether the user may view and manage the fleet.
    """

    owner: str
    email: str
    is_verified: bool
    is_operator: bool


@dataclass(frozen=True)
class Profiles:
    """The profiles of all users, in the job table. botocore's errors and TableBusyError pass through."""

    table: Table

    def put(self, profile: Profile) -> None:
        """Store the profile of a user in place of the last one."""
        flags = {"is_verified": int(profile.is_verified), "is_operator": int(profile.is_operator)}
        self.table.put_all([{"pk": user_partition(profile.owner), "sk": _PROFILE, **asdict(profile), **flags}])

    def find(self, owner: str) -> Profile | None:
        """Return the profile of a user who has signed in here, or None."""
        item = self.table.get(user_partition(owner), _PROFILE)
        if item is None:
            return None
        return Profile(owner, str(item["email"]), bool(item["is_verified"]), bool(item["is_operator"]))
