"""Single images: POST /api/v1/classify, the classic contracts, and the asynchronous pair."""

import base64
import gzip
import json
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import DEMO_BUNDLE
from core.format import short_date
from core.ids import ImageRef
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import ClassificationResult, RequestMessage
from services.sqs import OutgoingMessage, Queue
from tests.support.api import AppMaker, problem
from tests.support.jobs import UNKNOWN_ID, client_error, done, failed, picture, put_results
from tests.support.memory_aws.s3 import MemoryBucket

CLASSIFY = "/api/v1/classify"
SENT = next(
    encoded
    for encoded in (base64.b64encode(picture(shade=shade)).decode() for shade in range(256))
    if set("+/=") <= set(encoded)
)
JSON_TYPE = "application/json"


Answering = Callable[[ImageRecord], ClassificationResult | None]


class AnsweringQueue(Queue):
    """A request queue with a fleet: `answer` returns the result of an image, or None to leave it waiting."""

    def __init__(self, store: JobStore, answer: Answering = done) -> None:
        super().__init__(cast(Any, None), "memory")
        self.store, self.answer = store, answer
        self.images: list[ImageRef] = []

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        for message in messages:
            [ref] = RequestMessage.from_json(message.body).refs
            self.images.append(ref)
            result = self.answer(self.store.image(ref))
            if result is not None and result.status == "done":
                put_results(self.store, *[result])
            elif result is not None:
                put_results(self.store, result)
        return []


@pytest.fixture
def fleet(store: JobStore) -> AnsweringQueue:
    """A fleet that answers every image with `stop sign` unless a test changes `answer`."""
    return AnsweringQueue(store)


@pytest.fixture
def asking(make_app: AppMaker, fleet: AnsweringQueue) -> FlaskClient:
    """A client of a web tier; `fleet` answers its images."""
    return make_app(queue=fleet).test_client()


# POST /api/v1/classify


@pytest.mark.parametrize(
    ("request_", "filename"),
    [
        ({"data": {"f": (BytesIO(picture()), "a.jpg")}}, "a.jpg"),
        ({"data": picture(), "content_type": "image/jpeg", "query_string": {"name": "dir/b.jpg"}}, "dir/b.jpg"),
        ({"data": picture(), "content_type": "application/octet-stream"}, "unnamed"),
        ({"json": {"data": SENT}}, "unnamed"),
        ({"json": {"name": "c.jpg", "data": f"data:image/jpeg;base64,{SENT}"}}, "c.jpg"),
        ({"json": {"data": SENT.translate(str.maketrans("+/", "-_"))}}, "unnamed"),
        ({"json": {"data": SENT.rstrip("=")}}, "unnamed"),
        ({"json": {"data": SENT.replace("+", " ")}}, "unnamed"),
        ({"json": {"data": f" {SENT[:76]} \r\n\t{SENT[76:]}\n"}}, "unnamed"),
        *(
            ({"data": json.dumps({"name": "d.jpg", "data": SENT}).encode(encoding), "mimetype": JSON_TYPE}, "d.jpg")
            for encoding in ("utf-8-sig", "utf-16", "utf-16-le")
        ),
        (
            {"data": f'{{"name": "\\udce9\\ud83d\\ude00\\\\udce9", "data": "{SENT}"}}', "mimetype": JSON_TYPE},
            "\ufffd😀/udce9",
        ),
        ({"data": f'{{"name": "é.jpg", "data": "{SENT}"}}'.encode("latin-1"), "mimetype": JSON_TYPE}, "\ufffd.jpg"),
    ],
)
def test_an_image_gets_its_prediction(asking: FlaskClient, request_: dict[str, Any], filename: str) -> None:
    answer = asking.post(CLASSIFY, **request_)
    body = answer.get_json()
    assert answer.status_code == 200
    assert (body["status"], body["label"], body["filename"]) == ("done", "stop sign", filename)
    assert asking.get(body["location"]).get_json()["label"] == "stop sign"


