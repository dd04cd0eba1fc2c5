"""What an image may be: limits, rejections, and the checks of its bytes that need no decoder.

Nothing here loads Pillow. `check_frames` bounds the number of frames and of pieces that a file consists of: a decoder
reads each piece, at some microseconds each, and a file may consist of millions of empty ones. It reads each byte at
most once. If the structure is broken, counting stops: the decoder, which reads the first frame only, judges the rest.
"""

import mmap
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Final, NamedTuple

from core.image_containers import TiffReader, boxes, count_pictures

DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken data. Not ``MemoryError``, which the machine causes, not the image."""

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

MAX_PIECES: Final = 20_000
"""Maximum chunks, segments or blocks of a file, plus one for each `BYTES_A_PIECE` bytes, as normal encoders write."""

BYTES_A_PIECE: Final = 128

MAX_PARSED_SEGMENTS: Final = 16
"""Maximum segments of EXIF, of Photoshop and of tables of a JPEG, each of up to 64 KB. Readers parse each, and copy
all EXIF for each. Normal encoders write one, or up to four of tables."""

_PARSED_SEGMENTS: Final = {0xE1: b"Exif\0\0", 0xED: b"Photoshop 3.0\0", 0xDB: b""}
"""How these segments begin, by their markers."""

MAX_INFLATED_BYTES: Final = 64 * 2**20
"""Maximum bytes to which the compressed profiles and texts of a PNG may inflate: a reader inflates each of them."""

_MAX_CHUNK_BYTES: Final = 2**20
"""Bytes at which Pillow stops to inflate a chunk."""

_MAX_DEFLATE_RATIO: Final = 1_032
"""Bytes of zeros that a byte of Deflate can stand for: https://zlib.net/zlib_tech.html"""

_WITHOUT_LENGTH: Final = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
"""Markers of a JPEG that stand alone, or with segments that Pillow reads byte by byte."""


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


def ends_early(error: Exception) -> bool:
    """Return whether a decoder's error reports that data is missing, not that it is wrong."""
    text = str(error).lower()
    return isinstance(error, EOFError) or any(each in text for each in ("truncated", "unexpected end", "premature"))


def broken_header(name: str, size: int) -> ImageRejectedError:
    """Return the rejection of data that starts like an image but has a damaged header."""
    return ImageRejectedError(
        "undecodable",
        f"the {name}'s header is damaged or cut short ({size} bytes in all): save it again as JPEG or PNG",
    )


def cut_short(name: str, size: int) -> ImageRejectedError:
    """Return the rejection of data that ends within its header."""
    return ImageRejectedError("truncated", f"the {name} ends after {size} bytes, within its header: send it again")


class ImageLimits(NamedTuple):
    """How large an image may be.

    Attributes:
        max_bytes: size of the file.
        max_pixels: width x height, once decoded.
        max_frames: frames of an animation, or pictures in one file.
    """

    max_bytes: int = 10 * 2**20
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


def lacks_memory(pixels: int) -> bool:
    """Return whether a decoder may have failed for lack of memory, which libwebp and libjpeg report as damage."""
    try:
        mmap.mmap(-1, max(1, BYTES_A_PIXEL * pixels)).close()
    except OSError:
        return True
    return False


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
            "truncated", f"only {len(data)} of the {name}'s {declared} bytes are here: send it again"
        )


