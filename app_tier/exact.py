"""fp32's answers at nearly the speed of low precision: low precision first, and what it is unsure of again in fp32.

Low precision moves a network's logits a little, so it changes an answer only where the two best are close. How close
is measured when a bundle is built (`scripts.model.measure`) and kept in it as its margin.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from app_tier.engines import Batch, Engine

AT_ONCE: Final = 4
"""Images that are asked again in one batch: 15% faster than alone, and eight are 1% faster still."""

_TINY: Final = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class ExactEngine:
    """Asks `fast` first, and `reference` again about each image whose top-two gap is below `margin`.

    Attributes:
        fast: answers about all images, in low precision.
        reference: answers in fp32.
        margin: a gap as `top_two_gap` measures it.
    """

    fast: "Engine"
    reference: "Engine"
    margin: float

    def infer(self, batch: "Batch") -> "Batch":
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        probabilities = self.fast.infer(batch)
        for unsure in _parts(np.flatnonzero(top_two_gap(probabilities) < self.margin)):
            probabilities[unsure] = self.reference.infer(batch[unsure])
        return probabilities


def _parts(indices: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Divide `indices` into parts of 4, 2 and 1: a network is prepared, and keeps memory, for each size it sees."""
    while len(indices):
        size = min(AT_ONCE, 1 << (len(indices).bit_length() - 1))
        yield indices[:size]
        indices = indices[size:]


def top_two_gap(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the difference of the two largest logits of each row of probabilities [N, classes], as float32 [N].

    Taken from the probabilities: the logarithm of their ratio is what lay between the logits before the softmax.
    Unlike the difference of probabilities it means the same with 2 classes and with 1,000.
    """
    best = np.partition(probabilities, -2, axis=1)[:, -2:].clip(min=_TINY)
    gap: NDArray[np.float32] = np.log(best[:, 1]) - np.log(best[:, 0])
    return gap
