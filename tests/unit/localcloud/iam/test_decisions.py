"""A Deny wins, an Allow is needed, and what a decision rests on is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.iam.decisions import decide, decide_assuming
from localcloud.iam.documents import Asked
from tests.unit.localcloud.iam.policies import asked, policy, statement

ACTIONS = ("s3:GetObject", "s3:PutObject", "sqs:SendMessage")
RESOURCES = ("arn:aws:s3:::a/b", "arn:aws:s3:::b/c", "arn:aws:sqs:r:1:q")
STATEMENTS = st.builds(
    statement,
    st.sampled_from(("Allow", "Deny")),
    st.sampled_from((*ACTIONS, "s3:*", "*")),
    st.sampled_from((*RESOURCES, "arn:aws:s3:::*", "*")),
)
QUESTIONS = st.builds(asked, st.sampled_from(ACTIONS), st.sampled_from(RESOURCES))
POLICIES = st.lists(STATEMENTS, max_size=4)


@given(POLICIES, QUESTIONS)
def test_adding_an_allow_never_denies_and_adding_a_deny_never_allows(said: list[dict[str, Any]], ask: Asked) -> None:
    before = decide([policy(*said)], ask).allowed
    assert decide([policy(*said), policy(statement("Allow", "*"))], ask).allowed >= before
    assert decide([policy(*said), policy(statement("Deny", "s3:*"))], ask).allowed <= before


@given(POLICIES, QUESTIONS)
def test_a_deny_wins_wherever_it_stands(said: list[dict[str, Any]], ask: Asked) -> None:
    for order in ([statement("Deny", "*"), *said], [*said, statement("Deny", "*")]):
        assert not decide([policy(*order)], ask).allowed


@given(POLICIES, QUESTIONS)
def test_how_statements_are_spread_over_policies_makes_no_difference(said: list[dict[str, Any]], ask: Asked) -> None:
    together, apart = decide([policy(*said)], ask), decide([policy(each) for each in said], ask)
    assert together.allowed == apart.allowed
    assert len(together.rests_on) == len(apart.rests_on)


@given(POLICIES, QUESTIONS)
def test_without_what_an_allowance_rests_on_it_is_none(said: list[dict[str, Any]], ask: Asked) -> None:
    named = [{**each, "Sid": f"S{number}"} for number, each in enumerate(said)]
    decision = decide([policy(*named)], ask)
    left = [each for each in named if each["Sid"] not in {sid for _, sid in decision.rests_on}]
    if decision.allowed:
        assert decision.rests_on
        assert not decide([policy(*left)], ask).allowed


def test_nothing_is_allowed_by_nothing() -> None:
    decision = decide([], asked("s3:GetObject"))
    assert (decision.allowed, decision.rests_on) == (False, ())
    assert decision.why == "because no identity-based policy allows the s3:GetObject action"


def test_a_denial_says_which_statement_denies() -> None:
    never = policy(statement("Allow", "*"), statement("Deny", "*", Sid="Never"), name="p")
    decision = decide([never], asked("s3:GetObject"))
    assert (decision.allowed, decision.rests_on) == (False, (("p", "Never"),))
    assert decision.why == "with an explicit deny in an identity-based policy"


def test_a_condition_that_cannot_be_evaluated_denies_and_says_why() -> None:
    odd = statement("Allow", "*", Condition={"NumericLessThan": {"aws:a": "1"}})
    decision = decide([policy(statement("Allow", "*")), policy(odd)], asked("s3:GetObject", aws__a="word"))
    assert not decision.allowed
    assert "cannot compare aws:a='word'" in decision.why


ARNS = ("arn:aws:sts::1:assumed-role/web/i-1", "arn:aws:iam::1:role/web")
BECOME = statement("Allow", "sts:AssumeRole", "arn:aws:iam::1:role/c")
ACCOUNT = "arn:aws:iam::1:root"


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
        ([], [trust("Allow", {"AWS": ACCOUNT})], False),
        ([BECOME], [trust("Allow", {"AWS": [ACCOUNT]})], True),
        ([BECOME], [trust("Allow", {"AWS": "1"})], True),
        # Its own policy alone is nothing.
        ([BECOME], [trust("Allow", {"AWS": "arn:aws:iam::2:root"})], False),
        ([BECOME], [trust("Allow", {"Service": "ec2.amazonaws.com"})], False),
        ([BECOME], [], False),
        ([BECOME], [trust("Allow", {"AWS": ACCOUNT}, Condition={"ArnEquals": {"aws:PrincipalArn": ARNS[1]}})], True),
        ([BECOME], [trust("Allow", {"AWS": ACCOUNT}, Condition={"ArnEquals": {"aws:PrincipalArn": "x"}})], False),
        # A Deny of either wins.
        ([{**BECOME, "Effect": "Deny"}], [trust("Allow", {"AWS": ARNS[1]})], False),
        ([BECOME], [trust("Allow", {"AWS": ARNS[1]}), trust("Deny", {"AWS": ACCOUNT})], False),
    ],
)
def test_a_role_is_assumed_by_whom_it_trusts(
    own: list[dict[str, Any]], trusted: list[dict[str, Any]], allowed: bool
) -> None:
    ask = asked("sts:AssumeRole", "arn:aws:iam::1:role/c", aws__principalarn=ARNS[1])
    assert decide_assuming([policy(*own)], policy(*trusted, name="trust"), ARNS, ask).allowed is allowed
