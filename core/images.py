"""What an image may be: limits, reasons for a rejection, and the formats, which the first bytes of a file tell apart.

`core.image_containers` checks the structure of a file, and `core.image_open` decides whether it is accepted.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

CODES: Final = (
    "empty",
    "too_large",
    "not_an_image",
    "format_not_allowed",
    "too_many_pixels",
    "too_many_frames",
    "truncated",
    "undecodable",
    "too_costly",
)
"""Reasons why data cannot be classified; stable, for programs."""

BYTES_A_PIXEL: Final = 24
"""Maximum bytes of memory that decoding a pixel takes: lossless WebP with transparency took 21
(docs/measurements.md)."""

BYTES_BESIDE: Final = 32 * 2**20
"""Memory that an image of any size needs besides its pixels."""

MAX_THUMBNAIL_BYTES: Final = 65_536
"""Maximum size of the thumbnail in a prediction: photos have about 5 KB, noise four times as long as wide 30 KB."""


class ImageRejectedError(Exception):
    """Raised when data cannot be classified because of its content; a retry would not help.

    Attributes:
        code: one of `CODES`.
        message: what is wrong and what to do, for the image's owner.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def broken_header(name: str, size: int) -> ImageRejectedError:
    """Return the rejection of data that starts like an image but has a damaged header."""
    return ImageRejectedError(
        "undecodable",
        f"the {FORMATS[name].name}'s header is damaged or cut short ({size} bytes in all): "
        "save it again as JPEG or PNG",
    )


def cut_short(name: str, size: int) -> ImageRejectedError:
    """Return the rejection of data that ends within its header."""
    return ImageRejectedError(
        "truncated", f"the {FORMATS[name].name} ends after {size} bytes, within its header: send it again"
    )


class Framing(NamedTuple):
    """What a network sees of an image; the fields are those of `core.bundle_manifest.Preprocess`."""

    resize: Sequence[int]
    crop: Sequence[int]
    fit: str = "crop"
    fill: Sequence[int] = (0, 0, 0)
    interpolation: str = "bilinear"


class ImageLimits(NamedTuple):
    """How large an image may be.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width x height, once decoded.
        max_frames: frames of an animation, or pages of a TIFF.
    """

    max_bytes: int = 25 * 2**20
    max_pixels: int = 50_000_000
    max_frames: int = 1_000

    @property
    def decoding_bytes(self) -> int:
        """Memory that opening or decoding an image may take."""
        return BYTES_A_PIXEL * self.max_pixels + 2 * self.max_bytes + BYTES_BESIDE


def too_large(size: int, limits: ImageLimits) -> ImageRejectedError:
    """Return the rejection of a file of `size` bytes, which is more than ``limits`` allow."""
    return ImageRejectedError(
        "too_large",
        f"{size / 1e6:.1f} MB is more than the {limits.max_bytes / 1e6:.1f} MB allowed: shrink it",
    )


def too_many_frames(limits: ImageLimits) -> ImageRejectedError:
    """Return the rejection of an image with more frames than ``limits`` allow."""
    return ImageRejectedError(
        "too_many_frames", f"it has more than the {limits.max_frames} frames allowed: send one of them"
    )


def sniff(data: bytes) -> str:
    """Return the key in `FORMATS` of the format that ``data`` starts like.

    Raises:
        ImageRejectedError: it starts like none of them.
    """
    for key, accepted in FORMATS.items():
        if _starts_like(data, accepted.signatures):
            return key
    for other in OTHER_FILES:
        if _starts_like(data, other.signatures):
            raise ImageRejectedError("format_not_allowed", other.reason)
    text = data[:TEXT_BYTES].lower()
    for mark, reason in TEXT_FILES:
        if mark in text:
            raise ImageRejectedError("format_not_allowed", reason)
    raise ImageRejectedError("not_an_image", unknown_reason())


def _starts_like(data: bytes, signatures: "Signatures") -> bool:
    return any(all(data.startswith(mark, at) for at, mark in signature) for signature in signatures)


def thumbnail_type(data: bytes) -> str | None:
    """Return the media type of a thumbnail, or None if it does not begin like one.

    Processes that read untrusted bytes write thumbnails, so nothing else is stored or served as one.
    """
    name = "JPEG" if data.startswith(b"\xff\xd8\xff") else "WEBP" if data[:4] + data[8:12] == b"RIFFWEBP" else None
    return FORMATS[name].content_type if name else None


RAW_REASON: Final = "this is a camera raw file: export it as JPEG first"

Signatures = tuple[tuple[tuple[int, bytes], ...], ...]
"""Of each signature, the bytes that data has at each offset; data of a format has one of its signatures."""


def _at(offset: int, *marks: bytes) -> Signatures:
    return tuple(((offset, mark),) for mark in marks)


class ImageFormat(NamedTuple):
    """An accepted image format.

    Attributes:
        name: in messages and on pages.
        suffixes: of file names, without the dot; the first one is the extension of stored objects.
        signatures: of each, the bytes that data has at each offset; data of this format has one of them.
        plugin: Pillow's module that reads it.
        has_boxes: whether a file consists of boxes, as of ISO/IEC 14496-12, which say how long they are.
    """

    name: str
    suffixes: tuple[str, ...]
    content_type: str
    signatures: Signatures
    plugin: str
    has_boxes: bool = False

    @property
    def extension(self) -> str:
        """Extension of stored objects."""
        return self.suffixes[0]


_GENERIC: Final = ((4, b"ftypmif1"), (4, b"ftypmsf1"))
"""Starts of files that may hold AVIF as well as HEIC; the list of compatible brands follows."""

