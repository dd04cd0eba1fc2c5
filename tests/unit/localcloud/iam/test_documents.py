"""A document is read into what it says, and what cannot be evaluated stops it as a whole, with the reason."""

from typing import Any

import pytest

from localcloud.iam.conditions import UnsupportedPolicyError
from localcloud.iam.documents import parse_policy
from tests.unit.localcloud.iam.policies import asked, document, policy, statement


@pytest.mark.parametrize(
    ("said", "action", "resource", "speaks"),
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
def test_a_statement_speaks_of_its_actions_and_resources(
    said: dict[str, Any], action: str, resource: str, speaks: bool
) -> None:
    (found,) = policy({"Effect": "Allow", **said}).statements
    assert found.speaks_of(asked(action, resource)) is speaks


def test_a_statement_speaks_only_where_its_conditions_hold() -> None:
    (found,) = policy(statement("Allow", "*", Condition={"StringEquals": {"aws:RequestedRegion": "r"}})).statements
    assert found.speaks_of(asked("s3:GetObject", aws__requestedregion="r"))
    assert not found.speaks_of(asked("s3:GetObject", aws__requestedregion="s"))


def test_a_statement_without_a_name_is_called_by_its_place() -> None:
    named = policy(statement("Allow", "a:b"), statement("Deny", "a:b", Sid="Never"))
    assert [each.sid for each in named.statements] == ["#1", "Never"]


def test_one_statement_need_not_be_a_list() -> None:
    assert (
        len(parse_policy("one", '{"Statement": {"Effect": "Allow", "Action": "a:b", "Resource": "*"}}').statements)
        == 1
    )


@pytest.mark.parametrize(
    ("said", "reason"),
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
def test_what_cannot_be_evaluated_is_named_with_the_policy(said: str, reason: str) -> None:
    with pytest.raises(UnsupportedPolicyError, match=f"the policy 'mine' .*{reason}"):
        parse_policy("mine", said)
