"""How an image is refused, and what a decoder's errors mean."""

import struct
import zlib
from typing import Final

DECODER_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on broken data; not ``MemoryError``, which is the machine's, not the image's."""


CODES: Final = (
    "empty",
    "too_large",
    "not_an_image",
    "format_not_allowed",
    "too_many_pixels",
    "too_many_frames",
    "truncated",
    "undecodable",
    "too_costly",
)
"""Why data cannot be classified; stable, for programs."""


class ImageRejectedError(Exception):
    """Raised when data cannot be classified because of what it is; trying again would not help.

    Attributes:
        code: one of `CODES`.
        message: what is wrong and what to do, for the image's owner.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["ImageRejectedError"], tuple[str, str]]:
        """Keep both fields when the error crosses a process boundary."""
        return type(self), (self.code, self.message)


def ends_early(error: Exception) -> bool:
    """Whether a decoder's error says that data was missing, rather than wrong."""
    words = str(error).lower()
    return isinstance(error, EOFError) or any(w in words for w in ("truncated", "unexpected end", "premature"))


def broken_header(name: str, size: int) -> ImageRejectedError:
    """The refusal of data that starts like an image and then does not go on like one."""
    return ImageRejectedError(
        "undecodable",
        f"the {name}'s header is damaged or cut short ({size} bytes in all): save it again as JPEG or PNG",
    )


def cut_short(name: str, size: int) -> ImageRejectedError:
    """The refusal of data that ends within its header."""
    return ImageRejectedError("truncated", f"the {name} ends after {size} bytes, within its header: send it again")
