"""From an untrusted image to the picture that the network sees, and a thumbnail: all that Pillow does for a worker.

A worker runs this in sandboxed processes (`core.sandbox`), and its own process never loads Pillow. This module
imports as little as possible, since a worker waits for it when it starts.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final

from PIL import Image

from core.image_open import DECODER_ERRORS, ends_early, lacks_memory, open_image
from core.images import FORMATS, MAX_THUMBNAIL_BYTES, Framing, ImageLimits, ImageRejectedError, sniff
from core.thumbnails import FROM_BOTTOM, FROM_RIGHT, SIDEWAYS, as_rgb, orientation_of, thumbnail, turned

DRAFT_MARGIN: Final = 2.5
DRAFT_SHORTEST: Final = 384
"""A JPEG is decoded at a reduced scale only while its short side stays at least this many times ``resize``, and at
least this many pixels.

At 2.5 times, 12-megapixel photos are decoded at a quarter of their sides for 224 pixels. They differ from a decode
in full by 0.21 grey levels on average (at half by 0.12); one more JPEG of quality 95 changes them by 2.3. Very small
inputs are more easily moved: at 4 times the 32 pixels of the demo network scores changed by up to 0.04, at 384 pixels
by 0.006, and two engines may differ by 0.01.
"""

THUMBNAIL_QUALITY: Final = 60
"""Photos of 160 pixels then have about 5 KB."""


def central_crop(
    data: bytes,
    framing: Framing,
    limits: tuple[int, int, int],
    *,
    full_resolution: bool = False,
    thumbnail_side: int = 0,
) -> bytes:
    """Decode an image into what the network sees: rows of pixels of red, green and blue.

    What else is read from it follows: the JSON of a `core.messages.ImageContent`.

    Args:
        data: the image's file.
        framing: the fields of a `Framing`: the sandbox gets them as JSON.
        limits: the fields of an `ImageLimits`.
        full_resolution: never at a reduced scale.
        thumbnail_side: pixels of the thumbnail's short side; 0 for none.

    Raises:
        ImageRejectedError: the data cannot be classified; the message is for the image's owner.
        MemoryError: this process may not have enough for it.
    """
    resize, crop, fit, fill, interpolation = framing
    with open_image(data, ImageLimits(*limits)) as image:
        width, height = image.size
        try:
            short_side = max(round(DRAFT_MARGIN * max(resize)), DRAFT_SHORTEST)
            reduced = None if full_resolution else image.draft(None, (short_side, short_side))
            scale = reduced[1][2] / width if reduced else 1.0
            image.load()
            if not reduced:
                width, height = image.size  # a TIFF is turned now
            orientation, pixels = orientation_of(image), as_rgb(image)
            turns = slice(None, None, -1 if orientation in SIDEWAYS else 1)
            resized = _resized_size(height, width, resize[turns], fit)
            shown = resized if fit == "pad" else crop[turns]
            top, bottom = _central_span(height, resized[0], shown[0], is_mirrored=orientation in FROM_BOTTOM)
            left, right = _central_span(width, resized[1], shown[1], is_mirrored=orientation in FROM_RIGHT)
            box = (scale * left, scale * top, scale * right, scale * bottom)
            # Pillow resizes RGB and RGBA with a filter (premultiplied where it has alpha), but not every other mode.
            small = pixels.resize((shown[1], shown[0]), Image.Resampling[interpolation.upper()], box=box)
            seen = _on_white(turned(small, orientation))
            if fit == "pad":
                canvas = Image.new("RGB", (crop[1], crop[0]), tuple(fill))
                canvas.paste(seen, (round((crop[1] - seen.width) / 2), round((crop[0] - seen.height) / 2)))
                seen = canvas
            content = {"thumbnail": _thumbnail(pixels, thumbnail_side, orientation)}
            return seen.tobytes() + json.dumps(content).encode()
        except DECODER_ERRORS as error:
            # The pixels that the image and the frames of the error hold would count as missing memory.
            image.close()
            error.__traceback__ = None
            if lacks_memory(width * height):
                raise MemoryError from error
            kind = f"{FORMATS[sniff(data)].name} of {width} x {height} pixels"
            if ends_early(error):
                raise ImageRejectedError(
                    "truncated",
                    f"the {kind} ends after {len(data)} bytes, before the picture is complete: send it again",
                ) from error
            raise ImageRejectedError(
                "undecodable", f"the {kind} is damaged or of a rare kind: save it again as JPEG or PNG"
            ) from error


def _resized_size(height: int, width: int, box: Sequence[int], fit: str) -> tuple[int, int]:
    """Return height and width of the whole image once it is resized to cover, fill or fit into a box.

    The side that the box does not decide is rounded as torchvision's Resize (down) and Pillow's ImageOps.pad do.
    """
    box_height, box_width = box
    if fit == "stretch":
        return box_height, box_width
    is_higher = box_height * width >= box_width * height
    if fit == "crop":
        return (box_height, box_height * width // height) if is_higher else (box_width * height // width, box_width)
    if is_higher:
        return max(1, round(height / width * box_width)), box_width
    return box_height, max(1, round(width / height * box_height))


def _central_span(length: int, resized: int, crop: int, *, is_mirrored: bool) -> tuple[float, float]:
    """Return which pixels of a side of `length` pixels become the crop of that side once it has `resized` pixels.

    The crop's corner is rounded to the nearest pixel, as torchvision does. It is at the other end of a side that will
    be mirrored.
    """
    start = round((resized - crop) / 2)
    if is_mirrored:
        start = resized - crop - start
    return start * length / resized, (start + crop) * length / resized


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _thumbnail(pixels: Image.Image, side: int, orientation: int) -> str | None:
    """Return a thumbnail in Base64, or None: an image gets its label also without one that fits into a prediction."""
    try:
        drawn = thumbnail(pixels, side, THUMBNAIL_QUALITY, orientation) if side else b""
    except (*DECODER_ERRORS, MemoryError):
        return None
    return urlsafe_b64encode(drawn).decode() if 0 < len(drawn) <= MAX_THUMBNAIL_BYTES else None
