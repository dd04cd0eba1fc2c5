"""From an image's bytes to what the network sees; training, the worker and the reference all come this way.

Short side to ``resize`` pixels, central square of ``crop`` pixels, scaled to 0..1, ``mean`` and ``std`` per channel:
what torchvision's classification presets do, within a grey level or two of rounding. The square is cut and resized in
one step, so an image of 1 x 50,000,000 pixels costs no more than any other. EXIF orientation is applied, transparency
is put on white, an animation gives its first frame, 16 bits become 8, CMYK becomes RGB.
"""

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.image_errors import DECODER_ERRORS, ImageRejectedError, ends_early
from services.images import ImageLimits, open_image

Box = tuple[float, float, float, float]
Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]

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
_DEFAULT_LIMITS: Final = ImageLimits()


class Preprocess(BaseModel):
    """What is done to an image before the network sees it; part of a bundle's manifest.

    Attributes:
        resize: pixels of the short side.
        crop: pixels of the central square, at most ``resize``; the network's input size.
        mean: per channel (R, G, B), on a scale of 0 to 1.
        std: per channel, on the same scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=1, le=4096)
    crop: int = Field(ge=1, le=4096)
    mean: Channels
    std: tuple[Positive, Positive, Positive]

    @property
    def input_size(self) -> int:
        """Height and width of the network's input, in pixels."""
        return self.crop

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}: make it smaller or equal")
        return self


def load_pixels(data: bytes, spec: Preprocess, limits: ImageLimits = _DEFAULT_LIMITS) -> NDArray[np.float32]:
    """Decode an image into the network's input, float32 [3, crop, crop].

    Raises:
        ImageRejectedError: the data cannot be classified; the message is for the image's owner.
    """
    return normalise(load_square(data, spec, limits), spec)


def normalise(square: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.float32]:
    """Turn uint8 [crop, crop, 3] into float32 [3, crop, crop] with the mean and std that the network expects."""
    scale = 1 / (255 * np.asarray(spec.std, np.float32))
    shift = np.asarray(spec.mean, np.float32) / np.asarray(spec.std, np.float32)
    return np.ascontiguousarray((square * scale - shift).transpose(2, 0, 1), dtype=np.float32)


def load_square(
    data: bytes, spec: Preprocess, limits: ImageLimits = _DEFAULT_LIMITS, *, in_full: bool = False
) -> NDArray[np.uint8]:
    """Decode an image into its central square, uint8 [crop, crop, 3]; `in_full` never at a reduced scale.

    Raises:
        ImageRejectedError: the data cannot be classified.
    """
    with open_image(data, limits) as image:
        try:
            box = _central_box(image.size, spec)
            scale = 1.0 if in_full else _decode_reduced(image, max(DRAFT_MARGIN * spec.resize, DRAFT_SHORTEST))
            image.load()
            return np.asarray(_upright_square(image, spec, _scaled(box, scale)), np.uint8)
        except DECODER_ERRORS as error:
            raise _rejection(error, image, len(data)) from error


def _decode_reduced(image: Image.Image, short_side: int) -> float:
    """Let a JPEG be decoded smaller while its short side stays at least `short_side`; returns the scale, 1 to 1/8."""
    full_width = image.width
    reduced = image.draft(None, (short_side, short_side))
    return reduced[1][2] / full_width if reduced else 1.0


def _upright_square(image: Image.Image, spec: Preprocess, box: Box) -> Image.Image:
    """Cut, shrink, flatten and turn; the central square of a turned image is the turned central square."""
    orientation = _orientation(image)
    small = _resizable(image).resize((spec.crop, spec.crop), Image.Resampling.BILINEAR, box=box)
    upright = _turn(small, orientation)
    if upright.mode != "RGBA":
        return upright.convert("RGB")
    white = Image.new("RGBA", upright.size, "white")
    return Image.alpha_composite(white, upright).convert("RGB")


def _central_box(size: tuple[int, int], spec: Preprocess) -> Box:
    """The part of the image that becomes the crop, as (left, top, right, bottom) in its own pixels.

    Rounded as torchvision rounds: the long side of the resized image down, the crop's corner to the nearest pixel.
    """
    left, right = _central_span(size[0], min(size), spec)
    top, bottom = _central_span(size[1], min(size), spec)
    return left, top, right, bottom


def _central_span(length: int, short: int, spec: Preprocess) -> tuple[float, float]:
    resized = spec.resize * length // short
    start = round((resized - spec.crop) / 2)
    return start * length / resized, (start + spec.crop) * length / resized


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
    return Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))


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
