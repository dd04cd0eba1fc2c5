"""What people say for a stack, and what becomes of it."""

import re
from typing import Any

import pytest

from scripts.aws.deploy.settings import (
    BY_THE_STACK,
    SettingError,
    changed,
    checked,
    parameters,
    setting_parameters,
    settings_of,
)
from scripts.aws.deploy.stacks import Stack
from scripts.aws.deploy.template import Parameter, Template
from tests.support.stack_template import TEMPLATE, user_data
from tests.support.stack_template import settings as settings_in

SMALL = Template("", {"VpcId": Parameter("Where"), "ScaleIn": Parameter("What", "terminate")}, frozenset())


def stack(**parameters: str) -> Stack:
    return Stack("fs", "arn", "CREATE_COMPLETE", parameters=parameters)


def test_what_is_wished_is_said_what_the_stack_has_stays_and_the_rest_is_the_templates_affair() -> None:
    assert parameters(SMALL, {"VpcId": "vpc-1"}, None) == [{"ParameterKey": "VpcId", "ParameterValue": "vpc-1"}]
    kept = parameters(SMALL, {"ScaleIn": "stop"}, stack(VpcId="vpc-1", ScaleIn="terminate", Old="x"))
    assert kept == [
        {"ParameterKey": "VpcId", "UsePreviousValue": True},
        {"ParameterKey": "ScaleIn", "ParameterValue": "stop"},
    ]


def test_a_parameter_that_the_template_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(SettingError, match="no parameter Scalein; it has ScaleIn, VpcId"):
        parameters(SMALL, {"Scalein": "stop"}, None)


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("auth.mode", "CreateUserPool"),
        ("auth.open", "CreateUserPool"),
        ("auth.sign_up", "OpenSignUp"),
        ("auth.user_pool_id", "the stack makes it"),
        ("auth.client_id", "the stack makes it"),
        ("web.hosts", "PageNames"),
    ],
)
def test_who_may_come_in_and_by_what_name_is_said_by_the_stacks_parameters(key: str, way: str) -> None:
    with pytest.raises(SettingError, match=f"--config {key}: the stack says that itself; .*{way}"):
        checked({key: "x"})


def test_a_parameter_without_default_must_be_given_and_the_message_says_how() -> None:
    with pytest.raises(SettingError, match=re.escape("VpcId (Where): give --set VpcId=…")):
        parameters(SMALL, {}, None)


def test_settings_survive_the_way_into_the_stack_and_back() -> None:
    settings = {"fleet.max_workers": "5", "fleet.schedule": '[{"from": "08:00"}]', "worker.top_k": "3"}
    assert settings_of(stack(**setting_parameters(settings))) == settings
    assert settings_of(stack(**setting_parameters({}))) == {}
    assert settings_of(None) == {}


@pytest.mark.parametrize("name", ["WebSettings", "WorkerSettings"])
def test_the_template_allows_what_settings_become_and_no_other_commands(name: str) -> None:
    pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
    line = setting_parameters({"worker.top_k": "3", "worker.batch_wait_seconds": "0.1"})[name]
    assert re.fullmatch(pattern, line)
    assert re.fullmatch(pattern, "")
    for other in ("rm -rf /", f"{line}; rm -rf /", f"{line} $(id)", "export A='1'", line.replace("'3'", "'3'\nid")):
        assert not re.fullmatch(pattern, other), other


def test_workers_are_told_of_their_own_section_only_so_that_other_settings_need_no_roll() -> None:
    lines = setting_parameters({"fleet.max_workers": "5", "worker.top_k": "3"})
    assert lines["WorkerSettings"] == "export FLEETSIGHT__WORKER__TOP_K='3'"
    assert "FLEETSIGHT__FLEET__MAX_WORKERS='5'" in lines["WebSettings"]


def test_a_setting_without_a_value_is_taken_back_and_others_stay() -> None:
    now = changed({"fleet.max_workers": "5", "web.threads": "9"}, {"fleet.max_workers": "", "fleet.min_workers": "1"})
    assert now == {"fleet.min_workers": "1", "web.threads": "9"}


def test_the_configuration_is_config_yaml_with_the_settings_in_it() -> None:
    config = checked({"fleet.max_workers": "5", "fleet.instance_types": "[c6a.large]"})
    assert (config.fleet.max_workers, config.fleet.instance_types) == (5, ("c6a.large",))


def test_what_user_data_says_of_itself_counts_too() -> None:
    said: dict[str, Any] = settings_in(user_data("WebTemplate"))
    for key, value in BY_THE_STACK.items():
        section, name = key.upper().split(".")
        assert said[f"FLEETSIGHT__{section}__{name}"] == value
    assert checked({}).controller.interval_seconds == 1


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("fleet.max_worker", "5", "unknown key"),
        ("fleet.max_workers", "many", "valid integer"),
        ("max_workers", "5", "write SECTION.KEY=VALUE"),
        ("names.job_table", "mine", "the stack says that itself"),
        ("fleet.subnet_ids", "[a]", "give --subnets"),
        ("worker.bundle", "/x", "BundleAddress"),
        ("web.host", "it's", "quotes"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_made(key: str, value: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        checked({key: value})


def test_more_settings_than_a_parameter_holds_are_refused_with_the_other_way() -> None:
    with pytest.raises(SettingError, match="fleetsight bake"):
        setting_parameters({"fleet.schedule": "x" * 4_096})
