"""Labelled images without limit: a road sign in a scene, of any size, drawn from a seed.

The same seed always gives the same image, so truth is known at 100 or 100,000 images without storing one. Every image
can be answered: the sign stands within the central square, at least half as large as it, and little of it is covered.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

from scripts.demo_model.sign_shapes import FACE_SIZE, SIGN_LABELS, face

Size = tuple[int, int]
SizeShares = tuple[tuple[Size, float], ...]

SAMPLE_SIZES: Final[SizeShares] = (
    ((64, 64), 0.16),
    ((96, 96), 0.12),
    ((128, 96), 0.12),
    ((200, 150), 0.12),
    ((150, 200), 0.1),
    ((320, 240), 0.12),
    ((240, 320), 0.06),
    ((640, 480), 0.12),
    ((800, 600), 0.04),
    ((1600, 1200), 0.04),
)
"""Sizes of sample images in pixels, and how often each is drawn."""

_FORMATS: Final = (("JPEG", "jpg", 0.6), ("PNG", "png", 0.2), ("WEBP", "webp", 0.2))


@dataclass(frozen=True)
class Sample:
    """One encoded image and the truth about it."""

    filename: str
    data: bytes
    label: str


def draw(label_index: int | None, seed: int, size: Size = (128, 128)) -> tuple[Image.Image, str]:
    """Draw one sign in a scene.

    Args:
        label_index: which of `SIGN_LABELS`; None lets the seed choose.
        seed: the same seed, label and size give the same pixels.
        size: (width, height) in pixels.

    Returns:
        The RGB image and its label.
    """
    rng = np.random.default_rng(seed)
    chosen = int(rng.integers(len(SIGN_LABELS)))
    label = SIGN_LABELS[chosen if label_index is None else label_index]
    scene = _background(rng, size)
    sign = face(label).copy()
    if rng.random() < 0.3:  # a leaf, a sticker, a pole's shadow: at most 4% of the sign
        side = int(FACE_SIZE * rng.uniform(0.08, 0.2))
        x, y = (int(v) for v in rng.integers(0, FACE_SIZE - side, 2))
        patch = Image.new("RGBA", (side, side), (*_colour(rng), 255))
        sign.paste(patch, (x, y), sign.getchannel("A").crop((x, y, x + side, y + side)))
    _place(scene, sign, rng)
    return _photographed(scene, rng), label


def samples(count: int | None, seed: int, sizes: SizeShares = SAMPLE_SIZES, start: int = 0) -> Iterator[Sample]:
    """Yield `count` encoded images (None: without end), sizes and formats mixed, every sign equally often.

    Sample k of a seed is the same however many are asked for, and with whichever `start`.
    """
    for position in itertools.count(start) if count is None else range(start, start + count):
        block, within = divmod(position, len(SIGN_LABELS))
        order = np.random.default_rng([seed, 0, block]).permutation(len(SIGN_LABELS))
        rng = np.random.default_rng([seed, 1, position])
        size = sizes[rng.choice(len(sizes), p=[share for _, share in sizes])][0]
        name, extension, _ = _FORMATS[rng.choice(len(_FORMATS), p=[share for _, _, share in _FORMATS])]
        image, label = draw(int(order[within]), int(rng.integers(2**62)), size)
        data = encode(image, name, quality=int(rng.integers(60, 96)))
        yield Sample(f"{position:05d}-{label.replace(' ', '-')}.{extension}", data, label)


def encode(image: Image.Image, format_name: str, quality: int = 88) -> bytes:
    """Encode as JPEG, PNG or WEBP, choosing speed over size for the last two."""
    buffer = BytesIO()
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality},
        "PNG": {"compress_level": 1},
        "WEBP": {"quality": quality, "method": 0},
    }
    image.save(buffer, format_name, **options[format_name])
    return buffer.getvalue()


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    red, green, blue = rng.integers(low, high, 3)
    return int(red), int(green), int(blue)


def _background(rng: np.random.Generator, size: Size) -> Image.Image:
    """Paint sky, ground and clutter on a small canvas, then enlarge it: blurred, as if out of focus."""
    small = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).resize(
        (48, 36), Image.Resampling.BICUBIC
    )
    pencil = ImageDraw.Draw(small)
    horizon = int(rng.integers(14, 34))
    if rng.random() < 0.6:
        pencil.rectangle((0, horizon, 48, 36), fill=_colour(rng, 20, 190))
    for _ in range(rng.integers(0, 7)):
        x, y = rng.integers(-6, 48), rng.integers(-6, 36)
        corners = (x, y, x + rng.integers(2, 22), y + rng.integers(2, 22))
        paint = pencil.rectangle if rng.random() < 0.6 else pencil.ellipse
        paint(tuple(map(int, corners)), fill=_colour(rng))
    return ImageEnhance.Color(small).enhance(float(rng.uniform(0.15, 0.8))).resize(size, Image.Resampling.BICUBIC)


def _place(scene: Image.Image, sign: Image.Image, rng: np.random.Generator) -> None:
    """Put the sign, on its pole, somewhere within the central square of the scene."""
    square = min(scene.size)
    side = square * rng.uniform(0.52, 0.92)
    reach = max(0.0, (square - side) / 2)
    x = scene.width / 2 + rng.uniform(-reach, reach)
    y = scene.height / 2 + rng.uniform(-reach, reach)
    if rng.random() < 0.5:
        pole = max(1.0, side * 0.035)
        grey = int(rng.integers(60, 190))
        ImageDraw.Draw(scene).rectangle((x - pole, y, x + pole, scene.height), fill=(grey, grey, grey))
    _paste_turned(scene, sign, (x, y), side, rng)


def _paste_turned(
    scene: Image.Image, sign: Image.Image, centre: tuple[float, float], side: float, rng: np.random.Generator
) -> None:
    """Turn, narrow and shear the sign as seen from the road, and paste it with its middle at `centre`."""
    angle, narrow, shear = math.radians(rng.uniform(-12, 12)), rng.uniform(0.8, 1.0), rng.uniform(-0.12, 0.12)
    cos, sin = math.cos(angle), math.sin(angle)
    forward = np.array([[cos, -sin], [sin, cos]]) @ np.array([[narrow, 0], [shear, 1]]) * (side / FACE_SIZE)
    # The sign is shrunk with a filter first, since a transform samples single pixels.
    scale = math.sqrt(abs(float(np.linalg.det(forward))))
    pixels = max(8, min(FACE_SIZE, math.ceil(1.4 * scale * FACE_SIZE)))
    reduced = sign.resize((pixels, pixels), Image.Resampling.BILINEAR, reducing_gap=2.0)
    back = np.linalg.inv(forward) * (pixels / FACE_SIZE)
    half = math.ceil(float(np.abs(forward).sum(axis=1).max()) * FACE_SIZE / 2) + 1
    left, top = round(centre[0]) - half, round(centre[1]) - half
    middle = np.array([half, half]) + np.array(centre) - np.round(centre)
    offset = np.array([reduced.width / 2] * 2) - back @ middle
    turned = reduced.transform(
        (2 * half, 2 * half),
        Image.Transform.AFFINE,
        (*back[0], offset[0], *back[1], offset[1]),
        Image.Resampling.BILINEAR,
    )
    scene.paste(turned.convert("RGB"), (left, top), turned.getchannel("A"))


def _photographed(scene: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, light, contrast, colour and noise of a camera that is no better than it must be."""
    light, contrast, colour, blur, noise = rng.uniform((0.6, 0.65, 0.6, 0, 0), (1.35, 1.25, 1.3, 1, 1)).tolist()
    if blur > 0.5:
        scene = scene.filter(ImageFilter.BoxBlur((blur - 0.5) * 0.03 * min(scene.size)))
    scene = ImageEnhance.Contrast(ImageEnhance.Brightness(scene).enhance(light)).enhance(contrast)
    scene = ImageEnhance.Color(scene).enhance(colour)
    amplitude = int(noise * 28)  # of uniform noise, in grey levels
    grain = rng.integers(0, 2 * amplitude + 1, (scene.height, scene.width, 3), dtype=np.uint8)
    return ImageChops.add(scene, Image.fromarray(grain), offset=-amplitude)
