"""Draws the small picture of an image: all that Pillow does for the pages, in processes that have nothing else.

What a user sent is never sent back as it is. What is drawn carries nothing of the file but its pixels: no EXIF with
the place where it was taken, no colour profile, no comment.
"""

from io import BytesIO
from typing import Final

from PIL import Image, ImageOps

from core.image_open import open_image
from core.images import DECODER_ERRORS, ImageLimits, ImageRejectedError

MAX_ASPECT_RATIO: Final = 4
MAX_DECODED: Final = 16_000_000
"""Pixels that are decoded for a picture, some 64 MB; a JPEG is decoded at a fraction of its size."""

_QUALITY: Final = 80


def draw(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Return a WebP picture of an image, upright, its shorter side at most `side` pixels.

    Args:
        data: the image's file.
        limits: the fields of an `ImageLimits`.
        side: in pixels.

    Raises:
        ImageRejectedError: there can be none.
    """
    with open_image(data, ImageLimits(*limits)) as image:
        try:
            image.draft("RGB", (2 * side, 2 * side))
            if image.width * image.height > MAX_DECODED:
                raise ImageRejectedError(
                    "too_costly", f"{image.width} x {image.height} pixels are more than {MAX_DECODED:,}"
                )
            return _encoded(_shrunk(image, side))
        except DECODER_ERRORS as error:
            raise ImageRejectedError("undecodable", str(error)) from error


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    share = min(1.0, side / min(upright.size), MAX_ASPECT_RATIO * side / max(upright.size))
    size = (max(1, round(upright.width * share)), max(1, round(upright.height * share)))
    mode = "RGBA" if upright.has_transparency_data else "RGB"
    return upright.convert(mode).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _encoded(picture: Image.Image) -> bytes:
    body, bare = BytesIO(), Image.new(picture.mode, picture.size)
    bare.paste(picture)  # into one that has never had anything but pixels
    bare.save(body, "WEBP", quality=_QUALITY, method=0, icc_profile=None, exif=b"", xmp=b"")
    return body.getvalue()
