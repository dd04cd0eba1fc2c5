"""The structure of image files, read without a decoder: pieces, frames, sizes, and whether all of a file is there.

A decoder reads each piece of a file, at some microseconds each, and a file may consist of millions of empty ones. So
`check_frames` bounds their number. It reads each byte at most once. If the structure is broken, counting stops: the
decoder, which reads the first frame only, judges the rest.

No length is trusted: a walk ends where the data does. Every loop over pieces is a generator, so that its consumer can
end it.
"""

import struct
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Final, NamedTuple

from core.images import FORMATS, RAW_REASON, ImageLimits, ImageRejectedError, broken_header, cut_short

MAX_PIECES: Final = 20_000
"""Maximum chunks, segments or blocks of a file, plus one for each `BYTES_A_PIECE` bytes, as normal encoders write."""

BYTES_A_PIECE: Final = 128

MAX_PARSED_SEGMENTS: Final = 16
"""Maximum segments of EXIF, of Photoshop and of tables of a JPEG, each of up to 64 KB. Readers parse each, and copy
all EXIF for each. Normal encoders write one, or up to four of tables."""

_PARSED_SEGMENTS: Final = {0xE1: b"Exif\0\0", 0xED: b"Photoshop 3.0\0", 0xDB: b""}
"""How these segments begin, by their markers."""

_PNG_PICTURE: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_PNG_OPTIONS: Final = frozenset({b"tRNS", b"eXIf"})
"""Chunks of a PNG that a picture needs, and those that change how it looks; a damaged one of these is ignored, as
libpng ignores it."""

_WITHOUT_LENGTH: Final = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers of a JPEG that stand alone, or with segments that Pillow reads byte by byte."""

_NO_SEGMENTS: Final = frozenset({0x00, 0x01, *range(0xD0, 0xDA), 0xFF})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Bytes behind 0xFF in a JPEG that begin no segment, and markers of the segment that lists its components."""


def check_frames(name: str, data: bytes, limits: ImageLimits) -> None:
    """Check the number of frames and pieces of an image in the format `name`, from `sniff`.

    Raises:
        ImageRejectedError: ``too_many_frames``, or ``too_costly`` for too many pieces.
    """
    if (count := FRAME_COUNTS.get(name)) is None:
        return
    frames = 0
    max_pieces = MAX_PIECES + len(data) // BYTES_A_PIECE
    for pieces, found in enumerate(count(data)):
        if pieces > max_pieces:
            raise ImageRejectedError(
                "too_costly",
                f"the {FORMATS[name].name} is cut into more than {max_pieces} pieces: save it again as JPEG or PNG",
            )
        frames += found
        if frames > limits.max_frames:
            raise ImageRejectedError(
                "too_many_frames", f"it has more than the {limits.max_frames} frames allowed: send one of them"
            )


def check_complete(name: str, data: bytes) -> None:
    """Check that a WebP, HEIC or AVIF is as long as it declares; its decoder would only report a failure.

    Raises:
        ImageRejectedError: it is shorter.
    """
    if name == "WEBP":
        declared = 8 + int.from_bytes(data[4:8], "little")
    elif name in {"AVIF", "HEIF"}:
        declared = max((box.end for box in boxes(data, 0, len(data))), default=0)
    else:
        return
    if len(data) < declared:
        raise ImageRejectedError(
            "truncated", f"only {len(data)} of the {FORMATS[name].name}'s {declared} bytes are here: send it again"
        )


def webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height from a WebP header (RFC 9649, sections 2.5 to 2.7).

    Raises:
        ImageRejectedError: the header is cut short or not one of WebP's three kinds.
    """
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        raise cut_short("WEBP", len(data))
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise broken_header("WEBP", len(data))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk of a PNG, where it starts and where it should end, maybe beyond the data."""
    place = 8
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        yield kind, place, place + 12 + size
        if kind == b"IEND":
            return
        place += 12 + size


