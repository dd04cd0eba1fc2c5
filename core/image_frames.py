"""How many frames an image has and of how many pieces it is made, read from its structure: nothing is decoded.

A decoder's reader walks the same pieces, at some microseconds each, and a file may consist of millions of empty ones.
So their number is bounded here, before any reader sees them, and each byte is looked at once at most. Where the
structure breaks, counting ends: what comes then is the decoder's to judge, which reads the first frame alone.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from core.image_errors import ImageRejectedError
from core.image_limits import ImageLimits

MAX_PIECES: Final = 20_000
"""Chunks, segments, blocks; and one more for each `BYTES_A_PIECE` of the file, as honest writers cut them."""

BYTES_A_PIECE: Final = 128

MAX_EXIF_BYTES: Final = 2**20
"""Of a JPEG, where a reader copies all that it has with each further segment; honest EXIF is one segment of 64 KB."""


def check_frames(name: str, data: bytes, limits: ImageLimits) -> None:
    """Check an image of the format `name`, as `sniff` tells it.

    Raises:
        ImageRejectedError: ``too_many_frames``, or ``too_costly`` for one that is made of too many pieces.
    """
    count = _COUNTERS.get(name)
    if count is None:
        return
    frames = 0
    max_pieces = MAX_PIECES + len(data) // BYTES_A_PIECE
    for pieces, found in enumerate(count(data)):
        if pieces > max_pieces:
            raise ImageRejectedError(
                "too_costly", f"the {name} is cut into more than {max_pieces} pieces: save it again as JPEG or PNG"
            )
        frames += found
        if frames > limits.max_frames:
            raise ImageRejectedError(
                "too_many_frames", f"it has more than the {limits.max_frames} frames allowed: send one of them"
            )


def _png(data: bytes) -> Iterator[int]:
    """Yield the frames that each chunk adds: those that ``acTL`` declares, and ``fcTL`` beyond them.

    https://www.w3.org/TR/png-3/#apng-frame-based-animation
    """
    declared, seen, place = 0, 0, 8
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        before = max(declared, seen)
        if kind == b"acTL" and place + 12 <= len(data):
            declared = max(declared, int.from_bytes(data[place + 8 : place + 12], "big"))
        seen += kind == b"fcTL"
        yield max(declared, seen) - before
        if kind == b"IEND":
            return
        place += 12 + size


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
    place, exif = 2, 0
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
        if marker == 0xE1 and data.startswith(b"Exif\0\0", body):
            exif += size
            if exif > MAX_EXIF_BYTES:
                raise ImageRejectedError("too_costly", "the JPEG has more than 1 MB of EXIF: save it again")
        is_index = marker == 0xE2 and data.startswith(b"MPF\0", body)
        yield _pictures(data[body + 4 : place + 2 + size]) if is_index else 0
        place += 2 + max(2, size)


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


_WITHOUT_LENGTH: Final = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers of a JPEG that stand alone, or with segments that Pillow reads byte by byte."""

_COUNTERS: Final[Mapping[str, Callable[[bytes], Iterator[int]]]] = {
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "JPEG": _jpeg,
}
