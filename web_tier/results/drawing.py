"""Drawing of thumbnails with Pillow, in sandboxed processes (`web_tier.results.thumbnails`).

The web tier never sends a user's file back to a browser. A thumbnail has only pixels of the file: no EXIF with the
location, no colour profile, no comment.
"""

from io import BytesIO
from typing import Final

from PIL import Image, ImageOps

from core.image_open import as_8_bit, open_image
from core.images import DECODER_ERRORS, ImageLimits, ImageRejectedError

MAX_ASPECT_RATIO: Final = 4
MAX_DECODED: Final = 16_000_000
"""Pixels that are decoded for one thumbnail, about 64 MB; a JPEG is decoded at a fraction of its size."""

_QUALITY: Final = 80


def draw(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Return a WebP thumbnail of an image, upright, its shorter side at most `side` pixels.

    Args:
        data: file of the image.
        limits: fields of an `ImageLimits`.
        side: in pixels.

    Raises:
        ImageRejectedError: if the image cannot be decoded, or is too large to be.
    """
    with open_image(data, ImageLimits(*limits)) as image:
        try:
            image.draft("RGB", (2 * side, 2 * side))
            if image.width * image.height > MAX_DECODED:
                raise ImageRejectedError(
                    "too_costly", f"{image.width} x {image.height} pixels are more than {MAX_DECODED:,}"
                )
            upright = as_8_bit(ImageOps.exif_transpose(image))
            scale = min(1.0, side / min(upright.size), MAX_ASPECT_RATIO * side / max(upright.size))
            size = (max(1, round(upright.width * scale)), max(1, round(upright.height * scale)))
            mode = "RGBA" if upright.has_transparency_data else "RGB"
            small = upright.convert(mode).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
            body, bare = BytesIO(), Image.new(mode, size)
            bare.paste(small)  # into an image that has never had metadata
            bare.save(body, "WEBP", quality=_QUALITY, method=0, icc_profile=None, exif=b"", xmp=b"")
            return body.getvalue()
        except DECODER_ERRORS as error:
            raise ImageRejectedError("undecodable", str(error)) from error
