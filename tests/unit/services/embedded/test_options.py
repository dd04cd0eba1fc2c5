"""Switches say what is wrong with a value."""

from typing import Any

import pytest

from services.embedded.options import InvalidSwitchError, Switches


def test_switches_are_off_by_default() -> None:
    assert Switches() == Switches(0.0, 0.0, 0.0, None, 0)


def test_a_change_leaves_the_other_switches_as_they_are() -> None:
    switches = Switches(max_instances=3).changed({"boot_delay_seconds": 2})
    assert (switches.max_instances, switches.boot_delay_seconds) == (3, 2)
    assert switches.changed({"max_instances": None}).max_instances is None


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stuck_boot_fraction": 1.5}, "stuck_boot_fraction=1.5: must be within 0..1"),
        ({"boot_delay_seconds": -1}, "boot_delay_seconds=-1: must be 0 or more"),
        ({"max_instances": -1}, "max_instances=-1: must be 0 or more, or null"),
        ({"lost_launch_replies": "many"}, "lost_launch_replies='many': must be a number"),
        ({"boot_delay_seconds": None}, "boot_delay_seconds=None: must be a number"),
        ({"max_instances": True}, "max_instances=True: must be a number"),
        ({"speed": 1}, r"unknown switches \['speed'\]; there are"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_what_is_allowed(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        Switches().changed(values)
