"""Rules choose which calls meet a fault: by what the call is, by the time, and by a seed."""

from pathlib import Path
from typing import Any

import pytest

from localcloud.faults import CallFaults
from localcloud.options import (
    MAX_RULES,
    InvalidSwitchError,
    Switches,
    format_switches,
    load_scenario,
    parse_switches,
    rules_of,
)
from tests.support.clock import ManualClock


def turned(*rules: dict[str, Any], seed: int = 0, clock: ManualClock | None = None) -> CallFaults:
    faults = CallFaults(clock or ManualClock(100.0))
    faults.set_rules(rules_of(rules), seed)
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


def test_calls_that_met_a_fault_are_counted_by_kind_whatever_rules_follow() -> None:
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
    faults.set_rules(rules_of([{"kind": "reset", "until_seconds": 10}]), 0)
    assert faults.choose("s3", "GET", None) is None
    faults.set_rules(rules_of([{"kind": "reset", "until_seconds": 10}]), 1)
    assert faults.choose("s3", "GET", None) is not None
    faults.set_rules((), 1)
    assert not faults.is_on


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([{"kind": "explode"}], "faults: rule 1: kind: Input should be 'unavailable'"),
        ([{"kind": "reset"}, {"kind": "reset", "share": 2}], "faults: rule 2: share: .* less than or equal to 1"),
        ([{"kind": "reset", "operaton": "PUT"}], "faults: rule 1: operaton: Extra inputs are not permitted"),
        (
            [{"kind": "reset", "from_seconds": 5, "until_seconds": 5}],
            r"until_seconds \(5\) must be above from_seconds",
        ),
        ([{"kind": "slow", "seconds": 601}], "faults: rule 1: seconds"),
        ({"kind": "reset"}, "faults: a list of at most 100 rules"),
        ([{"kind": "reset"}] * (MAX_RULES + 1), "faults: a list of at most 100 rules"),
    ],
)
def test_invalid_rule_is_rejected_with_number_and_reason(value: Any, problem: str) -> None:
    with pytest.raises(InvalidSwitchError, match=problem):
        Switches().changed({"faults": value})


def test_a_scenario_file_sets_switches(tmp_path: Path) -> None:
    scenario = tmp_path / "day.yaml"
    scenario.write_text("boot_delay_seconds: 5\nfaults:\n  - {kind: unavailable, service: s3, until_seconds: 60}\n")
    switches = parse_switches(format_switches(load_scenario(scenario)))
    assert switches.boot_delay_seconds == 5
    assert [rule.kind for rule in rules_of(switches.faults)] == ["unavailable"]


@pytest.mark.parametrize(
    ("text", "problem"), [("- 1", "must be a mapping"), ("a: [", "cannot be read"), (None, "cannot be read")]
)
def test_invalid_scenario_is_rejected(tmp_path: Path, text: str | None, problem: str) -> None:
    scenario = tmp_path / "day.yaml"
    if text is not None:
        scenario.write_text(text)
    with pytest.raises(InvalidSwitchError, match=problem):
        load_scenario(scenario)
