"""Web pages get nothing from the local cloud: finding S1 of the security review."""

from collections.abc import Iterable
from typing import Any

import pytest

from localcloud.page_guard import PageGuard, is_local_host

SDK = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_HOST": "127.0.0.1:5000"}
FORM = {**SDK, "PATH_INFO": "/uploads", "CONTENT_TYPE": "multipart/form-data; boundary=b"}
OWN, FOREIGN = "http://127.0.0.1:8080", "https://evil.example"


class GuardedCloud:
    """A guard before a cloud that answers every request and has a bucket that accepts forms of `OWN`."""

    def __init__(self) -> None:
        self.passed = 0
        self.guard = PageGuard(self._cloud, lambda bucket, origin: (bucket, origin) == ("uploads", OWN))

    def __call__(self, environ: dict[str, str]) -> tuple[int, dict[str, str]]:
        """Return status and headers of the answer."""
        found: list[tuple[str, list[tuple[str, str]]]] = []
        list(self.guard(environ, lambda status, headers: found.append((status, headers))))
        [(status, headers)] = found
        return int(status.split()[0]), dict(headers)

    def _cloud(self, _environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.passed += 1
        start_response("200 OK", [])
        return (b"secret",)


@pytest.fixture
def guarded() -> GuardedCloud:
    return GuardedCloud()


@pytest.mark.parametrize("site", [{}, {"HTTP_SEC_FETCH_SITE": "none"}], ids=["an SDK", "typed by the user"])
def test_s1_requests_of_no_page_pass(guarded: GuardedCloud, site: dict[str, str]) -> None:
    assert guarded({**SDK, **site}) == (200, {})
    assert guarded.passed == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/uploads", "/uploads/key", "/_embedded/mail", "/_embedded/switches"])
@pytest.mark.parametrize(
    "page",
    [
        {"HTTP_ORIGIN": FOREIGN},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_SEC_FETCH_SITE": "none", "HTTP_ORIGIN": FOREIGN},
    ],
)
def test_s1_requests_of_pages_are_refused(
    guarded: GuardedCloud, method: str, path: str, page: dict[str, str]
) -> None:
    status, headers = guarded({**SDK, "REQUEST_METHOD": method, "PATH_INFO": path, **page})
    assert (status, guarded.passed) == (403, 0)
    assert not [name for name in headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "", "[", "192.0.2.1"]
)
def test_s1_requests_to_another_host_name_are_refused(guarded: GuardedCloud, host: str) -> None:
    assert guarded({**SDK, "HTTP_HOST": host})[0] == 403
    assert guarded.passed == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:5000", "123.s3-control.localhost:5"]
)
def test_s1_names_of_this_machine_are_known(host: str) -> None:
    assert is_local_host(host)


@pytest.mark.parametrize("path", ["/moto-api", "/moto-api/", "/moto-api/reset", "/moto-api/data.json"])
def test_s1_the_stock_control_pages_are_off(guarded: GuardedCloud, path: str) -> None:
    assert guarded({**SDK, "PATH_INFO": path})[0] == 403
    assert guarded.passed == 0


def test_s1_a_form_of_an_allowed_origin_passes_and_its_answer_can_be_read(guarded: GuardedCloud) -> None:
    assert guarded({**FORM, "HTTP_ORIGIN": OWN}) == (200, {"Access-Control-Allow-Origin": OWN, "Vary": "Origin"})
    preflight = {**FORM, "REQUEST_METHOD": "OPTIONS", "HTTP_ACCESS_CONTROL_REQUEST_HEADERS": "x-a"}
    status, headers = guarded({**preflight, "HTTP_ORIGIN": OWN})
    assert (status, headers["Access-Control-Allow-Headers"], guarded.passed) == (200, "x-a", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"HTTP_ORIGIN": FOREIGN},
        {"PATH_INFO": "/results"},
        {"PATH_INFO": "/uploads/key"},
        {"CONTENT_TYPE": "application/x-www-form-urlencoded"},
        {"CONTENT_TYPE": "multipart/form-data-of-another-kind"},
        {"REQUEST_METHOD": "PUT"},
    ],
)
def test_s1_nothing_but_a_form_of_an_allowed_origin_to_its_bucket_passes(
    guarded: GuardedCloud, change: dict[str, str]
) -> None:
    assert guarded({**FORM, "HTTP_ORIGIN": OWN, **change})[0] == 403
    assert guarded.passed == 0
