"""Images by the names and the first bytes of their files."""

from typing import Final

SUFFIXES: Final = frozenset(
    {
        *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".heic", ".heics", ".heif", ".heifs", ".hif"),
        *(".jfi", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pjp", ".pjpeg", ".png", ".tif", ".tiff", ".webp"),
    }
)
"""Suffixes of the names of images that the server accepts; it decides by their content."""

MARKS: Final = (
    ("image/jpeg", 0, b"\xff\xd8\xff"),
    ("image/png", 0, b"\x89PNG"),
    ("image/gif", 0, b"GIF8"),
    ("image/bmp", 0, b"BM"),
    *(("image/tiff", 0, mark) for mark in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    ("image/webp", 8, b"WEBP"),
    *(("image/avif", at, b"avif") for at in (8, 16, 20, 24, 28)),
    ("image/avif", 8, b"avis"),
    ("image/heic", 4, b"ftyp"),
)
"""Media types of images, each with what their files have at an offset; the first one that fits is that of a file."""

MARKED_BYTES: Final = 32
"""Bytes at the start of a file that show its media type."""


def media_type(start: bytes) -> str | None:
    """Return the media type of an image by the start of its file, or None if it is none that the server accepts."""
    return next((type_ for type_, at, mark in MARKS if start.startswith(mark, at)), None)