def _png(data: bytes) -> Iterator[int]:
    """Yield the frames that each chunk adds: those that ``acTL`` declares, and ``fcTL`` beyond them.

    https://www.w3.org/TR/png-3/#apng-frame-based-animation
    """
    declared, seen = 0, 0
    for kind, start, _ in _png_chunks(data):
        before = max(declared, seen)
        if kind == b"acTL" and start + 12 <= len(data):
            declared = max(declared, int.from_bytes(data[start + 8 : start + 12], "big"))
        seen += kind == b"fcTL"
        yield max(declared, seen) - before


def png_picture(data: bytes) -> bytes:
    """Return a PNG of the chunks that its picture needs: a reader never sees its texts, profiles and animation.

    So a text of any length costs nothing, and a damaged one does not fail the picture. The orientation is that of the
    EXIF chunk alone, as in browsers and libvips; Pillow would also turn the picture as an XMP text says.
    """
    view = memoryview(data)
    kept = [view[:8]]
    for kind, start, end in _png_chunks(data):
        if kind in _PNG_OPTIONS:
            is_kept = zlib.crc32(view[start + 4 : end - 4]).to_bytes(4, "big") == view[end - 4 : end]
        else:
            is_kept = kind in _PNG_PICTURE or not kind.isalpha()  # its reader finds what is no chunk
        if is_kept:
            kept.append(view[start:end])
    return b"".join(kept) if sum(map(len, kept)) < len(data) else data


def _gif(data: bytes) -> Iterator[int]:
    """Yield 1 for each image, 0 for each block, sub-block, and byte between them that a reader would skip.

    https://www.w3.org/Graphics/GIF/spec-gif89a.txt
    """
    place, has_image = 13 + _gif_palette(data, 10), False
    while place < len(data):
        kind = data[place]
        if kind == 0x2C:  # an image: its palette and the size of its codes come before its sub-blocks
            yield 1
            has_image = True
            place += 11 + _gif_palette(data, place + 9)
        elif kind == 0x21:
            yield 0
            place += 2
        elif has_image or kind == 0x3B:
            return
        else:
            yield 0
            place += 1
            continue
        while place < len(data) and (size := data[place]):
            yield 0
            place += 1 + size
        place += 1


def _gif_palette(data: bytes, place: int) -> int:
    flags = data[place] if place < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _webp(data: bytes) -> Iterator[int]:
    """Yield 1 for each frame of an animation, 0 for any other chunk: RFC 9649, section 2.7."""
    place = 12
    while place + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, place)
        yield kind == b"ANMF"
        place += 8 + size + (size & 1)


def _jpeg(data: bytes) -> Iterator[int]:
    """Yield 0 for each segment before the picture, and each byte between two; what an index of pictures declares.

    https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B; CIPA DC-007 (MPO).
    """
    place, parsed = 2, Counter[int]()
    while place + 4 <= len(data):
        marker = data[place + 1]
        if data[place] != 0xFF or marker in {0x00, 0xFF}:
            yield 0
            place += 1
            continue
        if marker == 0xDA:
            return
        if marker in _WITHOUT_LENGTH:
            yield 0
            place += 2
            continue
        size = int.from_bytes(data[place + 2 : place + 4], "big")
        body = place + 4
        if marker in _PARSED_SEGMENTS and data.startswith(_PARSED_SEGMENTS[marker], body):
            parsed[marker] += 1
            if parsed[marker] > MAX_PARSED_SEGMENTS:
                raise ImageRejectedError(
                    "too_costly",
                    f"the JPEG has more than {MAX_PARSED_SEGMENTS} segments of EXIF, Photoshop data or tables: "
                    "save it again",
                )
        is_index = marker == 0xE2 and data.startswith(b"MPF\0", body)
        yield _pictures(data[body + 4 : place + 2 + size]) if is_index else 0
        place += 2 + max(2, size)


