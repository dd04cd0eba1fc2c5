"""Parameters are completed, checked and looked up before anything is made."""

import pytest

from localcloud.stacks.errors import StackError
from localcloud.stacks.parameters import complete, resolve
from localcloud.stacks.template import read

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


def test_only_a_value_that_a_parameter_allows_is_taken() -> None:
    text = "{Parameters: {P: {Type: String, AllowedValues: ['on', false]}}, Resources: {A: {Type: T}}}"
    assert complete(read(text), {"P": "false"}) == {"P": "false"}
    with pytest.raises(StackError, match=r"'P' must be one of AllowedValues \(on, false\)"):
        complete(read(text), {"P": "no"})
