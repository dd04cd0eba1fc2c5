"""Policies are decided as AWS does and as an independent evaluator does; requests are denied in AWS's words."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends
from werkzeug.test import Client

from localcloud.access_keys import owner_key
from localcloud.control import ControlApplication
from localcloud.ec2.fleet import Ec2Fleet
from localcloud.iam.authorizer import AuthorizedCalls, Authorizer, DecisionRecord, form_check
from localcloud.iam.policies import (
    Context,
    PermissionCheck,
    UnsupportedPolicyError,
    arn_matches,
    decide,
    decide_assuming,
    matches,
    parse_conditions,
    parse_policy,
)
from localcloud.options import Switches
from localcloud.s3.posts import Form, RefusedError, Signer
from tests.support.iam_requests import (
    ACCOUNT,
    REGION,
    VERDICTS,
    Case,
    cases,
    digest,
    document,
    environ,
    permission_check,
    policy,
    statement,
)


def is_allowed(case: Case) -> bool:
    context = {
        key.lower(): tuple(value) if isinstance(value, list) else (value,) for key, value in case["context"].items()
    }
    return decide([policy(*case["statements"])], PermissionCheck(case["action"], case["resource"], context)).allowed


def test_each_case_is_decided_as_by_an_independent_evaluator() -> None:
    """Of wildcards, `Not…` elements, condition operators with one value and several, and explicit denials."""
    recorded = json.loads(VERDICTS.read_text())
    assert recorded["sha256"] == digest(), "the cases have changed: record them again by iam_verdicts.mjs"
    allowed = [verdict == "1" for verdict in recorded["allowed"]]
    differing = [
        (case, verdict) for case, verdict in zip(cases(), allowed, strict=True) if is_allowed(case) != verdict
    ]
    assert differing == []
    assert 0.2 < sum(allowed) / len(allowed) < 0.8, "both decisions are among them"


def test_a_document_may_have_one_statement_and_a_statement_no_name() -> None:
    one = parse_policy("one", '{"Statement": {"Effect": "Allow", "Action": "a:b", "Resource": "*"}}')
    named = policy(statement("Allow", "a:b"), statement("Deny", "a:b", Sid="Never"))
    assert [each.sid for each in (*one.statements, *named.statements)] == ["#1", "#1", "Never"]


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
    """Return True if a request with this context meets a statement's ``Condition``."""
    found: Context = {
        name.replace("__", ":").lower(): (value,) if isinstance(value, str) else value
        for name, value in context.items()
    }
    return all(each.holds(found) for each in parse_conditions(element))


