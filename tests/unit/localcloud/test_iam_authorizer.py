"""A request goes on when its signer's role allows all of it, and is refused in the service's own words otherwise."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from moto.iam.models import iam_backends
from moto.sts.models import sts_backends
from werkzeug.test import Client

from localcloud.access_keys import owner_key
from localcloud.control import ControlApplication
from localcloud.ec2.fleet import Fleet
from localcloud.iam.authorizer import AuthorizedCalls, Authorizer, DecisionRecord, DeniedError, form_check
from localcloud.iam.calls import Credential
from localcloud.options import Switches
from localcloud.s3.posts import Form, RefusedError, Signer
from tests.support.iam_requests import ACCOUNT, REGION, document, environ, statement

TRUST = document({"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"})
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"
MAY_SEND = statement("Allow", "sqs:SendMessage", QUEUE, Sid="Send")


class Role:
    """A role of moto, a session of it, and an authorizer."""

    def __init__(self) -> None:
        self.iam, self.sts = iam_backends[ACCOUNT]["aws"], sts_backends[ACCOUNT]["aws"]
        self.role = self.iam.create_role("tested", TRUST, "/", None, "", [], "3600")
        self.key = self.assume()
        self.record, self.fleet = DecisionRecord(), Fleet(compute=False, switches=Switches(enforce_iam=True))
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


def test_a_key_that_no_role_owns_may_everything(role: Role) -> None:
    assert role.allowed(send(), key="embedded")
    assert role.record.rows() == []


def test_nothing_is_checked_while_policies_are_off(role: Role) -> None:
    role.fleet.set_switches(Switches())
    assert role.allowed(send())
    assert role.record.rows() == []


def test_unsigned_request_passes_the_authorizer(role: Role) -> None:
    role.application({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": ""}, None)
    assert role.passed_on == 1


def test_deleted_role_has_no_rights(role: Role) -> None:
    role.iam.delete_role("tested")
    assert not role.allowed(send())


@pytest.mark.parametrize("limit", ["session", "boundary"])
def test_unsupported_limit_of_a_role_denies_with_reason(role: Role, limit: str) -> None:
    role.may(statement("Allow", "*"))
    key = role.assume(document(MAY_SEND)) if limit == "session" else role.key
    role.role.permissions_boundary_arn = "arn:aws:iam::aws:policy/X" if limit == "boundary" else None
    assert "neither is evaluated here" in role.ask(send(), key)[2]


def test_policy_that_cannot_be_evaluated_denies_with_reason(role: Role) -> None:
    role.may(MAY_SEND, statement("Allow", "*", Condition={"StringLike": {"aws:a": "${aws:username}"}}))
    assert "policy variables are not evaluated here" in json.loads(role.ask(send())[2])["message"]


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


def test_head_request_gets_only_the_status(role: Role) -> None:
    assert role.ask(environ("s3", "HEAD", "/b/k"))[::2] == ("403 Forbidden", "")


def test_sqs_error_has_the_query_code_in_a_header(role: Role) -> None:
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


def test_direct_check_raises_a_denial(role: Role) -> None:
    with pytest.raises(DeniedError):
        role.authorizer.check({**send()}, Credential(role.key, REGION, "sqs"))


def test_decisions_are_available_only_while_policies_are_enforced(role: Role) -> None:
    control, token = Client(ControlApplication(role.fleet)), owner_key().control_authorization
    assert control.get("/_embedded/decisions", headers={"Authorization": token}).json == {"decisions": []}
    role.fleet.set_switches(Switches())
    off = control.get("/_embedded/decisions", headers={"Authorization": token})
    assert (off.status_code, "enforce_iam turns that on" in off.text) == (404, True)
