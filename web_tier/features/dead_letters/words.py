"""What the page and the command say about an operation on dead letters."""

from collections.abc import Mapping

from core.format import plural

REDRIVE_WORDS: Mapping[str, str] = {
    "sent": "The image is requested again. A worker will try it once more.",
    "refused": "The queue rejected the request. Try again in a moment.",
    "gone": "The image is no longer stored, so it cannot be tried again. Its owner must upload it again.",
    "running": "The image is being tried again already.",
    "no_dead_letter": "There is no dead letter of this image any more.",
}
"""A sentence for each outcome of a redrive."""

DISCARD_WORDS = "The dead letter is discarded. The image keeps its failed result."


def redriven_words(sent: int, *, refused: int, gone: int, running: int) -> str:
    """Return a sentence on the outcome of a redrive of many dead letters, in images."""
    others = (
        (refused, "rejected by the queue: try again in a moment"),
        (gone, "no longer stored: only a new upload helps"),
        (running, "being tried again already"),
    )
    return "; ".join([f"{plural(sent, 'image')} requested again", *(f"{n:,} {why}" for n, why in others if n)]) + "."
