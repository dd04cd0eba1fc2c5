"""The Authorization header: what is taken for a token, and whose it is (docs/faults.md row 39)."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.accounts import OPERATORS
from tests.support.people import House
from web_tier.access.authorization import MAX_CHARACTERS, RefusedError, identity_by, token_in
from web_tier.access.identity import Scope

TOKENS = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=1, max_size=50)


@given(TOKENS, st.sampled_from(["", "Bearer ", "bearer ", "BEARER   "]))
def test_a_token_is_taken_alone_or_after_its_scheme(token: str, scheme: str) -> None:
    assert token_in(scheme + token) == token


@given(st.text())
def test_whatever_else_is_there_is_refused_or_is_a_token(header: str) -> None:
    try:
        token = token_in(header)
    except RefusedError:
        return
    assert set(token) <= set(string.ascii_letters + string.digits + "-._~+/=")
    assert header.lower().removeprefix("bearer").lstrip(" ") in {token.lower(), ""} or header == token


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer one two",
        "Bearer one,Bearer two",  # two headers reach us as one
        "Bearer one, two",
        "Bearer one\n",
        "Bearer on\x00e",
        "Bearer\tone",
        "Bearer \x7fone",
        "Bearer öne",
        "Bearer " + "x" * MAX_CHARACTERS,
    ],
)
def test_what_is_no_header_of_one_token_is_refused(header: str) -> None:
    with pytest.raises(RefusedError) as refused:
        token_in(header)
    assert "one" not in str(refused.value)


@pytest.mark.parametrize("use", ["id", "access"])
def test_a_token_of_the_pool_may_do_all_that_its_user_may(house: House, use: str) -> None:
    house.pool.add("ada", OPERATORS)
    identity = identity_by(f"Bearer {use}.ada.1", house.access)
    assert (identity.owner, identity.by, identity.operates) == ("ada", "pool_token", True)
    assert identity.scopes == set(Scope)


def test_a_token_that_the_pool_did_not_sign_is_refused(house: House) -> None:
    with pytest.raises(RefusedError):
        identity_by("Bearer id.nobody.1", house.access)


def test_a_personal_token_may_do_what_it_is_for(house: House) -> None:
    identity = identity_by(house.with_token("ada", "read")["Authorization"], house.access)
    assert (identity.owner, identity.email, identity.by) == ("ada", "ada@example.org", "personal_token")
    assert identity.scopes == {Scope.READ}


def test_a_personal_token_for_the_fleet_is_worth_nothing_once_its_owner_is_no_operator(house: House) -> None:
    house.pool.add("ops", OPERATORS)
    header = house.with_token("ops", "operate")["Authorization"]
    assert identity_by(header, house.access).operates
    house.pool.add("ops")
    assert identity_by(header, house.access).operates  # the pool is asked once a minute
    house.clock.go_on(60)
    assert not identity_by(header, house.access).operates


def test_a_personal_token_ends_with_its_owners_account(house: House) -> None:
    header = house.with_token("ada", "read")["Authorization"]
    del house.pool.accounts["ada"]
    with pytest.raises(RefusedError):
        identity_by(header, house.access)
