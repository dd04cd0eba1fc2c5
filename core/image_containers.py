"""The structure of HEIC and AVIF files, which are boxes, and of TIFF files, which are directories.

So a file's pictures and their sizes are known without a C library. No length is trusted: a walk ends where the data
does. Every loop over pieces is a generator, so that its consumer can end it.
"""

import struct
from collections.abc import Generator, Iterator
from typing import Final, NamedTuple


class Box(NamedTuple):
    """A box of a HEIC or AVIF file: its type, and where its content starts and should end, maybe beyond the data."""

    kind: bytes
    start: int
    end: int


class Picture(NamedTuple):
    """The primary picture of a HEIC or AVIF: the type of its item, and its size in pixels before it is turned.

    ``cropped`` is what remains of its width and height.
    """

    kind: bytes
    size: tuple[int, int]
    cropped: tuple[int, int]


_CONTAINERS: Final = frozenset({b"trak", b"mdia", b"minf", b"stbl"})
"""Boxes of a sequence that contain one another, each once, down to the sizes of its frames."""

_SAMPLE_SIZES: Final = frozenset({b"stsz", b"stz2"})
_NO_PICTURES: Final = frozenset({b"Exif", b"mime", b"uri ", b"tmap"})
"""Types of items that are metadata, or a recipe for another picture's colours."""


_PROPERTIES: Final = {b"ispe": ">4xII", b"clap": ">IIII"}
"""Properties with a size: that of the coded picture, and the fractions of what remains once it is cropped."""


def boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes between two offsets: ISO/IEC 14496-12, section 4.2."""
    end = min(end, len(data))
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            head, size = 16, int.from_bytes(data[start + 8 : start + 16], "big")
        elif size == 0:
            size = end - start
        if size < head:
            return
        yield Box(kind, start + head, start + size)
        start += size


def count_pictures(data: bytes) -> Iterator[int]:
    """Yield 0 for each box, item and reference of a HEIC or AVIF file; at last, the number of pictures or frames.

    A tile, a thumbnail, and an auxiliary picture such as a depth map, belong to a picture and are none of their own.
    """
    pictures = frames = 0
    for box in boxes(data, 0, len(data)):
        yield 0
        if box.kind == b"meta":
            pictures = max(pictures, (yield from _count_items(data, box)))
        elif box.kind == b"moov":
            frames = max(frames, (yield from _count_samples(data, box)))
    yield max(pictures, frames)


def _count_samples(data: bytes, parent: Box, depth: int = 0) -> Generator[int, None, int]:
    most = 0
    for box in boxes(data, parent.start, parent.end):
        yield 0
        if box.kind in _CONTAINERS and depth < len(_CONTAINERS):
            most = max(most, (yield from _count_samples(data, box, depth + 1)))
        elif box.kind in _SAMPLE_SIZES:
            most = max(most, int.from_bytes(data[box.start + 8 : box.start + 12], "big"))
    return most


def _count_items(data: bytes, meta: Box) -> Generator[int, None, int]:
    pictures: set[int] = set()
    parts: set[int] = set()
    for box in boxes(data, meta.start + 4, meta.end):
        yield 0
        if box.kind == b"iinf":
            for item in _items(data, box):
                yield 0
                if item and item.kind not in _NO_PICTURES and not item.is_hidden:
                    pictures.add(item.number)
        elif box.kind == b"iref":
            for reference in _references(data, box):
                yield 0
                if reference:
                    parts.add(reference.target if reference.kind == b"dimg" else reference.source)
        elif box.kind == b"iprp":
            yield from _count_properties(data, box)
    return len(pictures - parts)


def _count_properties(data: bytes, parent: Box) -> Iterator[int]:
    for box in boxes(data, parent.start, parent.end):
        yield 0
        if box.kind == b"ipco":
            yield from (0 for _ in boxes(data, box.start, box.end))
        elif box.kind == b"ipma":
            yield from (0 for _ in _associations(data, box))


class _Item(NamedTuple):
    number: int
    kind: bytes
    is_hidden: bool


def _items(data: bytes, box: Box) -> Iterator[_Item | None]:
    """Yield the items of an ``iinf`` box, and None for any other box in it."""
    version = data[box.start] if box.start < len(data) else 0
    for entry in boxes(data, box.start + (8 if version else 6), box.end):
        wide = 2 if data[entry.start : entry.start + 1] > b"\2" else 0
        body = data[entry.start : entry.start + 14]
        if entry.kind == b"infe" and len(body) >= 12 + wide:
            yield _Item(int.from_bytes(body[4 : 6 + wide], "big"), body[8 + wide : 12 + wide], bool(body[3] & 1))
        else:
            yield None


class _Reference(NamedTuple):
    kind: bytes
    source: int
    target: int


def _references(data: bytes, box: Box) -> Iterator[_Reference | None]:
    """Yield None for each box in an ``iref`` box, and its references to tiles, thumbnails and auxiliary pictures."""
    width = 4 if data[box.start : box.start + 1] > b"\0" else 2
    for reference in boxes(data, box.start + 4, box.end):
        yield None
        if reference.kind not in {b"dimg", b"thmb", b"auxl"}:
            continue
        end = min(reference.end, len(data))
        source = int.from_bytes(data[reference.start : reference.start + width], "big")
        for place in range(reference.start + width + 2, end - width + 1, width):
            yield _Reference(reference.kind, source, int.from_bytes(data[place : place + width], "big"))


def _associations(data: bytes, box: Box) -> Iterator[tuple[int, int]]:
    """Yield the id of an item and the number of a property of it, from 1, for each pair of an ``ipma`` box."""
    if box.start + 8 > len(data):
        return
    width = 4 if data[box.start] else 2
    size = 2 if data[box.start + 3] & 1 else 1
    entries, place = int.from_bytes(data[box.start + 4 : box.start + 8], "big"), box.start + 8
    end = min(box.end, len(data))
    for _ in range(entries):
        if place + width >= end:
            return
        item, count = int.from_bytes(data[place : place + width], "big"), data[place + width]
        place += width + 1
        yield item, 0  # an entry is a piece, also one without properties
        for _ in range(count):
            yield item, int.from_bytes(data[place : place + size], "big") & (0x7F if size == 1 else 0x7FFF)
            place += size


def primary_picture(data: bytes) -> Picture | None:
    """Return the primary picture of a HEIC or AVIF file, or None if its boxes describe none with a size.

    `count_pictures` must have bounded the number of boxes before.
    """
    meta = _first(data, b"meta", 0, len(data))
    if meta is None:
        return None
    children = {box.kind: box for box in boxes(data, meta.start + 4, meta.end)}
    if not {b"pitm", b"iinf", b"iprp"} <= children.keys():
        return None
    start = children[b"pitm"].start
    wide = 4 if data[start : start + 1] > b"\0" else 2
    primary = int.from_bytes(data[start + 4 : start + 4 + wide], "big")
    items = (item for item in _items(data, children[b"iinf"]) if item)
    kind = next((item.kind for item in items if item.number == primary), None)
    properties = _first(data, b"ipco", children[b"iprp"].start, children[b"iprp"].end)
    association = _first(data, b"ipma", children[b"iprp"].start, children[b"iprp"].end)
    if kind is None or properties is None or association is None:
        return None
    by_number = list(boxes(data, properties.start, properties.end))
    own: dict[bytes, tuple[int, ...]] = {}
    for item, number in _associations(data, association):
        if item == primary and 0 < number <= len(by_number):
            box = by_number[number - 1]
            if (layout := _PROPERTIES.get(box.kind)) and box.start + struct.calcsize(layout) <= len(data):
                own.setdefault(box.kind, struct.unpack_from(layout, data, box.start))
    if b"ispe" not in own:
        return None
    size = own[b"ispe"]
    width, width_divisor, height, height_divisor = own.get(b"clap", (size[0], 1, size[1], 1))
    cropped = (min(width // max(1, width_divisor), size[0]), min(height // max(1, height_divisor), size[1]))
    return Picture(kind, (size[0], size[1]), cropped)


def _first(data: bytes, kind: bytes, start: int, end: int) -> Box | None:
    return next((box for box in boxes(data, start, end) if box.kind == kind), None)


class TiffEntry(NamedTuple):
    """A tag of a TIFF directory: the type and the number of its values, and the offset of the first one."""

    tag: int
    kind: int
    length: int
    place: int


_TIFF_CODES: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""Types of TIFF values that are unsigned integers, as codes of `struct`."""

