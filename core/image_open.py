"""Opening an image with Pillow: whether data is an accepted image, decided from its header before any decoding.

The web tier checks at upload and the worker checks again before it decodes, so both give the same verdict:

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
cut into millions of empty pieces         ``too_costly``
another known format (EPS, PDF, SVG ...)  ``format_not_allowed``
pixels of a kind not in `PIXEL_MODES`     ``format_not_allowed``
a known format with a broken header       ``truncated`` or ``undecodable``
anything else                             ``not_an_image``
========================================  =======================================================
"""

import copy  # noqa: F401 (as the plugins below)
from importlib import import_module
from io import BytesIO
from typing import Final, NamedTuple

# All that an accepted image can need is loaded now, and nothing else: a sandboxed process cannot read a file later
# (tests/integration/app_tier/test_decode.py), and Pillow would load forty plugins to find the one for WebP.
# A JPEG may hold several pictures (MPO), and Pillow reads its EXIF as a TIFF.
from PIL import GifImagePlugin, Image, ImageFile, MpoImagePlugin, TiffImagePlugin  # noqa: F401

from core.images import (
    DECODER_ERRORS,
    FORMATS,
    ImageLimits,
    ImageRejectedError,
    broken_header,
    check_frames,
    check_webp_complete,
    cut_short,
    ends_early,
    lacks_memory,
    sniff,
    too_large,
    webp_size,
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


Image.register_open("GIF_FIRST_FRAME", _FirstFrame, lambda prefix: prefix.startswith(b"GIF8"))
READERS: Final = {"GIF": "GIF_FIRST_FRAME"}
"""Pillow's readers that are replaced by one above, by format."""


class ImageInfo(NamedTuple):
    """The data of an image's header; ``width`` and ``height`` in pixels, before its EXIF orientation is applied."""

    format: str
    width: int
    height: int
    extension: str
    content_type: str


_DEFAULT_LIMITS: Final = ImageLimits()


def inspect(data: bytes, limits: ImageLimits = _DEFAULT_LIMITS) -> ImageInfo:
    """Return what image ``data`` is from its header alone; no pixel is decoded.

    Raises:
        ImageRejectedError: the data is not an accepted image, or exceeds ``limits``.
    """
    with open_image(data, limits) as image:
        # Pillow calls a JPEG with more pictures MPO; many phones write them.
        name = "JPEG" if image.format in {None, "MPO"} else str(image.format)
        accepted = FORMATS[name]
        return ImageInfo(name, image.width, image.height, accepted.extension, accepted.content_type)


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
        check_webp_complete(data)
    check_frames(name, data, limits)
    try:
        image = Image.open(BytesIO(data), formats=[READERS.get(name, name)])
    except DECODER_ERRORS as error:
        if pixels and lacks_memory(pixels):
            raise MemoryError from error
        if ends_early(error):
            raise cut_short(name, len(data)) from error
        raise broken_header(name, len(data)) from error
    _check_pixels(image.width, image.height, limits)
    if image.mode not in PIXEL_MODES:
        raise ImageRejectedError(
            "format_not_allowed",
            f"{name} images with pixels of mode {image.mode} are not taken: save it as JPEG or PNG",
        )
    return image


def as_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey, other images unchanged.

    Pillow's own convert would clip all levels above 255 to white.
    """
    if not image.mode.startswith("I;16"):
        return image
    return image.convert("I").point(lambda level: level * (1 / 256)).convert("L")


def _check_pixels(width: int, height: int, limits: ImageLimits) -> int:
    if width < 1 or height < 1:
        raise ImageRejectedError("undecodable", f"it has no pixels ({width} x {height}): save it again")
    if width * height > limits.max_pixels:
        raise ImageRejectedError(
            "too_many_pixels",
            f"{width} x {height} pixels is more than the {limits.max_pixels / 1e6:g} megapixels allowed: shrink it",
        )
    return width * height
