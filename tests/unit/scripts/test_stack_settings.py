"""The stack's template, its parameters, and the keys of config.yaml that it overrides."""

import json
import re
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint  # type: ignore[import-untyped]

from core.config import RetentionSettings, WebSettings, parse_config
from scripts.aws.deploy.auth import check_provider, has_sign_in
from scripts.aws.deploy.settings import (
    STACK_KEYS,
    STACK_SECTIONS,
    STACK_VALUES,
    UNKEPT_KEY,
    UNKEPT_PARAMETER,
    SettingError,
    StackSettings,
    StackTemplate,
    TemplateParameter,
    change_set_parameters,
    check_parameters,
    config_parameters,
    load_template,
    source_parameters,
    template_for,
    unkept_days,
    validated_config,
    with_static_names,
)
from scripts.aws.deploy.stack import StackDescription
from services.cloudformation import parse_template
from tests.conftest import ROOT, shipped_values
from tests.support.stack_template import GIVEN, RESOURCES, TEMPLATE, of_type, user_data, value_of
from tests.support.stack_template import settings as settings_in

SMALL = StackTemplate(
    "", {"VpcId": TemplateParameter("Where"), "ScaleIn": TemplateParameter("What", "terminate")}, {}
)

OTHER = {"Issuer": "https://id.example.org", "ClientId": "fleet"}


def stack(**parameters: str) -> StackDescription:
    return StackDescription("fs", "arn", "CREATE_COMPLETE", parameters=parameters)


def test_an_unknown_parameter_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(SettingError, match=r"no parameter Scalein; it has .*ScaleIn, .*VpcId"):
        check_parameters(StackSettings({"Scalein": "stop"}), None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WebInstances", "5", "WebInstances=5: it must be one of 1, 2, 3, 4 (Number of web instances"),
        ("MonthlyBudget", "ten", "MonthlyBudget=ten: it must be a number (Monthly budget"),
        ("WebCidr", "everybody", "WebCidr=everybody: it must match [0-9.]+/[0-9]{1,2} (CIDR range of the clients"),
        ("StaticSite", "true", "StaticSite needs DomainName"),
    ],
)
def test_an_invalid_parameter_is_rejected_with_the_allowed_values(name: str, value: str, words: str) -> None:
    with pytest.raises(SettingError, match=re.escape(words)):
        check_parameters(StackSettings({name: value}), None)


def test_a_rule_also_applies_to_the_stacks_values() -> None:
    check_parameters(StackSettings({"WebInstances": "3"}), stack(CertificateArn="arn", PageNames="a.example"))
    with pytest.raises(SettingError, match="needs CertificateArn"):
        check_parameters(StackSettings({"CertificateArn": ""}), stack(WebInstances="3"))


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("auth.mode", "CreateUserPool"),
        ("auth.open", "CreateUserPool"),
        ("auth.issuer", "Issuer"),
        ("auth.client_id", "ClientId"),
        ("auth.scopes", "Scopes"),
        ("auth.groups_claim", "GroupsClaim"),
        ("auth.operators_group", "OperatorsGroupName"),
        ("web.hosts", "PageNames"),
    ],
)
def test_sign_in_and_host_names_are_parameters_of_the_stack(key: str, way: str) -> None:
    with pytest.raises(SettingError, match=f"--config {key}: the stack says that itself; .*{way}"):
        validated_config({key: "x"})


@pytest.mark.parametrize(
    ("given", "had", "prefix", "remedy"),
    [
        ({"CreateUserPool": "true"} | OTHER, {}, "fs", "leave out CreateUserPool"),
        ({"CreateUserPool": "true"}, OTHER, "fs", "--set Issuer= --set ClientId="),
        ({}, {}, "aws-fleet", "--set SignInDomain="),
    ],
)
def test_contradicting_settings_of_sign_in_are_rejected_with_the_remedy(
    given: dict[str, str], had: dict[str, str], prefix: str, remedy: str
) -> None:
    with pytest.raises(SettingError, match=remedy):
        check_provider(prefix, StackSettings(given), stack(**had))


@pytest.mark.parametrize(
    ("given", "had", "prefix"),
    [
        (OTHER, {"CreateUserPool": "true"}, "fs"),
        ({"CreateUserPool": "true", "Issuer": "", "ClientId": ""}, OTHER, "fs"),
        ({"SignInDomain": "photos"}, {}, "aws-fleet"),
        (OTHER, {}, "aws-fleet"),
    ],
)
def test_settings_of_one_provider_are_accepted(given: dict[str, str], had: dict[str, str], prefix: str) -> None:
    check_provider(prefix, StackSettings(given), stack(**had))
    assert has_sign_in(StackSettings(given), stack(**had))


def test_a_required_parameter_without_value_is_an_error() -> None:
    with pytest.raises(SettingError, match=re.escape("VpcId (Where): give --set VpcId=…")):
        change_set_parameters(SMALL, {}, None)


