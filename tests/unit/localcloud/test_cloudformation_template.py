"""Templates: sections, references, parameters, functions, and values in the types of an API."""

from typing import Any

import botocore.session
import pytest

from localcloud.cloudformation.handlers import coerce
from localcloud.cloudformation.template import (
    NO_VALUE,
    Evaluation,
    Resource,
    StackError,
    complete_parameters,
    read_template,
    references,
    resolve_parameters,
)
from tests.conftest import ROOT


def test_short_functions_are_the_long_ones() -> None:
    template = read_template(
        """
        Resources:
          Queue:
            Type: AWS::SQS::Queue
            Condition: Wanted
            Properties:
              Name: !Sub "${Prefix}-requests"
              Arn: !GetAtt Other.Arn
              Nested: !GetAtt Other.Endpoint.Address
              Ref: !If [Wanted, !Ref Prefix, !Ref AWS::NoValue]
        Conditions:
          Wanted: !Not [!Condition Unwanted]
        """
    )
    assert template.conditions == {"Wanted": {"Fn::Not": [{"Condition": "Unwanted"}]}}
    assert template.resources["Queue"]["Properties"] == {
        "Name": {"Fn::Sub": "${Prefix}-requests"},
        "Arn": {"Fn::GetAtt": ["Other", "Arn"]},
        "Nested": {"Fn::GetAtt": ["Other", "Endpoint.Address"]},
        "Ref": {"Fn::If": ["Wanted", {"Ref": "Prefix"}, {"Ref": "AWS::NoValue"}]},
    }


def test_json_is_read_too_and_a_date_stays_text() -> None:
    assert read_template('{"Resources": {"A": {"Type": "T"}}}').resources == {"A": {"Type": "T"}}
    assert read_template("Resources: {A: {Type: T, Version: 2012-10-17}}").resources["A"]["Version"] == "2012-10-17"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: [", "not well-formed"),
        ("Parameters: {}", "At least one Resources member"),
        ("just text", "At least one Resources member"),
        ("Resources: {A: {Properties: {}}}", r"\[/Resources/A\] Every Resources object must contain a Type"),
    ],
)
def test_invalid_template_is_rejected_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        read_template(text)


def test_the_stack_itself_is_read_whole() -> None:
    template = read_template((ROOT / "infra" / "stack.yaml").read_text(encoding="utf-8"))
    assert {"InputBucket", "JobTable", "WebGroup", "WorkerTemplate"} <= set(template.resources)
    assert "WebGroupName" in template.outputs


TEXT = """
Parameters:
  Image: {Type: "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>", Default: /image/web}
  Prefix: {Type: String}
  Subnets: {Type: "List<AWS::EC2::Subnet::Id>", Default: "a, b"}
  Origins: {Type: CommaDelimitedList, Default: ""}
  Days: {Type: Number, Default: 30}
Resources: {A: {Type: T}}
"""
STORE = {"/image/web": "ami-1"}


def lookup(name: str) -> str:
    if name not in STORE:
        raise StackError(f"no {name}")
    return STORE[name]


def test_defaults_complete_parameters_and_store_names_are_resolved() -> None:
    texts = complete_parameters(read_template(TEXT), {"Prefix": "p"})
    assert texts == {"Image": "/image/web", "Prefix": "p", "Subnets": "a, b", "Origins": "", "Days": "30"}
    values = resolve_parameters(read_template(TEXT), texts, lookup)
    assert values == {"Image": "ami-1", "Prefix": "p", "Subnets": ["a", "b"], "Origins": [""], "Days": "30"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"\['Prefix'\] must have values"),
        ({"Prefix": "p", "Prefx": "q"}, r"\['Prefx'\] do not exist"),
        ({"Prefix": "p", "Image": "/nothing"}, "no /nothing"),
    ],
)
def test_missing_or_unknown_parameter_is_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(StackError, match=message):
        resolve_parameters(read_template(TEXT), complete_parameters(read_template(TEXT), given), lookup)


