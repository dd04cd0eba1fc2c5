"""Policy documents, their wildcards and conditions are read and matched as AWS does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.iam.policies import (
    OPERATORS,
    Context,
    UnsupportedPolicyError,
    arn_matches,
    matches,
    parse_conditions,
    parse_policy,
)
from tests.support.iam_requests import document, permission_check, policy, statement


@pytest.mark.parametrize(
    ("elements", "action", "resource", "applies"),
    [
        ({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::a/*"}, "s3:GetObject", "arn:aws:s3:::a/b/c", True),
        ({"Action": "s3:getobject", "Resource": "*"}, "s3:GetObject", "arn:aws:s3:::a/b", True),
        ({"Action": ["sqs:*", "s3:Get*"], "Resource": "*"}, "s3:GetObjectAcl", "arn:aws:s3:::a/b", True),
        ({"Action": "s3:Get?bject", "Resource": "*"}, "s3:GetObject", "*", True),
        ({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::A/*"}, "s3:GetObject", "arn:aws:s3:::a/b", False),
        ({"Action": "s3:GetObject", "Resource": "arn:aws:s3:::a"}, "s3:GetObject", "arn:aws:s3:::a/b", False),
        ({"Action": "s3:Get", "Resource": "*"}, "s3:GetObject", "*", False),
        ({"NotAction": "s3:Put*", "Resource": "*"}, "s3:GetObject", "*", True),
        ({"NotAction": "s3:Get*", "Resource": "*"}, "s3:GetObject", "*", False),
        ({"Action": "*", "NotResource": "arn:aws:s3:::a/*"}, "s3:GetObject", "arn:aws:s3:::b/c", True),
        ({"Action": "*", "NotResource": "arn:aws:s3:::a/*"}, "s3:GetObject", "arn:aws:s3:::a/c", False),
    ],
)
def test_a_statement_applies_to_its_actions_and_resources(
    elements: dict[str, Any], action: str, resource: str, applies: bool
) -> None:
    (found,) = policy({"Effect": "Allow", **elements}).statements
    assert found.applies_to(permission_check(action, resource)) is applies


def test_a_statement_speaks_only_where_its_conditions_hold() -> None:
    (found,) = policy(statement("Allow", "*", Condition={"StringEquals": {"aws:RequestedRegion": "r"}})).statements
    assert found.applies_to(permission_check("s3:GetObject", aws__requestedregion="r"))
    assert not found.applies_to(permission_check("s3:GetObject", aws__requestedregion="s"))


def test_a_statement_without_a_name_is_called_by_its_place() -> None:
    named = policy(statement("Allow", "a:b"), statement("Deny", "a:b", Sid="Never"))
    assert [each.sid for each in named.statements] == ["#1", "Never"]


def test_one_statement_need_not_be_a_list() -> None:
    assert (
        len(parse_policy("one", '{"Statement": {"Effect": "Allow", "Action": "a:b", "Resource": "*"}}').statements)
        == 1
    )


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        (document({"Effect": "Maybe", "Action": "a:b", "Resource": "*"}), "'Maybe' must be Allow or Deny"),
        (document({"Effect": "Allow", "Resource": "*"}), "either Action or NotAction"),
        (document({"Effect": "Allow", "Action": "a:b", "NotAction": "a:c", "Resource": "*"}), "either Action"),
        (document({"Effect": "Allow", "Action": "a:b"}), "either Resource or NotResource"),
        (document(statement("Allow", "a:b", NotPrincipal="*")), r"\['NotPrincipal'\] of a statement are not known"),
        (document(statement("Allow", "a:b", "arn:aws:s3:::${aws:username}/*")), "policy variables"),
        (document(statement("Allow", "a:b", Condition={"StringIs": {"a": "b"}})), "'StringIs' is not known"),
        ("{", "no policy document"),
        ("[]", "no policy document"),
        ("{}", "no policy document"),
        ('{"Statement": [1]}', "no policy document"),
    ],
)
def test_unsupported_element_is_named_with_the_policy(elements: str, reason: str) -> None:
    with pytest.raises(UnsupportedPolicyError, match=f"the policy 'mine' .*{reason}"):
        parse_policy("mine", elements)


TEXTS = st.text("ab.*?:/[\n", max_size=8)


def regular_expression_matches(pattern: str, text: str) -> bool:
    """Say the same in the plainest way there is."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(regular_expression_matches(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in {"?", text[0]} and regular_expression_matches(pattern[1:], text[1:])


