"""From an untrusted image to its central square: all that Pillow does for the network, and nothing else.

A worker runs this in sandboxed processes (`core.sandbox`), and its own process never loads Pillow. This module
imports as little as possible, since a worker waits for it when it starts.
"""

from typing import Final

from PIL import Image, ImageOps

from core.image_open import as_8_bit, open_image
from core.images import DECODER_ERRORS, ImageLimits, ImageRejectedError, ends_early, lacks_memory

DRAFT_MARGIN: Final = 4
DRAFT_SHORTEST: Final = 384
"""A JPEG is decoded at a reduced scale only while its short side stays at least this many times ``resize``, and at
least this many pixels.

At 4 times, 12-megapixel photos shrunk to 224 pixels differ from those decoded in full by 0.11 grey levels on average;
saving them once more as JPEG of quality 95 changes them by 2.0. Very small inputs are more easily moved: at 4 times
the 32 pixels of the demo network scores changed by up to 0.04, at 384 pixels by 0.006, and two engines may differ by
0.01.
"""

_ORIENTATION: Final = 0x0112


def central_crop(
    data: bytes, resize: int, crop: int, limits: tuple[int, int, int], *, full_resolution: bool = False
) -> bytes:
    """Decode an image into its central square: `crop` rows of `crop` pixels of red, green and blue.

    Args:
        data: the image's file.
        resize: pixels of the short side, of which the square is cut.
        crop: pixels of the square's side.
        limits: the fields of an `ImageLimits`.
        full_resolution: never at a reduced scale.

    Raises:
        ImageRejectedError: the data cannot be classified; the message is for the image's owner.
        MemoryError: this process may not have enough for it.
    """
    with open_image(data, ImageLimits(*limits)) as image:
        width, height = image.size
        try:
            left, right = _central_span(width, min(width, height), resize, crop)
            top, bottom = _central_span(height, min(width, height), resize, crop)
            short_side = max(DRAFT_MARGIN * resize, DRAFT_SHORTEST)
            reduced = None if full_resolution else image.draft(None, (short_side, short_side))
            scale = reduced[1][2] / width if reduced else 1.0
            image.load()
            return _upright_square(image, crop, (scale * left, scale * top, scale * right, scale * bottom)).tobytes()
        except DECODER_ERRORS as error:
            if lacks_memory(width * height):
                raise MemoryError from error
            kind = f"{image.format} of {image.width} x {image.height} pixels"
            if ends_early(error):
                raise ImageRejectedError(
                    "truncated",
                    f"the {kind} ends after {len(data)} bytes, before the picture is complete: send it again",
                ) from error
            raise ImageRejectedError(
                "undecodable", f"the {kind} is damaged and cannot be decoded: save it again"
            ) from error


def _central_span(length: int, short: int, resize: int, crop: int) -> tuple[float, float]:
    """Return which pixels of a side of `length` pixels become the crop.

    Rounded as torchvision rounds: the long side of the resized image down, the crop's corner to the nearest pixel.
    """
    resized = resize * length // short
    start = round((resized - crop) / 2)
    return start * length / resized, (start + crop) * length / resized


def _upright_square(image: Image.Image, crop: int, box: tuple[float, float, float, float]) -> Image.Image:
    """Cut, shrink, turn and flatten; the central square of a turned image is the turned central square."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except DECODER_ERRORS:  # a picture with broken EXIF is classified as it is stored
        orientation = 1
    has_alpha = "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}
    # Pillow resizes RGB and RGBA with a filter (premultiplied where it has alpha), but not every other mode.
    image = as_8_bit(image)
    if image.mode != "RGB" or has_alpha:
        image = image.convert("RGBA" if has_alpha else "RGB")
    small = image.resize((crop, crop), Image.Resampling.BILINEAR, box=box)
    if orientation in range(2, 9):
        small.getexif()[_ORIENTATION] = orientation
        small = ImageOps.exif_transpose(small)
    if small.mode != "RGBA":
        return small.convert("RGB")
    white = Image.new("RGBA", small.size, "white")
    return Image.alpha_composite(white, small).convert("RGB")
