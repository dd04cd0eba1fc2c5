"""What the stack stores: private, encrypted, and there when the stack is gone."""

import pytest

from services.table import EXPIRES_AT
from tests.conftest import shipped_values
from tests.support.stack_template import GIVEN, RESOURCES, TEMPLATE, of_type, value_of
from web_tier.uploads.ingest import UNKEPT

BUCKETS = tuple(of_type("S3::Bucket"))
ENTRUSTED = ("InputBucket", "OutputBucket")
"""The site's holds only what can be put there again."""
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
    assert encryption == (by_s3 if name == "SiteBucket" else by_key)
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert "AccessControl" not in bucket


UNFINISHED = {
    "Id": "unfinished-uploads",
    "Status": "Enabled",
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
}


@pytest.mark.parametrize("name", ENTRUSTED)
def test_unfinished_uploads_go_after_a_day(name: str) -> None:
    assert RESOURCES[name]["Properties"]["LifecycleConfiguration"]["Rules"][0] == UNFINISHED


def test_no_result_goes_by_its_age_and_of_images_only_those_that_the_web_tier_puts_as_unkept() -> None:
    assert RESOURCES["OutputBucket"]["Properties"]["LifecycleConfiguration"]["Rules"] == [UNFINISHED]
    _, rule = RESOURCES["InputBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert value_of(rule) == {
        "Id": "unkept-images",
        "Status": "Enabled",
        "TagFilters": [{"Key": key, "Value": value} for key, value in UNKEPT.items()],
        "ExpirationInDays": 30,
    }


def test_unkept_images_go_later_by_their_age_than_their_jobs_expire_or_never_where_zero_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert TEMPLATE["Parameters"]["UnkeptDays"]["Default"] > shipped_values()["retention"]["unkept_days"]
    _, rule = RESOURCES["InputBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    assert rule["Fn::If"][2] == {"Ref": "AWS::NoValue"}
    assert value_of(TEMPLATE["Conditions"][rule["Fn::If"][0]]) is True
    monkeypatch.setitem(GIVEN, "UnkeptDays", "0")
    assert value_of(TEMPLATE["Conditions"][rule["Fn::If"][0]]) is False


@pytest.mark.parametrize("name", BUCKETS)
def test_a_bucket_refuses_whoever_comes_without_tls_or_with_an_old_one(name: str) -> None:
    (policy,) = [each for each in of_type("S3::BucketPolicy").values() if each["Bucket"] == {"Ref": name}]
    statements = policy["PolicyDocument"]["Statement"]
    refused = {each["Sid"]: each for each in statements if each["Effect"] == "Deny"}
    assert refused["OnlyOverTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert refused["OnlyOverTls12OrNewer"]["Condition"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}
    for each in refused.values():
        assert (each["Principal"], each["Action"]) == ("*", "s3:*")
        assert value_of(each["Resource"]) == [f"<{name}.Arn>", f"<{name}.Arn>/*"]


def test_other_web_sites_may_only_post_into_the_input_bucket_and_only_those_that_are_named() -> None:
    condition, cors, otherwise = RESOURCES["InputBucket"]["Properties"]["CorsConfiguration"]["Fn::If"]
    (rule,) = cors["CorsRules"]
    assert condition == "HasUploadOrigins"
    assert (rule["AllowedMethods"], rule["AllowedOrigins"]) == (["POST"], {"Ref": "UploadOrigins"})
    assert otherwise == {"Ref": "AWS::NoValue"}
    assert "CorsConfiguration" not in RESOURCES["OutputBucket"]["Properties"]


@pytest.mark.parametrize("name", [*ENTRUSTED, "JobTable", "UserPool"])
def test_what_people_have_entrusted_outlives_the_stack(name: str) -> None:
    assert (RESOURCES[name]["DeletionPolicy"], RESOURCES[name]["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_the_job_table_is_as_the_store_needs_it_and_can_be_restored_to_any_minute() -> None:
    table = RESOURCES["JobTable"]["Properties"]
    assert [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]] == [("pk", "HASH"), ("sk", "RANGE")]
    assert {each["AttributeType"] for each in table["AttributeDefinitions"]} == {"S"}
    assert table["TimeToLiveSpecification"] == {"Enabled": True, "AttributeName": EXPIRES_AT}
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    own = {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": GIVEN["DataKeyArn"]}
    assert value_of(table["SSESpecification"]) == own


@pytest.mark.parametrize("name", QUEUES)
def test_a_queue_is_encrypted_and_refuses_whoever_comes_without_tls(name: str) -> None:
    queue = value_of(RESOURCES[name]["Properties"])
    assert (queue["SqsManagedSseEnabled"], queue["KmsMasterKeyId"]) == (False, GIVEN["DataKeyArn"])
    (policy,) = [each for each in of_type("SQS::QueuePolicy").values() if each["Queues"] == [{"Ref": name}]]
    (refused,) = policy["PolicyDocument"]["Statement"]
    assert (refused["Effect"], refused["Principal"], refused["Action"]) == ("Deny", "*", "sqs:*")
    assert value_of(refused["Resource"]) == f"<{name}.Arn>"
    assert refused["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_queues_treat_a_message_as_config_yaml_says() -> None:
    queues = shipped_values()["queues"]
    assert queues["kind"] == "standard"
    for name in QUEUES:
        assert RESOURCES[name]["Properties"]["VisibilityTimeout"] == queues["visibility_timeout_seconds"]
        # As long as SQS keeps any.
        assert RESOURCES[name]["Properties"]["MessageRetentionPeriod"] == 14 * 86_400
    redrive = RESOURCES["RequestQueue"]["Properties"]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] == queues["max_receive_count"]
    assert value_of(redrive["deadLetterTargetArn"]) == "<DeadLetterQueue.Arn>"


def test_dead_letters_come_from_the_request_queue_alone() -> None:
    allow = value_of(RESOURCES["DeadLetterQueue"]["Properties"]["RedriveAllowPolicy"])
    assert allow == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": ["arn:aws:sqs:eu-central-1:123456789012:fleetsight-requests"],
    }


def test_without_a_key_of_ones_own_keys_of_aws_encrypt_everything(monkeypatch: pytest.MonkeyPatch) -> None:
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
