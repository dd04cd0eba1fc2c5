"""Opening an image with Pillow: whether data is an accepted image, decided from its header before any decoding.

The web tier checks at upload and the worker checks again before it decodes, so both give the same verdict. Both run
this in sandboxed processes (`core.sandbox`), and their own processes never load Pillow.

========================================  =======================================================
data                                      verdict
========================================  =======================================================
a format of `FORMATS` (also CMYK,         accepted, also under another name
progressive and MPO as JPEG)
animated, or with more pictures in it     accepted; its first frame is classified
with other data after it                  accepted; the other data is ignored
nothing                                   ``empty``
more bytes than allowed                   ``too_large``
more pixels than allowed (bombs)          ``too_many_pixels``
more frames than allowed                  ``too_many_frames``
cut into millions of empty pieces, or     ``too_costly``
with gigabytes of compressed text in it
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
from importlib import import_module
from io import BytesIO
from typing import Any, ClassVar, Final, cast

# All that an accepted image can need is loaded now, and nothing else: a sandboxed process cannot read a file later
# (tests/integration/app_tier/test_decode.py), and Pillow would load forty plugins to find the one for WebP.
# A JPEG may hold several pictures (MPO), and Pillow reads its EXIF as a TIFF.
from PIL import AvifImagePlugin, GifImagePlugin, Image, ImageFile, ImagePalette, MpoImagePlugin, TiffImagePlugin  # noqa: F401

from core import libheif
from core.image_containers import boxes, check_complete, check_frames, primary_picture, webp_size
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


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF of which only the first frame is read.

    Pillow would allocate what follows this frame as soon as it opens the file: gigabytes, if the frame declares that
    size.
    """

    disposal_method = property(lambda _: 0, lambda _self, _method: None)


class _FirstPage(TiffImagePlugin.TiffImageFile):
    """A TIFF with pixels of the right brightness, from decoders that each library has and that are often used."""

    def _setup(self) -> None:
        tags = self.tag_v2
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if compression not in _TIFF_COMPRESSIONS:
            raise _unusual("TIFF", f"compression {compression}")
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


_TIFF_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
"""None, CCITT (fax), LZW, JPEG, Deflate and PackBits."""

_INVERTED, _YCBCR = 0, 6
"""Photometric interpretations of a TIFF."""


class _PrimaryPicture(ImageFile.ImageFile):
    """A HEIC or AVIF; its header is read from its boxes, without a C library.

    A C library reads it as soon as pixels are needed. Then the image gets the size and the mode that it has: HEIC is
    cropped and turned as it says.
    """

    kinds: ClassVar[frozenset[bytes]]
    crops: ClassVar[bool]
    coded_size: tuple[int, int]

    def _open(self) -> None:
        data = self._data()
        picture = primary_picture(data)
        if picture is None and any(box.kind == b"moov" for box in boxes(data, 0, len(data))):
            raise _unusual(str(self.format), "a sequence alone")
        if picture is None:
            raise SyntaxError("no primary picture")
        if picture.kind not in self.kinds:
            raise _unusual(str(self.format), f"a picture of kind {picture.kind.decode('ascii', 'replace')}")
        self.coded_size, self._mode = picture.size, "RGB"
        self._size = picture.cropped if self.crops else picture.size

    def load(self) -> Any:
        if self._im is None:
            decoded = self._decode(self._data(), self.coded_size[0] * self.coded_size[1])
            self.im, self._mode, self._size = decoded.im, decoded.mode, decoded.size
            self.info |= {key: value for key, value in decoded.info.items() if key == "exif"}
        return super().load()

    def _data(self) -> bytes:
        return cast("BytesIO", self.fp).getvalue()

    def _decode(self, data: bytes, max_pixels: int) -> Image.Image:
        raise NotImplementedError


class _HeicPicture(_PrimaryPicture):
    format = "HEIF"
    kinds = frozenset({b"hvc1", b"grid", b"iden", b"iovl"})
    crops = True

    def _decode(self, data: bytes, max_pixels: int) -> Image.Image:
        return libheif.decode(data, max_pixels)


class _AvifPicture(_PrimaryPicture):
    format = "AVIF"
    kinds = frozenset({b"av01", b"grid"})
    crops = False

    def _decode(self, data: bytes, max_pixels: int) -> Image.Image:
        image = AvifImagePlugin.AvifImageFile(BytesIO(data))
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than its header says")
        image.load()
        return image


# A sandboxed process may start no threads.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1

# For each damaged tag of a TIFF: a message of its own for the log, which would be kept for ever.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin")

READERS: Final = {"GIF": "GIF_FIRST_FRAME", "TIFF": "TIFF_FIRST_PAGE", "HEIF": "HEIF_PRIMARY", "AVIF": "AVIF_PRIMARY"}
"""Pillow's readers that are replaced by one above, by format."""

for _format, _reader in (("GIF", _FirstFrame), ("TIFF", _FirstPage), ("HEIF", _HeicPicture), ("AVIF", _AvifPicture)):
    Image.register_open(READERS[_format], _reader)


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
    _check_pixels(*(image.coded_size if isinstance(image, _PrimaryPicture) else image.size), limits)
    if image.mode not in PIXEL_MODES:
        raise _unusual(name, f"pixels of mode {image.mode}")
    return image


def as_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey, other images unchanged.

    Pillow's own convert would clip all levels above 255 to white.
    """
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda level: level * (1 / 256)).convert("L")


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
        "format_not_allowed", f"{name} images with {what} are not supported: save it as JPEG or PNG"
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
