"""Switches as a person types them: ``NAME=VALUE``, the value in YAML, of which JSON is a part."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from localcloud.options import InvalidSwitchError, Switches


def switches_of(settings: Iterable[str]) -> Switches:
    """Read switches, each ``NAME=VALUE``; of two settings of one switch the later counts.

    Raises:
        InvalidSwitchError: one is no ``NAME=VALUE``, its name is unknown or its value is not allowed.
    """
    return Switches().changed(dict(_setting(text) for text in settings))


def values_in(scenario: Path) -> dict[str, Any]:
    """Return the values of the switches that a YAML file sets, by name.

    Raises:
        InvalidSwitchError: the file cannot be read, is no mapping of names to values, or sets a switch that is wrong.
    """
    try:
        values = yaml.safe_load(scenario.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSwitchError(f"{scenario}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InvalidSwitchError(f"{scenario}: must be a mapping of switches, such as `boot_delay_seconds: 5`")
    Switches().changed(values)
    return values


def typed(values: Mapping[str, Any]) -> list[str]:
    """Return switches as a person would type them, each ``NAME=VALUE``."""
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidSwitchError(f"{text!r}: must be NAME=VALUE, such as boot_delay_seconds=5")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InvalidSwitchError(f"{text}: the value is not YAML ({' '.join(str(error).split())})") from error
