"""The folder of logs, samples, models and states of running systems; also found where no package is installed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

HOME_VARIABLE: Final = "FLEETSIGHT_HOME"
"""Names the folder where it is not the checkout's: a container cannot write to that one."""


def home_of(checkout: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder of a checkout."""
    return Path(environment.get(HOME_VARIABLE) or checkout / ".fleetsight")
