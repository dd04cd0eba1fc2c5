"""``fleetsight users``: operators manage the accounts of a stack's user pool, which stock moto serves."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from core.credentials import PersonalTokens, Revocations
from core.ids import new_id
from scripts import users as users_command
from scripts.aws.deploy.stack import StackDescription
from scripts.cli import fleetsight
from services.accounts import OPERATORS, USERS
from services.table import Table

Command = Callable[..., Result]
REGION, JOB_TABLE = "us-east-1", "fleetsight-jobs"


def run(*words: str) -> Result:
    return CliRunner().invoke(fleetsight, ["users", *words])


@pytest.fixture(scope="module")
def pool() -> Iterator[str]:
    """The id of the pool of the stack fleetsight, one for all tests: moto takes a second to create a pool."""
    with pytest.MonkeyPatch.context() as here, mock_aws():
        cognito = boto3.client("cognito-idp", region_name=REGION)
        dynamodb = boto3.client("dynamodb", region_name=REGION)
        pool_id = cognito.create_user_pool(PoolName="fleetsight", UsernameAttributes=["email"])["UserPool"]["Id"]
        for group in (USERS, OPERATORS):
            cognito.create_group(UserPoolId=pool_id, GroupName=group)
        dynamodb.create_table(
            TableName=JOB_TABLE,
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        outputs = {"UserPoolId": pool_id, "JobTableName": JOB_TABLE}
        stacks = {"fleetsight": outputs, "open": {"JobTableName": JOB_TABLE}}

        def find_stack(_account: Any, name: str) -> StackDescription | None:
            return StackDescription(name, name, "CREATE_COMPLETE", outputs=stacks[name]) if name in stacks else None

        here.setattr(users_command, "find_stack", find_stack)
        yield pool_id


@pytest.fixture
def ada() -> str:
    """An address that has no account yet."""
    return f"{new_id().lower()}@example.org"


@pytest.fixture
def users(pool: str) -> Command:
    return lambda *words: run(*words, "--region", REGION)


def test_an_added_operator_is_listed_and_must_change_the_printed_password(
    users: Command, pool: str, ada: str
) -> None:
    made = users("add", ada, "--operator")
    assert made.exit_code == 0
    [line] = [line for line in users("list").output.splitlines() if ada in line]
    assert [word in line for word in ("operators", "active")] == [True, True]
    cognito = boto3.client("cognito-idp", region_name=REGION)
    client = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="web", ExplicitAuthFlows=["ALLOW_ADMIN_USER_PASSWORD_AUTH"]
    )["UserPoolClient"]["ClientId"]
    answer = cognito.admin_initiate_auth(
        UserPoolId=pool,
        ClientId=client,
        AuthFlow="ADMIN_USER_PASSWORD_AUTH",
        AuthParameters={"USERNAME": ada, "PASSWORD": made.output.split()[-1]},
    )
    assert answer["ChallengeName"] == "NEW_PASSWORD_REQUIRED"


def test_an_operator_is_made_and_unmade_and_an_account_disabled_enabled_and_removed(users: Command, ada: str) -> None:
    users("add", ada)
    printed = [
        users(*words).output.strip()
        for words in (
            ("operator", ada),
            ("operator", ada, "--remove"),
            ("disable", ada),
            ("enable", ada),
            ("remove", ada, "--yes"),
        )
    ]
    assert printed == [
        f"{ada} is an operator.",
        f"{ada} is no operator any more.",
        f"{ada} cannot sign in; sessions and tokens have ended.",
        f"{ada} can sign in again.",
        f"{ada} is removed.",
    ]
    assert ada not in users("list").output


@pytest.mark.parametrize("words", [["disable"], ["remove", "--yes"]], ids=lambda words: words[0])
def test_the_tokens_of_a_disabled_or_removed_account_end(
    users: Command, pool: str, ada: str, words: list[str]
) -> None:
    users("add", ada)
    cognito = boto3.client("cognito-idp", region_name=REGION)
    attributes = cognito.admin_get_user(UserPoolId=pool, Username=ada)["UserAttributes"]
    [sub] = [each["Value"] for each in attributes if each["Name"] == "sub"]
    table = Table(boto3.client("dynamodb", region_name=REGION), JOB_TABLE)
    tokens = PersonalTokens(table, Revocations(table))
    signed_in = int(Revocations(table).clock.epoch_seconds())
    text, _ = tokens.make(sub, ada, "a script", ["read"], 1, signed_in)
    assert tokens.find(text) is not None
    users(*words, ada)
    assert tokens.find(text) is None


def test_an_address_without_an_account_is_reported_in_a_line(users: Command) -> None:
    refused = users("disable", "unknown@example.org")
    assert refused.exit_code == 1
    assert "there is no account for unknown@example.org" in refused.output


def test_a_second_account_for_an_address_is_refused(users: Command, ada: str) -> None:
    users("add", ada)
    refused = users("add", f" {ada.upper()} ")
    assert refused.exit_code == 1
    assert f"there is an account for {ada} already" in refused.output


def test_a_local_system_has_no_accounts_and_the_message_says_how_to_name_a_stack() -> None:
    refused = run("list")
    assert refused.exit_code == 1
    assert "a local system has a development provider with two people" in refused.output
    assert "--prefix" in refused.output


@pytest.mark.parametrize(
    ("prefix", "words"), [("open", "the stack open has no user pool"), ("other", "there is no stack other")]
)
def test_a_stack_without_a_pool_and_an_unknown_stack_are_named(users: Command, prefix: str, words: str) -> None:
    refused = users("list", "--prefix", prefix)
    assert refused.exit_code == 1
    assert words in refused.output