@pytest.mark.parametrize(
    ("operator", "wanted", "meets", "fails"),
    [
        ("NumericEquals", 10, "10.0", "11"),
        ("DateEquals", "2026-01-01T00:00:00Z", "1767225600", "1767225601"),
        ("DateLessThan", "2026-01-01T00:00:00Z", "2025-12-31T23:59:59+00:00", "2026-01-01T00:00:00"),
        ("Bool", True, "true", "false"),
        ("IpAddress", "10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
        ("StringEquals", "1", ("1", "2"), ("2", "3")),
        ("StringNotEquals", "1", ("2", "3"), ("1", "2")),
        ("Null", False, "there", ()),
        ("ForAllValues:StringEquals", "1", (), "2"),
        ("ForAnyValue:StringEqualsIfExists", "1", (), "2"),
    ],
)
def test_operator_compares_texts_of_any_form(operator: str, wanted: Any, meets: Any, fails: Any) -> None:
    assert holds({operator: {"aws:Key": wanted}}, aws__key=meets)
    assert not holds({operator: {"aws:Key": wanted}}, aws__key=fails)


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


ACTIONS = ("s3:GetObject", "s3:PutObject", "sqs:SendMessage")
RESOURCES = ("arn:aws:s3:::a/b", "arn:aws:s3:::b/c", "arn:aws:sqs:r:1:q")
STATEMENTS = st.builds(
    statement,
    st.sampled_from(("Allow", "Deny")),
    st.sampled_from((*ACTIONS, "s3:*", "*")),
    st.sampled_from((*RESOURCES, "arn:aws:s3:::*", "*")),
)
CHECKS = st.builds(permission_check, st.sampled_from(ACTIONS), st.sampled_from(RESOURCES))


@given(st.lists(STATEMENTS, max_size=4), CHECKS)
def test_laws_of_decisions(statements: list[dict[str, Any]], check: PermissionCheck) -> None:
    named = [{**each, "Sid": f"S{number}"} for number, each in enumerate(statements)]
    decision = decide([policy(*named)], check)
    before = decision.allowed
    assert decide([policy(*named), policy(statement("Allow", "*"))], check).allowed >= before
    assert decide([policy(*named), policy(statement("Deny", "s3:*"))], check).allowed <= before
    for order in ([statement("Deny", "*"), *named], [*named, statement("Deny", "*")]):
        assert not decide([policy(*order)], check).allowed, "a Deny wins in any place"
    apart = decide([policy(each) for each in named], check)
    assert (apart.allowed, len(apart.rests_on)) == (before, len(decision.rests_on)), "policies count together"
    left = [each for each in named if each["Sid"] not in {sid for _, sid in decision.rests_on}]
    assert not (before and decide([policy(*left)], check).allowed), "an Allow rests on the statements that it names"


def test_denial_names_the_statement_that_denies() -> None:
    never = policy(statement("Allow", "*"), statement("Deny", "*", Sid="Never"), name="p")
    decision = decide([never], permission_check("s3:GetObject"))
    assert (decision.allowed, decision.rests_on) == (False, (("p", "Never"),))
    assert decision.why == "with an explicit deny in an identity-based policy"


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


# ---- Requests

TRUST = document({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"})
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"
MAY_SEND = statement("Allow", "sqs:SendMessage", QUEUE, Sid="Send")


class Role:
    """A role of moto, a session of it, and an authorizer."""

    def __init__(self) -> None:
        self.iam, self.sts = iam_backends[ACCOUNT]["aws"], sts_backends[ACCOUNT]["aws"]
        self.role = self.iam.create_role("tested", TRUST, "/", None, "", [], "3600")
        self.key = self.assume()
        self.record, self.fleet = DecisionRecord(), Ec2Fleet(compute=False, switches=Switches(enforce_iam=True))
        self.authorizer = Authorizer(self.record)
        self.passed_on = 0
        self.application = AuthorizedCalls(self._pass_on, self.authorizer, self.fleet)

    def assume(self, policy: str = "") -> str:
        """Return the access key of a new session."""
        return str(self.sts.assume_role(REGION, "me", self.role.arn, policy, 3600, "").access_key_id)

    def may(self, *statements: dict[str, Any], name: str = "own") -> None:
        """Give the role a policy."""
        self.iam.put_role_policy("tested", name, document(*statements))

    def ask(self, request: dict[str, Any], key: str | None = None) -> tuple[str, dict[str, str], str]:
        """Return status, headers and body of the answer; `passed on` if nothing was rejected."""
        begun: list[Any] = ["", []]
        signed = {
            **request,
            "HTTP_AUTHORIZATION": request["HTTP_AUTHORIZATION"].replace("ASIANOBODY", key or self.key),
        }
        body = b"".join(self.application(signed, lambda *response: begun.__setitem__(slice(None), response)))
        return begun[0], dict(begun[1]), body.decode()

    def allowed(self, request: dict[str, Any], key: str | None = None) -> bool:
        return self.ask(request, key)[2] == "passed on"

    def _pass_on(self, _environ: dict[str, Any], _start_response: Any) -> list[bytes]:
        self.passed_on += 1
        return [b"passed on"]


@pytest.fixture
def role() -> Iterator[Role]:
    made = Role()
    yield made
    for name in list(made.role.policies):
        made.iam.delete_role_policy("tested", name)
    for arn in list(made.role.managed_policies):
        made.iam.detach_role_policy(arn, "tested")
    if "tested" in {each.name for each in made.iam.get_roles()}:
        made.iam.delete_role("tested")


def send(service: str = "sqs", operation: str = "SendMessage") -> dict[str, Any]:
    """Return a call in the JSON protocol."""
    body = json.dumps({"QueueUrl": "http://127.0.0.1/1/q", "TableName": "t"}).encode()
    return environ(service, body=body, HTTP_X_AMZ_TARGET=f"X.{operation}")


def test_changed_policies_apply_at_once(role: Role) -> None:
    assert not role.allowed(send())
    role.may(MAY_SEND)
    assert role.allowed(send())
    assert role.allowed(send(operation="SendMessageBatch"))
    assert not role.allowed(send(operation="ReceiveMessage"))
    role.may(statement("Deny", "sqs:*"), name="never")
    assert not role.allowed(send())


def test_a_managed_policy_counts_in_its_default_version(role: Role) -> None:
    managed = role.iam.create_policy("", "/", document(MAY_SEND), "managed", {})
    role.iam.attach_role_policy(managed.arn, "tested")
    assert role.allowed(send())
    role.iam.create_policy_version(managed.arn, document(statement("Allow", "sqs:DeleteMessage")), "true")
    assert not role.allowed(send())


def test_only_signed_requests_of_roles_are_checked_while_policies_are_enforced(role: Role) -> None:
    assert role.allowed(send(), key="embedded")
    role.application({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}, None)
    assert role.passed_on == 2
    role.fleet.set_switches(Switches())
    assert role.allowed(send())
    assert role.record.rows() == []


def test_deleted_role_has_no_rights(role: Role) -> None:
    role.iam.delete_role("tested")
    assert not role.allowed(send())


@pytest.mark.parametrize("limit", ["session", "boundary"])
def test_unsupported_limit_of_a_role_denies_with_reason(role: Role, limit: str) -> None:
    role.may(statement("Allow", "*"))
    key = role.assume(document(MAY_SEND)) if limit == "session" else role.key
    role.role.permissions_boundary_arn = "arn:aws:iam::aws:policy/X" if limit == "boundary" else None
    assert "neither is evaluated here" in role.ask(send(), key)[2]


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ({"StringLike": {"aws:a": "${aws:username}"}}, "policy variables are not evaluated here"),
        ({"NumericLessThan": {"aws:PrincipalArn": "1"}}, "cannot compare aws:principalarn='arn:"),
    ],
)
def test_policy_that_cannot_be_evaluated_denies_with_reason(role: Role, condition: Any, reason: str) -> None:
    role.may(MAY_SEND, statement("Allow", "*", Condition=condition))
    assert reason in json.loads(role.ask(send())[2])["message"]


def test_unidentified_request_is_denied_and_recorded(role: Role) -> None:
    role.may(statement("Allow", "*"))
    assert "names no operation" in role.ask(environ("route53", "GET", "/2013-04-01/hostedzone"))[2]
    assert [(each["action"], each["allowed"]) for each in role.record.rows()] == [("route53:?", False)]


def test_conditions_see_principal_address_and_time(role: Role) -> None:
    who = {"ArnEquals": {"aws:PrincipalArn": role.role.arn}, "StringEquals": {"aws:RequestedRegion": REGION}}
    where = {"IpAddress": {"aws:SourceIp": "127.0.0.0/8"}, "Bool": {"aws:SecureTransport": False}}
    when = {
        "DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"},
        "NumericGreaterThan": {"aws:EpochTime": "1"},
    }
    role.may({**MAY_SEND, "Condition": {**who, **where, **when}})
    assert role.allowed(send())
    role.may({**MAY_SEND, "Condition": {"StringEquals": {"aws:RequestedRegion": "elsewhere"}}})
    assert not role.allowed(send())


