"""Bundles of pretrained models in the folder of this checkout's models: each is built once, then used as it is."""

import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from core.bundle_facts import MANIFEST_NAME
from scripts.home import MODELS_FOLDER
from scripts.model.pretrained import PHOTOS_PACKAGE, PRETRAINED_MODELS
from services.errors import FleetsightError

ROOT: Final = Path(__file__).resolve().parents[2]

POLL_SECONDS: Final = 0.1

PHOTOS: Final = "photos"
"""The model of new jobs if nothing else is asked for: it knows ImageNet's 1,000 classes."""


class ModelNotBuiltError(FleetsightError):
    """Raised when the bundle of a pretrained model could not be built, or the build was stopped."""


def built_once(name: str, say: Callable[[str], None], stop: threading.Event) -> Path:
    """Return the folder of the bundle of a name in `PRETRAINED_MODELS`, which is built if it does not exist yet.

    Args:
        name: of the model.
        say: shows a sentence.
        stop: ends the build.

    Raises:
        ModelNotBuiltError: it could not be built.
    """
    folder = MODELS_FOLDER / name
    if (folder / MANIFEST_NAME).exists():
        return folder
    megabytes = PRETRAINED_MODELS[name].megabytes
    first = f"{megabytes} MB of weights to download, then some seconds" if megabytes else "this takes a second"
    say(f"Building {name} once: {first}.")
    # In a process of its own, since OpenVINO would stay in this one's memory. fp32: the other precisions would be
    # measured for minutes first.
    options = ("--precision", "fp32", "--out", str(folder))
    command = (sys.executable, "-m", "scripts.cli", "model", "build", name, *options)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if stop.wait(POLL_SECONDS):
                process.terminate()
    if stop.is_set():
        raise ModelNotBuiltError(f"the build of {name} was interrupted: start again to repeat it")
    if process.returncode:
        raise ModelNotBuiltError(f"{name} could not be built: do what the line above says, and start again")
    return folder


def photos_once(say: Callable[[str], None], stop: threading.Event) -> Path | None:
    """Return the bundle of `PHOTOS` as `built_once`; None if neither it nor the package with its weights is there.

    Raises:
        ModelNotBuiltError: it could not be built.
    """
    if (MODELS_FOLDER / PHOTOS / MANIFEST_NAME).exists() or find_spec(PHOTOS_PACKAGE) is not None:
        return built_once(PHOTOS, say, stop)
    return None