@given(st.text("ab.*?:/[\n", max_size=6), TEXTS)
def test_pattern_matches_like_the_regular_expression(pattern: str, text: str) -> None:
    assert matches(pattern, text) == regular_expression_matches(pattern, text)


@given(TEXTS)
def test_a_star_matches_everything_and_a_text_itself(text: str) -> None:
    assert matches("*", text)
    assert matches(text, text)


@pytest.mark.parametrize(
    ("pattern", "arn", "holds"),
    [
        ("arn:aws:ec2:*:1:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", True),
        ("arn:aws:ec2:*:2:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", False),
        # A star stays within its part, but for the last, which holds colons of its own.
        ("arn:aws:ec2:*:instance/*", "arn:aws:ec2:us-east-1:1:instance/i-1", False),
        ("arn:aws:logs:r:1:log-group:g:*", "arn:aws:logs:r:1:log-group:g:log-stream:s", True),
        ("*", "arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::bucket", "no arn", False),
    ],
)
def test_the_parts_of_an_arn_are_compared_one_by_one(pattern: str, arn: str, holds: bool) -> None:
    assert arn_matches(pattern, arn) is holds


def holds(element: dict[str, Any], **context: str | tuple[str, ...]) -> bool:
    """Say whether a request with this context meets a statement's ``Condition``."""
    found: Context = {
        name.replace("__", ":").lower(): (value,) if isinstance(value, str) else value
        for name, value in context.items()
    }
    return all(each.holds(found) for each in parse_conditions(element))


@pytest.mark.parametrize(
    ("operator", "wanted", "meets", "fails"),
    [
        ("StringEquals", "aB", "aB", "ab"),
        ("StringNotEquals", "aB", "ab", "aB"),
        ("StringEqualsIgnoreCase", "aB", "Ab", "b"),
        ("StringNotEqualsIgnoreCase", "aB", "b", "Ab"),
        ("StringLike", "a*?", "abc", "a"),
        ("StringNotLike", "a*", "b", "abc"),
        ("NumericEquals", 10, "10.0", "11"),
        ("NumericNotEquals", "10", "11", "10"),
        ("NumericLessThan", "1.2", "1.1", "1.2"),
        ("NumericLessThanEquals", "1.2", "1.2", "1.3"),
        ("NumericGreaterThan", "9", "10", "9"),
        ("NumericGreaterThanEquals", "9", "9", "8"),
        ("DateEquals", "2026-01-01T00:00:00Z", "1767225600", "1767225601"),
        ("DateNotEquals", "2026-01-01T00:00:00Z", "1767225601", "1767225600"),
        ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59+00:00", "2026-01-01T00:00:00"),
        ("DateLessThanEquals", "2026-01-01T00:00:00Z", "1767225600", "1767225601"),
        ("DateGreaterThan", "2026-01-01T00:00:00Z", "1767225601", "1767225600"),
        ("DateGreaterThanEquals", "2026-01-01T00:00:00Z", "1767225600", "1767225599"),
        ("Bool", True, "true", "false"),
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
        ("NotIpAddress", "10.0.0.0/8", "11.0.0.1", "10.1.2.3"),
        ("ArnEquals", "arn:aws:iam::1:role/a*", "arn:aws:iam::1:role/ab", "arn:aws:iam::2:role/ab"),
        ("ArnLike", "arn:aws:iam::1:role/a?", "arn:aws:iam::1:role/ab", "arn:aws:iam::1:role/a"),
        ("ArnNotEquals", "arn:aws:iam::1:role/a", "arn:aws:iam::1:role/b", "arn:aws:iam::1:role/a"),
        ("ArnNotLike", "arn:aws:iam::1:role/*", "arn:aws:iam::2:role/b", "arn:aws:iam::1:role/a"),
        ("Null", "true", (), "there"),
        ("Null", False, "there", ()),
    ],
)
def test_operator_compares_by_its_name(operator: str, wanted: Any, meets: Any, fails: Any) -> None:
    assert operator in OPERATORS
    assert holds({operator: {"aws:Key": wanted}}, aws__key=meets)
    assert not holds({operator: {"aws:Key": wanted}}, aws__key=fails)


