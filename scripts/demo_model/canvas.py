"""What a sign's face is drawn on."""

import math
from collections.abc import Iterable
from typing import Final

from PIL import Image, ImageDraw, ImageFont

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
