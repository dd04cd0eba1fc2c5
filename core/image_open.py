"""Opening an image with Pillow: whether data is an accepted image, decided from its header before any decoding.

The web tier checks at upload and the worker checks again before it decodes, so both give the same verdict. Both run
this in sandboxed processes (`core.sandbox`), and their own processes never load Pillow.

========================================  =======================================================
data                                      verdict
========================================  =======================================================
a format of `FORMATS` (also CMYK,         accepted, also under another name
progressive and MPO as JPEG)
animated, or with more pictures in it     accepted; its first frame is classified
without its end mark alone (JPEG, PNG)    accepted if all its pixels are there
with other data after it                  accepted; the other data is ignored
nothing                                   ``empty``
more bytes than allowed                   ``too_large``
more pixels than allowed (bombs)          ``too_many_pixels``
more frames than allowed                  ``too_many_frames``
cut into millions of empty pieces         ``too_costly``
another known format (EPS, PDF, SVG ...)  ``format_not_allowed``
pixels of a kind not in `PIXEL_MODES`     ``format_not_allowed``
a known format with a broken header       ``truncated`` or ``undecodable``
a camera raw file that starts like TIFF   ``format_not_allowed``
anything else                             ``not_an_image``
========================================  =======================================================

Common formats are checked before a decoder sees them (`core.image_containers`). Pillow alone reads a TIFF or BMP:
the limits of the sandboxed process end a costly one.
"""

import copy
import mmap
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import reduce
from importlib import import_module
from io import BytesIO
from itertools import chain, zip_longest
from math import prod
from typing import Any, ClassVar, Final, cast

# All that an accepted image can need is loaded now, and nothing else: a sandboxed process cannot read a file later
# (tests/integration/app_tier/test_decode.py), and Pillow would load forty plugins to find the one for WebP.
# Pillow reads the EXIF of every format as a TIFF.
from PIL import (
    AvifImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from core import libheif
from core.image_containers import (
    FRAME_COUNTS,
    as_still_avif,
    boxes,
    check_complete,
    check_frames,
    has_all_scans,
    png_picture,
    primary_picture,
    webp_size,
)
from core.images import (
    BYTES_A_PIXEL,
    FORMATS,
    RAW_REASON,
    ImageLimits,
    ImageRejectedError,
    broken_header,
    cut_short,
    sniff,
    too_large,
    too_many_frames,
)

Image.preinit()
for _accepted in FORMATS.values():
    import_module(_accepted.plugin)

PIXEL_MODES: Final = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B"}
)
"""Pillow's modes of pixels that can be converted to RGB with the right brightness, after `as_8_bit`."""

# Pillow must never fill in missing data.
ImageFile.LOAD_TRUNCATED_IMAGES = False

# The pixel limit below is stricter, applies before any decoding, and its message is for the image's owner. Pillow's
# limit is a warning first, and would be another kind of error.
Image.MAX_IMAGE_PIXELS = None


_END_OF_JPEG: Final = b"\xff\xd9"
_NOISE: Final = b"\xaa\x55" * 128
_NO_END_OF_JPEG: Final = b"".join((_NOISE, *(bytes((0xFF, 0xD0 + n)) + _NOISE for n in range(8)), _END_OF_JPEG))
"""Bytes that change the pixels of a JPEG which ends before its last pixel, maybe at one of its eight restarts."""


class _FirstPicture(JpegImagePlugin.JpegImageFile):
    """The first picture of a JPEG, which may lack its end mark if all its pixels are there."""

    _is_ended = False

    def load_read(self, read_bytes: int) -> bytes:
        file = cast("BytesIO", self.fp)
        if (piece := file.read(read_bytes)) or self._is_ended:
            return piece
        if not _lacks_only_its_end(file.getvalue()):
            raise OSError("image file is truncated")
        self._is_ended = True
        return _END_OF_JPEG


def _lacks_only_its_end(data: bytes) -> bool:
    """Return whether no pixel of a JPEG depends on what follows the data.

    libjpeg fills in missing pixels without an error. So it decodes the data twice with different bytes behind it.
    """
    if not has_all_scans(data):
        return False
    half_mark = b"\0" if data.endswith(b"\xff") else b""
    ends = (_END_OF_JPEG, half_mark + _NO_END_OF_JPEG)
    first, second = (JpegImagePlugin.JpegImageFile(BytesIO(data + end)) for end in ends)
    return ImageChops.difference(first, second).getbbox() is None


