"""The faces of twenty road signs, drawn by us: each is a shape, two or three colours and a pictogram.

Chosen to stay apart at 16 pixels: no two share shape, colour and pictogram, and none needs small print to be read.
"""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

from PIL import Image, ImageDraw, ImageFont

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


def _regular(corners: int, radius: float, turned_by: float) -> list[Point]:
    """Corners of a regular polygon; `turned_by` degrees puts the first one (0 is to the right, 90 below)."""
    angles = [math.radians(turned_by + 360 * k / corners) for k in range(corners)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _triangle(c: Canvas, upwards: bool) -> None:
    """A white triangle with a red border, as large as the canvas allows."""
    flip = 1 if upwards else -1
    c.shape([(-1, 0.86 * flip), (1, 0.86 * flip), (0, -0.9 * flip)], RED)
    c.shape([(-0.66, 0.66 * flip), (0.66, 0.66 * flip), (0, -0.5 * flip)], WHITE)


def _stop(c: Canvas) -> None:
    c.shape(_regular(8, 1, 22.5), WHITE)
    c.shape(_regular(8, 0.92, 22.5), RED)
    c.text("STOP", 0.66, WHITE)


def _give_way(c: Canvas) -> None:
    _triangle(c, upwards=False)


def _no_entry(c: Canvas) -> None:
    c.disc(1, RED)
    c.box(-0.72, -0.2, 0.72, 0.2, WHITE)


def _speed_limit_50(c: Canvas) -> None:
    c.disc(1, RED)
    c.disc(0.76, WHITE)
    c.text("50", 1.0, BLACK)


def _no_parking(c: Canvas) -> None:
    c.disc(1, RED)
    c.disc(0.8, BLUE)
    c.stroke([(-0.6, -0.6), (0.6, 0.6)], 0.22, RED)


def _end_of_limits(c: Canvas) -> None:
    c.disc(1, BLACK)
    c.disc(0.94, WHITE)
    for shift in (-0.24, 0.0, 0.24):
        c.stroke([(-0.6 + shift, 0.6 + shift), (0.6 + shift, -0.6 + shift)], 0.11, BLACK)


def _priority_road(c: Canvas) -> None:
    c.shape(_regular(4, 1, 0), WHITE)
    c.shape(_regular(4, 0.72, 0), YELLOW)


def _pedestrian_crossing(c: Canvas) -> None:
    c.box(-1, -1, 1, 1, BLUE, 0.1)
    c.shape([(-0.86, 0.74), (0.86, 0.74), (0, -0.84)], WHITE)
    c.disc(0.12, BLACK, (0.02, -0.3))
    c.stroke([(0.02, -0.16), (0.0, 0.22), (-0.26, 0.62)], 0.16, BLACK)
    c.stroke([(0.0, 0.2), (0.28, 0.62)], 0.15, BLACK)
    c.stroke([(-0.28, 0.12), (0.0, -0.1), (0.28, 0.14)], 0.1, BLACK)


def _parking(c: Canvas) -> None:
    c.box(-1, -1, 1, 1, BLUE, 0.1)
    c.text("P", 1.8, WHITE)


def _dead_end(c: Canvas) -> None:
    c.box(-1, -1, 1, 1, BLUE, 0.1)
    c.box(-0.17, -0.4, 0.17, 0.9, WHITE)
    c.box(-0.62, -0.72, 0.62, -0.36, RED)


def _one_way(c: Canvas) -> None:
    c.box(-1, -0.46, 1, 0.46, WHITE, 0.06)
    c.box(-0.95, -0.41, 0.95, 0.41, BLACK, 0.06)
    c.arrow((-0.82, 0), (0.84, 0), 0.24, WHITE)


def _roundabout(c: Canvas) -> None:
    c.disc(1, BLUE)
    for k in range(3):
        start = 120 * k - 90
        c.ring(0.66, 0.2, WHITE, (start, start + 78))
        tip, ahead = math.radians(start + 78), math.radians(start + 116)
        c.shape(
            [
                (0.86 * math.cos(tip), 0.86 * math.sin(tip)),
                (0.26 * math.cos(tip), 0.26 * math.sin(tip)),
                (0.56 * math.cos(ahead), 0.56 * math.sin(ahead)),
            ],
            WHITE,
        )


def _turn_left(c: Canvas) -> None:
    c.disc(1, BLUE)
    c.arrow((0.74, 0), (-0.76, 0), 0.3, WHITE)


def _turn_right(c: Canvas) -> None:
    c.disc(1, BLUE)
    c.arrow((-0.74, 0), (0.76, 0), 0.3, WHITE)


def _straight_ahead(c: Canvas) -> None:
    c.disc(1, BLUE)
    c.arrow((0, 0.74), (0, -0.76), 0.3, WHITE)


def _danger(c: Canvas) -> None:
    _triangle(c, upwards=True)
    c.shape([(-0.13, -0.26), (0.13, -0.26), (0.08, 0.3), (-0.08, 0.3)], BLACK)
    c.disc(0.11, BLACK, (0, 0.48))


def _traffic_lights(c: Canvas) -> None:
    c.shape([(-1, 0.86), (1, 0.86), (0, -0.9)], RED)
    c.shape([(-0.78, 0.74), (0.78, 0.74), (0, -0.64)], WHITE)
    c.box(-0.21, -0.36, 0.21, 0.7, BLACK, 0.1)
    for y, colour in ((-0.18, (255, 50, 40)), (0.16, YELLOW), (0.5, (50, 220, 90))):
        c.disc(0.155, colour, (0, y))


def _railway_crossing(c: Canvas) -> None:
    for sign in (-1, 1):
        c.stroke([(-0.94, -0.6 * sign), (0.94, 0.6 * sign)], 0.34, RED)
    for sign in (-1, 1):
        c.stroke([(-0.62, -0.396 * sign), (0.62, 0.396 * sign)], 0.34, WHITE)


def _road_works(c: Canvas) -> None:
    c.shape(_regular(4, 1, 0), BLACK)
    c.shape(_regular(4, 0.94, 0), ORANGE)
    c.disc(0.12, BLACK, (-0.1, -0.46))
    c.stroke([(-0.12, -0.28), (-0.24, 0.1), (-0.04, 0.42)], 0.17, BLACK)
    c.stroke([(-0.24, 0.1), (-0.4, 0.42)], 0.15, BLACK)
    c.stroke([(-0.3, -0.2), (0.4, 0.3)], 0.1, BLACK)
    c.shape([(0.12, 0.46), (0.62, 0.46), (0.37, 0.18)], BLACK)


def _motorway(c: Canvas) -> None:
    c.box(-1, -1, 1, 1, GREEN, 0.1)
    c.shape([(-0.74, 0.86), (-0.08, 0.86), (-0.06, -0.84), (-0.24, -0.84)], WHITE)
    c.shape([(0.74, 0.86), (0.08, 0.86), (0.06, -0.84), (0.24, -0.84)], WHITE)
    c.box(-0.78, -0.42, 0.78, -0.16, WHITE)


_FACES: Final[dict[str, Callable[[Canvas], None]]] = {
    "stop": _stop,
    "give way": _give_way,
    "no entry": _no_entry,
    "speed limit 50": _speed_limit_50,
    "no parking": _no_parking,
    "end of limits": _end_of_limits,
    "priority road": _priority_road,
    "pedestrian crossing": _pedestrian_crossing,
    "parking": _parking,
    "dead end": _dead_end,
    "one way": _one_way,
    "roundabout": _roundabout,
    "turn left": _turn_left,
    "turn right": _turn_right,
    "straight ahead": _straight_ahead,
    "danger": _danger,
    "traffic lights": _traffic_lights,
    "railway crossing": _railway_crossing,
    "road works": _road_works,
    "motorway": _motorway,
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
    _FACES[label](canvas)
    return canvas.finished()