def check_frames(name: str, data: bytes, limits: ImageLimits) -> None:
    """Check the number of frames and pieces of an image in the format `name`, from `sniff`.

    Raises:
        ImageRejectedError: ``too_many_frames``, or ``too_costly`` for too many pieces.
    """
    count = FORMATS[name].count_frames
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

    Raises:
        ImageRejectedError: its compressed chunks may inflate to more than `MAX_INFLATED_BYTES`.
    """
    declared, seen, place, inflated = 0, 0, 8, 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        before = max(declared, seen)
        if kind == b"acTL" and place + 12 <= len(data):
            declared = max(declared, int.from_bytes(data[place + 8 : place + 12], "big"))
        seen += kind == b"fcTL"
        if kind in {b"iCCP", b"zTXt"} or (kind == b"iTXt" and _is_compressed(data, place + 8, size)):
            inflated += min(_MAX_CHUNK_BYTES, _MAX_DEFLATE_RATIO * size)
            if inflated > MAX_INFLATED_BYTES:
                raise ImageRejectedError(
                    "too_costly", "the PNG's texts and profiles may inflate to more than 64 MB: save it again"
                )
        yield max(declared, seen) - before
        if kind == b"IEND":
            return
        place += 12 + size


def _is_compressed(data: bytes, start: int, size: int) -> bool:
    """Return whether an ``iTXt`` chunk has compressed text: a flag behind its keyword says so."""
    flag = data.find(b"\0", start, start + size) + 1
    return flag > 0 and data[flag : flag + 1] != b"\0"


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


RAW_REASON: Final = "this is a camera raw file: export it as JPEG first"

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

    Raises:
        ImageRejectedError: it is not.
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


Signatures = tuple[tuple[tuple[int, bytes], ...], ...]
"""Of each signature, the bytes that data has at each offset; data of a format has one of its signatures."""


def _at(offset: int, *marks: bytes) -> Signatures:
    return tuple(((offset, mark),) for mark in marks)


class ImageFormat(NamedTuple):
    """An accepted image format.

    Attributes:
        name: in messages and on pages.
        suffixes: of file names, without the dot; the first one is the extension of stored objects.
        content_type: its media type.
        signatures: of each, the bytes that data has at each offset; data of this format has one of them.
        plugin: Pillow's module that reads it.
        count_frames: yields one number for each piece that a decoder reads one by one (chunk, block, table entry):
            how many frames the piece adds, mostly 0. None if a file has one frame and few pieces.
    """

    name: str
    suffixes: tuple[str, ...]
    content_type: str
    signatures: Signatures
    plugin: str
    count_frames: Callable[[bytes], Iterator[int]] | None = None

    @property
    def extension(self) -> str:
        """Extension of stored objects."""
        return self.suffixes[0]


_GENERIC: Final = ((4, b"ftypmif1"), (4, b"ftypmsf1"))
"""Starts of files that may hold AVIF as well as HEIC; the list of compatible brands follows."""

FORMATS: Final[Mapping[str, ImageFormat]] = {
    "JPEG": ImageFormat("JPEG", ("jpg", "jpeg"), "image/jpeg", _at(0, b"\xff\xd8\xff"), "PIL.JpegImagePlugin", _jpeg),
    "PNG": ImageFormat("PNG", ("png",), "image/png", _at(0, b"\x89PNG\r\n\x1a\n"), "PIL.PngImagePlugin", _png),
    "WEBP": ImageFormat(
        "WebP", ("webp",), "image/webp", (((0, b"RIFF"), (8, b"WEBP")),), "PIL.WebPImagePlugin", _webp
    ),
    "GIF": ImageFormat("GIF", ("gif",), "image/gif", _at(0, b"GIF8"), "PIL.GifImagePlugin", _gif),
    "AVIF": ImageFormat(
        "AVIF",
        ("avif",),
        "image/avif",
        (
            *_at(4, b"ftypavif", b"ftypavis"),
            *((start, (at, b"avif")) for start in _GENERIC for at in (16, 20, 24, 28)),
        ),
        "PIL.AvifImagePlugin",
        count_pictures,
    ),
    "HEIF": ImageFormat(
        "HEIC",
        ("heic", "heif", "hif"),
        "image/heic",
        _at(
            4,
            *(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")),
        )
        + tuple((start,) for start in _GENERIC),
        "core.libheif",
        count_pictures,
    ),
    "TIFF": ImageFormat(
        "TIFF",
        ("tif", "tiff"),
        "image/tiff",
        _at(0, b"II*\x00", b"MM\x00*", b"II+\x00"),
        "PIL.TiffImagePlugin",
        _tiff,
    ),
    "BMP": ImageFormat("BMP", ("bmp",), "image/bmp", _at(0, b"BM"), "PIL.BmpImagePlugin"),
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
