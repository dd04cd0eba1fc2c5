"""A decoder with a fault: an image that is the name of a signal ends its process by it."""

import os
import signal

from app_tier.central_crop import central_crop


def crash(data: bytes, resize: int, crop: int, limits: tuple[int, int, int]) -> bytes:
    if data.startswith(b"SIG"):
        os.kill(os.getpid(), signal.Signals[data.decode()])
    return central_crop(data, resize, crop, limits)