def test_a_request_without_wait_gets_202_with_a_location(
    asking: FlaskClient, fleet: AnsweringQueue, store: JobStore
) -> None:
    fleet.answer = lambda record: None
    answer = asking.post(f"{CLASSIFY}?wait=0", json={"data": SENT})
    assert (answer.status_code, answer.get_json()["status"]) == (202, "waiting")
    assert answer.headers["Location"] == answer.get_json()["location"]
    assert asking.get(answer.headers["Location"]).get_json()["status"] == "waiting"
    put_results(store, done(store.image(fleet.images[0])))
    assert asking.get(answer.headers["Location"]).get_json()["label"] == "stop sign"


def test_an_answer_has_the_border_of_doubt_of_the_job_of_single_images(asking: FlaskClient) -> None:
    def decisions() -> list[str]:
        sent = asking.post(CLASSIFY, json={"data": SENT}).get_json()
        return [sent["decision"], asking.get(sent["location"]).get_json()["decision"], sent["job_id"]]

    *before, job_id = decisions()
    assert before == ["stop sign", "stop sign"]
    assert asking.put(f"/api/v1/jobs/{job_id}/min-scores", json={"min_score": 1}).status_code == 200
    assert decisions() == ["unsure", "unsure", job_id]


@pytest.mark.parametrize("wait", ["-1", "61", "1.5", "x", "", "100000", "²"])
def test_a_wait_out_of_range_is_rejected(asking: FlaskClient, fleet: AnsweringQueue, wait: str) -> None:
    detail = problem(asking.post(CLASSIFY, json={"data": SENT}, query_string={"wait": wait}), 400)
    assert detail.startswith("wait: ")
    assert fleet.images == []


def test_an_image_that_cannot_be_classified_gets_a_problem_with_the_reason(
    asking: FlaskClient, fleet: AnsweringQueue
) -> None:
    fleet.answer = failed
    answer = asking.post(CLASSIFY, json={"data": SENT})
    assert "crashed" in problem(answer, 422)
    assert answer.get_json()["code"] == "crashed_worker"


@pytest.mark.parametrize("path", [CLASSIFY, "/classify", "/inference/image"])
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [(b"text", 422, "not_an_image"), (b"", 422, "empty"), (b"x" * 3_000, 413, "too_large")],
)
def test_a_rejected_image_gets_a_problem_with_its_code(
    make_app: AppMaker, path: str, data: bytes, status: int, code: str
) -> None:
    client = make_app(web={"max_image_bytes": 2_000}).test_client()
    answer = client.post(path, json={"data": base64.b64encode(data).decode()})
    assert (answer.status_code, answer.get_json()["code"]) == (status, code)


def test_a_compressed_body_is_refused_by_name(asking: FlaskClient) -> None:
    for path in (CLASSIFY, "/api/image", "/api/v1/jobs"):
        answer = asking.post(path, data=gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, "compressed (gzip)" in answer.text) == (415, True)


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"data": b"text", "content_type": "image/png"}, 422, "not an image"),
        ({"data": b"", "content_type": "image/png"}, 422, "empty"),
        ({"data": b"x", "content_type": "text/html"}, 415, "multipart/form-data"),
        ({"data": b"x"}, 415, "without a type"),
        ({"data": {"a": "b"}, "content_type": "multipart/form-data"}, 422, "no file"),
        ({"data": b"{", "content_type": "application/json"}, 422, '{"name": "a.jpg"'),
        ({"json": {"name": "x"}}, 422, "data: Field required"),
        ({"json": {"data": "***"}}, 422, "not base64"),
        ({"json": {"data": "ä"}}, 422, "not base64"),
        ({"json": {"data": base64.b64encode(b"text").decode()}}, 422, "not an image"),
        (
            {"data": picture(), "content_type": "image/jpeg", "headers": {"Origin": "http://evil"}},
            403,
            "another site",
        ),
    ],
)
def test_an_invalid_request_gets_a_problem_with_what_to_do(
    asking: FlaskClient, fleet: AnsweringQueue, request_: dict[str, Any], status: int, said: str
) -> None:
    assert said in problem(asking.post(CLASSIFY, **request_), status)
    assert fleet.images == []


