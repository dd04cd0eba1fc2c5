"""From an untrusted image to its central square: all that Pillow does for the network, and nothing else.

A worker runs this in sandboxed processes (`core.sandbox`), and its own process never loads Pillow. This module
imports as little as possible, since a worker waits for it when it starts.
"""

from typing import Final

from PIL import Image, ImageOps

from core.image_open import open_image
from core.images import DECODER_ERRORS, ImageLimits, ImageRejectedError, ends_early, lacks_memory

Box = tuple[float, float, float, float]

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
        pixels = image.width * image.height
        try:
            box = _central_box(image.size, resize, crop)
            scale = 1.0 if full_resolution else _decode_reduced(image, max(DRAFT_MARGIN * resize, DRAFT_SHORTEST))
            image.load()
            return _upright_square(image, crop, _scaled(box, scale)).tobytes()
        except DECODER_ERRORS as error:
            if lacks_memory(pixels):
                raise MemoryError from error
            raise _rejection(error, image, len(data)) from error


def _decode_reduced(image: Image.Image, short_side: int) -> float:
    """Let a JPEG be decoded smaller while its short side stays at least `short_side`; returns the scale, 1 to 1/8."""
    full_width = image.width
    reduced = image.draft(None, (short_side, short_side))
    return reduced[1][2] / full_width if reduced else 1.0


def _upright_square(image: Image.Image, crop: int, box: Box) -> Image.Image:
    """Cut, shrink, flatten and turn; the central square of a turned image is the turned central square."""
    orientation = _orientation(image)
    small = _resizable(image).resize((crop, crop), Image.Resampling.BILINEAR, box=box)
    upright = _turn(small, orientation)
    if upright.mode != "RGBA":
        return upright.convert("RGB")
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB")


def _central_box(size: tuple[int, int], resize: int, crop: int) -> Box:
    """The part of the image that becomes the crop, as (left, top, right, bottom) in its own pixels.

    Rounded as torchvision rounds: the long side of the resized image down, the crop's corner to the nearest pixel.
    """
    left, right = _central_span(size[0], min(size), resize, crop)
    top, bottom = _central_span(size[1], min(size), resize, crop)
    return left, top, right, bottom


def _central_span(length: int, short: int, resize: int, crop: int) -> tuple[float, float]:
    resized = resize * length // short
    start = round((resized - crop) / 2)
    return start * length / resized, (start + crop) * length / resized


def _resizable(image: Image.Image) -> Image.Image:
    """Bring any mode to RGB or RGBA, which Pillow can resize with a filter (premultiplied where it has alpha)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith(("I", "F")):
        return _from_deep(image).convert("RGB")
    has_alpha = "transparency" in image.info or image.mode in {"RGBA", "LA", "PA", "RGBa", "La"}
    return image.convert("RGBA" if has_alpha else "RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8; Pillow's own convert would clip everything above 255 to white."""
    return image.point(lambda level: level * (1 / 256)).convert("L")


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except DECODER_ERRORS:  # broken EXIF must not cost a good picture: take it as it is stored
        return 1


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = box
    return scale * left, scale * top, scale * right, scale * bottom


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an EXIF orientation (1 to 8) to an image that carries none of its own."""
    if orientation not in range(2, 9):
        return image
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _rejection(error: Exception, image: Image.Image, size: int) -> ImageRejectedError:
    """Say in the owner's words why the pixels could not be read."""
    kind = f"{image.format} of {image.width} x {image.height} pixels"
    if ends_early(error):
        return ImageRejectedError(
            "truncated", f"the {kind} ends after {size} bytes, before the picture is complete: send it again"
        )
    return ImageRejectedError("undecodable", f"the {kind} is damaged and cannot be decoded: save it again")