_TIFF_SIZES: Final = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip


class TiffReader:
    """Reads directories of a TIFF or BigTIFF file; every method raises `struct.error` where the data ends.

    https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf, section 2; http://bigtiff.org
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(b"II") else ">"
        self._is_big = self._read("H", 2) == 43
        self._offset = "Q" if self._is_big else "I"

    def first(self) -> int:
        """Return the offset of the first directory; each describes a page."""
        return self._read(self._offset, 8 if self._is_big else 4)

    def following(self, place: int) -> int:
        """Return the offset of the directory after the one at `place`, 0 after the last one."""
        return self._read(self._offset, self._entry(place, self._count(place)))

    def entries(self, place: int) -> Iterator[TiffEntry]:
        """Yield the tags of the directory at `place`."""
        inline = 8 if self._is_big else 4
        for number in range(self._count(place)):
            at = self._entry(place, number)
            tag, kind, count = self._read("H", at), self._read("H", at + 2), self._read(self._offset, at + 4)
            at += 4 + inline
            outside = _TIFF_SIZES.get(kind, 0) * count > inline
            yield TiffEntry(tag, kind, count, self._read(self._offset, at) if outside else at)

    def values(self, entry: TiffEntry) -> Iterator[int]:
        """Yield the values of a tag if they are unsigned integers."""
        if code := _TIFF_CODES.get(entry.kind):
            for number in range(entry.length):
                yield self._read(code, entry.place + number * _TIFF_SIZES[entry.kind])

    def _count(self, place: int) -> int:
        return self._read("Q" if self._is_big else "H", place)

    def _entry(self, place: int, number: int) -> int:
        return place + (8 + 20 * number if self._is_big else 2 + 12 * number)

    def _read(self, code: str, place: int) -> int:
        if place > len(self._data):
            raise struct.error("beyond the data")  # an offset of 64 bits is too large for `unpack_from`
        return int(struct.unpack_from(self._order + code, self._data, place)[0])
