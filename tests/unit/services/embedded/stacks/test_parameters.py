"""Parameters are completed, checked and looked up before anything is made."""

from typing import Any

import pytest

from services.embedded.stacks.errors import StackError
from services.embedded.stacks.functions import Evaluation
from services.embedded.stacks.parameters import check, check_rules, complete, resolve
from services.embedded.stacks.template import read

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


def test_defaults_complete_what_is_given_and_names_of_the_store_are_looked_up() -> None:
    texts = complete(read(TEXT), {"Prefix": "p"})
    assert texts == {"Image": "/image/web", "Prefix": "p", "Subnets": "a, b", "Origins": "", "Days": "30"}
    values = resolve(read(TEXT), texts, lookup)
    assert values == {"Image": "ami-1", "Prefix": "p", "Subnets": ["a", "b"], "Origins": [""], "Days": "30"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, r"\['Prefix'\] must have values"),
        ({"Prefix": "p", "Prefx": "q"}, r"\['Prefx'\] do not exist"),
        ({"Prefix": "p", "Image": "/nothing"}, "no /nothing"),
    ],
)
def test_what_is_missing_or_unknown_is_named(given: dict[str, str], told: str) -> None:
    with pytest.raises(StackError, match=told):
        resolve(read(TEXT), complete(read(TEXT), given), lookup)


@pytest.mark.parametrize(
    ("text", "definition", "told"),
    [
        ("Ab", {"Type": "String", "AllowedPattern": "[a-z]+"}, r"must match pattern \[a-z\]\+"),
        ("ab!", {"Type": "String", "AllowedPattern": "[a-z]+"}, r"must match pattern \[a-z\]\+"),
        ("Ab", {"Type": "String", "AllowedPattern": "[a-z]+", "ConstraintDescription": "small"}, "constraint: small"),
        ("no", {"Type": "String", "AllowedValues": ["true", False]}, r"AllowedValues \(true, false\)"),
        ("x", {"Type": "Number"}, "must be a number"),
        ("0", {"Type": "Number", "MinValue": 1}, "not less than 1"),
        ("9", {"Type": "Number", "MaxValue": 5}, "not greater than 5"),
    ],
)
def test_what_a_parameter_does_not_allow_is_refused(text: str, definition: dict[str, Any], told: str) -> None:
    with pytest.raises(StackError, match=told):
        check("P", text, definition)


def test_what_a_parameter_allows_is_taken() -> None:
    check("P", "false", {"Type": "String", "AllowedValues": ["true", False], "AllowedPattern": "[a-z]+"})
    check("P", "2.5", {"Type": "Number", "MinValue": 1, "MaxValue": 5})


def test_a_rule_that_does_not_hold_is_told_in_its_own_words() -> None:
    rule = """
    Rules:
      NeedsZone:
        RuleCondition: !Not [!Equals [!Ref Domain, ""]]
        Assertions: [{Assert: !Not [!Equals [!Ref Zone, ""]], AssertDescription: Give a zone.}]
    Resources: {A: {Type: T}}
    """
    template = read(rule)
    check_rules(template, Evaluation(template, {"Domain": "example.org", "Zone": "Z1"}, {}))
    with pytest.raises(StackError, match=r"NeedsZone is violated: Give a zone\."):
        check_rules(template, Evaluation(template, {"Domain": "example.org", "Zone": ""}, {}))
