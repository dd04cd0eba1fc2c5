"""Faulty drawing functions for sandboxed processes."""

from tests.support import sandboxed_functions as functions


def misbehave(data: bytes, limits: tuple[int, int, int], side: int) -> bytes:
    """Return a thumbnail for the item `picture`, else cause the fault that the item names."""
    return b"RIFF\x00\x00\x00\x00WEBP" if data == b"picture" else functions.misbehave(data)
