"""Sign-in: the provider of the web tier, the user pool of the stack, and their permissions; the names of the page.

Row 42 of the fault list: no key of sessions is in template, user data or parameters.
"""

import re
from collections.abc import Mapping

import pytest

from scripts.aws.deploy.auth import GROUPS, session_keys_parameter
from services.accounts import OPERATORS
from tests.conftest import shipped_values
from tests.support.stack_template import (
    GIVEN,
    RESOURCES,
    TEMPLATE,
    allowed,
    listed,
    of_this_stack,
    of_type,
    statements,
    user_data,
    value_of,
)

POOL, CLIENT, DOMAIN = (RESOURCES[name]["Properties"] for name in ("UserPool", "UserPoolClient", "UserPoolDomain"))
KEPT = "eu-central-1_Kept1"
OF_THE_POOL = ("UserPool", "UsersGroup", "OperatorsGroup")
OTHER = {"Issuer": "https://id.example.org/realms/fleet", "ClientId": "0123", "OperatorsGroupName": "Fleet operators"}
"""The parameters of another provider."""


def give(monkeypatch: pytest.MonkeyPatch, given: Mapping[str, str]) -> None:
    for name, value in given.items():
        monkeypatch.setitem(GIVEN, name, value)


def is_made(name: str) -> bool:
    return bool(value_of({"Condition": RESOURCES[name]["Condition"]}))


def test_users_sign_in_at_the_user_pool_of_the_stack() -> None:
    auth = of_this_stack().auth
    assert (auth.mode, auth.open, auth.client_id) == ("oidc", False, GIVEN["UserPoolClient"])
    # The issuer of a pool's tokens, below which its discovery document is:
    # https://docs.aws.amazon.com/cognito/latest/developerguide/federation-endpoints.html
    assert auth.issuer == f"https://cognito-idp.eu-central-1.amazonaws.com/{GIVEN['UserPool']}"
    assert value_of(TEMPLATE["Outputs"]["Issuer"]["Value"]) == auth.issuer
    assert (auth.groups_claim, auth.operators_group) == ("cognito:groups", OPERATORS)
    assert set(auth.scopes) == set(CLIENT["AllowedOAuthScopes"])


def test_without_a_provider_there_is_no_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, {"CreateUserPool": "false"})
    auth = of_this_stack().auth
    assert (auth.mode, auth.open, auth.issuer) == ("none", True, None)
    names = [*OF_THE_POOL, "UserPoolClient", "UserPoolDomain", "ManagedLogin", "SignInPolicy"]
    assert not [name for name in names if is_made(name)]


def test_another_provider_takes_the_place_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"Scopes": ["openid", "profile"], "GroupsClaim": "https://example.org/groups"}
    give(monkeypatch, OTHER)
    monkeypatch.setitem(GIVEN, "GroupsClaim", more["GroupsClaim"])
    monkeypatch.setitem(GIVEN, "Scopes", "openid,profile")
    auth = of_this_stack().auth
    assert (auth.mode, auth.open, auth.issuer, auth.client_id) == ("oidc", False, OTHER["Issuer"], OTHER["ClientId"])
    assert (list(auth.scopes), auth.groups_claim) == (more["Scopes"], more["GroupsClaim"])
    assert auth.operators_group == OTHER["OperatorsGroupName"]
    assert not [name for name in (*OF_THE_POOL, "UserPoolClient", "UserPoolDomain", "ManagedLogin") if is_made(name)]
    assert value_of(TEMPLATE["Outputs"]["Issuer"]["Value"]) == OTHER["Issuer"]


@pytest.mark.parametrize(
    ("name", "value", "is_valid"),
    [
        ("Issuer", "https://id.example.org/realms/fleet", True),
        ("Issuer", "http://id.example.org", False),
        ("Issuer", "https://id.example.org:8443", False),
        ("Issuer", "https://id.example.org/'; reboot #", False),
        ("ClientId", "0a1b-2c3d.apps.example.com", True),
        ("ClientId", "a'b", False),
        ("Scopes", "openid,email,api://fleet/read", True),
        ("Scopes", "openid email", False),
        ("Scopes", "openid,'", False),
        ("GroupsClaim", "https://example.org/groups", True),
        ("GroupsClaim", "a'b", False),
        ("OperatorsGroupName", "Fleet operators", True),
        ("OperatorsGroupName", "a'b", False),
        ("OperatorsGroupName", 'a"b', False),
        ("SignInDomain", "fleet-of-photos", True),
        ("SignInDomain", "Fleet", False),
        ("SignInDomain", "my-aws-fleet", False),
        ("DomainName", "images.example.org", True),
        ("DomainName", "Images.example.org", False),
        ("SiteName", "Images.example.org", False),
        ("PageNames", "a.example,b-c.example", True),
        ("PageNames", "A.example", False),
        ("PageNames", "a b", False),
        ("PageNames", "a'; reboot #", False),
        ("KeptUserPool", KEPT, True),
        ("KeptUserPool", "a_b'; reboot #", False),
    ],
)
def test_parameters_of_sign_in_and_names_cannot_contain_shell_commands(name: str, value: str, is_valid: bool) -> None:
    assert bool(re.fullmatch(TEMPLATE["Parameters"][name]["AllowedPattern"], value)) is is_valid


