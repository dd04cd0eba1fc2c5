"""From an image's bytes to what the network sees; training, the worker and the reference all come this way.

Resized, cut or padded as the bundle states (`Preprocess`), scaled to 0..1, ``mean`` and ``std`` per channel: what
torchvision's classification presets and Pillow do, within a grey level or two of rounding. The picture is cut and
resized in one step (`central_crop`), so an image of 1 x 50,000,000 pixels costs no more than any other. EXIF
orientation is applied, transparency is put on white, an animation gives its first frame, 16 bits become 8, CMYK
becomes RGB.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from core.bundle_manifest import Preprocess
from core.images import ImageLimits

_DEFAULT_LIMITS: Final = ImageLimits()


def load_pixels(data: bytes, spec: Preprocess, limits: ImageLimits = _DEFAULT_LIMITS) -> NDArray[np.float32]:
    """Decode an image into the network's input, float32 [3, H, W].

    Raises:
        ImageRejectedError: the data cannot be classified; the message is for the image's owner.
    """
    return normalise(load_square(data, spec, limits), spec)


def normalise(square: NDArray[np.uint8], spec: Preprocess) -> NDArray[np.float32]:
    """Turn uint8 [H, W, 3] into float32 [3, H, W] with the mean and std that the network expects."""
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    # Plane by plane: with three channels side by side in memory, the same sums take six times as long.
    planes = np.ascontiguousarray(square.transpose(2, 0, 1)).astype(np.float32)
    planes *= (1 / (255 * std))[:, None, None]
    planes -= np.divide(mean, std)[:, None, None]
    return planes


def load_square(
    data: bytes, spec: Preprocess, limits: ImageLimits = _DEFAULT_LIMITS, *, full_resolution: bool = False
) -> NDArray[np.uint8]:
    """Decode an image into what the network sees, uint8 [H, W, 3]; `full_resolution` never at a reduced scale.

    Raises:
        ImageRejectedError: the data cannot be classified.
    """
    from app_tier.central_crop import central_crop

    return to_array(central_crop(data, spec.framing, limits, full_resolution=full_resolution), spec)


def to_array(rows: bytes | bytearray, spec: Preprocess) -> NDArray[np.uint8]:
    """Return the pixels of what `central_crop` returned as uint8 [H, W, 3], without a copy.

    Raises:
        ValueError: there are too few bytes.
    """
    return np.frombuffer(rows, np.uint8, 3 * math.prod(spec.input_shape)).reshape(*spec.input_shape, 3)
