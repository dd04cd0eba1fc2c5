"""Values of a template get the types that an API takes."""

from typing import Any

import botocore.session
import pytest

from localcloud.stacks.coerce import coerced

SESSION = botocore.session.Session()


@pytest.mark.parametrize(
    ("service", "operation", "value", "found"),
    [
        ("logs", "PutRetentionPolicy", {"retentionInDays": "30"}, {"retentionInDays": 30}),
        (
            "sqs",
            "CreateQueue",
            {"Attributes": {"VisibilityTimeout": 30}},
            {"Attributes": {"VisibilityTimeout": "30"}},
        ),
        ("cloudwatch", "PutMetricAlarm", {"Threshold": 1, "Period": "60"}, {"Threshold": 1.0, "Period": 60}),
        ("ec2", "RunInstances", {"EbsOptimized": "true"}, {"EbsOptimized": True}),
        ("ssm", "PutParameter", {"Value": True, "Tags": [{"Key": 1}]}, {"Value": "true", "Tags": [{"Key": "1"}]}),
        ("s3", "PutBucketPolicy", {"Policy": {"a": 1}}, {"Policy": '{"a": 1}'}),
        ("sqs", "CreateQueue", {"NoSuchThing": "1"}, {"NoSuchThing": "1"}),
    ],
)
def test_a_value_is_coerced(service: str, operation: str, value: Any, found: Any) -> None:
    shape = SESSION.get_service_model(service).operation_model(operation).input_shape
    converted = coerced(value, shape)
    assert converted == found
    assert {name: type(one) for name, one in converted.items()} == {name: type(one) for name, one in found.items()}
