"""What the first bytes of a file say about it, read by ourselves: nothing here calls a decoder."""

import struct
from typing import Final

from core.image_errors import ImageRejectedError, broken_header, cut_short

# What each format starts with: a (offset, bytes) pair, all of which must match.
_ALLOWED: Final[dict[str, tuple[tuple[int, bytes], ...]]] = {
    "JPEG": ((0, b"\xff\xd8\xff"),),
    "PNG": ((0, b"\x89PNG\r\n\x1a\n"),),
    "WEBP": ((0, b"RIFF"), (8, b"WEBP")),
    "GIF": ((0, b"GIF8"),),
    "BMP": ((0, b"BM"),),
}
_REFUSED: Final[tuple[tuple[str, int, bytes], ...]] = (
    ("TIFF", 0, b"II*\x00"),
    ("TIFF", 0, b"MM\x00*"),
    ("TIFF", 0, b"II+\x00"),
    ("TIFF", 0, b"MM\x00+"),
    ("EPS or PostScript", 0, b"%!PS"),
    ("EPS or PostScript", 0, b"\xc5\xd0\xd3\xc6"),
    ("PDF", 0, b"%PDF"),
    ("PSD", 0, b"8BPS"),
    ("FITS", 0, b"SIMPLE  ="),
    ("JPEG 2000", 0, b"\x00\x00\x00\x0cjP  "),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("HEIC or AVIF", 4, b"ftyp"),
    ("ICO", 0, b"\x00\x00\x01\x00"),
)


def sniff(data: bytes) -> str:
    """Name the allowed format that ``data`` starts like: JPEG, PNG, WEBP, GIF or BMP.

    Raises:
        ImageRejectedError: it starts like none of them.
    """
    for name, marks in _ALLOWED.items():
        if all(data.startswith(mark, offset) for offset, mark in marks):
            return name
    for name, offset, mark in _REFUSED:
        if data.startswith(mark, offset):
            raise ImageRejectedError("format_not_allowed", f"{name} images are not taken: save it as JPEG or PNG")
    if b"<svg" in data[:1024].lower():
        raise ImageRejectedError("format_not_allowed", "SVG drawings are not taken: export it as PNG")
    raise ImageRejectedError("not_an_image", "this is not an image: send JPEG, PNG, WebP, GIF or BMP")


def webp_size(data: bytes) -> tuple[int, int]:
    """Read (width, height) from a WebP header (RFC 9649, sections 2.5 to 2.7).

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


def check_webp_complete(data: bytes) -> None:
    """A WebP says in its first bytes how long it is; its decoder would only say that it failed.

    Raises:
        ImageRejectedError: there is less of it.
    """
    declared = 8 + int.from_bytes(data[4:8], "little")
    if len(data) < declared:
        raise ImageRejectedError(
            "truncated", f"only {len(data)} of the WebP's {declared} bytes are here: send it again"
        )