class _StillPng(PngImagePlugin.PngImageFile):
    """The picture of a PNG without its other chunks, transparent where its colour of 1 to 16 bits says so."""

    def _open(self) -> None:
        self.fp = BytesIO(png_picture(cast("BytesIO", self.fp).getvalue()))
        super()._open()
        if (levels := {"L;2": 3, "L;4": 15}.get(str(self.tile[0].args))) and "transparency" in self.info:
            self.info["transparency"] = (self.info["transparency"] & levels) * 255 // levels

    def load(self) -> Any:
        if not self.tile:
            return super().load()
        data, raw, clear = cast("BytesIO", self.fp).getvalue(), self.tile[0].args, self.info.get("transparency")
        pixels = super().load()
        if raw in _OTHER_BYTES:
            pixels = _read_16_bits(self, PngImagePlugin.PngImageFile(BytesIO(data)), clear)
        elif clear is not None and self.mode == "I;16":
            alpha = self.convert("I").point([255 * (level != clear) for level in range(2**16)], "L")
            pixels = _become(self, as_8_bit(self), alpha)
        else:
            return pixels
        self.info.pop("transparency", None)
        return pixels


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF of which only the first frame is read; its canvas is transparent around it, as in browsers.

    Pillow would allocate what follows this frame as soon as it opens the file: gigabytes, if the frame declares that
    size.
    """

    disposal_method = property(lambda _: 0, lambda _self, _method: None)

    def load(self) -> Any:
        tile = self.tile
        pixels = super().load()
        if not tile or "transparency" in self.info or tile[0].extents == (0, 0, *self.size):
            return pixels
        alpha = Image.new("L", self.size)
        alpha.paste(255, tile[0].extents)
        return _become(self, self, alpha)


_OTHER_BYTES: Final = {
    **{
        f"{mode};16{this}": f"{mode};16{other}"
        for mode in ("RGB", "RGBX", "RGBA")
        for this, other in ("BL", "LB", "NB")
    },
    "LA;16B": "RGBA",
}
"""Pillow's raw modes that give the low bytes of 16-bit colours, by those that give the high ones."""


def _read_16_bits(image: Image.Image, again: ImageFile.ImageFile, clear: Sequence[int] | None = None) -> Any:
    """Give an open image of 16-bit colours all their bits; Pillow reads the high bytes, so it is decoded once more.

    Args:
        image: what Pillow has read.
        again: the same file, not decoded.
        clear: the colour that is transparent.
    """
    high = image.split()
    bits = _used_bits(max(cast("tuple[int, int]", band.getextrema())[1] for band in high[:3]) << 8)
    if bits == 16 and clear is None:
        return image.load()
    is_grey = again.tile[0].args == "LA;16B"
    again.tile = [tile._replace(args=_with_other_bytes(tile.args)) for tile in again.tile]
    low = 3 * again.split()[1:2] if is_grey else again.split()
    alpha = high[3] if len(high) == 4 else None
    if clear is not None:
        levels = (*(level >> 8 for level in clear), *(level & 0xFF for level in clear))
        others = [
            band.point([255 * (value != level) for value in range(256)])
            for band, level in zip((*high, *low), levels, strict=True)
        ]
        alpha = reduce(ImageChops.lighter, others)
    colours = [
        ImageChops.add(
            above.point([value << (16 - bits) & 0xFF for value in range(256)]),
            below.point([value >> (bits - 8) for value in range(256)]),
        )
        for above, below in zip(high[:3], low, strict=False)
    ]
    return _become(image, Image.merge("RGB", colours), alpha)


def _with_other_bytes(args: Any) -> Any:
    return _OTHER_BYTES[args] if isinstance(args, str) else (_OTHER_BYTES[args[0]], *args[1:])


def _become(image: Image.Image, picture: Image.Image, alpha: Image.Image | None = None) -> Any:
    """Give an open image the pixels of `picture`, in RGB, transparent where `alpha` says so."""
    shown = picture.convert("RGB")
    if alpha:
        shown.putalpha(alpha)
    image.im, image._mode = shown.im, shown.mode
    return image.load()


