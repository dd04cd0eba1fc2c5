"""Shards of WebDatasets (https://github.com/webdataset/webdataset) in S3: uncompressed tars with images as members.

The members are listed by their headers, which are read by range: in large windows where members are small, else one
by one. What a shard says of itself is not trusted: all reads have a bound, and each header must follow the last.
"""

import io
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.errors import FleetsightError, ObjectRefusedError

MAX_HEADER_BYTES: Final = 1 << 20
"""Maximum bytes of the headers of a member, with its attributes in the formats of GNU and pax."""

MAX_NAME_CHARACTERS: Final = 4 << 10
"""Maximum characters of a member's name; what follows them is cut off."""

LARGE_WINDOW: Final = 8 << 20
SMALL_WINDOW: Final = 4 << 10
"""Bytes of one read: of members of up to `SMALL_MEMBER_BYTES` in the mean, and of larger ones."""

SMALL_MEMBER_BYTES: Final = 512 << 10

MAX_READS: Final = 100
MAX_READ_BYTES: Final = 128 << 20
"""Reads, and bytes of them, after which a page of members ends."""

_PARSER_ERRORS: Final = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
_LENGTH: Final = re.compile(rb"([0-9]{1,20}) ")


class DamagedShardError(FleetsightError):
    """Raised when an object is no tar that can be listed."""


class HeaderInfo(tarfile.TarInfo):
    """A header of which path and size are read, in linear time, of the attributes in the format pax.

    `tarfile` takes quadratic time and memory for hostile ones before Python 3.11.10 (CVE-2024-6232).
    """

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if tar.fileobj is None:
            raise DamagedShardError("the shard is closed")
        blocks = tar.fileobj.read(-(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
        attributes, at, found = blocks[: self.size].rstrip(b"\0"), 0, dict[bytes, bytes]()
        while at < len(attributes):
            length = _LENGTH.match(attributes, at)
            end = at + int(length[1]) if length else 0
            if length is None or not length.end() < end <= len(attributes):
                raise DamagedShardError("an attribute of a member has no length")
            name, _, value = attributes[length.end() : end - 1].partition(b"=")
            found[name], at = value, end
        member = self.fromtarfile(tar)
        if self.type == tarfile.XGLTYPE:
            return member
        if any(name.startswith(b"GNU.sparse.") for name in found):
            member.sparse = b""
        if b"path" in found:
            member.name = found[b"path"].decode(errors="replace")
        if b"size" in found and member.isreg():
            member.size = int(found[b"size"])
            tar.offset = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return member


@dataclass(frozen=True, slots=True)
class ShardMember:
    """A member of a shard: its content has `size` bytes from `start` on, and the next header is at `end`.

    `is_file` is whether it is a regular file: not a folder, a link, or a file with holes.
    """

    name: str
    start: int
    size: int
    end: int
    is_file: bool


@dataclass(frozen=True, slots=True)
class ShardPage:
    """Members of a shard, in order; `is_last` if no others follow, and `is_damaged` if others cannot be read."""

    members: list[ShardMember]
    is_last: bool
    is_damaged: bool = False


class ShardReader(io.RawIOBase):
    """A shard as the file from which `tarfile` reads headers.

    `read_range` returns a part of the shard that exists, by its start and size. No more than `header_bytes` are read.
    """

    def __init__(self, read_range: Callable[[int, int], bytes], size: int, start: int) -> None:
        self._read_range, self._size, self._at = read_range, size, start
        self._window, self._window_start = b"", 0
        self.window_bytes, self.reads, self.bytes_read = LARGE_WINDOW, 0, 0
        self.header_bytes = MAX_HEADER_BYTES

    @property
    def is_over(self) -> bool:
        """Whether as much was read as a page may take."""
        return self.reads >= MAX_READS or self.bytes_read >= MAX_READ_BYTES

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position, from the start of the shard."""
        if whence != io.SEEK_SET or offset < 0:
            raise DamagedShardError(f"a header names the position {offset}")
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes."""
        if not 0 <= size <= self.header_bytes:
            raise DamagedShardError(f"the headers of a member have more than {MAX_HEADER_BYTES} bytes")
        self.header_bytes -= size
        end = min(self._at + size, self._size)
        if end <= self._at:
            return b""
        if self._at < self._window_start or end > self._window_start + len(self._window):
            count = min(max(self.window_bytes, end - self._at), self._size - self._at)
            self._window, self._window_start = self._read_range(self._at, count), self._at
            self.reads, self.bytes_read = self.reads + 1, self.bytes_read + count
        found = self._window[self._at - self._window_start : end - self._window_start]
        self._at = end
        return found


def list_members(read_range: Callable[[int, int], bytes], size: int, start: int, limit: int) -> ShardPage:
    """Return up to `limit` members of a shard of `size` bytes, from the header at `start` on.

    Errors of `read_range`, which is as in `ShardReader`, pass through. If S3 refuses a read after some members, these
    are the page.
    """
    reader, members, at = ShardReader(read_range, size, start), list[ShardMember](), start
    try:
        tar = tarfile.TarFile(fileobj=reader, mode="r", errors="replace", tarinfo=HeaderInfo)
        while len(members) < limit and not reader.is_over:
            if at >= size:
                return ShardPage(members, is_last=True)
            reader.header_bytes = MAX_HEADER_BYTES
            if (member := tar.next()) is None:
                reader.seek(at)
                is_damaged = any(reader.read(tarfile.BLOCKSIZE))  # two blocks of zeros end a tar
                return ShardPage(members, is_last=True, is_damaged=is_damaged)
            tar.members.clear()  # type: ignore[attr-defined]
            is_file = member.isreg() and not member.issparse()
            end = member.offset_data + member.size if is_file else tar.offset
            if not (at < member.offset_data <= tar.offset and member.size >= 0 and end <= size):
                return ShardPage(members, is_last=True, is_damaged=True)
            at = tar.offset
            name = member.name[:MAX_NAME_CHARACTERS]
            members.append(ShardMember(name, member.offset_data, member.size, at, is_file))
            is_small = at - start <= len(members) * SMALL_MEMBER_BYTES
            reader.window_bytes = LARGE_WINDOW if is_small else SMALL_WINDOW
    except ObjectRefusedError:
        if not members:
            raise
        return ShardPage(members, is_last=False)
    except (DamagedShardError, *_PARSER_ERRORS):
        return ShardPage(members, is_last=True, is_damaged=True)
    return ShardPage(members, is_last=at >= size)