FORMATS: Final[Mapping[str, ImageFormat]] = {
    "JPEG": ImageFormat(
        "JPEG",
        ("jpg", "jpeg", "jpe", "jfif", "jfi", "pjpeg", "pjp", "mpo"),
        "image/jpeg",
        _at(0, b"\xff\xd8\xff"),
        "PIL.JpegImagePlugin",
    ),
    "PNG": ImageFormat("PNG", ("png", "apng"), "image/png", _at(0, b"\x89PNG\r\n\x1a\n"), "PIL.PngImagePlugin"),
    "WEBP": ImageFormat("WebP", ("webp",), "image/webp", (((0, b"RIFF"), (8, b"WEBP")),), "PIL.WebPImagePlugin"),
    "GIF": ImageFormat("GIF", ("gif",), "image/gif", _at(0, b"GIF8"), "PIL.GifImagePlugin"),
    "AVIF": ImageFormat(
        "AVIF",
        ("avif", "avifs"),
        "image/avif",
        (
            *_at(4, b"ftypavif", b"ftypavis"),
            *((start, (at, b"avif")) for start in _GENERIC for at in (16, 20, 24, 28)),
        ),
        "PIL.AvifImagePlugin",
        has_boxes=True,
    ),
    "HEIF": ImageFormat(
        "HEIC",
        ("heic", "heics", "heif", "heifs", "hif"),
        "image/heic",
        _at(
            4,
            *(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")),
        )
        + tuple((start,) for start in _GENERIC),
        "core.libheif",
        has_boxes=True,
    ),
    "TIFF": ImageFormat(
        "TIFF",
        ("tif", "tiff"),
        "image/tiff",
        _at(0, b"II*\x00", b"MM\x00*", b"II+\x00"),
        "PIL.TiffImagePlugin",
    ),
    "BMP": ImageFormat("BMP", ("bmp", "dib"), "image/bmp", _at(0, b"BM"), "PIL.BmpImagePlugin"),
}
"""Accepted formats by Pillow's names. The web tier, the worker, the pages and the commands read them here."""


class OtherFile(NamedTuple):
    """A kind of file that is not accepted and can be named; ``reason`` says what it is and what to do."""

    reason: str
    signatures: Signatures


_SAVE: Final = "save it as JPEG or PNG"
_EXPORT: Final = "export it as JPEG or PNG"

OTHER_FILES: Final = (
    OtherFile(
        RAW_REASON,
        (
            *_at(0, b"IIU\x00", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW", b"FOVb", b"\x00MRM"),
            *_at(6, b"HEAPCCDR"),
            *_at(4, b"ftypcrx "),
        ),
    ),
    OtherFile(f"this is a PDF document: {_EXPORT}", _at(0, b"%PDF")),
    OtherFile(f"this is an EPS or PostScript drawing: {_EXPORT}", _at(0, b"%!PS", b"\xc5\xd0\xd3\xc6")),
    OtherFile(f"this is a Photoshop document: {_EXPORT}", _at(0, b"8BPS")),
    OtherFile(f"FITS images are not supported: {_SAVE}", _at(0, b"SIMPLE  =")),
    OtherFile(f"JPEG 2000 images are not supported: {_SAVE}", _at(0, b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")),
    OtherFile(f"JPEG XL images are not supported: {_SAVE}", _at(0, b"\x00\x00\x00\x0cJXL ", b"\xff\x0a")),
    OtherFile(f"icons are not supported: {_SAVE}", _at(0, b"\x00\x00\x01\x00")),
    OtherFile(f"big-endian BigTIFF images are not supported: {_SAVE}", _at(0, b"MM\x00+")),
    OtherFile("this is a sound file: send images", _at(0, b"ID3", b"fLaC") + _at(4, b"ftypM4A ")),
    OtherFile(
        "this is a video: save the frames that matter as JPEG or PNG",
        (
            ((4, b"ftyp"), (12, b"")),  # with its brand, which could be that of a HEIC
            *_at(4, b"moov", b"mdat", b"wide"),
            *_at(0, b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"OggS", b"0&\xb2u"),
            ((0, b"RIFF"), (8, b"AVI ")),
        ),
    ),
    OtherFile("this is a zip or an Office document: send the images in it as files", _at(0, b"PK\x03\x04")),
    OtherFile(
        "this is an archive: unpack it, then send the images in it",
        _at(0, b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ") + _at(257, b"ustar"),
    ),
)
"""Kinds of files that are often sent. The page's script has the same table, so both give the same reasons."""

TEXT_FILES: Final = (
    (b"version https://git-lfs", "this is a Git LFS pointer: run git lfs pull, then send the image"),
    (b"<svg", "this is an SVG drawing: export it as PNG"),
    (b"<html", "this is a web page, not an image: save the image itself"),
    (b"<!doctype html", "this is a web page, not an image: save the image itself"),
)
"""Kinds of text, by what is in lower case among the first `TEXT_BYTES`, and the reasons why they are rejected."""

TEXT_BYTES: Final = 1024

SUFFIXES: Final = frozenset(f".{suffix}" for accepted in FORMATS.values() for suffix in accepted.suffixes)
"""Suffixes of the names of files with an accepted format."""


def format_names(conjunction: str) -> str:
    """Return the names of the accepted formats as a list in a sentence: "JPEG, PNG or BMP"."""
    *others, last = (accepted.name for accepted in FORMATS.values())
    return f"{', '.join(others)} {conjunction} {last}"


def unknown_reason() -> str:
    """Return why a file of no known kind is rejected."""
    return f"this is not an image: send {format_names('or')}"
