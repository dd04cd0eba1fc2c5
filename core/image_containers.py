"""The structure of common image files, read without a decoder: pieces, frames, sizes, and whether all of it is there.

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
from itertools import repeat
from typing import Final, NamedTuple

from core.images import FORMATS, ImageLimits, ImageRejectedError, broken_header, cut_short, too_many_frames

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
            raise too_many_frames(limits)


def check_complete(name: str, data: bytes) -> None:
    """Check that a WebP, or a file of boxes, is as long as it declares; its decoder would only report a failure.

    Raises:
        ImageRejectedError: it is shorter.
    """
    declared = 0
    if name == "WEBP":
        declared = 8 + int.from_bytes(data[4:8], "little")
    elif FORMATS[name].has_boxes:
        declared = max((box.end for box in boxes(data, 0, len(data))), default=0)
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
    """Yield 0 for each segment before the picture, and each byte between two.

    https://www.w3.org/Graphics/JPEG/itu-t81.pdf, annex B
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
        if marker in _PARSED_SEGMENTS and data.startswith(_PARSED_SEGMENTS[marker], place + 4):
            parsed[marker] += 1
            if parsed[marker] > MAX_PARSED_SEGMENTS:
                raise ImageRejectedError(
                    "too_costly",
                    f"the JPEG has more than {MAX_PARSED_SEGMENTS} segments of EXIF, Photoshop data or tables: "
                    "save it again",
                )
        yield 0
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
    """Yield 0 for each box, item, property and pair of bytes of references; at last, the frames of its sequence."""
    frames = 0
    for box in boxes(data, 0, len(data)):
        yield 0
        if box.kind == b"meta":
            yield from _count_items(data, box)
        elif box.kind == b"moov":
            frames = max(frames, (yield from _count_samples(data, box)))
    yield frames


def _count_samples(data: bytes, parent: Box, depth: int = 0) -> Generator[int, None, int]:
    most = 0
    for box in boxes(data, parent.start, parent.end):
        yield 0
        if box.kind in _CONTAINERS and depth < len(_CONTAINERS):
            most = max(most, (yield from _count_samples(data, box, depth + 1)))
        elif box.kind in _SAMPLE_SIZES:
            most = max(most, int.from_bytes(data[box.start + 8 : box.start + 12], "big"))
    return most


def _count_items(data: bytes, meta: Box) -> Iterator[int]:
    for box in boxes(data, meta.start + 4, meta.end):
        yield 0
        if box.kind == b"iinf":
            yield from (0 for _ in _items(data, box))
        elif box.kind == b"iref":
            yield from repeat(0, (min(box.end, len(data)) - box.start) // 2)
        elif box.kind == b"iprp":
            yield from _count_properties(data, box)


def _count_properties(data: bytes, parent: Box) -> Iterator[int]:
    for box in boxes(data, parent.start, parent.end):
        yield 0
        if box.kind == b"ipco":
            yield from (0 for _ in boxes(data, box.start, box.end))
        elif box.kind == b"ipma":
            yield from (0 for _ in _associations(data, box))


def _items(data: bytes, box: Box) -> Iterator[tuple[int, bytes] | None]:
    """Yield the number and the type of each item of an ``iinf`` box, and None for any other box in it."""
    version = data[box.start] if box.start < len(data) else 0
    for entry in boxes(data, box.start + (8 if version else 6), box.end):
        wide = 2 if data[entry.start : entry.start + 1] > b"\2" else 0
        body = data[entry.start : entry.start + 14]
        if entry.kind == b"infe" and len(body) >= 12 + wide:
            yield int.from_bytes(body[4 : 6 + wide], "big"), body[8 + wide : 12 + wide]
        else:
            yield None


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
    kind = next((kind for number, kind in items if number == primary), None)
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


FRAME_COUNTS: Final[Mapping[str, Callable[[bytes], Iterator[int]]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
    "GIF": _gif,
    "AVIF": _heic,
    "HEIF": _heic,
}
"""By format, a function that yields one number for each piece that a decoder reads one by one (chunk, block, table
entry): how many frames the piece adds, mostly 0."""
