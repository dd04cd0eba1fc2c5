"""The stack as a whole: tagged, with alarms and metrics; its storage, private and kept; and its static site."""

import json
import logging
import re
from typing import Any

import pytest

from core.config import parse_config
from core.embedded_metrics import CONTROLLER_METRICS, WEB_METRICS
from core.jobs.buckets import UNKEPT
from core.logs import JsonFormatter
from scripts.aws.deploy.settings import StackSettings, load_template, parameter_values
from scripts.aws.down import MAX_GROUP_SIZE
from scripts.aws.site import PAGES
from services.table import EXPIRES_AT
from tests.conftest import ROOT, shipped_values
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    as_json,
    of_type,
    references,
    statements,
    user_data,
    value_of,
)
from web_tier.auth.permissions import Right
from web_tier.autoscaler.reporting import METRICS_SECONDS
from web_tier.http.assets import STATIC
from web_tier.http.metrics import WebMetrics
from web_tier.http.middleware import Middleware
from web_tier.http.routes import RoutedApp

WEB_INSTANCES = load_template().parameters["WebInstances"]


@pytest.mark.parametrize(
    "alarm", [pytest.param(each, id=name) for name, each in of_type("CloudWatch::Alarm").items()]
)
def test_an_alarm_reaches_the_topic_and_missing_data_breaches_only_a_lower_bound(
    alarm: dict[str, Any],
) -> None:
    assert alarm["AlarmActions"] == [{"Ref": "Alerts"}]
    has_lower_bound = alarm["ComparisonOperator"].startswith("LessThan")
    assert alarm["TreatMissingData"] == ("breaching" if has_lower_bound else "notBreaching")


def test_the_budget_reaches_the_topic() -> None:
    notes = RESOURCES["MonthlyCost"]["Properties"]["NotificationsWithSubscribers"]
    to_topic = [{"SubscriptionType": "SNS", "Address": {"Ref": "Alerts"}}]
    assert [note["Subscribers"] for note in notes] == [to_topic] * 2


@pytest.mark.parametrize("queue", of_type("SQS::Queue"))
def test_each_queue_has_an_alarm(queue: str) -> None:
    watched = [value_of(alarm.get("Dimensions", [])) for alarm in of_type("CloudWatch::Alarm").values()]
    name = value_of(RESOURCES[queue]["Properties"]["QueueName"])
    assert [{"Name": "QueueName", "Value": name}] in watched


