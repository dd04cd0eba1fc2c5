"""The template as it is uploaded."""

from typing import Any

from scripts.aws.deploy.settings import load_template, with_static_names
from services.cloudformation import parse_template

VALUES = {"Prefix": "fs", "AWS::AccountId": "123456789012", "AWS::Region": "eu-west-1"}
NAMES = {"AWS::S3::Bucket": "BucketName", "AWS::DynamoDB::Table": "TableName"}


def names(body: str) -> dict[str, Any]:
    """The names of the buckets and tables by logical name, as the template states them."""
    found = parse_template(body)["Resources"].items()
    return {key: each["Properties"][NAMES[each["Type"]]] for key, each in found if each["Type"] in NAMES}


def test_buckets_and_tables_that_stay_have_literal_names_since_only_those_are_taken_in_again() -> None:
    assert names(with_static_names(load_template().body, VALUES)) == {
        "InputBucket": "fs-input-123456789012-eu-west-1",
        "OutputBucket": "fs-output-123456789012-eu-west-1",
        "SiteBucket": "fs-site-123456789012-eu-west-1",
        "JobTable": "fs-jobs",
    }


def test_nothing_else_of_the_template_changes() -> None:
    before, after = load_template().body.splitlines(), with_static_names(load_template().body, VALUES).splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == len(names(load_template().body))
