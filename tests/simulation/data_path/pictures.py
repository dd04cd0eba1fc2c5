"""Small valid pictures, each with a number that is its truth and a kind that says what it does to a worker."""

from functools import cache
from hashlib import sha256
from io import BytesIO
from typing import Final, Literal

from PIL import Image

Kind = Literal["good", "broken", "heavy"]
"""`good` has a label, `broken` cannot be decoded, `heavy` ends its worker as long as workers have little memory."""

LABELS: Final = tuple(f"label-{number}" for number in range(5))
_TRUTH: dict[bytes, tuple[int, Kind]] = {}


@cache
def picture(index: int, kind: Kind) -> bytes:
    """Return a PNG of one pixel."""
    buffer = BytesIO()
    Image.new("RGB", (1, 1), (index, ("good", "broken", "heavy").index(kind), 0)).save(buffer, "PNG")
    data = buffer.getvalue()
    _TRUTH[sha256(data).digest()] = (index, kind)
    return data


def index_of(data: bytes) -> tuple[int, Kind]:
    """Return the number and the kind of a picture."""
    return _TRUTH[sha256(data).digest()]


def label_of(index: int) -> str:
    """Return the right label of a good picture."""
    return LABELS[index % len(LABELS)]
