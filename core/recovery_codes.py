"""Recovery codes: with the password, each lets its user in when the authenticator app is lost; in the job table.

A user has ten or none, in one item, so new codes replace the old ones in one step. The item holds the SHA-256 of
each, so a reader of the table has no code. The codes are shown once, when they are made. Using one removes the second
factor, and with it all codes.
"""

import hmac
import json
import re
import secrets
from base64 import b32encode
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from core.personal_tokens import user_partition
from services.table import Table

CODES: Final = 10
"""That are made at once."""

MAX_TYPED: Final = 64
"""Characters of a typed code that are looked at."""

_RANDOM_BYTES: Final = 10
"""Of a code. 80 bits cannot be guessed, so a fast hash is enough."""

_SORT_KEY: Final = "RECOVERY"


@dataclass(frozen=True)
class RecoveryCodes:
    """Makes and checks the codes of users. botocore's errors and TableBusyError pass through."""

    table: Table

    def replace(self, owner: str) -> list[str]:
        """Return new codes of a user. The old ones are good no longer."""
        codes = [_drawn() for _ in range(CODES)]
        digests = json.dumps([_digest(code) for code in codes])
        self.table.put_all([{"pk": user_partition(owner), "sk": _SORT_KEY, "digests": digests}])
        return codes

    def has(self, owner: str, code: str) -> bool:
        """Return True if a code is one of the user's."""
        digest = _digest(code[:MAX_TYPED])
        return any(hmac.compare_digest(digest, each) for each in self._digests(owner))

    def exist(self, owner: str) -> bool:
        """Return True if a user has codes."""
        return bool(self._digests(owner))

    def remove(self, owner: str) -> None:
        """Remove every code of a user."""
        self.table.delete_all([(user_partition(owner), _SORT_KEY)])

    def _digests(self, owner: str) -> list[str]:
        item = self.table.get(user_partition(owner), _SORT_KEY)
        return [] if item is None else list(json.loads(str(item["digests"])))


def _drawn() -> str:
    """Return a code such as `7F3K-QWZ2-M5HN-A6TB`: 16 characters of Base32, in groups of four."""
    text = b32encode(secrets.token_bytes(_RANDOM_BYTES)).decode()
    return "-".join(re.findall("....", text))


def _digest(code: str) -> str:
    """Return the digest of a code, however it was typed: capitals, blanks and hyphens do not count."""
    return sha256(re.sub(r"[\s-]", "", code).upper().encode(errors="replace")).hexdigest()