class _FirstPage(TiffImagePlugin.TiffImageFile):
    """A TIFF with pixels of the right brightness, from decoders that each library has and that are often used."""

    def _setup(self) -> None:
        tags, data = self.tag_v2, cast("BytesIO", self.fp).getvalue()
        if tags.get(_SUBFILE, 0) & 1 or _DNG_VERSION in tags or data[8:12] == _CR2 or self._is_of_sensor():
            raise ImageRejectedError("format_not_allowed", RAW_REASON)
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in _TIFF_COMPRESSIONS:
            raise _unusual("TIFF", f"compression {compression}")
        if compression != 1:  # without, the reader needs no sizes of strips, which some programs write wrong
            strips = (zip_longest(tags.get(at, ()), tags.get(size, ()), fillvalue=0) for at, size in _STRIP_TABLES)
            if any(offset + size > len(data) for offset, size in chain(*strips)):
                raise ImageRejectedError(
                    "truncated",
                    f"the TIFF ends after {len(data)} bytes, before the picture is complete: send it again",
                )
        bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        kind = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
        if set(tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))) != {1}:
            raise _unusual("TIFF", "signed or floating-point pixels")
        if bits == (12,) or (bits == (16,) and kind == _INVERTED):
            raise _unusual("TIFF", f"{bits[0]}-bit grey of this kind")
        if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION, 1) != 1 and max(bits) > 8:
            raise _unusual("TIFF", "16-bit colours in separate planes")
        subsampling = tags.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2))
        if (kind, compression) == (_YCBCR, 1) and subsampling != (1, 1):
            raise _unusual("TIFF", "subsampled colours")
        super()._setup()
        self._size = self._tile_size  # it is turned when it is decoded, and has its size then
        palette = tags.get(TiffImagePlugin.COLORMAP, ())
        if self.palette is not None and max(palette, default=0) < 256:  # some programs write 8 bits instead of 16
            self.palette = ImagePalette.raw("RGB;L", palette)

    def _is_of_sensor(self) -> bool:
        """Return whether the pixels of the page, or of one of its parts, are those of a camera's sensor."""
        file, part, kinds = cast("BytesIO", self.fp), copy.copy(self.tag_v2), [self.tag_v2.get(_PHOTOMETRIC)]
        for place in self.tag_v2.get(_SUB_DIRECTORIES, ())[:MAX_PARTS]:
            file.seek(place)
            part.load(file)
            kinds.append(part.get(_PHOTOMETRIC))
        return not _OF_SENSOR.isdisjoint(kinds)

    def load(self) -> Any:
        kind = self.tile[0].args if self.tile else None
        if not isinstance(kind, tuple) or kind[0] not in _OTHER_BYTES:
            return super().load()
        again = TiffImagePlugin.TiffImageFile(BytesIO(cast("BytesIO", self.fp).getvalue()))
        super().load()
        return _read_16_bits(self, again)


_TIFF_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""None, CCITT (fax), LZW, JPEG, Deflate and PackBits."""

MAX_PARTS: Final = 16
"""Parts of a page that are read."""

_SUBFILE, _PHOTOMETRIC, _SUB_DIRECTORIES, _DNG_VERSION = 254, 262, 330, 50706
_STRIP_TABLES: Final = ((273, 279), (324, 325))
"""Tags of a TIFF with the offsets and sizes of its strips or tiles."""
_OF_SENSOR: Final = frozenset({32803, 34892})
"""Photometric interpretations of pixels as a sensor gives them: CFA and LinearRaw of TIFF/EP and DNG."""
_CR2: Final = b"CR\2\0"
"""Mark and version of Canon's raw files behind the head of the TIFF (http://lclevy.free.fr/cr2/)."""

_INVERTED, _YCBCR = 0, 6
"""Photometric interpretations of a TIFF."""