def has_all_scans(data: bytes) -> bool:
    """Return whether the scans of a JPEG begin that give each coefficient of each component its last bit.

    The last scan may be cut. https://www.w3.org/Graphics/JPEG/itu-t81.pdf, sections B.2.2 and B.2.3.
    """
    place, missing = 2, set[tuple[int, int]]()
    while 0 <= place < len(data) - 3:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place] != 0xFF or marker in _NO_SEGMENTS:
            place = data.find(b"\xff", place + 1)
            continue
        body = data[place + 4 : place + 2 + size]
        if marker in _FRAMES:
            missing = {(component, number) for component in body[6::3] for number in range(64)}
        elif marker == 0xDA and len(body) == size - 2 > 3 and not body[-1] & 0xF:
            missing -= {(component, number) for component in body[1:-3:2] for number in range(body[-3], body[-2] + 1)}
        place += 2 + size
    return not missing


def _pictures(index: bytes) -> int:
    """Return the number of pictures that an MP index declares (tag 0xB001); 0 where it is broken."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(index[:4])
    if order is None:
        return 0
    try:
        (first,) = struct.unpack_from(f"{order}I", index, 4)
        (entries,) = struct.unpack_from(f"{order}H", index, first)
        for entry in range(min(entries, len(index) // 12)):
            tag, _, _, value = struct.unpack_from(f"{order}HHII", index, first + 2 + 12 * entry)
            if tag == 0xB001:
                return int(value)
    except struct.error:
        pass
    return 0


class Box(NamedTuple):
    """A box of a HEIC or AVIF file: its type, and where its content starts and should end, maybe beyond the data."""

    kind: bytes
    start: int
    end: int


class Picture(NamedTuple):
    """The primary picture of a HEIC or AVIF.

    Attributes:
        kind: type of its item.
        size: in pixels, before it is cropped and turned.
        transforms: properties that crop, turn and mirror it, in this order: type and content.
    """

    kind: bytes
    size: tuple[int, int]
    transforms: tuple[tuple[bytes, bytes], ...]


_CONTAINERS: Final = frozenset({b"trak", b"mdia", b"minf", b"stbl"})
"""Boxes of a sequence that contain one another, each once, down to the sizes of its frames."""

_SAMPLE_SIZES: Final = frozenset({b"stsz", b"stz2"})
_NO_PICTURES: Final = frozenset({b"Exif", b"mime", b"uri ", b"tmap"})
"""Types of items that are metadata, or a recipe for another picture's colours."""


_TRANSFORMS: Final = {b"clap": 32, b"irot": 1, b"imir": 1}
"""Properties that change a picture, with their bytes: crop, rotation and mirror (ISO/IEC 23008-12, section 6.5)."""


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


def _heic(data: bytes) -> Iterator[int]:
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

    `check_frames` must have bounded the number of boxes before.
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
    inside = list(boxes(data, children[b"iprp"].start, children[b"iprp"].end))
    by_number = [each for box in inside if box.kind == b"ipco" for each in boxes(data, box.start, box.end)]
    size, transforms = None, []
    for item, number in (pair for box in inside if box.kind == b"ipma" for pair in _associations(data, box)):
        if item != primary or not 0 < number <= len(by_number):
            continue
        name, start, _ = by_number[number - 1]
        if name == b"ispe" and size is None and start + 12 <= len(data):
            size = struct.unpack_from(">II", data, start + 4)
        elif name in _TRANSFORMS:
            transforms.append((name, data[start : start + _TRANSFORMS[name]]))
    return Picture(kind, size, tuple(transforms)) if kind and size else None


def as_still_avif(data: bytes) -> bytes:
    """Return an AVIF of which libavif decodes the primary picture, not the sequence.

    It refuses a file with two tables of associations of one kind, as cavif writes for pictures with alpha. So they
    become one, in the place of all: no other box moves.
    """
    data = data[:8] + b"avif" + data[12:]
    meta = _first(data, b"meta", 0, len(data))
    properties = meta and _first(data, b"iprp", meta.start + 4, meta.end)
    tables = [box for box in boxes(data, *properties[1:]) if box.kind == b"ipma"] if properties else []
    if len(tables) < 2 or tables[-1].end > len(data):
        return data
    start, end = tables[0].start, tables[-1].end
    kind = data[start : start + 4]
    if {data[table.start - 4 : table.start + 4] for table in tables} != {b"ipma" + kind}:
        return data
    entries = sum(int.from_bytes(data[table.start + 4 : table.start + 8], "big") for table in tables)
    rows = b"".join(sorted(data[table.start + 8 : table.end] for table in tables))  # by the number of their items
    head = struct.pack(">I4s4sI", end - start + 8, b"ipma", kind, entries & 0xFFFF_FFFF)
    return data[: start - 8] + (head + rows).ljust(end - start + 8, b"\0") + data[end:]


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


