"""Is this data an image we take? Decided from its first bytes, before anything is decoded.

The web tier asks at intake and the worker asks again before it decodes, so both give the same verdict. Verdicts:

========================================  =======================================================
data                                      verdict
========================================  =======================================================
JPEG (also CMYK, progressive, MPO),       taken, also under another name
PNG, WebP, GIF, BMP
animated, or with more pictures in it     taken; its first frame is classified
with something else behind it             taken as the image that it is
nothing                                   ``empty``
more bytes than allowed                   ``too_large``
more pixels than allowed (bombs)          ``too_many_pixels``
more frames than allowed                  ``too_many_frames``
cut into millions of empty pieces         ``too_costly``
TIFF, EPS, PDF, PSD, FITS, SVG,           ``format_not_allowed``
JPEG 2000, HEIC, AVIF, ICO
a known format with a broken header       ``truncated`` or ``undecodable``
anything else                             ``not_an_image``
========================================  =======================================================
"""

import copy  # noqa: F401 (as the plugins below)
from io import BytesIO
from typing import Final, NamedTuple

# All that an image of ours can need is loaded now, and nothing else: a confined process cannot read a file later
# (tests/integration/app_tier/test_decode.py), and Pillow would load forty plugins to find the one for WebP.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from core.image_errors import DECODER_ERRORS, ImageRejectedError, broken_header, cut_short, ends_early
from core.image_formats import check_webp_complete, sniff, webp_size
from core.image_frames import check_frames
from core.image_limits import ImageLimits, lacks_memory, too_large

__all__ = ["EXTENSION_OF", "ImageInfo", "ImageLimits", "ImageRejectedError", "inspect", "open_image", "too_large"]

Image.preinit()

# What is missing must never be made up.
ImageFile.LOAD_TRUNCATED_IMAGES = False

# The pixel limit below is stricter, comes before any decode, and words its refusal for the image's owner;
# Pillow's own limit is a warning first, and would be an error of another kind.
Image.MAX_IMAGE_PIXELS = None


class _FirstFrame(GifImagePlugin.GifImageFile):
    """A GIF of which only the first frame is ever read.

    Pillow would make what comes between this frame and the next as soon as it opens the file: gigabytes, where the
    frame says that it is so large.
    """

    disposal_method = property(lambda _: 0, lambda _self, _method: None)


Image.register_open("GIF_FIRST_FRAME", _FirstFrame, lambda prefix: prefix.startswith(b"GIF8"))
_READERS: Final = {"GIF": "GIF_FIRST_FRAME"}

_EXTENSIONS: Final = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}

EXTENSION_OF: Final = {f"image/{name.lower()}": extension for name, extension in _EXTENSIONS.items()}
"""Extensions of keys by the content types that we take."""


class ImageInfo(NamedTuple):
    """What an image's header says; ``width`` and ``height`` in pixels, before its EXIF orientation is applied."""

    format: str
    width: int
    height: int
    extension: str
    content_type: str


_DEFAULT_LIMITS: Final = ImageLimits()


def inspect(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> ImageInfo:
    """Tell what image ``data`` is from its header alone; no pixel is decoded.

    Raises:
        ImageRejectedError: the data is not an image that we take, or it is beyond ``limits``.
    """
    with open_image(data, limits) as image:
        name = _own_name(image.format)
        return ImageInfo(name, image.width, image.height, _EXTENSIONS[name], f"image/{name.lower()}")


def open_image(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> Image.Image:
    """Open ``data`` with Pillow, header only, after every check that needs no decoding.

    Raises:
        ImageRejectedError: as for `inspect`.
        MemoryError: this process may not have enough for it.
    """
    _check_bytes(len(data), limits)
    name, pixels = sniff(data), 0
    if name == "WEBP":  # Pillow's WebP plugin reserves the whole canvas on opening, so its size is read here first
        pixels = _check_pixels(*webp_size(data), limits)
        check_webp_complete(data)
    check_frames(name, data, limits)
    try:
        image = Image.open(BytesIO(data), formats=[_READERS.get(name, name)])
    except DECODER_ERRORS as error:
        if pixels and lacks_memory(pixels):
            raise MemoryError from error
        if ends_early(error):
            raise cut_short(name, len(data)) from error
        raise broken_header(name, len(data)) from error
    _check_pixels(image.width, image.height, limits)
    return image


def _own_name(pillow_name: str | None) -> str:
    """Pillow calls a JPEG that carries more pictures (many phones write them) MPO; its first picture is a JPEG."""
    return "JPEG" if pillow_name in {None, "MPO"} else str(pillow_name)


def _check_bytes(size: int, limits: ImageLimits) -> None:
    if size == 0:
        raise ImageRejectedError("empty", "the file is empty: send it again")
    if size > limits.max_bytes:
        raise too_large(size, limits)


def _check_pixels(width: int, height: int, limits: ImageLimits) -> int:
    if width < 1 or height < 1:
        raise ImageRejectedError("undecodable", f"it has no pixels ({width} x {height}): save it again")
    if width * height > limits.max_pixels:
        raise ImageRejectedError(
            "too_many_pixels",
            f"{width} x {height} pixels is more than the {limits.max_pixels / 1e6:g} megapixels allowed: shrink it",
        )
    return width * height
