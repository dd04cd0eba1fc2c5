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
"""

import copy  # noqa: F401 (as the plugins below)
import mmap
import struct
import warnings
import zlib
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce
from importlib import import_module
from io import BytesIO
from math import prod
from typing import Any, ClassVar, Final, cast

# All that an accepted image can need is loaded now, and nothing else: a sandboxed process cannot read a file later
# (tests/integration/app_tier/test_decode.py), and Pillow would load forty plugins to find the one for WebP.
# Pillow reads the EXIF of every format as a TIFF.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    ImageMath,
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from core import libheif
from core.image_containers import (
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
    ImageLimits,
    ImageRejectedError,
    broken_header,
    cut_short,
    sniff,
    too_large,
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

    def _open(self) -> None:
        try:
            super()._open()
        except SyntaxError as error:
            if "-bit layers" in str(error):
                raise _unusual("JPEG", f"{self.bits} bits a colour") from error
            raise

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


class _AnyBitmap(BmpImagePlugin.BmpImageFile):
    """A BMP with colours of any number of bits in any order; Pillow knows the usual ones alone.

    https://learn.microsoft.com/en-us/windows/win32/api/wingdi/ns-wingdi-bitmapv5header
    """

    _masks: tuple[int, ...] = ()

    def _open(self) -> None:
        data = cast("BytesIO", self.fp).getvalue()
        start, size = struct.unpack_from("<II", data, 10)
        if 16 <= size < 64 and size not in _BMP_HEADERS:  # OS/2 may leave out the last fields, which are zero then
            short, rest = data[18 : 14 + size], data[14 + size :]
            data = data[:10] + struct.pack("<II", start + 64 - size, 64) + short.ljust(60, b"\0") + rest
            size = 64
        if size in _BMP_HEADERS:
            bits, compression = struct.unpack_from("<HI", data, 28)
            if what := _BMP_KINDS.get((compression, bits)) or _BMP_KINDS.get((compression, None)):
                raise _unusual("BMP", what)
            if int.from_bytes(data[46:50], "little") > 256 and bits <= 8:
                data = data[:46] + bytes(4) + data[50:]  # as many as it has bits for, and Pillow reads no more
            if compression in _BMP_BIT_FIELDS and bits in {16, 32}:
                has_alpha = size >= 56 or compression == _BMP_BIT_FIELDS[1]
                masks = (
                    struct.unpack_from("<IIII", data, 54) if has_alpha else (*struct.unpack_from("<III", data, 54), 0)
                )
                if compression == _BMP_BIT_FIELDS[1] or masks not in _BMP_USUAL_MASKS:
                    self._masks = masks
                    data = data[:30] + bytes(4) + data[34:]  # as if its colours were the usual ones
        self.fp = BytesIO(data)
        super()._open()
        if self._masks:
            self._mode = "RGBA" if self._masks[3] else "RGB"

    def load(self) -> Any:
        tile = self.tile
        if tile and self._masks:
            rawmode, *others = cast("tuple[object, ...]", tile[0].args)
            self._mode = "I"
            self.tile = [tile[0]._replace(args=("I;16" if rawmode == "BGR;15" else "I;32", *others))]
        pixels = super().load()
        if tile and self._masks:
            *colours, alpha = (self._band(mask) for mask in self._masks)
            pixels = _become(self, Image.merge("RGB", colours), alpha if self._masks[3] else None)
        return pixels

    def _band(self, mask: int) -> Image.Image:
        """Return the 8 highest bits of a colour."""
        shift = max((mask & -mask).bit_length() - 1, mask.bit_length() - 8, 0)
        top = max(1, mask >> shift)
        scaled = ImageMath.lambda_eval(lambda each: ((each["pixels"] >> shift) & top) * 255 / top, pixels=self)
        return cast("Image.Image", scaled).convert("L")


_BMP_HEADERS: Final = frozenset({40, 52, 56, 64, 108, 124})
"""Sizes of headers that have a compression."""

_BMP_BIT_FIELDS: Final = (3, 6)
"""Compressions of a BMP that stand for masks of colours; of the second one, also for a mask of alpha."""

_BMP_USUAL_MASKS: Final = frozenset(
    {(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0), (0xFF0000, 0xFF00, 0xFF, 0), (0, 0, 0, 0)}
    | {(0xFF0000, 0xFF00, 0xFF, 0xFF000000)}
)

_BMP_KINDS: Final = {
    (3, 1): "Huffman compression",
    (4, 24): "RLE24 compression",
    (4, None): "a JPEG inside",
    (5, None): "a PNG inside",
    (0, 64): "64 bits a pixel",
}
"""Kinds of BMP that few programs read, by compression and bits a pixel."""

BmpImagePlugin.BIT2MODE[2] = ("P", "P;2")


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
        tags = self.tag_v2
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in _TIFF_COMPRESSIONS:
            raise _unusual("TIFF", f"{_TIFF_NAMES.get(compression, compression)} compression")
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
        try:
            super()._setup()
        except SyntaxError as error:
            if "unknown pixel mode" in str(error):
                raise _unusual("TIFF", f"pixels of {bits} bits, interpretation {kind}") from error
            raise
        self._size = self._tile_size  # it is turned when it is decoded, and has its size then
        palette = tags.get(TiffImagePlugin.COLORMAP, ())
        if self.palette is not None and max(palette, default=0) < 256:  # some programs write 8 bits instead of 16
            self.palette = ImagePalette.raw("RGB;L", palette)

    def load(self) -> Any:
        kind = self.tile[0].args if self.tile else None
        if not isinstance(kind, tuple) or kind[0] not in _OTHER_BYTES:
            return super().load()
        again = TiffImagePlugin.TiffImageFile(BytesIO(cast("BytesIO", self.fp).getvalue()))
        super().load()
        return _read_16_bits(self, again)


_TIFF_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""None, CCITT (fax), LZW, JPEG, Deflate and PackBits."""

_TIFF_NAMES: Final = {
    6: "old JPEG",
    32809: "ThunderScan",
    34676: "SGI LogLuv",
    34677: "SGI LogLuv",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
"""Other compressions of a TIFF by name: https://libtiff.gitlab.io/libtiff/specification/coverage.html"""

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

_READERS: Final = {
    "JPEG": _FirstPicture,
    "PNG": _StillPng,
    "GIF": _FirstFrame,
    "AVIF": _AvifPicture,
    "HEIF": _HeicPicture,
    "TIFF": _FirstPage,
    "BMP": _AnyBitmap,
}

READERS: Final = {name: f"{name}_OURS" for name in _READERS}
"""Pillow's readers that are replaced by one above, by format."""

for _name, _reader in _READERS.items():
    Image.register_open(READERS[_name], _reader)


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
        image = Image.open(BytesIO(data), formats=[READERS.get(name, name)])
    except DECODER_ERRORS as error:
        if pixels and lacks_memory(pixels):
            raise MemoryError from error
        if ends_early(error):
            raise cut_short(name, len(data)) from error
        raise broken_header(name, len(data)) from error
    image.info.pop("xmp", None)  # Pillow would turn the picture as it says; browsers and libvips do not
    _check_pixels(*(image.coded_size if isinstance(image, _PrimaryPicture) else image.size), limits)
    if image.mode not in PIXEL_MODES:
        raise _unusual(name, f"pixels of mode {image.mode}")
    return image


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
    return isinstance(error, EOFError) or any(each in text for each in ("truncated", "unexpected end", "premature"))


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