@pytest.mark.parametrize("is_open", ["true", "false"])
def test_users_create_accounts_if_the_stack_allows_it(monkeypatch: pytest.MonkeyPatch, is_open: str) -> None:
    give(monkeypatch, {"OpenSignUp": is_open})
    assert value_of(POOL["AdminCreateUserConfig"]) == {"AllowAdminCreateUserOnly": is_open == "false"}


@pytest.mark.parametrize("factor", ["OFF", "OPTIONAL", "ON"])
def test_the_second_factor_is_an_authenticator_app(monkeypatch: pytest.MonkeyPatch, factor: str) -> None:
    give(monkeypatch, {"SecondFactor": factor})
    pool = value_of(POOL)
    assert pool["MfaConfiguration"] == factor
    # Cognito refuses factors beside OFF: "can't turn off MFA and configure an MFA together".
    assert pool.get("EnabledMfas") == (None if factor == "OFF" else ["SOFTWARE_TOKEN_MFA"])


def test_passwords_are_long_and_accounts_have_verified_addresses() -> None:
    password = POOL["Policies"]["PasswordPolicy"]
    assert password["MinimumLength"] == 12
    assert not any(password[f"Require{kind}"] for kind in ("Lowercase", "Uppercase", "Numbers", "Symbols"))
    assert POOL["UsernameAttributes"] == POOL["AutoVerifiedAttributes"] == ["email"]
    assert POOL["UsernameConfiguration"] == {"CaseSensitive": False}
    assert POOL["UserAttributeUpdateSettings"] == {"AttributesRequireVerificationBeforeUpdate": ["email"]}
    assert (CLIENT["ReadAttributes"], CLIENT["WriteAttributes"]) == (["email", "email_verified"], ["email"])


def test_the_client_is_public_and_gets_tokens_for_codes_alone() -> None:
    assert (CLIENT["AllowedOAuthFlowsUserPoolClient"], CLIENT["AllowedOAuthFlows"]) == (True, ["code"])
    assert (CLIENT["ExplicitAuthFlows"], CLIENT["GenerateSecret"]) == (["ALLOW_REFRESH_TOKEN_AUTH"], False)
    assert (CLIENT["PreventUserExistenceErrors"], CLIENT["EnableTokenRevocation"]) == ("ENABLED", True)
    assert CLIENT["SupportedIdentityProviders"] == ["COGNITO"]


@pytest.mark.parametrize(("tier", "version"), [("ESSENTIALS", 2), ("LITE", 1)])
def test_the_sign_in_pages_are_those_of_the_tier(monkeypatch: pytest.MonkeyPatch, tier: str, version: int) -> None:
    give(monkeypatch, {"UserPoolTier": tier})
    assert (value_of(POOL["UserPoolTier"]), value_of(DOMAIN["ManagedLoginVersion"])) == (tier, version)
    # Version 2 shows no page for a client without a style.
    assert is_made("ManagedLogin") is (version == 2)


def test_tokens_last_an_hour_and_refresh_tokens_as_long_as_a_session() -> None:
    units = {"AccessToken": "minutes", "IdToken": "minutes", "RefreshToken": "hours"}
    assert CLIENT["TokenValidityUnits"] == units
    assert (CLIENT["AccessTokenValidity"], CLIENT["IdTokenValidity"]) == (60, 60)
    assert value_of(CLIENT["RefreshTokenValidity"]) == shipped_values()["auth"]["session_hours"]


def test_the_domain_of_the_pool_is_unique_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert value_of(DOMAIN["Domain"]) == "fleetsight-123456789012"
    give(monkeypatch, {"SignInDomain": "photos"})
    assert value_of(DOMAIN["Domain"]) == "photos"


def test_accounts_and_operators_outlive_the_stack_and_are_protected() -> None:
    assert POOL["DeletionProtection"] == "ACTIVE"
    for name in OF_THE_POOL:
        assert RESOURCES[name]["DeletionPolicy"] == RESOURCES[name]["UpdateReplacePolicy"] == "Retain"
    assert tuple(each["GroupName"] for each in of_type("Cognito::UserPoolGroup").values()) == GROUPS


