"""The classic contract, word for word: existing load generators run unmodified."""

from io import BytesIO

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import Classic, Config
from core.jobs.store import JobStore
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.api.conftest import AnsweringQueue
from tests.support.jobs import MemoryBucket, client_error, done, failed
from tests.support.pictures import picture
from web_tier.api.classic import reply
from web_tier.app import create_app

PATHS = ("/", "/classify", "/api/image", "/classify-image", "/file-upload")


def post(client: FlaskClient, path: str, field: str, data: bytes, name: str = "test_0.jpg") -> TestResponse:
    return client.post(path, data={field: (BytesIO(data), name)}, content_type="multipart/form-data")


def text(answer: TestResponse, status: int) -> str:
    assert (answer.status_code, answer.mimetype) == (status, "text/plain")
    return answer.get_data(as_text=True)


@pytest.mark.parametrize("path", [*PATHS, *(f"{path}/" for path in PATHS[1:])])
def test_myfile_is_answered_with_the_bare_label(asking: FlaskClient, path: str) -> None:
    assert text(post(asking, path, "myfile", picture()), 200) == "stop sign"


@pytest.mark.parametrize("path", PATHS)
def test_input_file_is_answered_with_name_and_label(asking: FlaskClient, path: str) -> None:
    assert text(post(asking, path, "inputFile", picture()), 200) == "test_0:stop sign"


def test_any_field_will_do_but_at_the_pages_own_address(asking: FlaskClient) -> None:
    assert text(post(asking, "/classify", "upload", picture()), 200) == "stop sign"
    assert post(asking, "/", "images", picture()).status_code == 303


@pytest.mark.parametrize("path", PATHS)
def test_a_bad_image_gets_422_with_the_reason(asking: FlaskClient, path: str) -> None:
    assert "not an image" in text(post(asking, path, "myfile", b"no image at all"), 422)


def test_an_image_that_the_fleet_cannot_classify_gets_422_with_the_reason(
    asking: FlaskClient, fleet: AnsweringQueue
) -> None:
    fleet.answer = failed
    assert text(post(asking, "/", "myfile", picture()), 422) == "its workers crashed"


def test_a_file_that_is_too_large_gets_413(make_config: ConfigMaker, provisioned: Clients) -> None:
    client = create_app(make_config(web={"max_image_bytes": 2_000})).test_client()
    assert "shrink it" in text(post(client, "/", "myfile", b"x" * 3_000), 413)


def test_no_result_in_time_is_no_answer(
    make_config: ConfigMaker, provisioned: Clients, fleet: AnsweringQueue
) -> None:
    fleet.answer = lambda record: None
    client = create_app(make_config(classic={"wait_seconds": 0.01}), request_queue=fleet).test_client()
    assert "no result after 0.01 s" in text(post(client, "/", "myfile", picture()), 504)


def test_an_image_that_cannot_be_stored_is_503(config: Config, provisioned: Clients) -> None:
    client = create_app(config, input_bucket=MemoryBucket(lambda _: client_error(400))).test_client()
    assert "send it again" in text(post(client, "/", "myfile", picture()), 503)


def test_two_files_are_refused_and_neither_is_classified(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    files = [(BytesIO(picture()), "a.jpg"), (BytesIO(picture()), "b.jpg")]
    answer = asking.post("/", data={"myfile": files}, content_type="multipart/form-data")
    assert "one image a request" in text(answer, 422)
    assert fleet.images == []


def test_a_form_without_a_file_is_told_so(asking: FlaskClient) -> None:
    answer = asking.post("/file-upload", data={"x": "y"}, content_type="multipart/form-data")
    assert "no file" in text(answer, 422)


def test_a_body_that_is_no_form_is_told_so(asking: FlaskClient) -> None:
    assert "multipart/form-data" in text(asking.post("/api/image", data=b"x"), 415)


def test_it_can_be_switched_off(make_config: ConfigMaker, provisioned: Clients, fleet: AnsweringQueue) -> None:
    client = create_app(make_config(classic={"enabled": False}), request_queue=fleet).test_client()
    for path in PATHS[1:]:
        assert "classic.enabled" in text(post(client, path, "myfile", picture()), 404)
    assert post(client, "/", "myfile", picture()).status_code == 303, "then it is a file of the page's form"
    assert post(client, "/api/v1/classify", "myfile", picture()).status_code == 200


@pytest.mark.parametrize(
    ("setting", "field", "said"),
    [
        ("by_field", "myfile", "stop sign"),
        ("by_field", "inputFile", "a.b:stop sign"),
        ("by_field", "other", "stop sign"),
        ("label", "inputFile", "stop sign"),
        ("name_and_label", "myfile", "a.b:stop sign"),
    ],
)
def test_the_form_of_the_reply_can_be_chosen(setting: str, field: str, said: str) -> None:
    settings = Classic.model_validate({"enabled": True, "reply": setting, "wait_seconds": 1})
    assert reply(settings, field, "a.b.jpg", "stop sign") == said


def test_a_label_never_holds_a_colon_or_a_line_end(asking: FlaskClient, fleet: AnsweringQueue) -> None:
    fleet.answer = lambda record: done(record, "sign: stop\n")
    assert text(post(asking, "/", "inputFile", picture()), 200) == "test_0:sign stop"


def test_single_images_share_a_job_that_says_what_it_is(asking: FlaskClient, store: JobStore) -> None:
    for _ in range(3):
        post(asking, "/", "myfile", picture())
    [job] = store.jobs(10)
    assert (job.name, store.status(job.job_id).accepted) == ("Single images", 3)
