"""The images, made on this machine by the script that makes them on AWS.

`worker_image` and `web_image` are a `LocalImage` each: the id, and the folder with the root file system, which no
test may change. They are kept in `.fleetsight/images` by their content, so that they are made again only when
something that is in them has changed. Making both takes two minutes the first time, most of it fetching Debian, and
half a minute afterwards.

It needs root, mmdebstrap, systemd-nspawn, and Debian's package archive. Where one is missing the tests are skipped
and say so; in CI they fail, where setup would have been able to install what is missing.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.booted.images import ROOT, ImageToolMissingError, LocalImage, Role, build_image

IMAGES = ROOT / ".fleetsight" / "images"


def _image(role: Role, images: Path = IMAGES) -> LocalImage:
    try:
        return build_image(role, images)
    except ImageToolMissingError as error:
        skip_without(error)


def skip_without(error: ImageToolMissingError) -> NoReturn:
    """Skip the test for want of a tool, or fail it in CI, where setup installs the tool."""
    able = os.geteuid() == 0 and shutil.which("apt-get") is not None
    (pytest.fail if os.environ.get("CI") and able else pytest.skip)(str(error))


@pytest.fixture(scope="session")
def worker_image() -> LocalImage:
    """The image of the workers."""
    return _image("worker")


@pytest.fixture(scope="session")
def web_image() -> LocalImage:
    """The image of the web instance: nginx, web tier, controller."""
    return _image("web")