def test_only_alarms_and_budgets_of_this_account_write_to_the_topic() -> None:
    allow, refuse = of_type("SNS::TopicPolicy")["AlertsPolicy"]["PolicyDocument"]["Statement"]
    assert [each["Resource"] for each in (allow, refuse)] == [{"Ref": "Alerts"}] * 2
    assert [each["Action"] for each in (allow, refuse)] == ["sns:Publish"] * 2
    assert (allow["Effect"], refuse["Principal"]) == ("Allow", "*")
    assert set(allow["Principal"]["Service"]) == {"budgets.amazonaws.com", "cloudwatch.amazonaws.com"}
    assert value_of(allow["Condition"]) == {"StringEquals": {"aws:SourceAccount": "123456789012"}}
    assert (refuse["Effect"], refuse["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_logs_expire() -> None:
    assert {value_of(group.get("RetentionInDays")) for group in of_type("Logs::LogGroup").values()} == {30}


# CloudFormation gives these no tags of their own.
UNTAGGED = {
    "AWS::AutoScaling::AutoScalingGroup",  # has them, each with PropagateAtLaunch; below
    "AWS::CloudFront::Function",
    "AWS::CloudFront::OriginAccessControl",
    "AWS::CloudFront::ResponseHeadersPolicy",
    "AWS::Cognito::ManagedLoginBranding",
    "AWS::Cognito::UserPoolClient",
    "AWS::Cognito::UserPoolDomain",
    "AWS::Cognito::UserPoolGroup",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::IAM::InstanceProfile",
    "AWS::IAM::Policy",
    "AWS::Route53::RecordSet",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::Subscription",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}


def prefix_of(properties: dict[str, Any]) -> object:
    """Return the value of the tag with which a resource names its prefix."""
    if "TagSpecifications" in properties:
        tags = properties["TagSpecifications"][0]["Tags"]
    else:
        tags = next(properties[key] for key in ("Tags", "UserPoolTags", "ResourceTags") if key in properties)
    return tags["fleetsight"] if isinstance(tags, dict) else {tag["Key"]: tag["Value"] for tag in tags}["fleetsight"]


def test_each_resource_that_can_have_tags_names_its_prefix() -> None:
    tagged = {name: each["Properties"] for name, each in RESOURCES.items() if each["Type"] not in UNTAGGED}
    assert [name for name, each in tagged.items() if prefix_of(each) != {"Ref": "Prefix"}] == []


def test_a_web_instance_is_replaced_by_one_more_than_there_are_and_all_signal() -> None:
    group, count = RESOURCES["WebGroup"], {"Ref": "WebInstances"}
    assert (group["Properties"]["MinSize"], group["Properties"]["DesiredCapacity"]) == (count, count)
    assert group["CreationPolicy"]["ResourceSignal"]["Count"] == count
    assert group["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == count
    # "must be less than the MaxSize": TemplateReference/aws-attribute-updatepolicy.html of AWS.
    assert int(group["Properties"]["MaxSize"]) == MAX_GROUP_SIZE == max(map(int, WEB_INSTANCES.allowed)) + 1
    assert WEB_INSTANCES.default == "1"
    (tag,) = group["Properties"]["Tags"]
    assert (tag["Key"], tag["PropagateAtLaunch"]) == ("fleetsight", True)


NAMED = {
    "DomainName": "images.example.org",
    "HostedZoneId": "Z1",
    "CertificateArn": "arn:aws:acm:eu-central-1:1:certificate/a",
}
SITE = NAMED | {"StaticSite": "true", "WebCidr": "0.0.0.0/0"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, []),
        ({"WebInstances": "2"}, ["WebInstances above 1 needs CertificateArn"]),
        (NAMED | {"WebInstances": "2"}, []),
        ({"CertificateArn": NAMED["CertificateArn"]}, ["Sign-in at a load balancer needs the name"]),
        ({"CertificateArn": NAMED["CertificateArn"], "PageNames": "a.example.org"}, []),
        ({"CertificateArn": NAMED["CertificateArn"], "CreateUserPool": "false"}, []),
        ({"Issuer": "https://id.example.org"}, ["Issuer and ClientId belong together"]),
        ({"ClientId": "fleet"}, ["Issuer and ClientId belong together"]),
        ({"Issuer": "https://id.example.org", "ClientId": "fleet"}, []),
        (SITE, []),
        (
            {"StaticSite": "true"},
            ["StaticSite needs DomainName, HostedZoneId and CertificateArn", "StaticSite needs WebCidr 0.0.0.0/0"],
        ),
        (SITE | {"SiteName": "www.example.org"}, ["SiteName needs StaticSite true and SiteCertificateArn"]),
        (SITE | {"SiteName": "w.example.org", "SiteCertificateArn": "arn:aws:acm:us-east-1:1:certificate/a"}, []),
    ],
)
def test_rules_reject_parameters_that_do_not_fit_together(given: dict[str, str], said: list[str]) -> None:
    broken = load_template().broken_rules(parameter_values(StackSettings(given), None))
    assert [rule.startswith(start) for rule, start in zip(broken, said, strict=True)] == [True] * len(said)


def seconds(duration: str) -> int:
    """Return a duration of whole minutes, such as PT15M, in seconds."""
    return int(duration.removeprefix("PT").removesuffix("M")) * 60


def test_the_stack_waits_for_a_new_web_instance_longer_than_its_start_may_take() -> None:
    group = RESOURCES["WebGroup"]
    rolling = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
    created = group["CreationPolicy"]["ResourceSignal"]
    assert (rolling["WaitOnResourceSignals"], rolling["MinSuccessfulInstancesPercent"]) == (True, 100)
    timer = (ROOT / "ami/files/web/etc/systemd/system/fleetsight-unstarted@ready.timer").read_text()
    until_failure = int(timer.split("OnBootSec=")[1].split()[0])
    for wait in (rolling["PauseTime"], created["Timeout"]):
        assert until_failure + 120 <= seconds(wait) <= 3_600, "a launch may take two minutes; AWS allows an hour"
    # No process replaces the new instance before it signals; the processes that a rolling update needs still run.
    suspended = set(rolling["SuspendProcesses"])
    assert {"HealthCheck", "ReplaceUnhealthy", "AZRebalance"} <= suspended
    assert not suspended & {"Launch", "Terminate", "AddToLoadBalancer"}


def test_a_web_instance_may_signal_its_own_stack_before_the_group_waits() -> None:
    statement = statements("WebRole")["SignalTheStack"]
    assert statement["Action"] == "cloudformation:SignalResource"
    assert value_of(statement["Resource"]) == GIVEN["AWS::StackId"]
    assert f"export FLEETSIGHT_STACK='{GIVEN['AWS::StackId']}'\n" in user_data("WebTemplate")
    # The role has this statement from its creation on; what the start needs besides is made before the group, too.
    own = [each["Sid"] for each in RESOURCES["WebRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]]
    assert "SignalTheStack" in own
    before = {*RESOURCES["WebGroup"]["DependsOn"], *references(RESOURCES["WebTemplate"])}
    assert {
        "WebInstanceRunsController",
        "SessionManagerPolicy",
        "BundlePolicy",
        "TlsPolicy",
        "SignInPolicy",
    } <= before


def test_no_parameter_or_output_is_a_secret() -> None:
    assert not any(each.get("NoEcho") for each in TEMPLATE["Parameters"].values())
    assert not [name for name in TEMPLATE["Outputs"] if re.search(r"secret|password|key$", name, re.IGNORECASE)]


# ---- Metrics and alarms of what the tiers themselves log

NAMESPACE = "fleetsight"


def embedded(lines: list[str]) -> dict[str, list[float]]:
    """Return the values that CloudWatch makes of lines in the embedded metric format, by the metrics' names.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    values: dict[str, list[float]] = {}
    for line in lines:
        fields = json.loads(line)
        if "_aws" not in fields:
            continue
        assert isinstance(fields["_aws"]["Timestamp"], int)
        (directive,) = fields["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == (NAMESPACE, [["process"]])
        assert isinstance(fields["process"], str)
        for metric in directive["Metrics"]:
            assert metric["Unit"] in {"Count", "Seconds", "Percent", "None"}
            assert isinstance(fields[metric["Name"]], int | float)
            values.setdefault(metric["Name"], []).append(fields[metric["Name"]])
    return values


def answered(status: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that the web tier writes when it answers a request with `status`."""
    app = RoutedApp("tier")
    Middleware(parse_config(shipped_values()).web, WebMetrics(), NAMESPACE).install(app)
    app.add_url_rule("/", view_func=lambda: ("", status), right=Right.PUBLIC)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        app.test_client().get("/")
    return [JsonFormatter("web").format(record) for record in caplog.records]


@pytest.mark.parametrize(("status", "values"), [(200, []), (404, []), (499, []), (500, [1]), (503, [1])])
def test_the_web_tiers_line_of_a_request_counts_its_errors(
    status: int, values: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert embedded(answered(status, caplog)) == ({"web_errors": values} if values else {})


def named(widgets: list[list[Any]]) -> set[tuple[str, str, str]]:
    """Return namespace, name and dimension of each metric, where `.` repeats what the one before it has there."""
    found = set()
    for metrics in widgets:
        before: list[str] = [""] * 4
        for metric in metrics:
            if isinstance(metric[0], str):
                before = [old if new == "." else new for old, new in zip(before, metric, strict=False)]
                found.add((before[0], before[1], before[3]))
    return found


def test_alarms_and_dashboard_use_the_metrics_of_the_logs() -> None:
    made = {(name, "controller") for name in CONTROLLER_METRICS} | {(name, "web") for name in WEB_METRICS}
    own = [each for each in of_type("CloudWatch::Alarm").values() if each.get("Namespace") == {"Ref": "Prefix"}]
    assert len(own) == 5
    dimensions = [value_of(each["Dimensions"]) for each in own]
    assert all([each["Name"] for each in of_one] == ["process"] for of_one in dimensions)
    alarmed = {(each["MetricName"], of_one[0]["Value"]) for each, of_one in zip(own, dimensions, strict=True)}
    assert alarmed <= made
    widgets = as_json(RESOURCES["Dashboard"]["Properties"]["DashboardBody"])["widgets"]
    shown = named([each["properties"]["metrics"] for each in widgets])
    assert {(name, process) for space, name, process in shown if space == NAMESPACE} == made


def test_the_documentation_lists_the_metrics_of_cloudwatch() -> None:
    text = (ROOT / "infra" / "README.md").read_text(encoding="utf-8").partition("## CloudWatch metrics")[2]
    text = text.partition("\n## ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    listed = {name: row[1].strip("`") for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert listed == dict.fromkeys(CONTROLLER_METRICS, "controller") | dict.fromkeys(WEB_METRICS, "web")


def test_an_alarm_is_raised_without_a_controller_for_5_minutes_or_at_maximum_for_15() -> None:
    silent, full = (RESOURCES[name]["Properties"] for name in ("NobodyControls", "FleetAtMaximum"))
    assert silent["Period"] == METRICS_SECONDS
    assert silent["Period"] * silent["EvaluationPeriods"] == 300
    compared = (silent["Statistic"], silent["ComparisonOperator"], silent["Threshold"])
    assert compared == ("SampleCount", "LessThanThreshold", 1)
    assert full["Period"] * full["EvaluationPeriods"] == 900
    assert full["Period"] >= 2 * METRICS_SECONDS  # no period without a line
    assert (full["Statistic"], full["Threshold"]) == ("Minimum", 1)


# ---- What the stack stores

BUCKETS = tuple(of_type("S3::Bucket"))
KEPT = ("InputBucket", "OutputBucket", "ModelBucket", "LogBucket")
"""Buckets with data; the site's files can be published again."""
QUEUES = tuple(of_type("SQS::Queue"))


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_is_private_and_encrypted_and_belongs_to_the_account_alone(name: str) -> None:
    bucket = RESOURCES[name]["Properties"]
    blocked = bucket["PublicAccessBlockConfiguration"]
    assert set(blocked) == {"BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"}
    assert all(blocked.values())
    (encryption,) = value_of(bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"])
    own = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": GIVEN["DataKeyArn"]}
    by_key = {"ServerSideEncryptionByDefault": own, "BucketKeyEnabled": True}
    by_s3 = {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    assert encryption == (by_s3 if name in {"SiteBucket", "LogBucket"} else by_key)
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert "AccessControl" not in bucket


UNFINISHED = {
    "Id": "unfinished-uploads",
    "Status": "Enabled",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}


def test_unfinished_uploads_expire_after_a_day_and_besides_only_unkept_images() -> None:
    versions = {"Id": "deleted-bundles", "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 30}}
    deleted = {
        "Id": "deleted-objects",
        "Status": "Enabled",
        "ExpiredObjectDeleteMarker": True,
        "NoncurrentVersionExpiration": {"NoncurrentDays": 1},  # those from before `UndeleteDays` was set to 0
    }
    rules = {name: value_of(RESOURCES[name]["Properties"]["LifecycleConfiguration"]["Rules"]) for name in KEPT[:3]}
    assert rules["OutputBucket"] == [UNFINISHED, deleted]
    assert rules["ModelBucket"] == [UNFINISHED, versions]
    *others, rule = rules["InputBucket"]
    assert others == [UNFINISHED, deleted]
    assert rule == {
        "Id": "unkept-images",
        "Status": "Enabled",
        "TagFilters": [{"Key": key, "Value": value} for key, value in UNKEPT.items()],
        "ExpirationInDays": 30,
    }


def test_unkept_images_expire_after_their_jobs_or_never_if_zero_days_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TEMPLATE["Parameters"]["UnkeptDays"]["Default"] > shipped_values()["retention"]["unkept_days"]
    *_, rule = RESOURCES["InputBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["Fn::If"][2] == {"Ref": "AWS::NoValue"}
    assert value_of(TEMPLATE["Conditions"][rule["Fn::If"][0]]) is True
    monkeypatch.setitem(GIVEN, "UnkeptDays", "0")
    assert value_of(TEMPLATE["Conditions"][rule["Fn::If"][0]]) is False


def test_a_deletion_is_final_unless_deleted_objects_are_kept_and_published_bundles_are_kept_a_month(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def versions(name: str) -> object:
        return value_of(RESOURCES[name]["Properties"]).get("VersioningConfiguration")

    enabled = {"Status": "Enabled"}
    assert [versions(name) for name in KEPT[:3]] == [None, None, enabled]
    monkeypatch.setitem(GIVEN, "UndeleteDays", "14")
    assert [versions(name) for name in KEPT[:3]] == [enabled] * 3
    for name in ("InputBucket", "OutputBucket"):
        rules = value_of(RESOURCES[name]["Properties"]["LifecycleConfiguration"]["Rules"])
        (rule,) = [each for each in rules if each["Id"] == "deleted-objects"]
        assert (rule["NoncurrentVersionExpiration"], rule["ExpiredObjectDeleteMarker"]) == (
            {"NoncurrentDays": "14"},
            True,
        )


def test_access_logs_go_to_a_bucket_that_only_s3_and_the_load_balancer_write_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/enable-server-access-logging.html and
    https://docs.aws.amazon.com/elasticloadbalancing/latest/application/enable-access-logging.html.
    """
    balancer = RESOURCES["LoadBalancer"]["Properties"]["LoadBalancerAttributes"]
    assert {"Key": "access_logs.s3.enabled", "Value": "false"} in value_of(balancer)
    assert all("LoggingConfiguration" not in value_of(RESOURCES[name]["Properties"]) for name in KEPT)
    monkeypatch.setitem(GIVEN, "AccessLogDays", "90")
    bucket = value_of(RESOURCES["LogBucket"]["Properties"]["BucketName"])
    logged = [value_of(RESOURCES[name]["Properties"])["LoggingConfiguration"] for name in KEPT[:3]]
    assert [each["DestinationBucketName"] for each in logged] == [bucket] * 3
    assert [each["LogFilePrefix"] for each in logged] == ["input/", "output/", "models/"]
    found = {each["Key"]: each["Value"] for each in value_of(balancer)}
    assert (found["access_logs.s3.bucket"], found["access_logs.s3.prefix"]) == (bucket, "load-balancer")
    assert found["access_logs.s3.enabled"] == "true"
    allowed = {
        each["Principal"]["Service"]: value_of(each["Resource"])
        for each in RESOURCES["LogBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
        if each["Effect"] == "Allow"
    }
    assert allowed == {
        "logdelivery.elasticloadbalancing.amazonaws.com": "<LogBucket.Arn>/load-balancer/AWSLogs/123456789012/*",
        "logging.s3.amazonaws.com": "<LogBucket.Arn>/*",
    }


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_denies_requests_without_tls_12_or_newer(name: str) -> None:
    (policy,) = [each for each in of_type("S3::BucketPolicy").values() if each["Bucket"] == {"Ref": name}]
    statements = policy["PolicyDocument"]["Statement"]
    refused = {each["Sid"]: each for each in statements if each["Effect"] == "Deny"}
    assert refused["OnlyOverTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert refused["OnlyOverTls12OrNewer"]["Condition"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}
    for each in refused.values():
        assert (each["Principal"], each["Action"]) == ("*", "s3:*")
        assert value_of(each["Resource"]) == [f"<{name}.Arn>", f"<{name}.Arn>/*"]


def test_only_named_origins_may_post_into_the_input_bucket() -> None:
    condition, cors, otherwise = RESOURCES["InputBucket"]["Properties"]["CorsConfiguration"]["Fn::If"]
    (rule,) = cors["CorsRules"]
    assert condition == "HasUploadOrigins"
    assert (rule["AllowedMethods"], rule["AllowedOrigins"]) == (["POST"], {"Ref": "UploadOrigins"})
    assert otherwise == {"Ref": "AWS::NoValue"}
    assert "CorsConfiguration" not in RESOURCES["OutputBucket"]["Properties"]


@pytest.mark.parametrize("name", [*KEPT, "JobTable", "UserPool"])
def test_data_of_users_outlives_the_stack(name: str) -> None:
    assert (RESOURCES[name]["DeletionPolicy"], RESOURCES[name]["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_the_job_table_fits_the_store_and_can_be_restored_to_any_minute() -> None:
    table = RESOURCES["JobTable"]["Properties"]
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    assert {each["AttributeType"] for each in table["AttributeDefinitions"]} == {"S"}
    assert table["TimeToLiveSpecification"] == {"Enabled": True, "AttributeName": EXPIRES_AT}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    own = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": GIVEN["DataKeyArn"]}
    assert value_of(table["SSESpecification"]) == own


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_encrypted_and_denies_requests_without_tls(name: str) -> None:
    queue = value_of(RESOURCES[name]["Properties"])
    assert (queue["SqsManagedSseEnabled"], queue["KmsMasterKeyId"]) == (False, GIVEN["DataKeyArn"])
    (policy,) = [each for each in of_type("SQS::QueuePolicy").values() if each["Queues"] == [{"Ref": name}]]
    (refused,) = policy["PolicyDocument"]["Statement"]
    assert (refused["Effect"], refused["Principal"], refused["Action"]) == ("Deny", "*", "sqs:*")
    assert value_of(refused["Resource"]) == f"<{name}.Arn>"
    assert refused["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_queues_are_set_as_in_config_yaml() -> None:
    queues = shipped_values()["queues"]
    assert queues["kind"] == "standard"
    for name in QUEUES:
        assert RESOURCES[name]["Properties"]["VisibilityTimeout"] == queues["visibility_timeout_seconds"]
        assert RESOURCES[name]["Properties"]["MaximumMessageSize"] == {"Ref": "MaxMessageBytes"}
        # As long as SQS keeps any.
        assert RESOURCES[name]["Properties"]["MessageRetentionPeriod"] == 14 * 86_400
    redrive = RESOURCES["RequestQueue"]["Properties"]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] == queues["max_receive_count"]
    assert value_of(redrive["deadLetterTargetArn"]) == "<DeadLetterQueue.Arn>"


def test_dead_letters_come_from_the_request_queue_alone() -> None:
    allow = value_of(RESOURCES["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"])
    requests = "arn:aws:sqs:eu-central-1:123456789012:fleetsight-requests"
    assert allow == {"redrivePermission": "byQueue", "sourceQueueArns": [requests]}


def test_without_an_own_key_keys_of_aws_encrypt_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GIVEN, "DataKeyArn", "")
    for name in BUCKETS:
        (encryption,) = value_of(
            RESOURCES[name]["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        )
        assert encryption == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    for name in QUEUES:
        queue = value_of(RESOURCES[name]["Properties"])
        assert (queue["SqsManagedSseEnabled"], "KmsMasterKeyId" in queue) == (True, False)
    assert value_of(RESOURCES["JobTable"]["Properties"]["SSESpecification"]) == {"SSEEnabled": True}


# ---- The static site: one name for files and web tier, and the origin of each answer

DISTRIBUTION = RESOURCES["Site"]["Properties"]["DistributionConfig"]
BY_PATTERN = {each["PathPattern"]: each for each in DISTRIBUTION["CacheBehaviors"]}

# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-cache-policies.html
# https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/using-managed-origin-request-policies.html
CACHING_DISABLED = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER_EXCEPT_HOST = "b689b0a8-53d0-40ab-baf2-68738e2966ac"
EVERY_METHOD = {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "POST", "DELETE"}


def test_each_path_has_its_origin_and_https_and_files_have_the_security_headers() -> None:
    default = DISTRIBUTION["DefaultCacheBehavior"]
    origins = {pattern: each["TargetOriginId"] for pattern, each in BY_PATTERN.items()}
    assert origins == dict.fromkeys(PAGES, "files") | {f"{STATIC}*": "static"}
    assert default["TargetOriginId"] == "web"
    assert {each["ViewerProtocolPolicy"] for each in (default, *BY_PATTERN.values())} == {"redirect-to-https"}
    assert [each["ResponseHeadersPolicyId"] for each in BY_PATTERN.values()] == [{"Ref": "SiteHeaders"}] * len(
        origins
    )


def test_only_the_sites_own_distribution_reads_its_bucket_and_by_signed_requests() -> None:
    allow = RESOURCES["SiteBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"][0]
    assert (allow["Effect"], allow["Principal"]) == ("Allow", {"Service": "cloudfront.amazonaws.com"})
    assert (allow["Action"], value_of(allow["Resource"])) == ("s3:GetObject", "<SiteBucket.Arn>/*")
    source = "arn:aws:cloudfront::123456789012:distribution/<Site>"
    assert value_of(allow["Condition"]) == {"StringEquals": {"aws:SourceArn": source}}
    access = RESOURCES["SiteAccess"]["Properties"]["OriginAccessControlConfig"]
    assert (access["SigningBehavior"], access["SigningProtocol"]) == ("always", "sigv4")
    (files,) = [each for each in DISTRIBUTION["Origins"] if each["Id"] == "files"]
    assert value_of(files["OriginAccessControlId"]) == "<SiteAccess>"


def test_static_files_of_another_release_than_the_published_one_come_from_the_web_tier() -> None:
    (group,) = DISTRIBUTION["OriginGroups"]["Items"]
    assert [each["OriginId"] for each in group["Members"]["Items"]] == ["files", "web"]
    assert group["FailoverCriteria"]["StatusCodes"]["Items"] == [403, 404]
    # CloudFront fails over for these methods only; the behaviour's default is GET and HEAD.
    assert "AllowedMethods" not in BY_PATTERN[f"{STATIC}*"]


def test_the_cdn_caches_no_web_tier_response_and_forwards_all_but_the_host_header() -> None:
    default = DISTRIBUTION["DefaultCacheBehavior"]
    assert default["CachePolicyId"] == CACHING_DISABLED
    assert default["OriginRequestPolicyId"] == ALL_VIEWER_EXCEPT_HOST
    assert (
        default["FunctionAssociations"] == BY_PATTERN["/"]["FunctionAssociations"]
    )  # passes the name of the site on
    assert set(default["AllowedMethods"]) == EVERY_METHOD
    assert "ResponseHeadersPolicyId" not in default  # the web tier sets them itself
    (web,) = [each for each in DISTRIBUTION["Origins"] if each["Id"] == "web"]
    assert value_of(web["DomainName"]) == TEMPLATE["Parameters"]["DomainName"]["Default"]
    assert web["CustomOriginConfig"]["OriginProtocolPolicy"] == "https-only"
    assert web["CustomOriginConfig"]["OriginSSLProtocols"] == ["TLSv1.2"]


def test_forms_of_the_first_page_reach_the_web_tier() -> None:
    first = BY_PATTERN["/"]
    assert set(first["AllowedMethods"]) == EVERY_METHOD
    assert first["OriginRequestPolicyId"] == ALL_VIEWER_EXCEPT_HOST
    (function,) = first["FunctionAssociations"]
    assert function["EventType"] == "viewer-request"
    code = RESOURCES["SitePage"]["Properties"]["FunctionCode"]
    assert code.startswith("import cf from 'cloudfront';")  # which has selectRequestOriginById, in runtime 2.0
    assert RESOURCES["SitePage"]["Properties"]["FunctionConfig"]["Runtime"] == "cloudfront-js-2.0"
    (file,) = re.findall(r"request\.uri = '/([^']+)'", code)
    (origin,) = re.findall(r"selectRequestOriginById\('([^']+)'\)", code)
    assert (file, origin) == (PAGES["/"], "web")
    # Others have the file's name for their address.
    assert {path: name for path, name in PAGES.items() if name != path.lstrip("/")} == {"/": file}


def test_browsers_use_http_2_or_3_and_tls_12_or_newer_under_an_own_name() -> None:
    assert DISTRIBUTION["HttpVersion"] == "http2and3"
    condition, named, otherwise = DISTRIBUTION["ViewerCertificate"]["Fn::If"]
    assert (condition, named["MinimumProtocolVersion"]) == ("HasSiteName", "TLSv1.2_2021")
    assert otherwise == {"CloudFrontDefaultCertificate": True}
    pattern = TEMPLATE["Parameters"]["SiteCertificateArn"]["AllowedPattern"]
    assert re.fullmatch(pattern, "arn:aws:acm:us-east-1:123456789012:certificate/abc")
    assert not re.fullmatch(pattern, "arn:aws:acm:eu-central-1:123456789012:certificate/abc")
