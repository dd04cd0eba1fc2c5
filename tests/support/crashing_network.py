"""Ends a process in the engine at a picture of one colour: a worker that imports this, and its child processes."""

import os
import signal
import time
from typing import Any, Final

import numpy as np

from app_tier import network_process
from app_tier.engines import Batch, OpenVinoEngine, Possible

_honest: Final = OpenVinoEngine.infer
infer: Final = network_process.infer


def _infer(self: OpenVinoEngine, batch: Batch, possible: Possible | None = None) -> Batch:
    means, spans = batch.mean(axis=(2, 3)), np.ptp(batch, axis=(2, 3))
    if ((spans.max(axis=1) < 0.01) & (np.ptp(means, axis=1) > 0.1)).any():  # a grey picture has one value
        os.kill(os.getpid(), signal.SIGSEGV)
    return _honest(self, batch, possible)


OpenVinoEngine.infer = _infer  # type: ignore[method-assign]
network_process.FUNCTION = f"{__name__}:infer"  # type: ignore[misc]


def end(_item: bytes, **_: Any) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def hang(_item: bytes, **_: Any) -> bytes:
    time.sleep(600)
    return b""


def environment(_item: bytes, **_: Any) -> bytes:
    return repr(dict(os.environ)).encode()
