"""Drawing of thumbnails from originals, in sandboxed processes (`web_tier.results.thumbnails`).

The web tier never sends a user's file back to a browser.
"""

from typing import Final

from core.image_open import DECODER_ERRORS, open_image
from core.images import ImageLimits, ImageRejectedError
from core.thumbnails import as_rgb, orientation_of, thumbnail

MAX_DECODED: Final = 16_000_000
"""Pixels that are decoded for one thumbnail, about 64 MB; a JPEG is decoded at a fraction of its size."""

_QUALITY: Final = 80


def draw(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Return a thumbnail of an image, as `core.thumbnails.thumbnail` does.

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
            image.load()
            return thumbnail(as_rgb(image), side, _QUALITY, orientation_of(image))
        except DECODER_ERRORS as error:
            raise ImageRejectedError("undecodable", str(error)) from error
