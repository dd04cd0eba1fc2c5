"""The object of a pack in the input bucket. A worker knows it before it imports botocore.

The object of a pack of one image is that image. The object of more is an uncompressed tar (ustar) without padding at
its end, with members `00.jpg`, `01.png` by place. So the offset of each follows from the sizes.
"""

from typing import Final

from core.ids import ImageRef, place_of
from core.jobs.keys import input_key
from core.messages import RequestMessage

_TAR_BLOCK: Final = 512
"""Bytes of a header; the content of a member is filled up to a multiple of it
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06)."""


def image_key(pack: RequestMessage, ref: ImageRef) -> str:
    """Return the key of an image of a pack, as its result names it."""
    return input_key(ref, pack.extensions[place_of(ref.image_id)])


def member(pack: RequestMessage, data: bytes, place: int) -> bytes:
    """Return the image at a place of a pack with the object `data`."""
    if len(pack.sizes) == 1:
        return data
    before = sum(_TAR_BLOCK - size // -_TAR_BLOCK * _TAR_BLOCK for size in pack.sizes[:place])
    start = before + _TAR_BLOCK
    return data[start : start + pack.sizes[place]]
