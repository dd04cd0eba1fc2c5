"""From an image's bytes to what the network sees; training, the worker and the reference all come this way.

Short side to ``resize`` pixels, central square of ``crop`` pixels, scaled to 0..1, ``mean`` and ``std`` per channel:
what torchvision's classification presets do, within a grey level or two of rounding. The square is cut and resized in
one step (`central_crop`), so an image of 1 x 50,000,000 pixels costs no more than any other. EXIF orientation is
applied, transparency is put on white, an animation gives its first frame, 16 bits become 8, CMYK becomes RGB.
"""

from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from core.images import ImageLimits

Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]

MAX_SIDE: Final = 4096
"""Longest side of a network's input, in pixels."""

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

    resize: int = Field(ge=1, le=MAX_SIDE)
    crop: int = Field(ge=1, le=MAX_SIDE)
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
    data: bytes, spec: Preprocess, limits: ImageLimits = _DEFAULT_LIMITS, *, full_resolution: bool = False
) -> NDArray[np.uint8]:
    """Decode an image into its central square, uint8 [crop, crop, 3]; `full_resolution` never at a reduced scale.

    Raises:
        ImageRejectedError: the data cannot be classified.
    """
    from app_tier.central_crop import central_crop

    return to_array(central_crop(data, spec.resize, spec.crop, limits, full_resolution=full_resolution), spec)


def to_array(rows: bytes | bytearray | memoryview, spec: Preprocess) -> NDArray[np.uint8]:
    """Return what `central_crop` returned as uint8 [crop, crop, 3], without a copy.

    Raises:
        ValueError: there are too few bytes or too many.
    """
    return np.frombuffer(rows, np.uint8).reshape(spec.crop, spec.crop, 3)
