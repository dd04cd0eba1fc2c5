"""``fleetsight users``: operators manage the accounts of a system on this machine."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.credentials import PersonalTokens, Revocations
from localcloud.access_keys import owner_key
from localcloud.clients import mails
from localcloud.cognito.mailbox import Mail
from scripts import users as users_command
from scripts.aws.context import AwsAccount
from scripts.cli import fleetsight
from scripts.run.sign_in import OPERATOR, MailPrinter, prepare_sign_in, sign_in_instructions
from services.clients import Clients
from services.table import Table
from services.users import CodeRequired, NewPasswordRequired, PoolTokens, UserPool
from tests.support.operator_account import App

Command = Callable[..., Result]
ADA = "ada@example.org"


@pytest.fixture
def pool(provisioned: Clients, config: Config, tmp_path: Path) -> UserPool:
    """The pool of a system that has left word of itself, as `run.sh` does."""
    found = prepare_sign_in(provisioned, config.names.job_table, tmp_path, name=config.names.job_table)
    folder = tmp_path / "run-8000"
    folder.mkdir()
    (folder / "endpoint").write_text(f"{config.aws.endpoint_url}\n")
    owner_key().save(folder)
    found.write_names(folder)
    return UserPool(provisioned.cognito_idp, found.pool_id, found.client_id)


@pytest.fixture
def users(pool: UserPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(users_command, "HOME", tmp_path)

    def run(*words: str) -> Result:
        return CliRunner().invoke(fleetsight, ["users", *words])

    return run


def test_an_added_operator_is_listed_and_signs_in_with_the_printed_password(users: Command, pool: UserPool) -> None:
    made = users("add", ADA, "--operator")
    assert made.exit_code == 0
    assert isinstance(pool.sign_in(ADA, made.output.split()[-1]), NewPasswordRequired)
    [line] = [line for line in users("list").output.splitlines() if ADA in line]
    assert [word in line for word in ("operators", "active")] == [True, True]


def test_an_operator_is_made_and_unmade_and_an_account_disabled_enabled_and_removed(users: Command) -> None:
    users("add", ADA)
    said = [
        users(*words).output.strip()
        for words in (
            ("operator", ADA),
            ("operator", ADA, "--remove"),
            ("disable", ADA),
            ("enable", ADA),
            ("remove", ADA, "--yes"),
        )
    ]
    assert said == [
        f"{ADA} is an operator.",
        f"{ADA} is no operator any more.",
        f"{ADA} cannot sign in; sessions and tokens have ended.",
        f"{ADA} can sign in again.",
        f"{ADA} is removed.",
    ]
    assert ADA not in users("list").output


def test_an_address_without_an_account_is_reported_in_a_line(users: Command) -> None:
    refused = users("disable", "nobody@example.org")
    assert refused.exit_code == 1
    assert "there is no account for nobody@example.org" in refused.output


def test_without_sign_in_the_message_says_how_to_enable_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users_command, "HOME", tmp_path)
    refused = CliRunner().invoke(fleetsight, ["users", "list"])
    assert refused.exit_code == 1
    assert "./scripts/run.sh --sign-in" in refused.output
    assert "--prefix" in refused.output


def test_another_port_is_another_system(users: Command) -> None:
    assert users("list", "--url", "http://127.0.0.1:8000").exit_code == 0
    assert users("list", "--url", "http://localhost:8000/").exit_code == 0
    assert "no system with sign-in runs here" in users("list", "--url", "http://127.0.0.1:8001").output


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://photos.example.invalid", "https://photos.example.invalid is not on this machine"),
        ("http://192.0.2.1:8000", "http://192.0.2.1:8000 is not on this machine"),
        ("nonsense", "'nonsense' is not an address such as http://127.0.0.1:8000"),
    ],
)
def test_an_address_elsewhere_is_refused_with_the_way_to_name_a_stack(users: Command, url: str, words: str) -> None:
    refused = users("list", "--url", url)
    assert refused.exit_code == 1
    assert f"{words}; a stack on AWS is named by --prefix, --region or --profile" in refused.output


@pytest.mark.parametrize("option", ["--prefix", "--region", "--profile", "--endpoint-url"])
def test_an_option_of_aws_names_a_stack_and_excludes_an_address(
    users: Command, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def no_stack(_account: AwsAccount, prefix: str) -> None:
        found.append(prefix)

    monkeypatch.setattr("scripts.users.find_stack", no_stack)
    refused = users("list", option, "other")
    assert (refused.exit_code, "there is no stack" in refused.output, len(found)) == (1, True, 1)
    both = users("list", option, "other", "--url", "http://127.0.0.1:8000")
    assert (both.exit_code, "omit --prefix, --region and --profile" in both.output) == (2, True)
    monkeypatch.setenv("FLEETSIGHT_URL", "https://photos.example.org")
    assert "there is no stack" in users("list", option, "other").output


def test_who_runs_a_system_is_its_operator_and_its_key_is_theirs_alone(
    provisioned: Clients, config: Config, tmp_path: Path
) -> None:
    found = prepare_sign_in(provisioned, config.names.job_table, tmp_path, name=config.names.job_table)
    pool = UserPool(provisioned.cognito_idp, found.pool_id, found.client_id)
    assert not isinstance(pool.sign_in(OPERATOR, found.password), NewPasswordRequired)
    table = Table(provisioned.dynamodb, config.names.job_table)
    token = PersonalTokens(table, Revocations(table)).find(found.token)
    assert token is not None
    assert token.scopes == {"classify", "read", "operate"}
    assert found.keys.stat().st_mode & 0o777 == 0o600
    assert not {found.password, found.token} & set(repr(found).split("'"))
    assert found.password in sign_in_instructions(found)
    assert f"export FLEETSIGHT_TOKEN={found.token}" in sign_in_instructions(found)


def test_where_operators_must_have_a_second_factor_who_runs_a_system_has_one(
    provisioned: Clients, config: Config, tmp_path: Path
) -> None:
    names = config.names.job_table
    found = prepare_sign_in(provisioned, names, tmp_path, name=names, second_factor=True)
    pool = UserPool(provisioned.cognito_idp, found.pool_id, found.client_id)
    assert isinstance(pool.sign_in(OPERATOR, found.password), CodeRequired)
    assert found.app_key is not None
    assert found.app_key in sign_in_instructions(found)
    assert found.app_key not in repr(found)
    table = Table(provisioned.dynamodb, names)
    token = PersonalTokens(table, Revocations(table)).find(found.token)
    assert token is not None
    assert token.second_factor


def test_ops_turn_a_lost_second_factor_off(users: Command, pool: UserPool) -> None:
    temporary, password = users("add", ADA).output.split()[-1], "Correct-Horse-9"
    wanted = pool.sign_in(ADA, temporary)
    assert isinstance(wanted, NewPasswordRequired)
    tokens = pool.set_first_password(ADA, wanted.session, password)
    assert isinstance(tokens, PoolTokens)
    app = App(pool.begin_second_factor(tokens.access_token))
    pool.confirm_second_factor(tokens.access_token, app.code())
    assert isinstance(pool.sign_in(ADA, password), CodeRequired)
    assert users("second-factor-off", ADA).output.startswith(f"{ADA} signs in by the password alone")
    assert isinstance(pool.sign_in(ADA, password), PoolTokens)


def test_a_mail_is_shown_once(pool: UserPool, config: Config) -> None:
    shown: list[str] = []

    def ours() -> list[Mail]:
        return [mail for mail in mails(str(config.aws.endpoint_url)) if mail.to == "eve@example.org"]

    slot = MailPrinter(ours, shown.append)
    slot.print_new()
    pool.invite("eve@example.org")
    slot.print_new()
    slot.print_new()
    assert shown == [f"Mail to eve@example.org: your code is {ours()[0].content}"]
