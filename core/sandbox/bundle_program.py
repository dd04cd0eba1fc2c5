"""The check of a bundle in a process of its own: `app_tier/bundle_check.py` says why it is no child of a zygote."""

import logging
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from core.bundle_manifest import BundleError
from core.sandbox.process import MAX_CHARACTERS
from core.sandbox.zygote import ROOT

CHECK_SECONDS: Final = 120.0
"""Time that the check of a bundle may take."""

_log = logging.getLogger(__name__)


def check_network(folder: Path) -> None:
    """Load the bundle in `folder` and classify an image, in a process of its own (`app_tier/bundle_check.py`).

    A machine without the engine, as one that serves pages only, checks nothing: the first worker does.

    Raises:
        BundleError: no worker can load it, or it has no scores; the message says why.
    """
    if find_spec("openvino") is None:
        _log.warning("a bundle was not loaded before it was added, since this machine has no engine")
        return
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "app_tier.bundle_check", str(folder.absolute())],
            cwd=ROOT,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"its network was not loaded within {CHECK_SECONDS:.0f} s") from error
    if ended.returncode:
        reason = f"its network ends the process that loads it, with status {ended.returncode}"
        raise BundleError(ended.stdout.strip()[:MAX_CHARACTERS] or reason)
