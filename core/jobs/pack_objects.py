"""The object of a pack in the input bucket. A worker knows it before it imports botocore.

The object of a pack of one image is that image. The object of more is an uncompressed tar (ustar) with members
`00.jpg`, `01.png` by place, so the offset of each follows from the sizes. The web tier makes it, or the client of a
presigned form.
"""

import re
from collections.abc import Sequence
from tarfile import AREGTYPE, RECORDSIZE, REGTYPE, HeaderError, TarInfo
from typing import Final

from core.images import FORMATS, ImageRejectedError
from core.jobs.keys import pack_key
from core.messages import RequestMessage

TAR: Final = "tar"
"""The extension of the object of a pack of several images."""

TAR_TYPE: Final = "application/x-tar"

MAX_PACK_BYTES: Final = 48 * 2**20
"""Maximum bytes of the images of a pack of several."""

TAR_BLOCK: Final = 512
"""Bytes of a header; the content of a member is filled up to a multiple of it
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06)."""

_SIZE: Final = re.compile(rb"[0-7]{11}[ \0]")
_CHECKSUM: Final = re.compile(rb"[0-7 ]{6,7}[ \0]{1,2}")
"""Numbers of a header. Python reads others, too, such as `0_1`, where `tar` looks for a header in the image."""


def object_key(request: RequestMessage) -> str:
    """Return the key of the object of a requested pack in the input bucket."""
    return pack_key(request.job_id, request.pack_id, request.extension)


def member_name(place: int, extension: str) -> str:
    """Return the name of the member with the image at a place of a pack of several."""
    return f"{place:02}.{extension}"


def object_bytes(sizes: Sequence[int]) -> range:
    """Return how many bytes the object of a pack of images of these sizes may have.

    A tar ends with two blocks of zeros. Many programs add more, up to a multiple of 20 blocks.
    """
    if len(sizes) == 1:
        return range(sizes[0], sizes[0] + 1)
    end = member_start(sizes, len(sizes)) + TAR_BLOCK
    return range(end, end + -end % RECORDSIZE + 1)


def member_start(sizes: Sequence[int], place: int) -> int:
    """Return where the image at a place begins in the object of a pack of several images of these sizes."""
    return TAR_BLOCK + sum(TAR_BLOCK + size + -size % TAR_BLOCK for size in sizes[:place])


def member_part(sizes: Sequence[int], place: int) -> tuple[int, int]:
    """Return where the part of a tar begins that `member` needs, and its bytes."""
    size = sizes[place]
    end = size + -size % TAR_BLOCK + 2 * TAR_BLOCK if place == len(sizes) - 1 else size
    return member_start(sizes, place) - TAR_BLOCK, TAR_BLOCK + end


def requested_member(request: RequestMessage, part: bytes, place: int) -> bytes:
    """Return the image at a place of a requested pack: `part` if the object is of a user, otherwise its `member`."""
    return part if request.source is not None else member(request.sizes, part, place)


def member(sizes: Sequence[int], part: bytes, place: int) -> bytes:
    """Return the image at a place of a pack of images of these sizes.

    `part` is a lone image, or the part of a tar with the header of the image, and with the end of the tar after the
    last one. If it returns each image of a pack, `tar` extracts these and nothing else.

    Raises:
        ImageRejectedError: the tar has another member there, or more after its last image.
    """
    if len(sizes) == 1:
        return part
    size, image = sizes[place], content(sizes, part, place)
    if not _is_header(part[:TAR_BLOCK], place, size) or part[TAR_BLOCK + size :].strip(b"\0"):
        raise ImageRejectedError(
            "undecodable",
            f"the tar has no member {place:02} with {size} bytes at its place, or more after the last one: "
            "make a ustar of the members that the form names, in their order, and upload them again",
        )
    return image


def content(sizes: Sequence[int], part: bytes, place: int) -> bytes:
    """Return what `member` returns, of any tar."""
    return part if len(sizes) == 1 else part[TAR_BLOCK : TAR_BLOCK + sizes[place]]


def _is_header(block: bytes, place: int, size: int) -> bool:
    """Return whether a block is the header of a file, the image at a place of a pack."""
    try:
        header = TarInfo.frombuf(block, "ascii", "strict")
    except (HeaderError, ValueError):
        return False
    if not _SIZE.fullmatch(block, 124, 136) or not _CHECKSUM.fullmatch(block, 148, 156):
        return False
    names = {member_name(place, each.extension) for each in FORMATS.values()}
    return header.type in {REGTYPE, AREGTYPE} and header.size == size and header.name in names
