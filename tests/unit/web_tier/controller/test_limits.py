"""Limits that change while the controller runs."""

from pathlib import Path

import pytest
import yaml

from services.config import load_config
from tests.conftest import shipped_values
from web_tier.controller.limits import FleetLimits


def write(path: Path, **fleet: object) -> Path:
    values = shipped_values()
    values["fleet"] |= fleet
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def limits(tmp_path: Path) -> FleetLimits:
    path = write(tmp_path / "config.yaml")
    return FleetLimits(path, load_config(path, {}).fleet, load=lambda changed: load_config(changed, {}))


def test_a_changed_maximum_is_in_force_at_the_next_look_and_logged(
    limits: FleetLimits, caplog: pytest.LogCaptureFixture
) -> None:
    assert limits.current().max_workers == 19
    write(limits.path, max_workers=300)
    assert limits.current().max_workers == 300
    assert "max_workers 19 -> 300" in caplog.text


@pytest.mark.parametrize(
    "broken", ["fleet: {max_workers: [", "", "fleet: {max_workers: -1}", "no such: key", "\x00", "fleet: 3"]
)
def test_a_broken_file_changes_nothing_and_is_logged_once(
    limits: FleetLimits, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    limits.path.write_text(broken)
    assert [limits.current().max_workers for _ in range(3)] == [19] * 3
    assert limits.problem is not None
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    write(limits.path, max_workers=7)
    assert limits.current().max_workers == 7
    assert limits.problem is None


def test_a_file_that_is_gone_for_a_moment_changes_nothing(limits: FleetLimits) -> None:
    limits.path.unlink()
    assert limits.current().max_workers == 19
    assert "cannot read" in (limits.problem or "")
    write(limits.path)
    assert limits.current().max_workers == 19
    assert not limits.problem


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "config.yaml")

    def never(changed: Path) -> None:
        raise AssertionError(f"{changed} was read")

    limits = FleetLimits(path, load_config(path, {}).fleet, load=never)  # type: ignore[arg-type]
    limits.current()