def test_of_several_values_one_is_enough_and_of_several_keys_none_may_fail() -> None:
    both = {"StringEquals": {"aws:a": ["1", "2"], "aws:b": "3"}}
    assert holds(both, aws__a="2", aws__b="3")
    assert not holds(both, aws__a="2", aws__b="4")
    assert not holds({"StringNotEquals": {"aws:a": ["1", "2"]}}, aws__a="2")


def test_of_several_values_in_the_request_one_must_match_and_with_a_negated_operator_none_may() -> None:
    assert holds({"StringEquals": {"aws:a": "1"}}, aws__a=("1", "2"))
    assert not holds({"StringNotEquals": {"aws:a": "1"}}, aws__a=("1", "2"))


@pytest.mark.parametrize(
    ("operator", "met"),
    [
        ("StringEquals", False),
        ("StringNotEquals", True),
        ("StringEqualsIfExists", True),
        ("StringNotEqualsIfExists", True),
        ("ForAllValues:StringEquals", True),
        ("ForAllValues:StringNotEquals", True),
        ("ForAnyValue:StringEquals", False),
        ("ForAnyValue:StringNotEquals", False),
        ("ForAnyValue:StringEqualsIfExists", True),
        ("ArnEquals", False),
        ("Bool", False),
        ("BoolIfExists", True),
    ],
)
def test_missing_condition_key_counts_by_operator(operator: str, met: bool) -> None:
    assert holds({operator: {"aws:a": "1"}}) is met
    assert holds({operator: {"aws:a": "1"}}, aws__a=()) is met


@given(st.lists(st.sampled_from("123"), min_size=1), st.lists(st.sampled_from("123"), min_size=1))
def test_all_values_and_any_value_mean_every_one_and_one(found: list[str], wanted: list[str]) -> None:
    given_keys = {"aws__tagkeys": tuple(found)}
    assert holds({"ForAllValues:StringEquals": {"aws:TagKeys": wanted}}, **given_keys) == (set(found) <= set(wanted))
    assert holds({"ForAnyValue:StringEquals": {"aws:TagKeys": wanted}}, **given_keys) == bool(
        set(found) & set(wanted)
    )
    unwanted = {"ForAllValues:StringNotEquals": {"aws:TagKeys": wanted}}
    assert holds(unwanted, **given_keys) == (not set(found) & set(wanted))


@pytest.mark.parametrize(
    ("element", "words"),
    [
        ({"StringIs": {"aws:a": "1"}}, "'StringIs' is not known"),
        ({"ForSomeValues:StringEquals": {"aws:a": "1"}}, "'ForSomeValues:StringEquals' is not known"),
        ({"NullIfExists": {"aws:a": "1"}}, "Null stands alone"),
        ({"ForAllValues:Null": {"aws:a": "1"}}, "Null stands alone"),
        ({"StringEquals": {"aws:a": "${aws:username}"}}, "policy variables"),
        ({"StringEquals": {"aws:a": {"b": "c"}}}, "no value"),
        ({"StringEquals": "1"}, "no map"),
        (["StringEquals"], "no map"),
    ],
)
def test_unknown_condition_operator_is_named(element: Any, words: str) -> None:
    with pytest.raises(UnsupportedPolicyError, match=words.replace("(", r"\(")):
        parse_conditions(element)


@pytest.mark.parametrize("operator", ["NumericLessThan", "DateLessThan", "IpAddress"])
def test_a_value_that_cannot_be_compared_is_an_error_and_no_answer(operator: str) -> None:
    with pytest.raises(UnsupportedPolicyError, match=r"cannot compare aws:a='word'"):
        holds({operator: {"aws:a": "1.2.3.4" if operator == "IpAddress" else "1"}}, aws__a="word")