class _PrimaryPicture(ImageFile.ImageFile):
    """A HEIC or AVIF, cropped, turned and mirrored as its boxes say; its EXIF turns nothing.

    The header is read from the boxes, without a C library. A C library reads the file as soon as pixels are needed.
    Then the image gets the mode that it has.
    """

    kinds: ClassVar[frozenset[bytes]]
    coded_size: tuple[int, int]
    steps: list[tuple[int, int, int, int] | Image.Transpose]

    def _open(self) -> None:
        data = self._data()
        picture = primary_picture(data)
        if picture is None and any(box.kind == b"moov" for box in boxes(data, 0, len(data))):
            raise _unusual(str(self.format), "a sequence alone")
        if picture is None:
            raise SyntaxError("no primary picture")
        if picture.kind not in self.kinds:
            raise _unusual(str(self.format), f"a picture of kind {picture.kind.decode('ascii', 'replace')}")
        self._mode, self._size, self.coded_size, self.steps = "RGB", picture.size, picture.size, []
        for kind, content in picture.transforms:
            if kind == b"clap":
                left, top, right, bottom = box = _clean_aperture(content, self.size)
                self.steps.append(box)
                self._size = right - left, bottom - top
            elif (turn := _TURNS.get((kind, content[0]))) is not None:
                self.steps.append(turn)
                self._size = (self.height, self.width) if turn in _QUARTERS else self.size

    def load(self) -> Any:
        if self._im is None:
            decoded = self._decode(self._data())
            self.im, self._mode, self._size = decoded.im, decoded.mode, decoded.size
        return super().load()

    def _data(self) -> bytes:
        return cast("BytesIO", self.fp).getvalue()

    def _decode(self, data: bytes) -> Image.Image:
        raise NotImplementedError


class _HeicPicture(_PrimaryPicture):
    format = "HEIF"
    kinds = frozenset({b"hvc1", b"grid", b"iden", b"iovl"})

    def _decode(self, data: bytes) -> Image.Image:
        return libheif.decode(data, prod(self.coded_size))


class _AvifPicture(_PrimaryPicture):
    format = "AVIF"
    kinds = frozenset({b"av01", b"grid"})

    def _decode(self, data: bytes) -> Image.Image:
        """Return the picture; libavif, which Pillow brings, leaves the steps to its caller."""
        image: Image.Image = AvifImagePlugin.AvifImageFile(BytesIO(as_still_avif(data)))
        if image.size != self.coded_size:
            raise ValueError(f"{image.width} x {image.height} pixels are not what its header says")
        image.load()
        for step in self.steps:
            image = image.crop(step) if isinstance(step, tuple) else image.transpose(step)
        return image


_TURNS: Final = {
    (b"irot", 1): Image.Transpose.ROTATE_90,
    (b"irot", 2): Image.Transpose.ROTATE_180,
    (b"irot", 3): Image.Transpose.ROTATE_270,
    (b"imir", 0): Image.Transpose.FLIP_TOP_BOTTOM,
    (b"imir", 1): Image.Transpose.FLIP_LEFT_RIGHT,
}
"""Rotations, in quarters anticlockwise, and mirrors."""

_QUARTERS: Final = frozenset({Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270})


