"""Switches: defaults, allowed values, settings, scenario files, the page that describes them, and rules of faults."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcloud.faults import CallFaults
from localcloud.options import (
    MAX_RULES,
    FaultRule,
    InvalidSwitchError,
    Switches,
    format_switches,
    load_scenario,
    parse_switches,
)
from localcloud.tests.support.waiting import ManualClock

RESET = {"kind": "reset"}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stuck_boot_fraction": 1.5}, "stuck_boot_fraction: .* less than or equal to 1, not 1.5"),
        ({"boot_delay_seconds": float("nan")}, "boot_delay_seconds: .* finite number, not nan"),
        ({"max_instances": True}, "max_instances: .* valid integer, not True"),
        ({"capacity": 3}, "capacity: .* valid dictionary, not 3"),
        ({"launch_error": "no room!"}, "launch_error: .* match pattern .*, not no room!"),
        ({"describe_lag_seconds": 601}, "describe_lag_seconds: .* less than or equal to 600, not 601"),
        ({"faults": [RESET, {**RESET, "share": 2}]}, r"faults\.1\.share: .* less than or equal to 1, not 2"),
        ({"faults": [{**RESET, "operaton": "PUT"}]}, r"faults\.0\.operaton: Extra inputs are not permitted"),
        ({"faults": [{**RESET, "from_seconds": 5, "until_seconds": 5}]}, r"until_seconds \(5\) must be above from_"),
        ({"faults": [RESET] * (MAX_RULES + 1)}, "faults: .* at most 100 items"),
        ({"speed": 1}, "speed: there is no such switch; there are"),
    ],
)
def test_invalid_value_is_rejected_with_the_allowed_ones(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        Switches().changed(values)


def test_switches_are_set_as_name_and_yaml_and_the_last_setting_counts() -> None:
    typed = [
        "boot_delay_seconds=5",
        "capacity={c7a.large: 2}",
        'launch_error="VcpuLimitExceeded"',
        "spot_capacity=1",
        "spot_capacity=null",
        "max_instances=1",
        "max_instances=2",
    ]
    expected = Switches(boot_delay_seconds=5, capacity={"c7a.large": 2}, launch_error="VcpuLimitExceeded")
    assert parse_switches(typed) == expected.changed({"max_instances": 2})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("boot_delay_seconds", "'boot_delay_seconds': must be NAME=VALUE"),
        ("capacity={c7a.large: 2", "capacity={c7a.large: 2: the value is not YAML"),
        ("boot_delay=3", r"boot_delay: there is no such switch; did you mean boot_delay_seconds\?"),
    ],
)
def test_invalid_setting_is_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        parse_switches([text])


ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "localcloud" / "README.md").read_text()


def test_the_page_has_a_row_for_each_switch_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert {name: yaml.safe_load(default) for name, default in rows} == Switches().model_dump()


def test_the_settings_that_the_page_shows_can_be_typed() -> None:
    settings = [first or second for first, second in re.findall(r"--switch (?:'([^']+)'|(\S+=\S+))", PAGE)]
    assert len(settings) >= 5
    parse_switches(settings)


def turned(*rules: dict[str, Any], seed: int = 0, clock: ManualClock | None = None) -> CallFaults:
    faults = CallFaults(clock or ManualClock(100.0))
    faults.set_rules([FaultRule.model_validate(rule) for rule in rules], seed)
    return faults


def chosen(faults: CallFaults, calls: int = 200) -> list[bool]:
    return [faults.choose("s3", "PUT", "worker") is not None for _ in range(calls)]


def test_a_rule_matches_by_service_operation_and_tier() -> None:
    faults = turned({"kind": "reset", "service": "sqs", "operation": "SendMessageBatch", "tier": "web"})
    assert faults.choose("sqs", "SendMessageBatch", "web") is not None
    assert faults.choose("s3", "SendMessageBatch", "web") is None
    assert faults.choose("sqs", "ReceiveMessage", "web") is None
    assert faults.choose("sqs", "SendMessageBatch", "worker") is None
    assert faults.choose("sqs", "SendMessageBatch", None) is None


def test_a_call_meets_the_first_rule_that_chooses_it() -> None:
    faults = turned({"kind": "reset", "share": 0.0}, {"kind": "slow", "service": "s3"}, {"kind": "denied"})
    rules = [faults.choose("s3", "PUT", None), faults.choose("ec2", "RunInstances", None)]
    assert [rule and rule.kind for rule in rules] == ["slow", "denied"]


def test_calls_that_met_a_fault_are_counted_by_kind_before_later_rules() -> None:
    faults = turned({"kind": "reset", "service": "s3"}, {"kind": "slow", "service": "ec2"})
    for service in ("s3", "ec2", "s3", "sqs"):
        faults.choose(service, "any", None)
    faults.set_rules((), 0)
    assert faults.figures() == {"reset": 2, "slow": 1}


def test_the_same_seed_chooses_the_same_calls_again() -> None:
    rule = {"kind": "unavailable", "share": 0.2}
    first, again, other = (chosen(turned(rule, seed=seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert 20 <= sum(first) <= 60


def test_a_rule_applies_within_its_time_from_when_it_was_turned() -> None:
    clock = ManualClock(100.0)
    faults = turned({"kind": "reset", "from_seconds": 10, "until_seconds": 20}, clock=clock)
    applies = []
    for seconds in (0.0, 9.9, 10.0, 19.9, 20.0):
        clock.now = 100.0 + seconds
        applies.append(faults.choose("s3", "GET", None) is not None)
    assert applies == [False, False, True, True, False]


def test_rules_that_are_turned_again_go_on_and_others_begin_anew() -> None:
    clock = ManualClock(100.0)
    faults = turned({"kind": "reset", "until_seconds": 10}, clock=clock)
    clock.now += 11
    rules = [FaultRule(kind="reset", until_seconds=10)]
    faults.set_rules(rules, 0)
    assert faults.choose("s3", "GET", None) is None
    faults.set_rules(rules, 1)
    assert faults.choose("s3", "GET", None) is not None
    faults.set_rules((), 1)
    assert not faults.is_on


def test_a_scenario_file_sets_switches(tmp_path: Path) -> None:
    scenario = tmp_path / "day.yaml"
    scenario.write_text("boot_delay_seconds: 5\nfaults:\n  - {kind: unavailable, service: s3, until_seconds: 60}\n")
    switches = parse_switches(format_switches(load_scenario(scenario)))
    assert switches.boot_delay_seconds == 5
    assert [rule.kind for rule in switches.faults] == ["unavailable"]


@pytest.mark.parametrize(
    ("text", "problem"), [("- 1", "must be a mapping"), ("a: [", "cannot be read"), (None, "cannot be read")]
)
def test_invalid_scenario_is_rejected(tmp_path: Path, text: str | None, problem: str) -> None:
    scenario = tmp_path / "day.yaml"
    if text is not None:
        scenario.write_text(text)
    with pytest.raises(InvalidSwitchError, match=problem):
        load_scenario(scenario)
