"""Images straight to the bucket: every image that was sent gets one verdict, and no host is reached unasked."""

import http.server
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scripts.client import ApiClient, ApiError, FileSpec, FormOffer, OfferedForm, UploadResult
from scripts.load.inputs import LoadImages, LoadTarget, TargetError, parse_target
from scripts.load.jobs import DirectLoad, content_type
from scripts.load.metrics import LoadMetrics
from tests.support.pictures import picture
from tests.support.served import serving
from tests.unit.scripts.load.test_batches import Clock, FakeApi

HERE = LoadTarget("http://127.0.0.1:8000", "127.0.0.1", 8000, False)
JPEG = b"\xff\xd8\xff"


@dataclass
class FakeDirectApi(FakeApi):
    """Answers with what follows the JPEG mark as the label; a file of another type is not offered a form."""

    form_url: str = "http://127.0.0.1:9000/photos"
    failing: dict[str, str] = field(default_factory=dict)
    """Names of calls that fail, with the reason."""
    asked: list[FileSpec] = field(default_factory=list)
    arrived: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def offer_uploads(self, job_id: str, files: Sequence[FileSpec]) -> FormOffer:
        self._fail("offer")
        self.asked += files
        forms = [
            OfferedForm(index, self.form_url, {"key": file.name})
            for index, file in enumerate(files)
            if file.content_type == "image/jpeg"
        ]
        return FormOffer(
            "u", forms, [(file.name, "not taken") for file in files if file.content_type != "image/jpeg"]
        )

    def send_form(self, url: str, fields: Mapping[str, str], name: str, content: bytes) -> None:
        self._fail("form")
        self.arrived[fields["key"]] = name, content

    def commit_upload(self, job_id: str, upload_id: str) -> UploadResult:
        self._fail("commit")
        offered = [file.name for file in self.asked if file.content_type == "image/jpeg"]
        start = len(self.sent)
        self.sent += [(name, content.removeprefix(JPEG).decode()) for name, content in self.arrived.values()]
        accepted = [(f"id-{start + at}", name) for at, (name, _) in enumerate(self.sent[start:])]
        missing = [(name, "it has not arrived") for name in offered if name not in self.arrived]
        self.arrived.clear()
        self.asked.clear()
        return UploadResult(accepted, missing)

    def _fail(self, call: str) -> None:
        if call in self.failing:
            raise ApiError(self.failing[call])


def run(folder: Path, contents: Sequence[str], api: FakeApi, target: LoadTarget = HERE) -> LoadMetrics:
    """Send files with `contents`, each of which is expected to be a stop sign; return what came of it."""
    files = [folder / f"{number}.jpg" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes((b"" if content == "-" else JPEG) + content.encode())
    figures, clock = LoadMetrics(), Clock()
    pictures = LoadImages(files, len(files), {file.name: "stop" for file in files})
    load = DirectLoad(api, pictures, figures, 30, threading.Event(), clock, clock.sleep, target=target)
    for part in load.batches():
        load.upload("job", part)
    load.collect("job", lambda images: None)
    return figures


def test_every_image_has_its_verdict(tmp_path: Path) -> None:
    api = FakeDirectApi()
    figures = run(tmp_path, ["stop", "yield", "!", "?", "-", "stop"], api)
    assert figures.counts == {"right": 2, "answered": 0, "wrong": 1, "failed": 2, "lost": 1}
    assert "failed: 4.jpg: not taken" in figures.problems


@pytest.mark.parametrize(
    ("call", "says"),
    [("offer", "a slice of 3: no answer"), ("form", "0.jpg: no answer"), ("commit", "a slice of 3: no answer")],
)
def test_what_cannot_be_sent_has_failed_with_the_first_reason(tmp_path: Path, call: str, says: str) -> None:
    figures = run(tmp_path, ["stop"] * 3, FakeDirectApi(failing={call: "no answer"}))
    assert figures.counts["failed"] == 3
    assert f"failed: {says}" in figures.problems


def test_a_form_that_leads_elsewhere_is_not_sent(tmp_path: Path) -> None:
    api = FakeDirectApi(form_url="http://192.0.2.1/photos")
    with pytest.raises(TargetError, match="--i-may-load-this-target"):
        run(tmp_path, ["stop"], api)
    assert api.arrived == {}


def test_whoever_may_load_anything_may_load_what_it_leads_to(tmp_path: Path) -> None:
    allowed = parse_target("http://127.0.0.1:8000", anywhere=True)
    figures = run(tmp_path, ["stop"], FakeDirectApi(form_url="http://192.0.2.1/photos"), allowed)
    assert figures.counts["right"] == 1


@pytest.mark.parametrize("url", ["file:///etc/passwd", "//127.0.0.1/photos", "http:///photos", ""])
def test_what_is_no_address_is_never_loaded(url: str) -> None:
    with pytest.raises(TargetError, match="no address"):
        parse_target("http://127.0.0.1:8000", anywhere=True).check(url)


@pytest.mark.parametrize(("form", "found"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp")])
def test_the_type_of_a_file_is_that_of_its_content(tmp_path: Path, form: str, found: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(picture(form))
    assert content_type(file) == found


def test_what_is_no_image_is_declared_as_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"text")
    assert content_type(file) == "application/octet-stream"


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends every form on to `/elsewhere`, where it is taken; `seen` are the paths."""

    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path)
        self.send_response(204 if self.path == "/elsewhere" else 307)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@pytest.fixture
def redirecting() -> Iterator[str]:
    Redirecting.seen = []
    with serving(http.server.HTTPServer(("127.0.0.1", 0), Redirecting)) as address:
        yield address


@pytest.mark.processes
def test_a_form_that_is_redirected_is_not_sent_on(redirecting: str) -> None:
    client = ApiClient("http://127.0.0.1:9")
    with pytest.raises(ApiError, match="answered 307"):
        client.send_form(f"{redirecting}/photos", {}, "a.jpg", b"x")
    client.close()
    assert Redirecting.seen == ["/photos"]
