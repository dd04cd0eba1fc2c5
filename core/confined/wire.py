"""What is said between us, the zygote and its children. What a child says is not trusted, so nothing is pickled."""

import struct
from enum import IntEnum
from typing import Final

ASK: Final = struct.Struct("<cQ")
"""To the zygote: for a child (with the bytes that it may take), or to end one (with its process id)."""

NEW, END = b"n", b"e"

TOLD: Final = struct.Struct("<q")
"""From the zygote: the process id of the new child, or how the old one ended, as waitpid tells it; or -errno."""

ITEM: Final = struct.Struct("<dII")
"""To a child: the seconds of processor time it may take, the bytes of its arguments, those of its item; then both."""

ANSWER: Final = struct.Struct("<BI")
"""From a child: an `Outcome`, and how many bytes follow."""

MAX_CHARACTERS: Final = 500
"""Of a refusal's sentence."""

MAX_WORDS: Final = 8_192
"""Bytes of a refusal, at most: each character may be written as twelve."""


class Outcome(IntEnum):
    """What became of an item."""

    READY = 0  # none yet: said once, with the limits that could not be set
    DONE = 1
    REJECTED = 2
    NO_MEMORY = 3
    RAISED = 4