_SUBFILE, _COMPRESSION, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION = 254, 259, 262, 330, 50706
_STRIP_TABLES: Final = ((273, 279), (324, 325))
"""Tags of a TIFF with the offsets and sizes of its strips or tiles."""
_TRANSFER_FUNCTION: Final = 301
"""A long table that no reader of ours reads."""

_OF_SENSOR: Final = frozenset({32803, 34892})
"""Photometric interpretations of pixels as a sensor gives them: CFA and LinearRaw of TIFF/EP and DNG."""
_CR2: Final = b"CR\2\0"
"""Mark and version of Canon's raw files behind the head of the TIFF (http://lclevy.free.fr/cr2/)."""
_BYTES_OR_TEXT: Final = frozenset({1, 2, 6, 7})
_UNCOMPRESSED: Final = 1


def _tiff(data: bytes) -> Iterator[int]:
    """Yield 1 for each page, 0 for each tag, and each number in a tag, which a reader makes an object of."""
    tiff = TiffReader(data.ljust(8, b"\0"))
    page: dict[int, list[int]] = {}
    seen: set[int] = set()
    try:
        place = tiff.first()
        while place and place not in seen:
            seen.add(place)
            yield 1
            for entry in tiff.entries(place):
                yield 0
                page.setdefault(entry.tag, [])
                if entry.kind in _BYTES_OR_TEXT or entry.tag == _TRANSFER_FUNCTION:
                    continue
                for _ in range(entry.length):
                    yield 0
                if len(seen) == 1:
                    page[entry.tag] = list(tiff.values(entry))
            if len(seen) == 1:
                yield from _check_first_page(data, tiff, page)
            place = tiff.following(place)
    except struct.error:  # the data ends
        if len(seen) < 2:
            raise cut_short("TIFF", len(data)) from None


def _check_first_page(data: bytes, tiff: TiffReader, page: Mapping[int, list[int]]) -> Iterator[int]:
    """Check that the first page is a picture, not the preview of a camera raw file, and that all of it is here.

    Yields 0 for each tag of its parts: many parts may be the same large directory.
    """
    interpretations = {*page.get(_PHOTOMETRIC, ())}
    for place in page.get(_SUB_DIRECTORIES, ()):
        with suppress(struct.error):  # the data ends
            for entry in tiff.entries(place):
                yield 0
                if entry.tag == _PHOTOMETRIC and entry.length == 1:
                    interpretations |= {*tiff.values(entry)}
    is_preview = any(value & 1 for value in page.get(_SUBFILE, ()))
    if is_preview or _DNG_VERSION in page or interpretations & _OF_SENSOR or data[8:12] == _CR2:
        raise ImageRejectedError("format_not_allowed", RAW_REASON)
    if page.get(_COMPRESSION, [_UNCOMPRESSED]) == [_UNCOMPRESSED]:
        return  # its reader needs no sizes of strips, which some programs write wrong
    for offsets, sizes in _STRIP_TABLES:
        for offset, size in zip_longest(page.get(offsets, ()), page.get(sizes, ()), fillvalue=0):
            if offset + size > len(data):
                raise ImageRejectedError(
                    "truncated",
                    f"the TIFF ends after {len(data)} bytes, before the picture is complete: send it again",
                )


FRAME_COUNTS: Final[Mapping[str, Callable[[bytes], Iterator[int]]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _heic,
    "HEIF": _heic,
    "TIFF": _tiff,
}
"""By format, a function that yields one number for each piece that a decoder reads one by one (chunk, block, table
entry): how many frames the piece adds, mostly 0. Files of other formats have one frame and few pieces."""
