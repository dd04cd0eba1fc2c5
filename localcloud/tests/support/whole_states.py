"""Reads everything in a state without a change, and compares it with its checksums."""

from collections import Counter
from contextlib import closing
from pathlib import Path

from localcloud.store import CONTENTS, DATABASE, check_head, checksum, connect

_ROWS = {
    "objects": "SELECT checksum, bucket, name, contents, attributes FROM objects",
    "items": "SELECT checksum, hash_key, range_key, item FROM items",
    "messages": "SELECT checksum, id, body FROM messages",
}

_NAMED_WITHOUT_ROW = """
SELECT count(*) FROM objects, json_each(objects.contents) AS named
WHERE json_extract(named.value, '$[0]') NOT IN (SELECT number FROM contents)
"""


def check(folder: Path) -> Counter[str]:
    """Check all rows and contents of a state; return the numbers of its objects, items and messages."""
    path, numbers = folder / DATABASE, Counter[str]()
    with closing(connect(path, mode="ro")) as connection:
        check_head(connection, path)
        assert connection.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
        for kind, statement in _ROWS.items():
            for right, *parts in connection.execute(statement):
                assert checksum(*parts) == right, (kind, parts)
                numbers[kind] += 1
        for number, size, right, small in connection.execute("SELECT * FROM contents"):
            content = (folder / CONTENTS / str(number)).read_bytes() if small is None else small
            assert (len(content), checksum(number, content)) == (size, right), number
        assert connection.execute(_NAMED_WITHOUT_ROW).fetchall() == [(0,)]
    return numbers
