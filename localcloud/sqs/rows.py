"""The rows of messages in the store, and statements on them, which name an index where they might read a backlog."""

from typing import Final, NamedTuple


class StoredMessage(NamedTuple):
    """A row of a message: it was hidden for `hidden` seconds until `due`, which may be in the future."""

    sequence: int
    queue: int
    place: int
    due: float
    hidden: float
    receives: int
    group: str | None
    id: str
    body: str
    sent: float
    first_received: float | None
    receipt: str | None
    checksum: int

    @property
    def handle(self) -> str:
        """The receipt handle of the latest delivery."""
        return f"{self.sequence}-{self.receipt}"


QUEUES: Final = "SELECT account, region, name, number, value FROM resources WHERE kind = 'queue' AND value != ''"
SAVE: Final = "UPDATE resources SET value = ? WHERE number = ?"
PURGE: Final = ("DELETE FROM messages WHERE queue = ?", "DELETE FROM duplicates WHERE queue = ?")

# Messages of a queue in a place
TOTAL: Final = "SELECT count(*) FROM messages INDEXED BY messages_due WHERE queue = ? AND place = ?"
HIDDEN: Final = """SELECT message_group, receives, hidden FROM messages INDEXED BY messages_due
    WHERE queue = ? AND place = ? AND due > ? AND due <= ?"""
NEXT_DUE: Final = """SELECT due FROM messages INDEXED BY messages_due
    WHERE queue = ? AND place = ? AND due > ? ORDER BY due LIMIT 1"""
SHORTEN: Final = """UPDATE messages INDEXED BY messages_due SET due = ?3 + hidden
    WHERE queue = ?1 AND place = ?2 AND due > ?3 AND due > ?3 + hidden"""

# Messages of a standard queue; FIRST_OF_EACH takes steps in the index for each tenant, however long its backlog is
OLDEST: Final = """SELECT * FROM messages INDEXED BY messages_due
    WHERE queue = ? AND place = 2 AND due <= ? ORDER BY due, sequence LIMIT ?"""
OF_TENANT: Final = """SELECT due, sequence FROM messages INDEXED BY messages_fair
    WHERE queue = ? AND message_group IS ? AND place = 2 AND due <= ? ORDER BY due, sequence LIMIT ?"""
IS_WAITING: Final = """SELECT 1 FROM messages INDEXED BY messages_fair
    WHERE queue = ? AND message_group = ? AND place = 2 AND due <= ? LIMIT 1"""
FIRST_OF_EACH: Final = """
WITH RECURSIVE tenants (name) AS (
    SELECT min(message_group) FROM messages INDEXED BY messages_fair WHERE queue = ?1 AND place = 2 UNION ALL
    SELECT (SELECT min(message_group) FROM messages INDEXED BY messages_fair
        WHERE queue = ?1 AND place = 2 AND message_group > name) FROM tenants WHERE name IS NOT NULL
)
SELECT first.due, first.sequence, name FROM tenants CROSS JOIN messages AS first ON first.sequence = (
    SELECT sequence FROM messages INDEXED BY messages_fair
    WHERE queue = ?1 AND message_group = name AND place = 2 AND due <= ?2 ORDER BY due, sequence LIMIT 1
)"""

# Messages of a FIFO queue; the first one of a group has place 1
HEADS: Final = """SELECT message_group FROM messages INDEXED BY messages_due
    WHERE queue = ? AND place = 1 AND due <= ? ORDER BY due, sequence"""
OF_GROUP: Final = """SELECT * FROM messages INDEXED BY messages_fifo
    WHERE queue = ? AND message_group = ? AND place < 2 ORDER BY sequence LIMIT ?"""
SET_HEAD: Final = """UPDATE messages SET place = 1 WHERE place = 0 AND sequence = (
    SELECT sequence FROM messages INDEXED BY messages_fifo
    WHERE queue = ? AND message_group = ? AND place < 2 ORDER BY sequence LIMIT 1)"""

# Messages by their sequence numbers
INSERT: Final = "INSERT INTO messages VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)"
LISTED: Final = "SELECT * FROM messages NOT INDEXED WHERE sequence IN (SELECT value FROM json_each(?)) AND queue = ?"
DELIVER: Final = """UPDATE messages SET due = ?, hidden = ?, receives = receives + 1,
    first_received = coalesce(first_received, ?), receipt = ? WHERE sequence IN (SELECT value FROM json_each(?))"""
HIDE: Final = "UPDATE messages SET due = ?, hidden = ? WHERE sequence IN (SELECT value FROM json_each(?))"
DELETE: Final = "DELETE FROM messages WHERE sequence IN (SELECT value FROM json_each(?))"

DUPLICATE: Final = "SELECT id, sequence FROM duplicates WHERE queue = ? AND key = ? AND ends > ?"
ADD_DUPLICATE: Final = "INSERT OR REPLACE INTO duplicates VALUES (?, ?, ?, ?, ?)"
SHORTEN_DUPLICATES: Final = "UPDATE duplicates SET ends = ?2 WHERE queue = ?1 AND ends > ?2"
EXPIRE: Final = """DELETE FROM duplicates WHERE queue = ?1 AND key IN (
    SELECT key FROM duplicates WHERE queue = ?1 AND ends <= ?2 ORDER BY ends LIMIT 20)"""
