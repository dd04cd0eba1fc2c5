"""A refresh replaces instances one by one, keeps as many as it must, and says when it cannot."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.autoscaling.exceptions import AutoscalingClientError

from services.embedded.scaling import refreshes
from services.embedded.scaling.groups import launch
from services.embedded.scaling.refreshes import PATIENCE_SECONDS, Refresh, begin
from tests.unit.services.embedded.scaling.played import Group


@dataclass
class Watched(Group):
    """A group that notes how many of its instances run, after each launch and each end."""

    counts: list[int] = field(default_factory=list)

    def run_instances(self, **request: Any) -> dict[str, Any]:
        reply = super().run_instances(**request)
        self.counts.append(self.running())
        return reply

    def terminate_instances(self, ids: list[str]) -> None:
        super().terminate_instances(ids)
        self.counts.append(self.running())

    def running(self) -> int:
        return sum(one.state == "running" for one in self.machines.values())

    def _set_launch_configuration(self, _name: str, template: dict[str, str], _policy: None) -> None:
        self.launch_template_version = template["Version"]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A group of two instances of version 1, which launches the latest version, 2, from now on."""
    group = Watched(desired_capacity=2)
    monkeypatch.setattr(refreshes, "launch", lambda of, count: launch(of, count, group.client_of))
    monkeypatch.setattr(refreshes, "keep", lambda _group: False)
    group.launch_template_version = "1"
    launch(group, 2, group.client_of)
    group.launch_template_version = "$Latest"
    group.counts.clear()
    return group


def refresh(group: Group, sleep: Callable[[float], None] = lambda _seconds: None, **parameters: Any) -> Refresh:
    begun = begin(group, parameters)
    begun.sleep = sleep
    begun.run()
    return begun


def test_all_healthy_means_new_ones_come_before_old_ones_go(group: Watched) -> None:
    done = refresh(group, Preferences={"MinHealthyPercentage": 100})
    assert (done.status, group.counts) == ("Successful", [3, 2, 3, 2])
    assert group.members() == ["i-2", "i-3"]
    assert [one.instance.launched_version for one in group.instance_states] == ["2", "2"]
    assert (group.desired_capacity, done.told()["PercentageComplete"], done.told()["InstancesToUpdate"]) == (
        2,
        100,
        0,
    )


def test_less_means_old_ones_go_first(group: Watched) -> None:
    assert refresh(group).status == "Successful"
    assert group.counts == [1, 2, 1, 2]


def test_what_is_as_it_should_be_can_be_left(group: Watched) -> None:
    group.instance_states[0].instance.launched_version = "2"
    refresh(group, Preferences={"SkipMatching": True})
    assert group.members() == ["i-0", "i-2"]


def test_another_template_is_the_groups_from_then_on(group: Watched) -> None:
    wanted = {"LaunchTemplateId": "lt-1", "Version": "$Default"}
    refresh(group, DesiredConfiguration={"LaunchTemplate": wanted})
    assert group.launch_template_version == "$Default"


@pytest.mark.parametrize(
    ("born", "refuses", "told"),
    [
        ("terminated", False, "i-2 has ended"),
        ("running", True, "could not be launched"),
        ("pending", False, "in vain"),
    ],
)
def test_a_new_instance_that_does_not_come_fails_it_and_keeps_the_old(
    group: Watched, born: str, refuses: bool, told: str
) -> None:
    group.born, group.refuses = born, refuses
    wanted = {"LaunchTemplateId": "lt-1", "Version": "9"}
    begun = begin(
        group, {"Preferences": {"MinHealthyPercentage": 100}, "DesiredConfiguration": {"LaunchTemplate": wanted}}
    )
    now = iter(range(0, 10**6, int(PATIENCE_SECONDS)))
    begun.sleep, begun.clock = lambda _seconds: None, lambda: float(next(now))
    begun.run()
    assert (begun.status, told in (begun.reason or "")) == ("Failed", True)
    assert {"i-0", "i-1"} <= set(group.members())
    assert group.launch_template_version == "$Latest"


def test_a_refresh_that_is_cancelled_ends_with_the_instance_that_it_is_at(group: Watched) -> None:
    begun = begin(group, {})

    def cancel(_seconds: float) -> None:
        begun.status = "Cancelling"

    begun.sleep = cancel
    begun.run()
    assert (begun.status, begun.done) == ("Cancelled", 1)


def test_one_group_has_one_refresh_at_a_time(group: Watched) -> None:
    begin(group, {})
    with pytest.raises(AutoscalingClientError, match="already in progress"):
        begin(group, {})