@pytest.mark.parametrize("name", ["WebSettings", "WorkerSettings"])
def test_the_template_accepts_overrides_and_no_other_commands(name: str) -> None:
    pattern = TEMPLATE["Parameters"][name]["AllowedPattern"]
    line = config_parameters({"worker.top_k": "3", "worker.decode_seconds": "9"})[name]
    assert re.fullmatch(pattern, line)
    assert re.fullmatch(pattern, "")
    for other in ("rm -rf /", f"{line}; rm -rf /", f"{line} $(id)", "export A='1'", line.replace("'3'", "'3'\nid")):
        assert not re.fullmatch(pattern, other), other


def test_workers_get_all_keys_that_they_read() -> None:
    limits = {f"web.{name}" for name in WebSettings.model_fields if name.startswith("max_image_")}
    source = "".join(path.read_text() for path in (ROOT / "app_tier").rglob("*.py"))
    read = {".".join(found) for found in re.findall(r"config\.([a-z]+)\.([a-z_]+)", source)} - {"web.image_limits"}
    assert "worker.idle_seconds" in read
    for key in read | limits:
        is_the_stacks = key in STACK_KEYS or key.split(".")[0] in STACK_SECTIONS
        assert is_the_stacks or config_parameters({key: "1"})["WorkerSettings"], key


def test_the_configuration_has_the_values_of_user_data() -> None:
    printed: dict[str, Any] = settings_in(user_data("WebTemplate"))
    for key, value in STACK_VALUES.items():
        section, name = key.upper().split(".")
        assert printed[f"FLEETSIGHT__{section}__{name}"] == value
    assert validated_config({}).controller.interval_seconds == 1


@pytest.mark.parametrize(
    ("key", "value", "reported"),
    [
        ("fleet.max_worker", "5", "unknown key"),
        ("fleet.max_workers", "many", "must be an integer"),
        ("max_workers", "5", "write SECTION.KEY=VALUE"),
        ("names.job_table", "mine", "the stack says that itself"),
        ("fleet.subnet_ids", "[a]", "give --subnets"),
        ("queues.kind", "fifo", "its queues are standard ones"),
        ("queues.visibility_timeout_seconds", "60", "infra/stack.yaml"),
        ("queues.max_message_bytes", "1024", "--set MaxMessageBytes=1024"),
        ("worker.bundle", "/x", "BundleAddress"),
        ("web.host", "it's", "quotes"),
    ],
)
def test_an_invalid_override_is_rejected(key: str, value: str, reported: str) -> None:
    with pytest.raises(SettingError, match=reported):
        validated_config({key: value})


def test_too_many_overrides_are_rejected_with_the_alternative() -> None:
    with pytest.raises(SettingError, match="fleetsight bake"):
        config_parameters({"fleet.schedule": "x" * 4_096})


VALUES = {"Prefix": "fs", "AWS::AccountId": "123456789012", "AWS::Region": "eu-west-1"}
NAMES = {"AWS::S3::Bucket": "BucketName", "AWS::DynamoDB::Table": "TableName"}


def names(body: str) -> dict[str, Any]:
    """The names of the buckets and tables by logical name, as the template states them."""
    found = parse_template(body)["Resources"].items()
    return {key: each["Properties"][NAMES[each["Type"]]] for key, each in found if each["Type"] in NAMES}


def test_retained_buckets_and_tables_have_literal_names() -> None:
    assert names(with_static_names(load_template().body, VALUES)) == {
        "InputBucket": "fs-input-123456789012-eu-west-1",
        "OutputBucket": "fs-output-123456789012-eu-west-1",
        "ModelBucket": "fs-models-123456789012-eu-west-1",
        "LogBucket": "fs-logs-123456789012-eu-west-1",
        "SiteBucket": "fs-site-123456789012-eu-west-1",
        "JobTable": "fs-jobs",
    }


def test_nothing_else_of_the_template_changes() -> None:
    before, after = load_template().body.splitlines(), with_static_names(load_template().body, VALUES).splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == len(names(load_template().body))


def test_a_template_without_budget_and_site_names_no_type_that_a_region_lacks() -> None:
    has = {"StaticSite": "true", "MonthlyBudget": "190"}
    assert template_for(has) == load_template().body
    body = template_for({"StaticSite": "false", "MonthlyBudget": "0"})
    lacking = ManualArgs(regions=["us-gov-west-1", "us-gov-east-1", "eu-central-2"])
    assert [each for each in lint(body, config=lacking) if each.rule.id.startswith("E")] == []
    left = parse_template(body)
    kinds = ("CloudFront", "Budgets")
    gone = {name for name, each in RESOURCES.items() if each["Type"].split("::")[1] in kinds}
    assert RESOURCES.keys() - left["Resources"].keys() == gone | {"SiteBucket", "SiteBucketPolicy", "SiteRecord"}
    assert all(value_of(each) == value_of(RESOURCES[name]) for name, each in left["Resources"].items())
    of_site = {"SiteAddress", "SiteBucketName", "SiteDistributionId"}
    assert TEMPLATE["Outputs"].keys() - left["Outputs"].keys() == of_site
    only_budget = parse_template(template_for({**has, "MonthlyBudget": "0"}))["Resources"]
    assert RESOURCES.keys() - only_budget.keys() == {"MonthlyCost"}