def _clean_aperture(content: bytes, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return which pixels a ``clap`` property keeps, as a box of Pillow.

    Its four fractions are width and height, and how far its centre lies right of and below the picture's centre
    (ISO/IEC 14496-12, section 12.1.4). As in libheif, they are rounded to the nearest pixel, and the box ends
    where the picture does.
    """
    fields = struct.unpack(">IIIIiIiI", content)
    wide, high, right, down = (Fraction(*fields[at : at + 2]) for at in (0, 2, 4, 6))
    left, top, width, height = (
        int(each + Fraction(1, 2)) for each in ((size[0] - wide) / 2 + right, (size[1] - high) / 2 + down, wide, high)
    )
    box = max(0, left), max(0, top), min(size[0], left + width), min(size[1], top + height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"its crop {box} contains no pixels")
    return box


# A sandboxed process may start no threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# For each damaged tag of a TIFF: a message of its own for the log, which would be kept for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

_READERS: Final[Mapping[str, type[ImageFile.ImageFile]]] = {
    "JPEG": _FirstPicture,
    "PNG": _StillPng,
    "GIF": _FirstFrame,
    "AVIF": _AvifPicture,
    "HEIF": _HeicPicture,
    "TIFF": _FirstPage,
}
"""Readers that replace Pillow's, by format."""

_UNUSUAL: Final = ("BMP compression", "BMP pixel depth", "BMP bitfields", "unknown pixel mode", "-bit layers")
"""What Pillow's errors say of pixels that it cannot read."""

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


_DEFAULT_LIMITS: Final = ImageLimits()


def inspect(data: bytes, limits: Sequence[int] = _DEFAULT_LIMITS) -> bytes:
    """Check from its header alone that ``data`` is an accepted image; no pixel is decoded.

    Returns:
        Nothing. `core.images.sniff` returns the format.

    Raises:
        ImageRejectedError: the data is not an accepted image, or exceeds ``limits``.
        MemoryError: this process may not have enough for it.
    """
    open_image(data, ImageLimits(*limits)).close()
    return b""


def open_image(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> Image.Image:
    """Open ``data`` with Pillow, header only, after every check that needs no decoding.

    Raises:
        ImageRejectedError: as for `inspect`.
        MemoryError: this process may not have enough for it.
    """
    if not data:
        raise ImageRejectedError("empty", "the file is empty: send it again")
    if len(data) > limits.max_bytes:
        raise too_large(len(data), limits)
    name, pixels = sniff(data), 0
    if name == "WEBP":  # Pillow's WebP plugin reserves the whole canvas on opening, so its size is read here first
        pixels = _check_pixels(*webp_size(data), limits)
    check_frames(name, data, limits)
    check_complete(name, data)
    try:
        image = (_READERS.get(name) or Image.OPEN[name][0])(BytesIO(data), "")
    except DECODER_ERRORS as error:
        if pixels and lacks_memory(pixels):
            raise MemoryError from error
        raise _damage(name, data, error) from error
    if name not in FRAME_COUNTS and _has_frame(image, limits.max_frames):
        raise too_many_frames(limits)
    image.info.pop("xmp", None)  # Pillow would turn the picture as it says; browsers and libvips do not
    _check_pixels(*(image.coded_size if isinstance(image, _PrimaryPicture) else image.size), limits)
    if image.mode not in PIXEL_MODES:
        raise _unusual(name, f"pixels of mode {image.mode}")
    return image


def _damage(name: str, data: bytes, error: Exception) -> ImageRejectedError:
    """Return the rejection of data with a header that its reader refuses."""
    if ends_early(error):
        return cut_short(name, len(data))
    if any(each in str(error) for each in _UNUSUAL):
        return _unusual(name, "pixels of this kind")
    return broken_header(name, len(data))


def _has_frame(image: Image.Image, number: int) -> bool:
    """Return whether a reader finds the frame with that number, from 0; the image stays at its first one."""
    try:
        image.seek(number)
    except DECODER_ERRORS:  # it has fewer, or damaged ones
        image.seek(0)
        return False
    return True


def as_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey, other images unchanged.

    Cameras and microscopes write levels of 8, 10 or 12 bits in 16: nearly black, if they were read as 16 bits. So the
    brightest level says how many they have. Pillow's own convert would clip all levels above 255 to white.
    """
    if not image.mode.startswith("I;16"):
        return image
    levels = image.convert("I")
    bits = _used_bits(cast("tuple[int, int]", levels.getextrema())[1])
    return levels.point(lambda level: level * (256 / (1 << bits))).convert("L")


def _used_bits(brightest: int) -> int:
    return next((bits for bits in (8, 10, 12) if brightest < 1 << bits), 16)


def ends_early(error: Exception) -> bool:
    """Return whether a decoder's error reports that data is missing, not that it is wrong."""
    text = str(error).lower()
    return isinstance(error, EOFError) or any(
        each in text for each in ("truncated", "unexpected end", "premature", "missing dimensions")
    )


def lacks_memory(pixels: int) -> bool:
    """Return whether a decoder may have failed for lack of memory, which libwebp and libjpeg report as damage."""
    try:
        mmap.mmap(-1, max(1, BYTES_A_PIXEL * pixels)).close()
    except OSError:
        return True
    return False


def _unusual(name: str, what: str) -> ImageRejectedError:
    return ImageRejectedError(
        "format_not_allowed", f"{FORMATS[name].name} images with {what} are not supported: save it as JPEG or PNG"
    )


def _check_pixels(width: int, height: int, limits: ImageLimits) -> int:
    if width < 1 or height < 1:
        raise ImageRejectedError("undecodable", f"it has no pixels ({width} x {height}): save it again")
    if width * height > limits.max_pixels:
        raise ImageRejectedError(
            "too_many_pixels",
            f"{width} x {height} pixels is more than the {limits.max_pixels / 1e6:g} megapixels allowed: shrink it",
        )
    return width * height
