"""Limits that change while the controller runs."""

from pathlib import Path

import pytest
import yaml

from core.config import load_config
from core.fleet.models import LimitsOverride
from tests.conftest import shipped_values
from tests.support.autoscaler import EPOCH
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.reporting import FleetEvent


def write(path: Path, **fleet: object) -> Path:
    values = shipped_values()
    values["fleet"] |= fleet
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def watcher(tmp_path: Path) -> FleetConfigWatcher:
    path = write(tmp_path / "config.yaml")
    return FleetConfigWatcher(path, load_config(path, {}).fleet, load=lambda changed: load_config(changed, {}))


def test_a_changed_maximum_is_in_force_at_the_next_look_and_logged(
    watcher: FleetConfigWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    assert watcher.current().max_workers == 19
    write(watcher.path, max_workers=300)
    assert watcher.current().max_workers == 300
    assert "max_workers 19 -> 300" in caplog.text


@pytest.mark.parametrize(
    "broken", ["fleet: {max_workers: [", "", "fleet: {max_workers: -1}", "no such: key", "\x00", "fleet: 3"]
)
def test_a_broken_file_changes_nothing_and_is_logged_once(
    watcher: FleetConfigWatcher, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    watcher.path.write_text(broken)
    assert [watcher.current().max_workers for _ in range(3)] == [19] * 3
    assert watcher.problem is not None
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    write(watcher.path, max_workers=7)
    assert watcher.current().max_workers == 7
    assert watcher.problem is None


def test_a_file_that_is_gone_for_a_moment_changes_nothing(watcher: FleetConfigWatcher) -> None:
    watcher.path.unlink()
    assert watcher.current().max_workers == 19
    assert "cannot read" in (watcher.problem or "")
    write(watcher.path)
    assert watcher.current().max_workers == 19
    assert not watcher.problem


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml")

    def never(changed: Path) -> None:
        raise AssertionError(f"{changed} was read")

    watcher = FleetConfigWatcher(path, load_config(path, {}).fleet, load=never)  # type: ignore[arg-type]
    watcher.current()


ORDER = LimitsOverride(min_workers=1, max_workers=5, since=EPOCH, reason="budget")


def test_what_ops_order_is_in_force_until_it_is_taken_back_and_each_change_is_logged_and_told_once(
    watcher: FleetConfigWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert (watcher.current(ORDER).min_workers, watcher.current(ORDER).max_workers) == (1, 5)
    assert caplog.messages == [
        "the fleet's limits were set by ops: min_workers 0 -> 1, max_workers 19 -> 5",
    ]
    words = "limits 1..5, set by ops at 00:00 UTC (budget); config.yaml says 0..19"
    assert watcher.drain_events() == [FleetEvent(words, EPOCH)]
    for _ in range(3):
        assert watcher.current().max_workers == 19
    assert caplog.messages[1:] == [
        "the fleet's limits were taken back by ops: min_workers 1 -> 0, max_workers 5 -> 19",
    ]
    assert watcher.drain_events() == [FleetEvent("limits 0..19 again, as config.yaml says")]


def test_everything_else_in_the_file_takes_effect_under_an_order_too(watcher: FleetConfigWatcher) -> None:
    watcher.current(ORDER)
    write(watcher.path, max_workers=300, images_per_worker=7)
    fleet = watcher.current(ORDER)
    assert (fleet.max_workers, fleet.images_per_worker, watcher.configured.max_workers) == (5, 7, 300)
    assert "max_workers 19 -> 300" in watcher.drain_events()[-1].words
    assert watcher.current().max_workers == 300


def test_a_broken_file_under_an_order_leaves_the_order_in_force(watcher: FleetConfigWatcher) -> None:
    watcher.path.write_text("fleet: [")
    assert watcher.current(ORDER).max_workers == 5
    assert "the last good limits stay in force" in (watcher.problem or "")
