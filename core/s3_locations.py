"""Locations in S3 that users name: `s3://bucket` or `s3://bucket/prefix`, a whole folder; and patterns of names.

The prefix ends at a slash, so `s3://photos/data` contains `s3://photos/data/day1` and not `s3://photos/database`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import AddressValueError, IPv4Address

MAX_PREFIX_BYTES = 900
"""Maximum UTF-8 bytes of a prefix; S3's keys have up to 1,024
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

MAX_LOCATION_CHARACTERS = 1_000

MAX_PATTERN_CHARACTERS = 200

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_RESERVED_STARTS = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_ENDS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_EXAMPLE = "write s3://BUCKET/PREFIX"


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket, or a folder of it; `prefix` is empty or ends with a slash."""

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> "S3Location":
        """Return the location that `text` names; a slash at its end changes nothing.

        Names of buckets follow https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html. Access
        points and directory buckets are no buckets here: keys of a directory bucket are listed in no order.

        Raises:
            ValueError: `text` is no location; the message says why.
        """
        scheme, _, rest = text.partition("://")
        if scheme != "s3" or not rest:
            raise ValueError(f"{text[:80]!r} is not in S3: {_EXAMPLE}")
        bucket, _, path = rest.partition("/")
        if not _is_bucket_name(bucket):
            raise ValueError(f"{bucket[:80]!r} is not the name of a general purpose bucket: {_EXAMPLE}")
        path = path.removesuffix("/")
        if len(path.encode(errors="replace")) > MAX_PREFIX_BYTES:
            raise ValueError(f"the prefix has more than {MAX_PREFIX_BYTES} bytes; name a folder above it")
        if path and any(part in {"", ".", ".."} for part in path.split("/")):
            raise ValueError(f"the prefix {path[:80]!r} has an empty part, `.` or `..`; leave it out")
        if not path.isprintable():
            raise ValueError("the prefix has characters that cannot be printed; name a folder above it")
        return cls(bucket, f"{path}/" if path else "")

    def __str__(self) -> str:
        """Return the location in the form that `parse` reads, without a slash at its end."""
        return f"s3://{self.bucket}/{self.prefix}".removesuffix("/")

    def contains(self, other: "S3Location") -> bool:
        """Return whether `other` is this location or a folder in it."""
        return other.bucket == self.bucket and other.prefix.startswith(self.prefix)


def _is_bucket_name(name: str) -> bool:
    if not _BUCKET.fullmatch(name) or ".." in name:
        return False
    if name.startswith(_RESERVED_STARTS) or name.endswith(_RESERVED_ENDS):
        return False
    try:
        IPv4Address(name)
    except AddressValueError:
        return True
    return False


def matches_pattern(name: str, pattern: str) -> bool:
    """Return whether a name below a location matches: `*`, `?` and `[…]` stay within a part, `**` is any parts.

    The time grows with the product of the lengths only: all places of the pattern that the parts of the name may have
    reached are followed at once.
    """
    wanted = pattern.split("/")
    reached = _with_skipped(wanted, {0})
    for part in name.split("/"):
        matched = {at for at in reached if at < len(wanted) and fnmatchcase(part, wanted[at])}
        reached = _with_skipped(wanted, {at if wanted[at] == "**" else at + 1 for at in matched})
    return len(wanted) in reached


def _with_skipped(wanted: list[str], places: Iterable[int]) -> set[int]:
    """Return places of a pattern, and those after a `**` at them, which may match no part."""
    found = set[int]()
    for place in places:
        stars = 0
        while wanted[place + stars : place + stars + 1] == ["**"]:
            stars += 1
        found.update(range(place, place + stars + 1))
    return found
