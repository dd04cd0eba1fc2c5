"""The object of a pack in the input bucket. A worker knows it before it imports botocore.

The object of a pack of one image is that image. The object of more is an uncompressed tar (ustar) with members
`00.jpg`, `01.png` by place, so the offset of each follows from the sizes.
"""

from collections.abc import Sequence
from typing import Final

from core.jobs.keys import pack_key
from core.messages import RequestMessage

TAR: Final = "tar"
"""The extension of the object of a pack of several images."""

TAR_BLOCK: Final = 512
"""Bytes of a header; the content of a member is filled up to a multiple of it
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06)."""


def object_key(request: RequestMessage) -> str:
    """Return the key of the object of a requested pack in the input bucket."""
    return pack_key(request.job_id, request.pack_id, request.extension)


def member_start(sizes: Sequence[int], place: int) -> int:
    """Return where the image at a place begins in the object of a pack of several images of these sizes."""
    return TAR_BLOCK + sum(TAR_BLOCK + size + -size % TAR_BLOCK for size in sizes[:place])