def test_memory_of_read_images_is_released(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    for request_ in ({"json": {"data": SENT}}, {"data": b"x", "content_type": "image/png"}, {"data": {"a": "b"}}):
        asking.post(CLASSIFY, **request_)
    budget = asking.application.extensions["fleetsight"].reading
    assert budget._free == budget._capacity


# The asynchronous pair


@pytest.mark.parametrize("path", ["/inference/image", "/inference/image/"])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_label_is_returned_for_the_uuid_of_its_image(asking: FlaskClient, path: str, content_type: str) -> None:
    body = json.dumps({"name": "a.jpg", "data": SENT})
    answer = asking.post(path, data=body, content_type=content_type)
    assert (answer.status_code, list(answer.get_json())) == (200, ["uuid"])
    for address in (f"/predictions/{answer.get_json()['uuid']}", f"/predictions/{answer.get_json()['uuid']}/"):
        found = asking.get(address)
        assert (found.status_code, found.get_json()) == (200, {"prediction": "stop sign"})


def test_a_label_that_is_not_known_yet_gets_202(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: None
    uuid = asking.post("/inference/image", json={"name": "a.jpg", "data": SENT}).get_json()["uuid"]
    found = asking.get(f"/predictions/{uuid}")
    assert (found.status_code, found.get_json()) == (202, {"prediction": None})


def test_a_uuid_of_a_failed_image_gets_the_reason(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = failed
    uuid = asking.post("/inference/image", json={"name": "a.jpg", "data": SENT}).get_json()["uuid"]
    assert "crashed" in problem(asking.get(f"/predictions/{uuid}"), 422)


@pytest.mark.parametrize(
    "uuid", ["x", "-", UNKNOWN_ID, f"{UNKNOWN_ID}-{UNKNOWN_ID}", "0f8fad5b-d9cb-469f-a165-70867728950e"]
)
def test_an_unknown_uuid_gets_404(asking: FlaskClient, uuid: str) -> None:
    problem(asking.get(f"/predictions/{uuid}"), 404)


# The poster


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_poster_gets_the_label_of_its_image(asking: FlaskClient, content_type: str) -> None:
    body = json.dumps({"data": f"data:image/png;base64,{SENT}"})
    answer = asking.post("/classify", data=body, content_type=content_type)
    assert (answer.status_code, answer.mimetype, answer.get_json()) == (200, "application/json", "stop sign")


def test_a_poster_gets_the_message_of_the_label_if_the_bundle_has_one(
    make_app: AppMaker, fleet: AnsweringQueue, tmp_path: Path
) -> None:
    words = {"labels": ["stop sign", "yield sign"], "messages": {"stop sign": "Stop: look both ways."}}
    manifest = json.loads((DEMO_BUNDLE / "bundle.json").read_text()) | words | {"digest": None}
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    client = make_app(queue=fleet, worker={"bundle": str(tmp_path)}).test_client()
    assert client.post("/classify", json={"data": SENT}).get_json() == "Stop: look both ways."


@pytest.mark.parametrize(("data", "status"), [(SENT, 200), ("AAAA", 422)])
def test_a_poster_on_an_allowed_site_may_read_answers_and_errors(
    make_app: AppMaker, fleet: AnsweringQueue, data: str, status: int
) -> None:
    origin = "https://posters.example.org"
    client = make_app(queue=fleet, web={"cors_origins": [origin]}).test_client()
    answer = client.post("/classify", json={"data": data}, headers={"Origin": origin, "Sec-Fetch-Site": "cross-site"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, origin)


PATHS = ("/", "/classify", "/api/image", "/classify-image", "/file-upload")


def post(client: FlaskClient, path: str, field: str, data: bytes, name: str = "test_0.jpg") -> TestResponse:
    return client.post(path, data={field: (BytesIO(data), name)}, content_type="multipart/form-data")


def text(answer: TestResponse, status: int) -> str:
    assert (answer.status_code, answer.mimetype) == (status, "text/plain")
    return answer.get_data(as_text=True)


@pytest.mark.parametrize("path", [*PATHS, *(f"{path}/" for path in PATHS[1:])])
def test_a_form_gets_the_bare_label_and_input_file_its_name_too(asking: FlaskClient, path: str) -> None:
    for field, reply in (("myfile", "stop sign"), ("images", "stop sign"), ("inputFile", "test_0:stop sign")):
        assert text(post(asking, path, field, picture()), 200) == reply


@pytest.mark.parametrize(
    "headers", [{"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, {"Sec-Fetch-Site": "same-origin"}]
)
def test_the_form_of_a_browser_leads_to_the_page_of_its_job(asking: FlaskClient, headers: dict[str, str]) -> None:
    data = {"myfile": (BytesIO(picture()), "a.jpg")}
    answer = asking.post("/", data=data, content_type="multipart/form-data", headers=headers)
    assert answer.status_code == 303
    assert answer.location.startswith("/jobs/")


def test_an_image_that_the_fleet_cannot_classify_gets_422_with_the_reason(
    asking: FlaskClient, fleet: AnsweringQueue
) -> None:
    fleet.answer = failed
    assert text(post(asking, "/", "myfile", picture()), 422) == "its workers crashed"


def test_no_result_in_time_gets_504(make_app: AppMaker, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: None
    client = make_app(queue=fleet, classic={"wait_seconds": 0.01}).test_client()
    assert "no result after 0.01 s" in text(post(client, "/", "myfile", picture()), 504)


def test_an_image_that_cannot_be_stored_gets_503(make_app: AppMaker) -> None:
    client = make_app(bucket=MemoryBucket(fails=lambda _: client_error(400))).test_client()
    assert "send it again" in text(post(client, "/", "myfile", picture()), 503)


def test_two_files_are_rejected_and_neither_is_classified(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    files = [(BytesIO(picture()), "a.jpg"), (BytesIO(picture()), "b.jpg")]
    answer = asking.post("/", data={"myfile": files}, content_type="multipart/form-data")
    assert "one image a request" in text(answer, 422)
    assert fleet.images == []


def test_a_form_without_a_file_gets_an_error(asking: FlaskClient) -> None:
    answer = asking.post("/file-upload", data={"x": "y"}, content_type="multipart/form-data")
    assert "no file" in text(answer, 422)


@pytest.mark.parametrize("path", ["/", "/api/image"])
def test_a_body_that_is_not_a_form_gets_an_error(asking: FlaskClient, path: str) -> None:
    assert "multipart/form-data" in text(asking.post(path, data=b"x"), 415)
    cut = asking.post(path, data=b"--b\r\n", content_type="multipart/form-data; boundary=b")
    assert "malformed or ends early" in text(cut, 400)


def test_the_classic_contracts_can_be_disabled(make_app: AppMaker, fleet: AnsweringQueue) -> None:
    client = make_app(queue=fleet, classic={"enabled": False}).test_client()
    for path in PATHS[1:]:
        assert "classic.enabled" in text(post(client, path, "myfile", picture()), 404)
    assert post(client, "/", "myfile", picture()).status_code == 303, "then it is a file of the page's form"
    assert post(client, "/api/v1/classify", "myfile", picture()).status_code == 200


def test_a_label_never_holds_a_colon_or_a_line_end(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: done(record, "sign: stop\n")
    assert text(post(asking, "/", "inputFile", picture()), 200) == "test_0:sign stop"


def test_single_images_share_a_job_with_a_clear_name(asking: FlaskClient, store: JobStore) -> None:
    for _ in range(3):
        post(asking, "/", "myfile", picture())
    [job] = store.jobs(10)
    assert (job.is_single, store.status(job.job_id).accepted) == (True, 3)
    assert job.name == f"Single images, {short_date(job.created_at)}"


@pytest.mark.parametrize("keep", [False, True])
def test_single_images_are_kept_if_the_configuration_says_so(
    make_app: AppMaker, fleet: AnsweringQueue, store: JobStore, input_bucket: MemoryBucket, *, keep: bool
) -> None:
    client = make_app(queue=fleet, classic={"keep": keep}).test_client()
    post(client, "/", "myfile", picture())
    client.post(CLASSIFY, json={"data": SENT})
    [job] = store.jobs(10)
    assert job.keep is keep
    unkept = [key for key, tags in input_bucket.tags.items() if tags]
    assert len(input_bucket.objects) == 2
    assert len(unkept) == (0 if keep else 2)
