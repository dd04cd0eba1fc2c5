"""A decoder with a fault: an image that is the name of a signal ends its process by it."""

import os
import signal

from app_tier.square import central_square


def crash(data: bytes, resize: int, crop: int, limits: tuple[int, int, int]) -> bytes:
    if data.startswith(b"SIG"):
        os.kill(os.getpid(), signal.Signals[data.decode()])
    return central_square(data, resize, crop, limits)
