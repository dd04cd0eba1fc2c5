"""Label sets: the labels of a model that can occur in a job, as one bit for each class of its bundle.

A set is a text, the digest of the bundle and the bits, so that it is short in each request and record: 168 characters
of bits for 1,000 classes. It means nothing for another bundle.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Final

MAX_SET_CHARACTERS: Final = 8_192
"""Longest set, of about 48,000 classes."""

SET_PATTERN: Final = r"^[0-9a-f]{64} (?:[A-Za-z0-9_-]{4})*[A-Za-z0-9_=-]{4}$"


def label_set(bundle: str, labels: Sequence[str], chosen: Collection[str]) -> str:
    """Return the set of the classes with `chosen` labels, of the bundle with digest `bundle`."""
    bits = sum(1 << number for number, label in enumerate(labels) if label in chosen)
    return f"{bundle} {urlsafe_b64encode(bits.to_bytes((len(labels) + 7) // 8, 'little')).decode()}"


@lru_cache(maxsize=64)
def classes_in(label_set: str) -> tuple[int, ...]:
    """Return the numbers of the classes of a set, from 0; the images of a job share it."""
    bits = int.from_bytes(urlsafe_b64decode(label_set.partition(" ")[2]), "little")
    return tuple(number for number in range(bits.bit_length()) if bits >> number & 1)
