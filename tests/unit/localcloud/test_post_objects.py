"""A form is read whole and by the letter before anything is put, and what is no form is somebody else's."""

import io
import re
from typing import Any

import pytest

from localcloud.post_objects import MAX_FIELD_BYTES, MAX_FORM_BYTES, PostObjects

FORM = "multipart/form-data; boundary=b"


def part(name: str, content: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{content}\r\n'


KEY, FILE, END = part("key", "k"), part("file", "x"), "--b--\r\n"


def ask(body: str, path: str = "/photos", **environ: str | None) -> tuple[str, str]:
    """Return the status of the answer, and S3's code in it; `passed on` where another one answered."""
    begun: list[str] = []
    request: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "CONTENT_TYPE": FORM,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body.encode()),
        **environ,
    }
    given = {name: value for name, value in request.items() if value is not None}
    application = PostObjects(lambda environ, start_response: [b"<Code>passed on</Code>"])
    answer = b"".join(application(given, lambda status, headers: begun.append(status))).decode()
    code = re.search("<Code>(.*)</Code>", answer)
    return (begun[0] if begun else "", code[1] if code else "")


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/photos", {"REQUEST_METHOD": "PUT"}),
        ("/photos/key", {}),
        ("/", {}),
        ("/photos", {"CONTENT_TYPE": "application/xml"}),
        ("/photos", {"CONTENT_TYPE": None}),
    ],
)
def test_what_is_no_form_for_a_bucket_is_passed_on(path: str, changes: dict[str, str | None]) -> None:
    assert ask(KEY + FILE + END, path, **changes) == ("", "passed on")


@pytest.mark.parametrize(
    ("body", "changes", "code"),
    [
        (KEY + FILE + END, {"CONTENT_LENGTH": None}, "MissingContentLength"),
        (KEY + FILE + END, {"CONTENT_LENGTH": "9999"}, "IncompleteBody"),
        (KEY + FILE + END, {"CONTENT_LENGTH": str(MAX_FORM_BYTES + 1)}, "EntityTooLarge"),
        ("no form", {}, "MalformedPOSTRequest"),
        (KEY, {}, "MalformedPOSTRequest"),
        (KEY + END, {}, "InvalidArgument"),
        (FILE + END, {}, "InvalidArgument"),
        (KEY + KEY + FILE + END, {}, "InvalidArgument"),
        (KEY + part("policy", "p" * (MAX_FIELD_BYTES + 1)) + FILE + END, {}, "InvalidArgument"),
        (part("KEY", "k") + part("policy", "e30=") + FILE + END, {}, "InvalidArgument"),
    ],
)
def test_a_form_that_is_not_whole_is_a_bad_request(body: str, changes: dict[str, Any], code: str) -> None:
    assert ask(body, **changes) == ("400 Bad Request", code)


def test_a_whole_form_of_nobody_is_denied() -> None:
    assert ask(KEY + FILE + END) == ask(KEY + FILE + END, "/photos/") == ("403 Forbidden", "AccessDenied")
