"""Thumbnails: small pictures of images for pages, with Pillow.

A worker draws one beside the network's input, from the pixels that it has decoded anyway; the web tier draws one from
the original where no worker has. Both run in sandboxed processes. A thumbnail has only pixels of the file: no EXIF
with the location, no colour profile, no comment.
"""

from io import BytesIO
from typing import Final

from PIL import Image

from core.image_open import DECODER_ERRORS, as_8_bit

MAX_ASPECT_RATIO: Final = 4
"""A longer image is shrunk until its longer side is this many times the shorter side that was asked for."""

SMALL_PIXELS: Final = 96 * 96
SMALL_QUALITY: Final = 85
"""The least quality of thumbnails of up to `SMALL_PIXELS`: pages enlarge them, and they have few bytes."""

_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

FROM_RIGHT: Final = frozenset({2, 3, 7, 8})
FROM_BOTTOM: Final = frozenset({3, 4, 6, 7})
"""EXIF orientations in which the upright picture's corner, or side, at the top or left is at the right or bottom."""

SIDEWAYS: Final = frozenset({5, 6, 7, 8})
"""EXIF orientations in which the upright picture's height is the width."""


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image; 1 (upright) if it has none, or its EXIF is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DECODER_ERRORS:
        return 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image of that EXIF orientation upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image as RGB, or as RGBA if it can have transparent pixels."""
    has_alpha = "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}
    mode, image = "RGBA" if has_alpha else "RGB", as_8_bit(image)
    return image if image.mode == mode else image.convert(mode)


def thumbnail(image: Image.Image, side: int, quality: int, orientation: int = 1) -> bytes:
    """Return a thumbnail, upright, its shorter side at most `side` pixels: JPEG, or WebP if parts are transparent.

    JPEG takes an eighth of WebP's time here, and bytes are few.

    Args:
        image: RGB or RGBA.
        side: in pixels.
        quality: of the encoder, up to 100.
        orientation: EXIF orientation of the image.
    """
    scale = min(1.0, side / min(image.size), MAX_ASPECT_RATIO * side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = turned(_shrunk(image, size), orientation)
    is_opaque = small.mode == "RGB" or small.getchannel("A").getextrema() == (255, 255)
    body, bare = BytesIO(), Image.new("RGB" if is_opaque else "RGBA", small.size)
    bare.paste(small)  # into an image that has never had metadata
    if small.width * small.height <= SMALL_PIXELS:
        quality = max(quality, SMALL_QUALITY)
    if is_opaque:
        bare.save(body, "JPEG", quality=quality)
    else:
        bare.save(body, "WEBP", quality=quality, method=0, icc_profile=None, exif=b"", xmp=b"")
    return body.getvalue()


def _shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image shrunk to `size`, each pixel the mean of at most four.

    A filter reads every pixel, which takes 1 to 4 ms; four a pixel take 0.2 ms, and people see no difference.
    """
    double = (2 * size[0], 2 * size[1])
    sampled = image.resize((min(image.width, double[0]), min(image.height, double[1])), Image.Resampling.NEAREST)
    return sampled.reduce(2) if sampled.size == double else sampled.resize(size, Image.Resampling.BILINEAR)
