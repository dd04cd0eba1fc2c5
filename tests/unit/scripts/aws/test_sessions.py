"""Session Manager: which instance, and what is run."""

from datetime import UTC, datetime

import pytest

from scripts.aws.account import Account
from scripts.aws.instances import SessionError, StackInstance, check_programs, select_instance, session_command

WEB, ONE, TWO = "i-0aaaaaaaaaaaaaaa1", "i-0bbbbbbbbbbbbbbb2", "i-0bbcccccccccccccc"


def machine(instance_id: str, name: str) -> StackInstance:
    return StackInstance(instance_id, name, "running", "c7a.large", "ami-1", datetime(2026, 3, 1, tzinfo=UTC))


@pytest.fixture
def fleet() -> list[StackInstance]:
    return [machine(WEB, "fs-web"), machine(ONE, "fs-worker"), machine(TWO, "fs-worker")]


@pytest.mark.parametrize(("wanted", "found"), [("web", WEB), (ONE, ONE), ("i-0bbc", TWO)])
def test_an_instance_is_named_by_its_id_the_beginning_of_it_or_web(
    fleet: list[StackInstance], wanted: str, found: str
) -> None:
    assert select_instance(fleet, "fs", wanted).instance_id == found


@pytest.mark.parametrize("wanted", [None, "i-0bb"])
def test_of_several_one_must_be_named_and_all_are_listed(fleet: list[StackInstance], wanted: str | None) -> None:
    with pytest.raises(SessionError, match=f"name one:(.|\n)*{ONE}  fs-worker\n  {TWO}"):
        select_instance(fleet, "fs", wanted)


def test_where_only_one_runs_it_need_not_be_named(fleet: list[StackInstance]) -> None:
    del fleet[1:]
    assert select_instance(fleet, "fs", None).instance_id == WEB


def test_what_is_not_there_is_answered_by_what_is(fleet: list[StackInstance]) -> None:
    with pytest.raises(SessionError, match=f"is i-9; there are:\n  {WEB}"):
        select_instance(fleet, "fs", "i-9")
    fleet.clear()
    with pytest.raises(SessionError, match="there are: none"):
        select_instance(fleet, "fs", None)


def test_the_session_is_for_the_region_and_the_profile_of_the_account() -> None:
    words = ["aws", "ssm", "start-session", "--target", WEB, "--region", "eu-central-1"]
    assert session_command(Account("eu-central-1"), machine(WEB, "fs-web")) == words
    assert session_command(Account("eu-central-1", "ops"), machine(WEB, "fs-web")) == [*words, "--profile", "ops"]


def test_programs_that_are_missing_are_named_with_where_they_come_from() -> None:
    check_programs(lambda name: f"/bin/{name}")
    with pytest.raises(SessionError, match=r"session-manager-plugin: install its plugin: https://docs"):
        check_programs(lambda name: "/bin/aws" if name == "aws" else None)
