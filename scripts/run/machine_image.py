"""The image that workers boot on this machine, made the first time that it is asked for."""

import time
from pathlib import Path

from ami.local import ImageToolMissingError, LocalImage, build_image
from core.config import Config
from localcloud.machines.backends import NspawnMissingError, check_tools
from scripts.run.system import ROOT


def worker_image(config: Config, images: Path) -> LocalImage:
    """Return the workers' image, with the configured bundle; when it has to be made, say so, and how long it took.

    Args:
        config: what runs.
        images: where images are kept, a folder each.

    Raises:
        ImageToolMissingError: this machine cannot boot images, or not make them.
        ImageBuildError: this one could not be made.
    """
    try:
        check_tools()
    except NspawnMissingError as error:
        raise ImageToolMissingError(str(error)) from error
    started, told = time.monotonic(), False

    def say(line: str) -> None:
        nonlocal told
        if not told:
            print("fleetsight: making the workers' image, about a minute the first time")
        told = True
        print(f"fleetsight: {line}")

    image = build_image("worker", images, bundle=ROOT / config.worker.bundle, say=say)
    if told:
        print(f"fleetsight: the workers' image is {image.root}, made in {time.monotonic() - started:.0f} s")
    return image
