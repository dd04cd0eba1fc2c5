"""Row 38: what changes something must come from a page of the session that it is known by."""

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import Forbidden

from tests.support.jobs import UNKNOWN_ID
from tests.support.people import BROWSER, House, cookie_of
from web_tier.auth.browser import CSRF_FIELD, CSRF_HEADER, check_csrf, csrf_field, csrf_token
from web_tier.auth.context import COOKIE

FORM, FOR_PROGRAMS = f"/jobs/{UNKNOWN_ID}/delete", "/api/v1/jobs"
PAST = 404
"""What a form gets that is let past: there is no such job."""


@pytest.fixture
def browser(house: House) -> FlaskClient:
    return house.signed_in("ada")


def post(browser: FlaskClient, path: str = FORM, token: str | None = None, **headers: str) -> int:
    data = {} if token is None else {CSRF_FIELD: token}
    return browser.post(path, data=data, headers=headers).status_code


def test_a_form_of_the_session_is_taken(house: House, browser: FlaskClient) -> None:
    for headers in (BROWSER, {"Origin": "http://localhost"}):
        assert post(browser, token=house.token_for_forms(browser), **headers) == PAST
        assert post(browser, **headers, **{CSRF_HEADER: house.token_for_forms(browser)}) == PAST


def test_a_form_without_the_sessions_token_is_refused(browser: FlaskClient) -> None:
    for token in (None, "", "forged", "a.b", "é"):
        assert post(browser, token=token, **BROWSER) == 403, token


def test_a_form_with_the_token_of_another_session_is_refused(house: House, browser: FlaskClient) -> None:
    """An attacker has a session too, and gets somebody to send its form."""
    theirs = house.token_for_forms(house.signed_in("eve"))
    assert post(browser, token=theirs, **BROWSER) == 403
    assert post(browser, **BROWSER, **{CSRF_HEADER: theirs}) == 403


def test_a_wrong_header_is_not_made_good_by_a_field(house: House, browser: FlaskClient) -> None:
    assert post(browser, token=house.token_for_forms(browser), **BROWSER, **{CSRF_HEADER: "forged"}) == 403


def test_a_request_without_its_origin_is_rejected(house: House, browser: FlaskClient) -> None:
    for path in (FORM, FOR_PROGRAMS):
        assert post(browser, path, token=house.token_for_forms(browser)) == 403, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_request_of_another_site_is_rejected_with_a_valid_token_too(
    house: House, browser: FlaskClient, headers: dict[str, str]
) -> None:
    token = house.token_for_forms(browser)
    for path in (FORM, FOR_PROGRAMS, "/sign-out"):
        assert post(browser, path, token=token, **headers) == 403, path
    assert browser.get("/jobs").status_code == 200


def test_a_strangers_form_of_an_older_tab_still_works_and_only_from_a_page_of_ours(browser: FlaskClient) -> None:
    forgotten = {"email": "ada@example.org"}
    assert browser.post("/forgot", data=forgotten, headers=BROWSER).status_code == 200
    assert browser.post("/forgot", data=forgotten).status_code == 403
    assert browser.post("/forgot", data=forgotten, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.post("/sign-out", headers=BROWSER).status_code == 403


def test_scripts_of_our_pages_call_the_api_by_where_they_come_from_alone(browser: FlaskClient) -> None:
    assert post(browser, FOR_PROGRAMS, **BROWSER) == 201


def test_programs_with_a_token_need_nothing_of_this_and_a_cookie_beside_it_counts_for_nothing(
    house: House, browser: FlaskClient
) -> None:
    token = house.with_token("bob", "classify")
    assert post(house.stranger(), FORM, **token) == PAST
    assert post(browser, FORM, **token) == PAST


def test_a_stranger_is_asked_to_sign_in_before_forms_are_checked(house: House) -> None:
    assert post(house.stranger(), **BROWSER) == 401


def test_the_field_holds_the_token_and_is_empty_where_there_is_no_session(
    house: House, browser: FlaskClient, app: Flask
) -> None:
    with house.app.test_request_context("/", headers={"Cookie": f"{COOKIE}={cookie_of(browser)}"}):
        house.app.preprocess_request()
        found = re.fullmatch(r'<input type="hidden" name="csrf_token" value="([\w.-]+)">', str(csrf_field()))
        assert found is not None
        check_csrf(found[1])
        with pytest.raises(Forbidden):
            check_csrf(None)
    for without in (house.app, app):
        with without.test_request_context("/api"):
            without.preprocess_request()
            assert (csrf_token(), csrf_field()) == ("", "")
            check_csrf(None)
