"""Packs: the images that are carried together, whose ids name the pack (`core/ids.py`).

The object of a pack of one image is that image. The object of more is an uncompressed tar (ustar) without padding at
its end, with members `00.jpg`, `01.png` by place. So the offset of each follows from the sizes.
"""

from typing import Final

from core.messages import RequestMessage

_TAR_BLOCK: Final = 512
"""Bytes of a header; the content of a member is filled up to a multiple of it
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06)."""


def member(pack: RequestMessage, data: bytes, place: int) -> bytes:
    """Return the image at a place of a pack with the object `data`."""
    if len(pack.sizes) == 1:
        return data
    before = sum(_TAR_BLOCK - size // -_TAR_BLOCK * _TAR_BLOCK for size in pack.sizes[:place])
    start = before + _TAR_BLOCK
    return data[start : start + pack.sizes[place]]
