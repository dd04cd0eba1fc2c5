"""Row 36: all text of users is only ever data: in keys, pages, CSV, JSON and the log."""

import base64
import csv
import json
import logging
import re
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from io import StringIO
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from core.jobs.models import Job
from core.jobs.store import JobStore
from core.logs import JsonFormatter
from tests.support.jobs import add_images, done, failed, picture, put_results
from tests.support.memory_aws.s3 import MemoryBucket
from web_tier.http.parameters import MAX_FILENAME_BYTES

HOSTILE = (
    "../../x",
    "/etc/passwd",
    "C:\\x\\y",
    "<script>alert(1)</script>/\u202e/../x",
    "a\x00b",
    'x\r\n{"level": "error", "message": "forged"}',
    "x\u2028y\u2029z\x85",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egpj.exe\u2066",
    "x" * 300,
    "\U0001f600\ufe0f\u200d",
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "{{ config }}${7*7}",
    "=cmd()|'/C calc'!A0",
    "%s%n{0.__class__}",
)
PLAIN = re.compile(r"[ -~]*")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the process has logged, as it writes it; each is checked to be one line of plain ASCII, and JSON."""
    caplog.set_level(logging.DEBUG, "web_tier")
    written: list[str] = []
    yield written
    formatter = JsonFormatter("web")
    written += [formatter.format(record) for record in caplog.get_records("call")]
    assert written
    for line in written:
        assert PLAIN.fullmatch(line), line
        assert json.loads(line)["process"] == "web"


class Tags(HTMLParser):
    """The attributes of a page, and the sources of its images and scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: list[str] = []
        self.sources: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [name for name, _ in attrs]
        if tag in {"img", "script"}:
            self.sources.append(dict(attrs).get("src"))


def is_harmless(page: str) -> bool:
    """Return whether a page has no script of its own, no handler, and no character that turns text around."""
    tags = Tags(page.partition("<template")[0])
    ours = re.compile(r"/static/[0-9a-z/_-]+\.(js|svg)|/jobs/\w{26}/(images/\w{26}/(thumbnail|preview)|picture)")
    foreign = [each for each in tags.sources if each is None or not ours.fullmatch(each)]
    scripted = [name for name in tags.attributes if name.startswith("on") or name == "style"]
    return (
        not foreign
        and not scripted
        and "alert(1)</script>" not in page
        and "\u202e" not in page
        and "\x00" not in page
    )


def test_a_name_is_escaped_wherever_it_is_shown_and_is_no_part_of_a_key(
    client: FlaskClient, input_bucket: MemoryBucket, lines: list[str]
) -> None:
    data, keys = base64.b64encode(picture()).decode(), set()
    for text in HOSTILE:
        job = client.post("/api/v1/jobs", json={"name": text[:100]}).get_json()["job_id"]
        sent = client.post("/api/v1/classify?wait=0", json={"name": text, "data": data}).get_json()
        keys.add(f"{sent['job_id']}/{sent['image_id']}.jpg")
        for path in (f"/jobs/{job}", f"/jobs/{sent['job_id']}/images/{sent['image_id']}", "/jobs"):
            page = client.get(path)
            assert (page.status_code, is_harmless(page.text)) == (200, True), text
        shown = client.get(sent["location"]).get_json()["filename"]
        assert not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in shown), text
        assert len(shown.encode()) <= MAX_FILENAME_BYTES
    assert set(input_bucket.objects) == keys
    table = client.get(f"/api/v1/jobs/{sent['job_id']}/results.csv").text
    [_, *rows] = csv.reader(StringIO(table, newline=""))
    assert len(rows) == len(HOSTILE)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_labels_and_reasons_are_escaped(client: FlaskClient, store: JobStore, job: Job) -> None:
    for text in HOSTILE[-5:]:
        one, two = add_images(store, job, "a.jpg", "b.jpg")
        put_results(store, done(one, text), failed(two, text))
    page = client.get(f"/jobs/{job.job_id}").text
    assert is_harmless(page)
    assert "{{ config }}${7*7}" in page


def test_an_address_and_a_header_are_shown_escaped_and_logged_on_one_line(
    client: FlaskClient, lines: list[str]
) -> None:
    for text in HOSTILE:
        # A server takes no line ends in a header; of the rest it takes one byte for a character.
        agent = re.sub(r"[\r\n\x00]", "", text).encode("latin-1", "replace").decode("latin-1")
        headers, quoted = {"User-Agent": agent, "Referer": agent, "Idempotency-Key": agent}, quote(text, safe="")
        for path in (f"/{quoted}", f"/jobs/{quoted}", f"/jobs?q={quoted}", f"/fleet?span={quoted}"):
            answer = client.get(path, headers=headers)
            assert (answer.status_code < 500, is_harmless(answer.text)) == (True, True), path
        refused = client.post(f"/api/v1/jobs?x={quoted}", headers=headers, json={"name": [text]})
        assert refused.status_code in {400, 422}, text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_trace_in_the_log_is_one_line_for_any_error(text: str) -> None:
    error = ValueError(text)
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "a request %s failed", (text,), (ValueError, error, None))
    line = JsonFormatter("web").format(record)
    assert PLAIN.fullmatch(line)
    assert text in json.loads(line)["message"]
    assert text in json.loads(line)["exception"]
