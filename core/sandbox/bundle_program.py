"""The check of a bundle in a process of its own, which may end, and has no credentials."""

import logging
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from core.bundle_manifest import BundleError
from core.sandbox.process import (
    MAX_CHARACTERS,
    MAX_MESSAGE_BYTES,
    NETWORK_BYTES,
    NETWORK_SECONDS,
    ProcessGoneError,
    ProtocolError,
    SandboxOutcome,
    SandboxProcess,
)
from core.sandbox.zygote import Zygote

FUNCTION: Final = "app_tier.network_process:check"
"""The function that the process runs."""

_log = logging.getLogger(__name__)


def check_network(folder: Path) -> None:
    """Load the bundle in `folder` and classify an image, in a process of its own (`app_tier/network_process.py`).

    A machine without the engine, as one that serves pages only, checks nothing: the first worker does.

    Raises:
        BundleError: no worker can load it, or it has no scores; the message says why.
        PoolUnavailableError: no process can be started.
    """
    if find_spec("openvino") is None:
        _log.warning("a bundle was not loaded before it was added, since this machine has no engine")
        return
    zygote, seconds, place = Zygote(FUNCTION, has_threads=True), NETWORK_SECONDS, str(folder.absolute()).encode()
    try:
        with closing(SandboxProcess(*zygote.fork_child(NETWORK_BYTES))) as child:
            child.wait_until_ready(seconds)
            outcome, reason = child.request(place, b"{}", seconds, seconds, MAX_MESSAGE_BYTES)
    except TimeoutError as error:
        raise BundleError(f"its network was not loaded within {seconds:.0f} s") from error
    except (OSError, ProtocolError, ProcessGoneError) as error:
        raise BundleError("its network ends the process that loads it") from error
    finally:
        zygote.close()
    if outcome is not SandboxOutcome.DONE or reason:
        said = bytes(reason).decode("utf-8", "replace")[:MAX_CHARACTERS]
        raise BundleError(said or "its network needs more memory than a process may have")
