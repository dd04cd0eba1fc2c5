"""Decisions follow AWS's evaluation logic, and those of an independent evaluator."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.iam.decisions import decide, decide_assuming
from localcloud.iam.policies import PermissionCheck, UnsupportedPolicyError
from tests.support.iam_cases import VERDICTS, Case, cases, digest
from tests.support.iam_requests import permission_check, policy, statement

ACTIONS = ("s3:GetObject", "s3:PutObject", "sqs:SendMessage")
RESOURCES = ("arn:aws:s3:::a/b", "arn:aws:s3:::b/c", "arn:aws:sqs:r:1:q")
STATEMENTS = st.builds(
    statement,
    st.sampled_from(("Allow", "Deny")),
    st.sampled_from((*ACTIONS, "s3:*", "*")),
    st.sampled_from((*RESOURCES, "arn:aws:s3:::*", "*")),
)
CHECKS = st.builds(permission_check, st.sampled_from(ACTIONS), st.sampled_from(RESOURCES))
POLICIES = st.lists(STATEMENTS, max_size=4)


@given(POLICIES, CHECKS)
def test_adding_an_allow_never_denies_and_adding_a_deny_never_allows(
    statements: list[dict[str, Any]], check: PermissionCheck
) -> None:
    before = decide([policy(*statements)], check).allowed
    assert decide([policy(*statements), policy(statement("Allow", "*"))], check).allowed >= before
    assert decide([policy(*statements), policy(statement("Deny", "s3:*"))], check).allowed <= before


@given(POLICIES, CHECKS)
def test_a_deny_wins_wherever_it_stands(statements: list[dict[str, Any]], check: PermissionCheck) -> None:
    for order in ([statement("Deny", "*"), *statements], [*statements, statement("Deny", "*")]):
        assert not decide([policy(*order)], check).allowed


@given(POLICIES, CHECKS)
def test_how_statements_are_spread_over_policies_makes_no_difference(
    statements: list[dict[str, Any]], check: PermissionCheck
) -> None:
    together, apart = decide([policy(*statements)], check), decide([policy(each) for each in statements], check)
    assert together.allowed == apart.allowed
    assert len(together.rests_on) == len(apart.rests_on)


@given(POLICIES, CHECKS)
def test_removing_the_deciding_statements_removes_the_allowance(
    statements: list[dict[str, Any]], check: PermissionCheck
) -> None:
    named = [{**each, "Sid": f"S{number}"} for number, each in enumerate(statements)]
    decision = decide([policy(*named)], check)
    left = [each for each in named if each["Sid"] not in {sid for _, sid in decision.rests_on}]
    if decision.allowed:
        assert decision.rests_on
        assert not decide([policy(*left)], check).allowed


def test_no_policy_allows_nothing() -> None:
    decision = decide([], permission_check("s3:GetObject"))
    assert (decision.allowed, decision.rests_on) == (False, ())
    assert decision.why == "because no identity-based policy allows the s3:GetObject action"


def test_denial_names_the_statement_that_denies() -> None:
    never = policy(statement("Allow", "*"), statement("Deny", "*", Sid="Never"), name="p")
    decision = decide([never], permission_check("s3:GetObject"))
    assert (decision.allowed, decision.rests_on) == (False, (("p", "Never"),))
    assert decision.why == "with an explicit deny in an identity-based policy"


def test_condition_that_cannot_be_evaluated_denies_with_reason() -> None:
    odd = statement("Allow", "*", Condition={"NumericLessThan": {"aws:a": "1"}})
    with pytest.raises(UnsupportedPolicyError, match="cannot compare aws:a='word'"):
        decide([policy(statement("Allow", "*")), policy(odd)], permission_check("s3:GetObject", aws__a="word"))


ARNS = ("arn:aws:sts::1:assumed-role/web/i-1", "arn:aws:iam::1:role/web")
BECOME = statement("Allow", "sts:AssumeRole", "arn:aws:iam::1:role/c")
ACCOUNT_ARN = "arn:aws:iam::1:root"


def trust(effect: str, principal: Any, **more: Any) -> dict[str, Any]:
    return {"Effect": effect, "Principal": principal, "Action": "sts:AssumeRole", **more}


@pytest.mark.parametrize(
    ("own", "trusted", "allowed"),
    [
        # Named by its role's trust policy, a caller needs nothing else.
        ([], [trust("Allow", {"AWS": ARNS[1]})], True),
        ([], [trust("Allow", {"AWS": ARNS[0]})], True),
        ([], [trust("Allow", "*")], True),
        # Of its account, it needs a policy of its own.
        ([], [trust("Allow", {"AWS": ACCOUNT_ARN})], False),
        ([BECOME], [trust("Allow", {"AWS": [ACCOUNT_ARN]})], True),
        ([BECOME], [trust("Allow", {"AWS": "1"})], True),
        # Its own policy alone is nothing.
        ([BECOME], [trust("Allow", {"AWS": "arn:aws:iam::2:root"})], False),
        ([BECOME], [trust("Allow", {"Service": "ec2.amazonaws.com"})], False),
        ([BECOME], [], False),
        (
            [BECOME],
            [trust("Allow", {"AWS": ACCOUNT_ARN}, Condition={"ArnEquals": {"aws:PrincipalArn": ARNS[1]}})],
            True,
        ),
        ([BECOME], [trust("Allow", {"AWS": ACCOUNT_ARN}, Condition={"ArnEquals": {"aws:PrincipalArn": "x"}})], False),
        # A Deny of either wins.
        ([{**BECOME, "Effect": "Deny"}], [trust("Allow", {"AWS": ARNS[1]})], False),
        ([BECOME], [trust("Allow", {"AWS": ARNS[1]}), trust("Deny", {"AWS": ACCOUNT_ARN})], False),
    ],
)
def test_trust_policy_decides_who_assumes_a_role(
    own: list[dict[str, Any]], trusted: list[dict[str, Any]], allowed: bool
) -> None:
    check = permission_check("sts:AssumeRole", "arn:aws:iam::1:role/c", aws__principalarn=ARNS[1])
    assert decide_assuming([policy(*own)], policy(*trusted, name="trust"), ARNS, check).allowed is allowed


def is_allowed(case: Case) -> bool:
    context = {
        key.lower(): tuple(value) if isinstance(value, list) else (value,) for key, value in case["context"].items()
    }
    return decide([policy(*case["statements"])], PermissionCheck(case["action"], case["resource"], context)).allowed


def test_each_case_is_decided_as_by_an_independent_evaluator() -> None:
    recorded = json.loads(VERDICTS.read_text())
    assert recorded["sha256"] == digest(), "the cases have changed: record them anew by iam_verdicts.mjs"
    allowed = [verdict == "1" for verdict in recorded["allowed"]]
    differing = [
        (case, verdict) for case, verdict in zip(cases(), allowed, strict=True) if is_allowed(case) != verdict
    ]
    assert differing == []
    assert 0.2 < sum(allowed) / len(allowed) < 0.8, "both decisions are among them"
