"""Switches: defaults, allowed values, settings, scenario files, and the page that describes them."""

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud.options import MAX_LAG_SECONDS, InvalidSwitchError, Switches, parse_switches


def test_switches_are_off_by_default() -> None:
    values = {switch.name: getattr(Switches(), switch.name) for switch in fields(Switches)}
    assert values.pop("spot_notice_seconds") == 120
    assert values.pop("count_factor") == 1
    assert values.pop("late_seconds") == 5
    assert values.pop("max_in_flight") == 120_000
    assert not any(values.values())


def test_a_change_leaves_the_other_switches_as_they_are() -> None:
    switches = Switches(max_instances=3).changed({"boot_delay_seconds": 2})
    assert (switches.max_instances, switches.boot_delay_seconds) == (3, 2)
    assert switches.changed({"max_instances": None}).max_instances is None


@pytest.mark.parametrize(
    "values",
    [
        {"capacity": {"c7a.large": 2, "us-east-1a": 0}},
        {"capacity": {}},
        {"launch_error": "VcpuLimitExceeded"},
        {"launch_error": "InvalidAMIID.NotFound"},
        {"spot_notice_after_seconds": 0},
        {"describe_lag_seconds": MAX_LAG_SECONDS},
        {"count_factor": 0},
    ],
)
def test_allowed_value_is_accepted(values: dict[str, Any]) -> None:
    (name,) = values
    assert getattr(Switches().changed(values), name) == values[name]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stuck_boot_fraction": 1.5}, "stuck_boot_fraction=1.5: must be a number from 0 to 1"),
        ({"boot_delay_seconds": -1}, "boot_delay_seconds=-1: must be a number of seconds, 0 or more"),
        ({"boot_delay_seconds": float("nan")}, "boot_delay_seconds=nan: must be a number of seconds"),
        ({"boot_delay_seconds": None}, "boot_delay_seconds=None: must be a number of seconds"),
        ({"max_instances": -1}, "max_instances=-1: must be a whole number, 0 or more, or null"),
        ({"max_instances": True}, "max_instances=True: must be a whole number"),
        ({"max_instances": 2.5}, "max_instances=2.5: must be a whole number"),
        ({"lost_launch_replies": "many"}, "lost_launch_replies='many': must be a whole number"),
        ({"capacity": 3}, "capacity=3: must be whole numbers by instance type or availability zone"),
        ({"capacity": {"c7a.large": -1}}, "capacity={'c7a.large': -1}: must be whole numbers by instance type"),
        ({"capacity": {7: 1}}, "capacity={7: 1}: must be whole numbers by instance type"),
        ({"capacity": None}, "capacity=None: must be whole numbers by instance type"),
        ({"spot_capacity": "none"}, "spot_capacity='none': must be a whole number, 0 or more, or null"),
        ({"launch_error": 503}, "launch_error=503: must be an error code of EC2"),
        ({"launch_error": "no room!"}, "launch_error='no room!': must be an error code of EC2"),
        ({"describe_lag_seconds": 601}, "describe_lag_seconds=601: must be seconds from 0 to 600"),
        ({"count_factor": float("inf")}, "count_factor=inf: must be a number, 0 or more"),
        ({"speed": 1}, r"unknown switches \['speed'\]; there are"),
    ],
)
def test_invalid_value_is_rejected_with_the_allowed_ones(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        Switches().changed(values)


def test_switches_are_typed_as_name_and_yaml() -> None:
    typed = [
        "boot_delay_seconds=5",
        "capacity={c7a.large: 2}",
        'launch_error="VcpuLimitExceeded"',
        "max_instances=null",
    ]
    expected = Switches(boot_delay_seconds=5, capacity={"c7a.large": 2}, launch_error="VcpuLimitExceeded")
    assert parse_switches(typed) == expected


def test_later_setting_of_a_switch_counts() -> None:
    assert parse_switches(["max_instances=1", "max_instances=2"]).max_instances == 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("boot_delay_seconds", "'boot_delay_seconds': must be NAME=VALUE"),
        ("capacity={c7a.large: 2", "capacity={c7a.large: 2: the value is not YAML"),
        ("boot_delay_seconds=soon", "boot_delay_seconds='soon': must be a number of seconds"),
        ("speed=3", r"unknown switches \['speed'\]; there are .*'boot_delay_seconds'"),
    ],
)
def test_invalid_setting_is_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        parse_switches([text])


ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "localcloud" / "README.md").read_text()


def test_the_page_has_a_row_for_each_switch_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert {name: yaml.safe_load(default) for name, default in rows} == asdict(Switches())


def test_the_settings_that_the_page_shows_can_be_typed() -> None:
    settings = [first or second for first, second in re.findall(r"--switch (?:'([^']+)'|(\S+=\S+))", PAGE)]
    assert len(settings) >= 5
    parse_switches(settings)


def test_the_readme_leads_to_the_page() -> None:
    assert "localcloud/README.md" in (ROOT / "README.md").read_text()
