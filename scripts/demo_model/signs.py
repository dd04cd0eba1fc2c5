"""Labelled images without limit: a road sign in a scene, of any size, drawn from a seed.

The same seed always gives the same image, so truth is known at 100 or 100,000 images without storing one. Every image
can be answered: the sign stands within the central square, at least half as large as it, and little of it is covered.

The faces of the twenty signs are drawn by us: each is a shape, two or three colours and a pictogram. They stay apart
at 16 pixels: no two share shape, colour and pictogram, and none needs small print to be read.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Final

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont

FACE_SIZE: Final = 384
"""Width and height of a face, in pixels; the sign touches the edges, all around it is transparent."""

RED: Final = (196, 24, 34)
BLUE: Final = (18, 78, 160)
GREEN: Final = (10, 122, 62)
YELLOW: Final = (250, 204, 20)
ORANGE: Final = (244, 126, 16)
WHITE: Final = (248, 248, 246)
BLACK: Final = (22, 22, 24)
Colour = tuple[int, int, int]
Point = tuple[float, float]
_SUPERSAMPLING: Final = 2

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


class Canvas:
    """A square to draw on, with coordinates from -1 to 1, x to the right and y downwards."""

    def __init__(self, pixels: int) -> None:
        self._side = pixels
        self.size = pixels * _SUPERSAMPLING
        self._image = Image.new("RGBA", (self.size, self.size), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self._image)

    def finished(self) -> Image.Image:
        """What was drawn, RGBA, its edges smoothed by drawing larger and averaging."""
        return self._image.resize((self._side, self._side), Image.Resampling.BOX)

    def disc(self, radius: float, colour: Colour, centre: Point = (0, 0)) -> None:
        """Draw a filled circle."""
        self._draw.ellipse(self._pixels(_around(centre, radius)), fill=colour)

    def ring(self, radius: float, width: float, colour: Colour, degrees: Point = (0, 360)) -> None:
        """Draw a circle's line, or the part of it between two angles (clockwise from the right)."""
        self._draw.arc(self._pixels(_around((0, 0), radius)), *degrees, fill=colour, width=self._length(width))

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, round_by: float = 0) -> None:
        """Draw a filled rectangle, its corners rounded by `round_by`."""
        corners = self._pixels([(left, top), (right, bottom)])
        self._draw.rounded_rectangle(corners, self._length(round_by), fill=colour)

    def shape(self, points: Iterable[Point], colour: Colour) -> None:
        """Draw a filled polygon."""
        self._draw.polygon(self._pixels(points), fill=colour)

    def stroke(self, points: Iterable[Point], width: float, colour: Colour) -> None:
        """Draw a line through points."""
        self._draw.line(self._pixels(points), fill=colour, width=self._length(width), joint="curve")

    def text(self, text: str, height: float, colour: Colour) -> None:
        """Write in the middle, `height` from line to line, in the bold that a stroke gives."""
        size = self._length(height)
        font = ImageFont.load_default(size)
        middle = (self.size / 2, self.size / 2)
        self._draw.text(middle, text, colour, font, anchor="mm", stroke_width=size // 26, stroke_fill=colour)

    def arrow(self, tail: Point, head: Point, width: float, colour: Colour) -> None:
        """Draw an arrow with its point at `head`."""
        (x0, y0), (x1, y1) = tail, head
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        base = (x1 - 2 * width * ux, y1 - 2 * width * uy)
        self.stroke([tail, base], width, colour)
        wing = 1.45 * width
        self.shape(
            [head, (base[0] - wing * uy, base[1] + wing * ux), (base[0] + wing * uy, base[1] - wing * ux)], colour
        )

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        return [((x + 1) * self.size / 2, (y + 1) * self.size / 2) for x, y in points]

    def _length(self, units: float) -> int:
        return round(units * self.size / 2)


def _around(centre: Point, radius: float) -> list[Point]:
    (x, y) = centre
    return [(x - radius, y - radius), (x + radius, y + radius)]


Step = tuple[Any, ...]
"""A method of `Canvas`, and its arguments."""


def _polar(radius: float, degrees: float) -> Point:
    return radius * math.cos(math.radians(degrees)), radius * math.sin(math.radians(degrees))


def _regular(corners: int, radius: float, turned_by: float) -> list[Point]:
    """Corners of a regular polygon; `turned_by` degrees puts the first one (0 is to the right, 90 below)."""
    return [_polar(radius, turned_by + 360 * k / corners) for k in range(corners)]


def _triangle(flip: int) -> tuple[Step, ...]:
    """A white triangle with a red border, as large as the canvas allows; `flip` is 1 upwards, -1 downwards."""
    return (
        (Canvas.shape, [(-1, 0.86 * flip), (1, 0.86 * flip), (0, -0.9 * flip)], RED),
        (Canvas.shape, [(-0.66, 0.66 * flip), (0.66, 0.66 * flip), (0, -0.5 * flip)], WHITE),
    )


_BLUE_SQUARE: Final[Step] = (Canvas.box, -1, -1, 1, 1, BLUE, 0.1)

_FACES: Final[dict[str, tuple[Step, ...]]] = {
    "stop": (
        (Canvas.shape, _regular(8, 1, 22.5), WHITE),
        (Canvas.shape, _regular(8, 0.92, 22.5), RED),
        (Canvas.text, "STOP", 0.66, WHITE),
    ),
    "give way": _triangle(-1),
    "no entry": ((Canvas.disc, 1, RED), (Canvas.box, -0.72, -0.2, 0.72, 0.2, WHITE)),
    "speed limit 50": ((Canvas.disc, 1, RED), (Canvas.disc, 0.76, WHITE), (Canvas.text, "50", 1.0, BLACK)),
    "no parking": (
        (Canvas.disc, 1, RED),
        (Canvas.disc, 0.8, BLUE),
        (Canvas.stroke, [(-0.6, -0.6), (0.6, 0.6)], 0.22, RED),
    ),
    "end of limits": (
        (Canvas.disc, 1, BLACK),
        (Canvas.disc, 0.94, WHITE),
        *((Canvas.stroke, [(-0.6 + x, 0.6 + x), (0.6 + x, -0.6 + x)], 0.11, BLACK) for x in (-0.24, 0.0, 0.24)),
    ),
    "priority road": ((Canvas.shape, _regular(4, 1, 0), WHITE), (Canvas.shape, _regular(4, 0.72, 0), YELLOW)),
    "pedestrian crossing": (
        _BLUE_SQUARE,
        (Canvas.shape, [(-0.86, 0.74), (0.86, 0.74), (0, -0.84)], WHITE),
        (Canvas.disc, 0.12, BLACK, (0.02, -0.3)),
        (Canvas.stroke, [(0.02, -0.16), (0.0, 0.22), (-0.26, 0.62)], 0.16, BLACK),
        (Canvas.stroke, [(0.0, 0.2), (0.28, 0.62)], 0.15, BLACK),
        (Canvas.stroke, [(-0.28, 0.12), (0.0, -0.1), (0.28, 0.14)], 0.1, BLACK),
    ),
    "parking": (_BLUE_SQUARE, (Canvas.text, "P", 1.8, WHITE)),
    "dead end": (
        _BLUE_SQUARE,
        (Canvas.box, -0.17, -0.4, 0.17, 0.9, WHITE),
        (Canvas.box, -0.62, -0.72, 0.62, -0.36, RED),
    ),
    "one way": (
        (Canvas.box, -1, -0.46, 1, 0.46, WHITE, 0.06),
        (Canvas.box, -0.95, -0.41, 0.95, 0.41, BLACK, 0.06),
        (Canvas.arrow, (-0.82, 0), (0.84, 0), 0.24, WHITE),
    ),
    "roundabout": (
        (Canvas.disc, 1, BLUE),
        *(
            step
            for start in (-90, 30, 150)
            for step in (
                (Canvas.ring, 0.66, 0.2, WHITE, (start, start + 78)),
                (
                    Canvas.shape,
                    [_polar(0.86, start + 78), _polar(0.26, start + 78), _polar(0.56, start + 116)],
                    WHITE,
                ),
            )
        ),
    ),
    "turn left": ((Canvas.disc, 1, BLUE), (Canvas.arrow, (0.74, 0), (-0.76, 0), 0.3, WHITE)),
    "turn right": ((Canvas.disc, 1, BLUE), (Canvas.arrow, (-0.74, 0), (0.76, 0), 0.3, WHITE)),
    "straight ahead": ((Canvas.disc, 1, BLUE), (Canvas.arrow, (0, 0.74), (0, -0.76), 0.3, WHITE)),
    "danger": (
        *_triangle(1),
        (Canvas.shape, [(-0.13, -0.26), (0.13, -0.26), (0.08, 0.3), (-0.08, 0.3)], BLACK),
        (Canvas.disc, 0.11, BLACK, (0, 0.48)),
    ),
    "traffic lights": (
        (Canvas.shape, [(-1, 0.86), (1, 0.86), (0, -0.9)], RED),
        (Canvas.shape, [(-0.78, 0.74), (0.78, 0.74), (0, -0.64)], WHITE),
        (Canvas.box, -0.21, -0.36, 0.21, 0.7, BLACK, 0.1),
        (Canvas.disc, 0.155, (255, 50, 40), (0, -0.18)),
        (Canvas.disc, 0.155, YELLOW, (0, 0.16)),
        (Canvas.disc, 0.155, (50, 220, 90), (0, 0.5)),
    ),
    "railway crossing": (
        (Canvas.stroke, [(-0.94, 0.6), (0.94, -0.6)], 0.34, RED),
        (Canvas.stroke, [(-0.94, -0.6), (0.94, 0.6)], 0.34, RED),
        (Canvas.stroke, [(-0.62, 0.396), (0.62, -0.396)], 0.34, WHITE),
        (Canvas.stroke, [(-0.62, -0.396), (0.62, 0.396)], 0.34, WHITE),
    ),
    "road works": (
        (Canvas.shape, _regular(4, 1, 0), BLACK),
        (Canvas.shape, _regular(4, 0.94, 0), ORANGE),
        (Canvas.disc, 0.12, BLACK, (-0.1, -0.46)),
        (Canvas.stroke, [(-0.12, -0.28), (-0.24, 0.1), (-0.04, 0.42)], 0.17, BLACK),
        (Canvas.stroke, [(-0.24, 0.1), (-0.4, 0.42)], 0.15, BLACK),
        (Canvas.stroke, [(-0.3, -0.2), (0.4, 0.3)], 0.1, BLACK),
        (Canvas.shape, [(0.12, 0.46), (0.62, 0.46), (0.37, 0.18)], BLACK),
    ),
    "motorway": (
        (Canvas.box, -1, -1, 1, 1, GREEN, 0.1),
        (Canvas.shape, [(-0.74, 0.86), (-0.08, 0.86), (-0.06, -0.84), (-0.24, -0.84)], WHITE),
        (Canvas.shape, [(0.74, 0.86), (0.08, 0.86), (0.06, -0.84), (0.24, -0.84)], WHITE),
        (Canvas.box, -0.78, -0.42, 0.78, -0.16, WHITE),
    ),
}

SIGN_LABELS: Final = tuple(_FACES)
"""The twenty signs, in the order of the network's classes."""


@cache
def face(label: str) -> Image.Image:
    """The face of one sign, RGBA, `FACE_SIZE` pixels square; do not change it, it is shared.

    Raises:
        KeyError: there is no such sign.
    """
    canvas = Canvas(FACE_SIZE)
    for method, *arguments in _FACES[label]:
        method(canvas, *arguments)
    return canvas.finished()


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

    Sample k of a seed does not depend on `count` or `start`.
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
