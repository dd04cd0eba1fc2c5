"""The status of each image of a job, in a few bytes.

A job may have a million images. So a status takes 17 bytes: ids are packed, and searched by bisection.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from ulid import ULID

from core.ids import is_id
from core.messages import Status

ID_BYTES: Final = 16
"""Bytes of an image's id, the number of a ULID. Their order is that of the ids."""
MIN_RECENT: Final = 1_000
"""New images before they are packed; if others follow the first of them, an eighth of those."""

_STATUSES: Final[tuple[Status | None, ...]] = (None, "done", "failed")
_CODES: Final = {status: code for code, status in enumerate(_STATUSES)}

# ULIDs have the digits of Crockford's Base 32, and `int` those up to v.
_DIGITS: Final = str.maketrans("0123456789ABCDEFGHJKMNPQRSTVWXYZ", "0123456789abcdefghijklmnopqrstuv")


class ImageStatuses:
    """The status of each image of a job by its id; None as long as it has no result.

    Statuses are stored as bytes, beside the sorted ids. New images are in a dictionary until there are enough of them
    to pack: that is cheap, since the ids of new images mostly follow all others.
    """

    def __init__(self) -> None:
        self._ids, self._codes = bytearray(), bytearray()
        self._recent: dict[bytes, int] = {}
        self._first_recent = _AFTER_ALL

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._codes) + len(self._recent)

    def __contains__(self, image_id: str) -> bool:
        """Return whether the image is known."""
        return is_id(image_id) and self._code(_key_of(image_id)) is not None

    def __getitem__(self, image_id: str) -> Status | None:
        """Return the status of a known image."""
        code = self._code(_key_of(image_id))
        if code is None:
            raise KeyError(image_id)
        return _STATUSES[code]

    def __setitem__(self, image_id: str, status: Status | None) -> None:
        """Set the status of an image, which may be new."""
        key, code = _key_of(image_id), _CODES[status]
        if (position := self._position(key)) is not None:
            self._codes[position] = code
            return
        self._recent[key] = code
        self._first_recent = min(key, self._first_recent)
        if len(self._recent) > MIN_RECENT:
            following = len(self._codes) - self._first_from(self._first_recent)
            if len(self._recent) > following // 8:
                self._pack()

    def count(self, status: Status | None) -> int:
        """Return how many images have this status."""
        code = _CODES[status]
        return self._codes.count(code) + sum(each == code for each in self._recent.values())

    def ids(self, status: Status | None) -> Iterator[str]:
        """Yield the ids of the images with this status, in order; no image may be added meanwhile."""
        self._pack()
        code, position = _CODES[status], -1
        while (position := self._codes.find(code, position + 1)) >= 0:
            yield self._id(position)

    def unanswered(self, position: int, size: int, limit: int) -> list[tuple[int, str, str]]:
        """Return up to `limit` blocks of `size` images with one without a result, in turn from a block's `position`.

        Each has its position, its first id and its last one.
        """
        self._pack()
        starts, images = list[int](), len(self._codes)
        for next_start, end in ((position, images), (0, min(position, images))):
            at = next_start
            while len(starts) < limit and (at := self._codes.find(_CODES[None], at, end)) >= 0:
                starts.append(at - at % size)
                at = starts[-1] + size
        return [(start, self._id(start), self._id(min(start + size, images) - 1)) for start in starts]

    def last(self) -> str:
        """Return the id of the last image; an empty text if there is none."""
        self._pack()
        return self._id(len(self._codes) - 1) if self._codes else ""

    def _code(self, key: bytes) -> int | None:
        position = self._position(key)
        return self._recent.get(key) if position is None else self._codes[position]

    def _position(self, key: bytes) -> int | None:
        position = self._first_from(key)
        is_there = position < len(self._codes) and self._key(position) == key
        return position if is_there else None

    def _first_from(self, key: bytes) -> int:
        return bisect_left(range(len(self._codes)), key, key=self._key)

    def _key(self, position: int) -> bytes:
        return bytes(self._ids[position * ID_BYTES : (position + 1) * ID_BYTES])

    def _id(self, position: int) -> str:
        return str(ULID.from_bytes(self._key(position)))

    def _pack(self) -> None:
        """Move the new images to the packed ones: only what follows the first of them has to move."""
        first = self._first_from(self._first_recent)
        packed = ((self._key(each), self._codes[each]) for each in range(first, len(self._codes)))
        merged = sorted([*packed, *self._recent.items()])
        self._ids[first * ID_BYTES :] = b"".join(key for key, _ in merged)
        self._codes[first:] = bytes(code for _, code in merged)
        self._recent, self._first_recent = {}, _AFTER_ALL


_AFTER_ALL: Final = b"\xff" * (ID_BYTES + 1)
"""Sorts after every id."""


def _key_of(image_id: str) -> bytes:
    """Return an id as it is stored; raises `ValueError` for another text."""
    if not is_id(image_id):
        raise ValueError(f"not an id of an image: {image_id!r}")
    return int(image_id.translate(_DIGITS), 32).to_bytes(ID_BYTES)