def test_role_is_assumed_only_by_trusted_callers(role: Role) -> None:
    body = f"Action=AssumeRole&RoleArn={role.role.arn}".encode()
    assert role.allowed(environ("sts", body=body))
    role.role.assume_role_policy_document = document(
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    )
    assert not role.allowed(environ("sts", body=body))
    assert role.allowed(environ("sts", body=b"Action=GetCallerIdentity"))


MESSAGE_START = r"User: arn:aws:sts::\d+:assumed-role/tested/me is not authorized to perform: "


@pytest.mark.parametrize(
    ("request_of", "status", "code", "reason"),
    [
        (
            send(),
            "403 Forbidden",
            '"com.amazonaws.sqs#AccessDenied"',
            f"sqs:SendMessage on resource: {QUEUE} because no identity-based policy allows the sqs:S",
        ),
        (send("dynamodb", "GetItem"), "400 Bad Request", '#AccessDeniedException"', "dynamodb:GetItem on resource: "),
        (
            send("ssm", "DescribeParameters"),
            "400 Bad Request",
            '#AccessDeniedException"',
            "ssm:DescribeParameters because no",
        ),
        (
            environ("s3", "PUT", "/b/k"),
            "403 Forbidden",
            "<Code>AccessDenied</Code>",
            "s3:PutObject on resource: arn:aws:s3:::b/k because",
        ),
        (
            environ("ec2", body=b"Action=DescribeVpcs"),
            "403 Forbidden",
            "<Code>UnauthorizedOperation</Code>",
            "ec2:DescribeVpcs because no",
        ),
        (
            environ("sqs", body=b"Action=SendMessage&QueueUrl=a/q"),
            "403 Forbidden",
            "<Code>AccessDenied</Code>",
            "sqs:SendMessage on",
        ),
        (
            environ("iam", body=b"Action=CreateUser"),
            "403 Forbidden",
            "<Code>AccessDenied</Code>",
            "iam:CreateUser because no",
        ),
    ],
)
def test_each_service_refuses_in_its_own_way_and_aws_words(
    role: Role, request_of: dict[str, Any], status: str, code: str, reason: str
) -> None:
    answered, headers, body = role.ask(request_of)
    assert answered == status
    assert code in body
    assert re.search(MESSAGE_START + reason, body), body
    assert headers["Content-Length"] == str(len(body))
    assert role.passed_on == 0