def retention(days: float) -> RetentionSettings:
    return RetentionSettings(unkept_days=days)


@pytest.mark.parametrize(
    ("given", "had", "days", "wanted"),
    [
        ({}, None, 7, "30"),  # the bucket expires 23 days after jobs
        ({}, None, 0.5, "24"),
        ({}, None, 0, "0"),
        ({}, "60", 7, "60"),  # said with --set once
        ({}, "30", 30, "53"),  # config.yaml has overtaken it
        ({UNKEPT_KEY: "14"}, "60", 14, "37"),  # another retention is given, or the override of it is taken back
        ({UNKEPT_KEY: "7", UNKEPT_PARAMETER: "8"}, "60", 7, "8"),  # a parameter has precedence
        ({UNKEPT_KEY: "7", UNKEPT_PARAMETER: "0"}, "60", 7, "0"),
    ],
)
def test_the_expiry_days_outlive_the_jobs_and_keep_the_stacks_value_unless_too_short(
    given: dict[str, str], had: str | None, days: float, wanted: str
) -> None:
    config = {key: value for key, value in given.items() if key == UNKEPT_KEY}
    settings = StackSettings({key: value for key, value in given.items() if key not in config}, config)
    present = None if had is None else stack(**{UNKEPT_PARAMETER: had})
    assert unkept_days(retention(days), settings, present) == wanted
    if had is None:  # as a stack from before there was a rule
        assert unkept_days(retention(days), settings, stack()) == wanted


@pytest.mark.parametrize(
    ("given", "days", "reported"),
    [
        ("7", 7, "expire after 7 days .*: give more than 7, or 0"),
        ("30", 0, "expire never .*: give 0"),
        ("8.5", 7, "give whole days"),
    ],
)
def test_unkept_days_before_the_expiry_of_jobs_are_rejected(given: str, days: float, reported: str) -> None:
    with pytest.raises(SettingError, match=reported):
        unkept_days(retention(days), StackSettings({"UnkeptDays": given}), None)


@pytest.mark.parametrize("partition", ["aws", "aws-us-gov"])
def test_as_many_locations_are_accepted_as_the_controllers_role_has_room_for(
    monkeypatch: pytest.MonkeyPatch, partition: str
) -> None:
    """The inline policies of a role have 10,240 characters in all, without white space:
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html.
    """
    prefix, region, values = "a" * 16, "ap-southeast-2", shipped_values()

    def rights(count: int) -> dict[str, str]:
        sources = [{"location": f"s3://{'b' * 20}-{number:03}/in"} for number in range(count)]
        values["imports"] = {"sources": sources, "destinations": [{"location": "s3://results"}]}
        return source_parameters(parse_config(values), partition)

    accepted = 0
    with pytest.raises(SettingError, match="name fewer locations"):
        while rights(accepted + 1):
            accepted += 1
    given = {
        "Prefix": prefix, "AWS::Region": region, "AWS::Partition": partition,
        "RestoredJobTable": f"{prefix}-jobs-restored-20260101T000000Z",
        **{name: each.split(",") for name, each in rights(accepted).items()},
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setitem(GIVEN, name, value)
    policies = [each["PolicyDocument"] for each in RESOURCES["ControllerRole"]["Properties"]["Policies"]]
    policies += [
        each["PolicyDocument"]
        for each in of_type("IAM::Policy").values()
        if {"Ref": "ControllerRole"} in each["Roles"]
    ]
    text = json.dumps([value_of(each) for each in policies], separators=(",", ":"))
    # What only AWS knows: an ARN has at most 80 characters, an id 20.
    size = len(re.sub("<[^>]*>", "i" * 20, re.sub("<[^>]*[.]Arn>", "A" * 80, text)))
    assert 10_240 - 400 < size <= 10_240


def test_the_controller_may_use_the_locations_of_the_configuration_and_nothing_else() -> None:
    values = shipped_values()
    assert set(source_parameters(parse_config(values), "aws").values()) == {""}
    values["imports"] = {
        "sources": [{"location": "s3://photos/incoming"}, {"location": "s3://archive"}],
        "destinations": [{"location": "s3://photos/labels"}, {"location": "s3://results"}],
    }
    assert source_parameters(parse_config(values), "aws-cn") == {
        "SourceBuckets": "arn:aws-cn:s3:::photos,arn:aws-cn:s3:::archive",
        "SourcePrefixes": "incoming/*,*",
        "SourceObjects": "arn:aws-cn:s3:::photos/incoming/*,arn:aws-cn:s3:::archive/*",
        "DestinationObjects": "arn:aws-cn:s3:::photos/labels/*,arn:aws-cn:s3:::results/*",
    }
