"""Smaller copies of photos, which a user with a slow line may send: their scores differ by some hundredths."""

import io
import warnings
from dataclasses import dataclass
from typing import Final

from fleetsight_client.api import ApiClient
from fleetsight_client.photos import PhotoError, pillow

JPEG_QUALITY: Final = 92
MAX_SIDE: Final = 1_800
"""Pixels of the longer side of a copy, unless a model needs more."""
MODEL_FACTOR: Final = 2
"""The shorter side of a copy has at least this many times the pixels to which a model scales it down."""

TAIL_BYTES: Final = 64 * 1024
"""The last bytes of a JPEG in which its end mark is searched."""

MAX_PIXELS: Final = 100_000_000
"""Photos with more are sent as they are: they would take too much memory, and the server refuses them."""

_ORIENTATION: Final = 0x0112


@dataclass(frozen=True, slots=True)
class Shrinker:
    """Shrinks photos for a model.

    Attributes:
        model_side: pixels of the shorter side that the model sees.
        max_side: longest side in pixels of a photo that stays as it is.
    """

    model_side: int
    max_side: int

    @classmethod
    def of_server(cls, client: ApiClient, model: str | None) -> "Shrinker":
        """Return what shrinks for a model of the server, or for all of its models.

        Raises:
            PhotoError: a package is missing, or the server does not say what its models see.
        """
        pillow("--shrink")
        sides = [each["short_side"] for each in client.models()["models"] if model in {None, each["name"]}]
        if not sides or None in sides:
            raise PhotoError("this server does not say how many pixels its models need: leave --shrink out")
        return cls(max(sides), MAX_SIDE)

    def shrunk(self, content: bytes) -> bytes:
        """Return a smaller JPEG of a large one, upright and without its EXIF, or the content as it is.

        Only a complete photo of 8 bits, grey or in colour, is shrunk: others may look different when drawn again.
        """
        if not (content.startswith(b"\xff\xd8") and b"\xff\xd9" in content[-TAIL_BYTES:]):
            return content
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                return self._redrawn(content)
        except Exception:  # noqa: BLE001 (Pillow raises what its parsers raise; the server says what is wrong)
            return content

    def _redrawn(self, content: bytes) -> bytes:
        from PIL import Image, ImageOps

        with Image.open(io.BytesIO(content), formats=("JPEG", "MPO")) as image:
            size, orientation = self.size(*image.size), image.getexif().get(_ORIENTATION, 1)
            if size is None or image.mode not in {"L", "RGB"} or orientation not in range(1, 9):
                return content
            image.draft(image.mode, size)  # decodes at a half, a quarter or an eighth: 24 million pixels are 72 MB
            small, written = image.resize(size, Image.Resampling.LANCZOS), io.BytesIO()
        small.getexif()[_ORIENTATION] = orientation
        ImageOps.exif_transpose(small, in_place=True)
        small.save(written, "JPEG", quality=JPEG_QUALITY)
        return min(content, written.getvalue(), key=len)

    def size(self, width: int, height: int) -> tuple[int, int] | None:
        """Return the size of the copy of a photo, or None if it stays as it is."""
        longer, shorter = max(width, height), min(width, height)
        if longer <= self.max_side or width * height > MAX_PIXELS:
            return None
        scale = max(self.max_side / longer, MODEL_FACTOR * self.model_side / shorter)
        return None if scale >= 1 else (max(1, round(width * scale)), max(1, round(height * scale)))
