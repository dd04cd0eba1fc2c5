"""Switches as a person types them: ``NAME=VALUE``, the value in YAML, of which JSON is a part."""

from collections.abc import Iterable
from typing import Any

import yaml

from services.embedded.options import InvalidSwitchError, Switches


def switches_of(settings: Iterable[str]) -> Switches:
    """Read switches, each ``NAME=VALUE``; of two settings of one switch the later counts.

    Raises:
        InvalidSwitchError: one is no ``NAME=VALUE``, its name is unknown or its value is not allowed.
    """
    return Switches().changed(dict(_setting(text) for text in settings))


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidSwitchError(f"{text!r}: must be NAME=VALUE, such as boot_delay_seconds=5")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidSwitchError(f"{text}: the value is not YAML ({' '.join(str(error).split())})") from error
