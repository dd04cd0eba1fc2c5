"""Sign-in: the user pool, the web tier's configuration of it, and its permissions; the names of the page.

Row 42 of the fault list: no key of sessions is in template, user data or parameters.
"""

import re

import pytest

from scripts.aws.deploy.auth import GROUPS, session_keys_parameter
from services.accounts import OPERATORS
from services.passwords import MIN_CHARACTERS
from tests.conftest import shipped_values
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    of_this_stack,
    of_type,
    statements,
    user_data,
    value_of,
)
from web_tier.auth import identity

POOL, CLIENT = (RESOURCES[name]["Properties"] for name in ("UserPool", "UserPoolClient"))
KEPT = "eu-central-1_Kept1"


def test_users_sign_in_unless_the_stack_has_no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    auth = of_this_stack().auth
    assert (auth.mode, auth.open, auth.sign_up) == ("cognito", False, True)
    assert (auth.user_pool_id, auth.client_id) == (GIVEN["UserPool"], GIVEN["UserPoolClient"])
    monkeypatch.setitem(GIVEN, "CreateUserPool", "false")
    auth = of_this_stack().auth
    assert (auth.mode, auth.open, auth.user_pool_id) == ("none", True, None)
    for name in ("UserPool", "UserPoolClient", "UsersGroup", "OperatorsGroup", "SignInPolicy"):
        assert value_of(TEMPLATE["Conditions"][RESOURCES[name]["Condition"]]) is False


@pytest.mark.parametrize("is_open", ["true", "false"])
def test_s4_the_page_creates_accounts_if_it_may_and_the_pool_lets_no_person_do_so(
    monkeypatch: pytest.MonkeyPatch, is_open: str
) -> None:
    monkeypatch.setitem(GIVEN, "OpenSignUp", is_open)
    accounts = value_of(POOL["AdminCreateUserConfig"])
    assert accounts["AllowAdminCreateUserOnly"] is True
    assert {"{####}", "{username}"} <= set(re.findall(r"{.*?}", accounts["InviteMessageTemplate"]["EmailMessage"]))
    assert of_this_stack().auth.sign_up is (is_open == "true")
    created_by, condition = statements("WebRole")["CreateAccounts"], RESOURCES["SignUpPolicy"]["Condition"]
    assert created_by["Action"] == "cognito-idp:AdminCreateUser"
    assert value_of(TEMPLATE["Conditions"][condition]) is (is_open == "true")


def test_passwords_are_long_and_accounts_have_verified_addresses() -> None:
    password = POOL["Policies"]["PasswordPolicy"]
    assert password["MinimumLength"] == MIN_CHARACTERS
    assert not any(password[f"Require{kind}"] for kind in ("Lowercase", "Uppercase", "Numbers", "Symbols"))
    assert POOL["UsernameAttributes"] == POOL["AutoVerifiedAttributes"] == ["email"]
    assert POOL["UsernameConfiguration"] == {"CaseSensitive": False}
    assert POOL["UserAttributeUpdateSettings"] == {"AttributesRequireVerificationBeforeUpdate": ["email"]}
    assert (CLIENT["ReadAttributes"], CLIENT["WriteAttributes"]) == (["email", "email_verified"], ["email"])


def test_the_client_accepts_passwords_without_a_secret_and_reveals_no_accounts() -> None:
    assert (POOL["MfaConfiguration"], POOL["EnabledMfas"]) == ("OPTIONAL", ["SOFTWARE_TOKEN_MFA"])
    assert CLIENT["GenerateSecret"] is False
    assert set(CLIENT["ExplicitAuthFlows"]) == {"ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"}
    assert (CLIENT["PreventUserExistenceErrors"], CLIENT["EnableTokenRevocation"]) == ("ENABLED", True)


def test_tokens_last_an_hour_and_refresh_tokens_as_long_as_a_session() -> None:
    units = {"AccessToken": "minutes", "IdToken": "minutes", "RefreshToken": "hours"}
    assert CLIENT["TokenValidityUnits"] == units
    assert (CLIENT["AccessTokenValidity"], CLIENT["IdTokenValidity"]) == (60, 60)
    assert value_of(CLIENT["RefreshTokenValidity"]) == shipped_values()["auth"]["session_hours"]


def test_accounts_and_operators_outlive_the_stack_and_are_protected() -> None:
    assert POOL["DeletionProtection"] == "ACTIVE"
    for name in ("UserPool", "UsersGroup", "OperatorsGroup"):
        assert RESOURCES[name]["DeletionPolicy"] == RESOURCES[name]["UpdateReplacePolicy"] == "Retain"
    assert tuple(each["GroupName"] for each in of_type("Cognito::UserPoolGroup").values()) == GROUPS
    assert identity.Identity("ada", groups=frozenset({OPERATORS})).operates


