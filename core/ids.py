"""Identity of jobs and images.

Both ids are ULIDs: 26 characters, ordered by time, with a random tail (https://github.com/ulid/spec). The ids of
images with a position are ordered by it.

Images are carried in packs (`core/jobs/packs.py`), and the id of an image names its pack. After the 48 bits of the
time come 32 bits: the position of the pack's first image in the job, or a random number, times `PLACES`, plus the
place of the image in its pack. The id of a pack is that of its first image, at the place 0.
"""

import os
import re
import threading
from dataclasses import dataclass
from datetime import datetime
from itertools import product

from ulid import ULID

from services.clock import epoch_seconds

ULID_PATTERN = r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$"
_ULID = re.compile(ULID_PATTERN)
MAX_AHEAD_MILLISECONDS = 20_000
"""How far the last id may be ahead of the clock: twice the error of two clocks that agree (`services/clock.py`)."""
MAX_POSITION = 9_999_999
"""Highest position of an image in its job."""

PLACES = 64
"""Places of a pack that ids can tell apart."""
_TAIL_BITS = 48
_PLACE_MASK = (PLACES - 1) << _TAIL_BITS

_PAIRS = ["".join(pair) for pair in product("0123456789ABCDEFGHJKMNPQRSTVWXYZ", repeat=2)]
"""The sixteenth and seventeenth character of an id by their number: a bit of the position, the place, and three bits
of the tail. The whole number of an id takes ten times as long."""
_NUMBERS = {pair: number for number, pair in enumerate(_PAIRS)}
_TAIL_OF_PAIR = 3

SLOT_CHARACTERS = 16
"""Characters of a pack's id before its tail. Ids of images may alternate between packs that agree in them."""

FIRST_ID = "0"
"""Sorts before every id."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """The id of an image, with its job."""

    job_id: str
    image_id: str


class _Ids:
    """Generates ULIDs in order within a process: in a millisecond, each comes after all images of its predecessor."""

    def __init__(self) -> None:
        self.reset()
        # A forked process must not continue the sequence of its parent: it draws a new tail.
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._last = self._now()

    def _now(self) -> ULID:
        return ULID.from_int(int(ULID.from_timestamp(epoch_seconds())) & ~_PLACE_MASK)

    def next(self) -> ULID:
        with self._lock:
            fresh = self._now()
            ahead = self._last.milliseconds - fresh.milliseconds
            # If the last id is far ahead, the clock was wrong: ids that continued from it would be dated wrongly.
            after = ULID.from_int(int(self._last) + (PLACES << _TAIL_BITS))
            self._last = after if 0 <= ahead <= MAX_AHEAD_MILLISECONDS else fresh
            return self._last


_ids = _Ids()


def new_id() -> str:
    """Return a new ULID for a job, a pack or a process, greater than any earlier one unless the clock was wrong."""
    return str(_ids.next())


def image_id_at(pack_id: str, place: int) -> str:
    """Return the id of the image at `place`, 0 to `PLACES` - 1, of a pack."""
    return f"{pack_id[:15]}{_PAIRS[_NUMBERS[pack_id[15:17]] | place << _TAIL_OF_PAIR]}{pack_id[17:]}"


def pack_of(image_id: str) -> str:
    """Return the id of the pack that an image is in; another text stays."""
    place = place_of(image_id)
    if not place:
        return image_id
    return f"{image_id[:15]}{_PAIRS[_NUMBERS[image_id[15:17]] ^ place << _TAIL_OF_PAIR]}{image_id[17:]}"


def place_of(image_id: str) -> int:
    """Return the place of an image in its pack; 0 of a text that is no id."""
    return _NUMBERS.get(image_id[15:17], 0) >> _TAIL_OF_PAIR & PLACES - 1


def positioned_id(job_id: str, position: int) -> str:
    """Return a new id for the pack with the image at `position`, 0 to `MAX_POSITION`, of a job as its first one.

    It has the time of its job, then the position, so the images of a job are in the order of their positions and
    before those without one.
    """
    start = ULID.from_str(job_id).bytes[:6]
    return str(ULID.from_bytes(start + (PLACES * position).to_bytes(4, "big") + os.urandom(6)))


def received_at(ref: ImageRef) -> datetime | None:
    """Return when the web tier received an image, or None if its id has a position in place of that time."""
    image, job = ULID.from_str(ref.image_id), ULID.from_str(ref.job_id)
    return None if image.milliseconds == job.milliseconds else image.datetime


def first_id_of(moment: datetime) -> str:
    """Return the minimum id of that millisecond: earlier ids sort before it. Before 1970 there are none."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + bytes(10)))


def is_id(text: str) -> bool:
    """Return whether `text` has the form of an id."""
    return _ULID.fullmatch(text) is not None