def test_a_head_request_gets_the_status_and_sqs_the_code_in_a_header(role: Role) -> None:
    assert role.ask(environ("s3", "HEAD", "/b/k"))[::2] == ("403 Forbidden", "")
    assert role.ask(send())[1]["x-amzn-query-error"] == "AccessDenied;Sender"


def test_form_needs_its_signers_right_to_put(role: Role) -> None:
    check, signer = form_check(role.authorizer, role.fleet), Signer(role.key, REGION)
    form = Form("b", {"key": "a/b.jpg"}, 1)
    with pytest.raises(RefusedError, match=r"s3:PutObject on resource: arn:aws:s3:::b/a/b\.jpg") as refused:
        check(form, signer)
    assert (refused.value.status, refused.value.code) == (403, "AccessDenied")
    role.may(statement("Allow", "s3:PutObject", "arn:aws:s3:::b/*"))
    check(form, signer)
    tagged = Form("b", {"key": "a/b.jpg", "tagging": "<Tagging/>"}, 1)
    with pytest.raises(RefusedError, match=r"s3:PutObjectTagging on resource: arn:aws:s3:::b/a/b\.jpg"):
        check(tagged, signer)
    role.may(statement("Allow", "s3:PutObjectTagging", "arn:aws:s3:::b/*"), name="tags")
    check(tagged, signer)
    role.may(statement("Deny", "*"))
    role.fleet.set_switches(Switches())
    check(form, signer)


def test_decisions_are_listed_with_statements_and_counts(role: Role) -> None:
    role.may(MAY_SEND)
    role.may({**MAY_SEND, "Sid": "Too"}, name="second")
    for _ in range(3):
        role.ask(send())
    role.ask(send(operation="PurgeQueue"))
    both = [{"policy": "own", "sid": "Send"}, {"policy": "second", "sid": "Too"}]
    common = {"role": "tested", "resource": QUEUE}
    assert role.record.rows() == [
        {**common, "action": "sqs:SendMessage", "allowed": True, "statements": both, "why": "", "count": 3},
        {
            **common,
            "action": "sqs:PurgeQueue",
            "allowed": False,
            "statements": [],
            "why": "because no identity-based policy allows the sqs:PurgeQueue action",
            "count": 1,
        },
    ]


def test_record_is_bounded(role: Role, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localcloud.iam.authorizer.MAX_ROWS", 2)
    role.may(statement("Allow", "s3:PutObject", "*"))
    for name in "abcda":
        assert role.allowed(environ("s3", "PUT", f"/b/{name}"))
    found = [(row["resource"].rpartition("/")[2], row["count"]) for row in role.record.rows()]
    assert found == [("a", 2), ("b", 1), ("…", 2)]


def test_decisions_are_available_only_while_policies_are_enforced(role: Role) -> None:
    control, token = Client(ControlApplication(role.fleet)), owner_key().control_authorization
    assert control.get("/_embedded/decisions", headers={"Authorization": token}).json == {"decisions": []}
    role.fleet.set_switches(Switches())
    off = control.get("/_embedded/decisions", headers={"Authorization": token})
    assert (off.status_code, "enforce_iam turns that on" in off.text) == (404, True)