def test_a_kept_pool_of_an_earlier_stack_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GIVEN, "KeptUserPool", KEPT)
    assert of_this_stack().auth.user_pool_id == KEPT
    assert value_of(CLIENT["UserPoolId"]) == value_of(TEMPLATE["Outputs"]["UserPoolId"]["Value"]) == KEPT
    accounts = value_of(statements("WebRole")["KnowAccounts"]["Resource"])
    assert accounts == f"arn:aws:cognito-idp:eu-central-1:123456789012:userpool/{KEPT}"
    for name in ("UserPool", "UsersGroup", "OperatorsGroup"):
        assert value_of(TEMPLATE["Conditions"][RESOURCES[name]["Condition"]]) is False
    pattern = TEMPLATE["Parameters"]["KeptUserPool"]["AllowedPattern"]
    assert re.fullmatch(pattern, KEPT)
    assert not re.fullmatch(pattern, "a_b'; reboot #")


# ---- The keys of sessions


def test_the_web_instance_gets_the_name_of_the_session_keys_and_not_the_keys() -> None:
    script = user_data("WebTemplate")
    assert f"export FLEETSIGHT_SESSION_KEYS_PARAMETER='{session_keys_parameter('fleetsight')}'\n" in script
    assert "FLEETSIGHT_SESSION_KEYS" not in user_data("WorkerTemplate")
    # The template waits for the policy by which the instance may read it.
    assert "{'Ref': 'SignInPolicy'}" in str(RESOURCES["WebTemplate"])
    assert not of_type("SSM::Parameter")


# ---- The names of the page

BALANCER = "<LoadBalancer.DNSName>"


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, []),
        ({"CertificateArn": "arn"}, [BALANCER]),
        ({"CertificateArn": "arn", "DomainName": "a.example"}, ["a.example"]),
        ({"PageNames": "b.example,C.example"}, ["b.example", "C.example"]),
        ({"CertificateArn": "arn", "DomainName": "a.example", "PageNames": "b.example"}, ["a.example", "b.example"]),
    ],
    ids=["address", "balancer", "name", "others", "both"],
)
def test_the_page_accepts_its_own_names(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], hosts: list[str]
) -> None:
    for name, value in given.items():
        monkeypatch.setitem(GIVEN, name, value)
    shown = "[" + ", ".join(f'"{host}"' for host in hosts) + "]"
    assert f"export FLEETSIGHT__WEB__HOSTS='{shown}'\n" in user_data("WebTemplate")


def test_page_names_cannot_contain_shell_commands() -> None:
    pattern = TEMPLATE["Parameters"]["PageNames"]["AllowedPattern"]
    for names, valid in (("", True), ("a.example,b-c.example", True), ("a b", False), ("a'; reboot #", False)):
        assert bool(re.fullmatch(pattern, names)) is valid


def test_user_data_with_the_longest_settings_fits_ec2s_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(GIVEN, "WebSettings", "x" * 4096)
    assert len(user_data("WebTemplate").encode()) < 16_384 / 2  # the placeholders of ids are shorter than real ids


def test_the_sender_of_codes_is_an_address_or_a_domain_of_ses(monkeypatch: pytest.MonkeyPatch) -> None:
    arn = TEMPLATE["Parameters"]["SenderArn"]["AllowedPattern"]
    identity = "arn:aws:ses:us-east-1:123456789012:identity/"
    for name, valid in (("a@b.org", True), ("b.org", True), ("a@b@c.org", False), ("b.org/x", False), ("", False)):
        assert bool(re.fullmatch(arn, identity + name)) is valid
    for quote in "'\"\\":  # it would end the text in the user data's script
        assert not re.fullmatch(arn, f"{identity}o{quote}b@c.org")
    address = TEMPLATE["Parameters"]["SenderAddress"]["AllowedPattern"]
    for name, valid in (("a@b.org", True), ("Fleet <a@b.org>", True), ("", True), ("b.org", False), ("a@b@c", False)):
        assert bool(re.fullmatch(address, name)) is valid
    monkeypatch.setitem(GIVEN, "SenderArn", f"{identity}b.org")
    monkeypatch.setitem(GIVEN, "SenderAddress", "a@b.org")
    assert value_of(POOL["EmailConfiguration"]) == {
        "EmailSendingAccount": "DEVELOPER",
        "SourceArn": f"{identity}b.org",
        "From": "a@b.org",
    }