def test_parameter_accepts_only_allowed_values() -> None:
    text = "{Parameters: {P: {Type: String, AllowedValues: ['on', false]}}, Resources: {A: {Type: T}}}"
    assert complete_parameters(read_template(text), {"P": "false"}) == {"P": "false"}
    with pytest.raises(StackError, match=r"'P' must be one of AllowedValues \(on, false\)"):
        complete_parameters(read_template(text), {"P": "no"})


QUEUE = Resource("Queue", "T", {}, {}, frozenset(), "url", {"Arn": "Queue.Arn!"})
EVALUATION = Evaluation(
    read_template(
        "{Conditions: {'Yes': !Equals [1, 1], 'No': !Not [!Condition 'Yes']}, Resources: {Queue: {Type: T}}}"
    ),
    {"Prefix": "p", "Subnets": ["a", "b"], "Empty": ""},
    {"Queue": QUEUE},
)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"Ref": "Prefix"}, "p"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "Queue.Arn!"),
        ({"Ref": "Queue"}, "url"),
        ({"Fn::Sub": "${Prefix}-${Queue.Arn}-${!Literal}-$HOME"}, "p-Queue.Arn!-${Literal}-$HOME"),
        ({"Fn::Sub": ["${Own}/${Prefix}", {"Own": {"Fn::Join": ["+", {"Ref": "Subnets"}]}}]}, "a+b/p"),
        ({"Fn::Join": [",", ["x", {"Ref": "Prefix"}]]}, "x,p"),
        ({"Fn::Split": ["/", "a/b"]}, ["a", "b"]),
        ({"Fn::Select": ["1", {"Fn::Split": ["s3://", "s3://bucket/key"]}]}, "bucket/key"),
        ({"Fn::Base64": {"Fn::Sub": "#!${Prefix}"}}, "IyFw"),
        ({"Fn::If": ["Yes", 1, 2]}, 1),
        ({"Fn::If": ["No", 1, 2]}, 2),
        ({"Fn::Equals": [{"Ref": "Empty"}, ""]}, True),
        ({"Fn::Equals": ["true", True]}, True),
        ({"Fn::Not": [{"Condition": "Yes"}]}, False),
        ({"Fn::And": [{"Condition": "Yes"}, {"Condition": "No"}]}, False),
        ({"Fn::Or": [{"Condition": "Yes"}, {"Condition": "No"}]}, True),
        ({"a": {"Ref": "AWS::NoValue"}, "b": [1, {"Fn::If": ["No", 1, {"Ref": "AWS::NoValue"}]}]}, {"b": [1]}),
    ],
)
def test_a_function_comes_to(value: Any, found: Any) -> None:
    assert EVALUATION.value(value) == found


def test_no_value_is_no_value_also_by_itself() -> None:
    assert EVALUATION.value({"Ref": "AWS::NoValue"}) is NO_VALUE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"Fn::Cidr": []}, "Fn::Cidr is not known"),
        ({"Fn::Select": [2, ["a"]]}, "nonexistent value at index 2"),
        ({"Ref": "Other"}, r"dependencies \[Other\]"),
        ({"Fn::GetAtt": ["Queue", "Name"]}, "resource Queue does not support attribute type Name"),
    ],
)
def test_value_that_cannot_be_evaluated_is_rejected(value: Any, message: str) -> None:
    with pytest.raises(StackError, match=message):
        EVALUATION.value(value)


def test_everything_that_a_value_needs_is_found() -> None:
    value = {
        "a": {"Fn::Sub": ["${Queue.Arn} ${Own} ${!No} ${Prefix}", {"Own": {"Ref": "Inner"}}]},
        "b": [{"Fn::If": ["Yes", {"Ref": "Then"}, {"Fn::GetAtt": ["Else", "Id"]}]}],
    }
    assert set(references(value)) == {"Queue", "Prefix", "Inner", "Then", "Else"}


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
    converted = coerce(value, shape)
    assert converted == found
    assert {name: type(one) for name, one in converted.items()} == {name: type(one) for name, one in found.items()}
