"""Drawers with a fault, for tests."""

from tests.support import sandboxed_functions as functions


def misbehave(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Draw a picture if the item says so, else do what it says instead."""
    return b"RIFF\x00\x00\x00\x00WEBP" if data == b"picture" else functions.misbehave(data)