def test_a_kept_pool_of_an_earlier_stack_gets_a_client_and_a_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, {"KeptUserPool": KEPT})
    assert of_this_stack().auth.issuer == f"https://cognito-idp.eu-central-1.amazonaws.com/{KEPT}"
    pools = {value_of(RESOURCES[name]["Properties"]["UserPoolId"]) for name in OF_ITS_DOMAIN}
    assert pools | {value_of(TEMPLATE["Outputs"]["UserPoolId"]["Value"])} == {KEPT}
    assert all(is_made(name) for name in OF_ITS_DOMAIN)
    assert not any(is_made(name) for name in OF_THE_POOL)


OF_ITS_DOMAIN = ("UserPoolClient", "UserPoolDomain", "ManagedLogin")


# ---- The permissions of the web tier


def test_the_web_tier_calls_no_user_pool_and_reads_the_secret_of_another_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys, secret = (f"{PARAMETERS}/fleetsight/{name}" for name in ("session-keys", "client-secret"))
    assert readable() == {keys, TLS}
    assert not [action for action, _ in allowed("WebRole") if action.startswith("cognito-idp:")]
    assert "client-secret" not in user_data("WebTemplate")
    give(monkeypatch, OTHER)
    assert readable() == {keys, secret, TLS}
    assert "export FLEETSIGHT_CLIENT_SECRET_PARAMETER='/fleetsight/client-secret'\n" in user_data("WebTemplate")


PARAMETERS = "arn:aws:ssm:eu-central-1:123456789012:parameter"
TLS = f"{PARAMETERS}{GIVEN['TlsParameter']}"


def readable() -> set[str]:
    """Return the parameters that the web role reads, after a check that it decrypts these alone."""
    context = "kms:EncryptionContext:PARAMETER_ARN"
    decrypts = [each for each in statements("WebRole").values() if context in str(each.get("Condition"))]
    contexts = {one for each in decrypts for one in listed(value_of(each["Condition"])["StringEquals"][context])}
    found = {resource for action, resource in allowed("WebRole") if action == "ssm:GetParameter"}
    assert contexts == found
    return found


# ---- The keys of sessions


def test_the_web_instance_gets_the_name_of_the_session_keys_and_not_the_keys() -> None:
    script = user_data("WebTemplate")
    assert f"export FLEETSIGHT_SESSION_KEYS_PARAMETER='{session_keys_parameter('fleetsight')}'\n" in script
    assert "FLEETSIGHT_SESSION_KEYS" not in user_data("WorkerTemplate")
    # The template waits for the policy by which the instance may read it.
    assert "{'Ref': 'SignInPolicy'}" in str(RESOURCES["WebTemplate"])
    assert not of_type("SSM::Parameter")


# ---- The names of the page

BALANCER, SITE = "<LoadBalancer.DNSName>", "<Site.DomainName>"
NAMED = {"CertificateArn": "arn", "DomainName": "a.example"}


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, []),
        ({"CertificateArn": "arn"}, [BALANCER]),
        (NAMED, ["a.example"]),
        ({"PageNames": "b.example,c.example"}, ["b.example", "c.example"]),
        (NAMED | {"PageNames": "b.example"}, ["a.example", "b.example"]),
        (NAMED | {"StaticSite": "true"}, ["a.example", SITE]),
        (
            NAMED | {"StaticSite": "true", "SiteName": "s.example", "SiteCertificateArn": "arn"},
            ["a.example", "s.example"],
        ),
    ],
    ids=["address", "balancer", "name", "others", "both", "site", "site-name"],
)
def test_the_page_accepts_its_own_names_and_sign_in_leads_back_to_each(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], hosts: list[str]
) -> None:
    give(monkeypatch, given)
    shown = "[" + ", ".join(f'"{host}"' for host in hosts) + "]"
    assert f"export FLEETSIGHT__WEB__HOSTS='{shown}'\n" in user_data("WebTemplate")
    names = hosts if "CertificateArn" in given else ["<PageIp>", *hosts]
    assert value_of(CLIENT["CallbackURLs"]) == [f"https://{name}/sign-in/callback" for name in names]
    assert value_of(CLIENT["LogoutURLs"]) == [f"https://{name}/signed-out" for name in names]


def test_user_data_with_the_longest_settings_fits_ec2s_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(GIVEN, "WebSettings", "x" * 4096)
    assert len(user_data("WebTemplate").encode()) < 16_384 / 2  # the placeholders of ids are shorter than real ids
