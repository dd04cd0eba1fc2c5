"""The bucket's rule comes later than the controller, whatever is said of either."""

import pytest

from core.config import Retention
from scripts.aws.deploy.settings import UNKEPT_KEY, SettingError, StackSettings, unkept_days
from scripts.aws.deploy.stack import Stack
from tests.conftest import shipped_values
from tests.support.stack_template import TEMPLATE

NOTHING = StackSettings()


def retention(days: float) -> Retention:
    return Retention(unkept_days=days, repeat_days=30)


def stack(days: str | None) -> Stack:
    return Stack("fs", "arn", "UPDATE_COMPLETE", parameters={} if days is None else {"UnkeptDays": days})


@pytest.mark.parametrize(("days", "wanted"), [(7, "30"), (0.5, "24"), (14.5, "38"), (365, "388"), (0, "0")])
def test_a_new_stack_waits_23_days_longer_than_the_controller_and_for_ever_where_jobs_do_not_expire(
    days: float, wanted: str
) -> None:
    assert unkept_days(retention(days), NOTHING, None) == wanted


def test_with_the_configuration_as_it_is_shipped_that_is_the_templates_default() -> None:
    default = TEMPLATE["Parameters"]["UnkeptDays"]["Default"]
    assert unkept_days(Retention(**shipped_values()["retention"]), NOTHING, None) == str(default)


@pytest.mark.parametrize(
    ("had", "days", "wanted"),
    [
        ("60", 7, "60"),  # said with --set once
        ("0", 7, "0"),
        ("30", 29, "30"),
        ("30", 30, "53"),  # config.yaml has overtaken it
        ("30", 0, "0"),
        (None, 7, "30"),  # a stack from before there was a rule
        ("3.5", 1, "24"),
    ],
)
def test_what_the_stack_has_stays_unless_it_would_be_too_soon(had: str | None, days: float, wanted: str) -> None:
    assert unkept_days(retention(days), NOTHING, stack(had)) == wanted


@pytest.mark.parametrize("said", ["14", ""], ids=["said", "taken back"])
def test_it_follows_the_key_when_that_is_said_anew_or_taken_back(said: str) -> None:
    assert unkept_days(retention(14), StackSettings({}, {UNKEPT_KEY: said}), stack("60")) == "37"


@pytest.mark.parametrize("days", ["8", "100", "0"])
def test_what_is_wished_comes_first(days: str) -> None:
    assert unkept_days(retention(7), StackSettings({"UnkeptDays": days}, {UNKEPT_KEY: "7"}), stack("60")) == days


@pytest.mark.parametrize(
    ("wished", "days", "told"),
    [
        ("7", 7, "expire after 7 days .*: give more than 7, or 0"),
        ("3", 7, "UnkeptDays=3: "),
        ("30", 0, "expire never .*: give 0"),
        ("8.5", 7, "give whole days"),
        ("-1", 7, "give whole days"),
        ("", 7, "give whole days"),
    ],
)
def test_what_would_delete_images_of_jobs_that_stand_or_is_no_number_is_refused(
    wished: str, days: float, told: str
) -> None:
    with pytest.raises(SettingError, match=told):
        unkept_days(retention(days), StackSettings({"UnkeptDays": wished}), None)
