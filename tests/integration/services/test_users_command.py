"""``fleetsight users``: operators manage the accounts of a system on this machine."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.credentials import PersonalTokens, Revocations
from localcloud.access_keys import owner_key
from scripts import users as users_command
from scripts.cli import fleetsight
from scripts.run.sign_in import OPERATOR, prepare_sign_in, sign_in_instructions
from services.clients import Clients
from services.table import Table
from services.users import CodeRequired, NewPasswordRequired, UserPool

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
