"""Shards: each member is listed once with its place, in few reads, and no tar makes that take long."""

import io
import tarfile
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final

import pytest

from tests.support.tars import tar_of
from web_tier.controller.shards import LARGE_WINDOW, ShardMember, list_members

FORMATS: Final = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
SIZES: Final = (0, 1, 511, 512, 513, 100_000)


class Shard:
    """A shard with the reads of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads: list[tuple[int, int]] = []

    def read_range(self, start: int, size: int) -> bytes:
        assert 0 <= start < start + size <= len(self.data)
        self.reads.append((start, size))
        return self.data[start : start + size]

    def members(self, limit: int = 1_000) -> list[ShardMember]:
        """Return all members, page by page."""
        found, at, is_last = list[ShardMember](), 0, False
        while not is_last:
            page = list_members(self.read_range, len(self.data), at, limit)
            assert not page.is_damaged
            found, is_last = [*found, *page.members], page.is_last
            at = found[-1].end if found else 0
        return found


def contents(count: int, sizes: Sequence[int] = SIZES) -> list[tuple[str, bytes]]:
    random = Random(count)
    return [(f"{number:06}.jpg", random.randbytes(random.choice(sizes))) for number in range(count)]


@pytest.mark.parametrize("limit", [1, 7, 1_000])
@pytest.mark.parametrize("format_", FORMATS)
def test_each_member_is_listed_once_with_the_place_of_its_content(format_: int, limit: int) -> None:
    wanted = contents(40)
    if format_ != tarfile.USTAR_FORMAT:
        wanted += [("d/" * 60 + "日本.jpg" * 9, b"long"), ("x" * 300, b"name")]
    shard = Shard(tar_of(wanted, format_))
    found = shard.members(limit)
    assert [(each.name, shard.data[each.start : each.start + each.size]) for each in found] == wanted
    assert all(each.is_file for each in found)


@pytest.mark.parametrize("end", [0, 512, 1_024])
def test_a_shard_may_end_without_blocks_of_zeros(end: int) -> None:
    whole = tar_of(wanted := contents(5, [512]), tarfile.USTAR_FORMAT)
    shard = Shard(whole[: 5 * 1_024 + end])
    assert [each.name for each in shard.members()] == [name for name, _ in wanted]


def test_small_members_are_listed_in_large_reads_and_large_ones_by_their_headers() -> None:
    small, large = Shard(tar_of(contents(2_000, [3_000]))), Shard(tar_of(contents(20, [2_000_000])))
    assert len(small.members()) == 2_000
    assert len(small.reads) <= 5, "a page has a thousand members"
    assert len(large.members()) == 20
    assert len(large.reads) <= 21
    assert sum(size for _, size in large.reads) < LARGE_WINDOW + 100_000


def test_members_that_are_no_files_are_told_apart() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("a", tarfile.DIRTYPE), ("b.jpg", tarfile.SYMTYPE), ("c.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert [(each.name, each.is_file) for each in Shard(buffer.getvalue()).members()] == [
        ("a", False),
        ("b.jpg", False),
        ("c.jpg", False),
    ]


def header(kind: bytes, size: int = 0) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.USTAR_FORMAT)


def test_a_file_with_holes_or_a_link_to_a_large_file_damages_no_shard() -> None:
    holes = bytearray(header(tarfile.GNUTYPE_SPARSE))
    holes[483:495] = b"%011o\0" % (1 << 30)
    holes[148:156] = b"%06o\0 " % (256 + sum(holes[:148]) + sum(holes[156:]))
    shard = Shard(bytes(holes) + header(tarfile.LNKTYPE, 1 << 30) + tar_of([("a.jpg", b"1")]))
    assert [(each.name, each.is_file) for each in shard.members()] == [("x", False), ("x", False), ("a.jpg", True)]


def attributed(attributes: bytes, member: bytes = header(tarfile.REGTYPE)) -> bytes:
    """Return the headers of a member with attributes in the format pax."""
    return header(tarfile.XHDTYPE, len(attributes)) + attributes + bytes(-len(attributes) % 512) + member


def test_path_and_size_of_a_member_are_read_of_its_attributes_and_a_file_with_holes_is_no_file() -> None:
    name = "日" * 2_000 + ".jpg"
    path = f" path={name}\n".encode()
    records = b"%d%s" % (len(path) + 4, path) + b"12 size=700\n"
    holes = b"%d GNU.sparse.major=1\n" % 22
    data = attributed(records) + bytes(1_024) + attributed(holes)
    found = Shard(data).members()
    assert [(each.name, each.size, each.end, each.is_file) for each in found] == [
        (name, 700, len(data) - 1_536, True),
        ("x", 0, len(data), False),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all " * 100,
        tar_of([("a.jpg", bytes(2_000))])[:1_500],
        header(tarfile.XHDTYPE) * 20_000,
        header(tarfile.XHDTYPE, 1 << 31) + bytes(1 << 20),
        attributed(b"1" * 60_000),
        attributed(b"2 " * 30_000 + b"k="),
        attributed(b"9 path=a"),
        header(tarfile.GNUTYPE_LONGNAME, (1 << 33) - 1) + bytes(1 << 20),
        header(tarfile.REGTYPE, 1 << 30) + bytes(1 << 20),
        tar_of([("a.jpg", b"1")]).replace(b"00000000001\0", b"\xff" * 11 + b"\0", 1),
    ],
    ids=["text", "cut", "chain", "attributes", "digits", "lengths", "length", "name", "content", "negative"],
)
def test_a_damaged_shard_is_said_to_be_one_after_the_members_before(data: bytes) -> None:
    before = tar_of([("0.jpg", bytes(700))])[: 512 + 1_024]
    shard = Shard(before + data)
    page = list_members(shard.read_range, len(shard.data), 0, 1_000)
    assert (page.is_damaged, page.is_last) == (True, True)
    assert [each.name for each in page.members] == ["0.jpg"]
    assert len(shard.reads) < 210


@pytest.mark.parametrize(
    ("first", "block"),
    [
        (header(tarfile.XHDTYPE, (1 << 33) - 1), bytes(512)),
        (header(tarfile.GNUTYPE_SPARSE)[:482] + b"\x01" + bytes(29), b"0" * 504 + b"\x01" + bytes(7)),
        (header(tarfile.XHDTYPE), header(tarfile.XHDTYPE)),
    ],
    ids=["attributes", "holes", "chain"],
)
def test_little_is_read_of_headers_that_do_not_end(first: bytes, block: bytes) -> None:
    checksum = 256 + sum(first[:148]) + sum(first[156:])
    first, read = first[:148] + b"%06o\0 " % checksum + first[156:], Counter[str]()

    def read_range(start: int, size: int) -> bytes:
        read["bytes"] += size
        numbers = range(start // 512, (start + size) // 512 + 1)
        return b"".join(block if number else first for number in numbers)[start % 512 :][:size]

    page = list_members(read_range, 1 << 40, 0, 1_000)
    assert (page.is_damaged, page.members) == (True, [])
    assert read["bytes"] <= 2 * LARGE_WINDOW


def test_what_changes_in_a_shard_is_answered_soon() -> None:
    random, whole = Random(1), tar_of([("日" * 60 + f"{number}.jpg", b"abc" * number) for number in range(9)])
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random.choice((1, 3, 10))):
            data[random.randrange(len(data))] = random.randrange(256)
        shard = Shard(bytes(data))
        page = list_members(shard.read_range, len(data), 0, 1_000)
        assert all(0 <= each.start <= each.start + each.size <= len(data) for each in page.members)
        assert page.is_last
