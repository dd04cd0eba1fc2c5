"""Photos with tags of EXIF."""

import io
from typing import Any

from PIL import Image


def photo(
    main: dict[int, Any] | None = None, details: dict[int, Any] | None = None, place: dict[int, Any] | None = None
) -> bytes:
    """Return a JPEG of 8 x 4 pixels with these tags of EXIF."""
    image, exif, file = Image.new("RGB", (8, 4)), Image.Exif(), io.BytesIO()
    exif.update(main or {})
    exif.get_ifd(0x8769).update(details or {})
    exif.get_ifd(0x8825).update(place or {})
    image.save(file, "JPEG", exif=exif)
    return file.getvalue()
