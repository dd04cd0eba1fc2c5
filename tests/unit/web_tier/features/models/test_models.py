"""Models: the one that each job gets, the default of operators, and what pages show of them."""

import re
import shutil
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import ANY, MagicMock

import pytest
from botocore.exceptions import ParamValidationError, ReadTimeoutError
from flask import Flask
from flask.testing import FlaskClient

from app_tier.bundle import DEMO_BUNDLE, read_manifest
from core.bundle_facts import MANIFEST_NAME, model_card
from core.bundle_manifest import BundleError
from core.config import Config
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from core.messages import LabelScore, Model, Prediction, RequestMessage
from core.model_catalog import MAX_EDITOR_CHARACTERS, CatalogStore
from services.errors import ObjectTooLargeError
from services.lease import Tenure
from services.s3 import Bucket
from tests.conftest import ConfigMaker
from tests.support.api import AppMaker, problem, upload
from tests.support.autoscaler import fleet_snapshot
from tests.support.bundles import relabelled_bundle
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, client_error, done, failed, picture, put_results
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.people import BROWSER
from web_tier.auth.identity import Identity
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.features.models.catalog import rolled_back
from web_tier.features.models.configured_model import ConfiguredModelRecorder
from web_tier.http.backend import Backend
from web_tier.http.quotas import QuotaScope
from web_tier.uploads.served_models import RECENT_SECONDS

MODELS = "/api/v1/models"


@pytest.fixture(autouse=True)
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load no network of a bundle that is added."""
    monkeypatch.setattr("web_tier.uploads.served_models.check_network", lambda _folder: None)


@pytest.fixture
def app(make_app: AppMaker, output_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """A web tier that publishes bundles in memory, and reads the catalogue each time."""
    monkeypatch.setattr(Backend, "bucket_named", lambda _backend, _name: output_bucket)
    monkeypatch.setattr("web_tier.uploads.served_models.RECENT_SECONDS", 0.0)
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A bundle called `other` with other labels than the demo bundle."""
    relabelled_bundle(tmp_path / "other", "other", " (2)")
    return tmp_path / "other"


def digest_of(bundle: Path) -> str:
    return read_manifest(bundle).digest


def new_job(client: FlaskClient, **fields: str) -> dict[str, Any]:
    answer = client.post("/api/v1/jobs", json=fields)
    assert answer.status_code == 201, answer.text
    return dict(answer.get_json())


def add(client: FlaskClient, bundle: Path) -> str:
    """Add a bundle as a model; return its name."""
    answer = client.post(MODELS, json={"place": str(bundle)})
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["name"])


def use(client: FlaskClient, bundle: Path) -> None:
    """Add a bundle and make it the model of new jobs."""
    answer = client.put(f"{MODELS}/default", json={"model": add(client, bundle)})
    assert answer.status_code == 200, answer.text


def names(client: FlaskClient) -> tuple[str, list[str]]:
    body = client.get(MODELS).get_json()
    return body["default"], [each["name"] for each in body["models"]]


def test_without_a_catalogue_the_configured_bundle_is_the_only_model(client: FlaskClient) -> None:
    assert names(client) == ("demo", ["demo"])
    job = new_job(client)
    assert job["model"] == {"name": "demo", "digest": digest_of(DEMO_BUNDLE)}
    assert client.get(job["links"]["self"]).get_json()["model"] == job["model"]


def test_a_model_that_workers_cannot_load_is_rolled_back_from_its_alarm(
    client: FlaskClient, store: JobStore, other: Path
) -> None:
    use(client, other)
    FleetStore(store.table).put_snapshot(fleet_snapshot(NOW, running=2, failed_models=(digest_of(other),)))
    alarm = re.compile("Workers cannot load the model other: its images wait or fail.*?</form>", re.DOTALL)
    [shown] = alarm.findall(client.get("/fleet").text)
    assert 'action="/models/roll-back">' in shown
    assert client.post("/models/roll-back", headers=BROWSER).headers["Location"] == "/fleet"
    assert names(client)[0] == "demo"
    [shown] = alarm.findall(client.get("/fleet").text)
    assert 'action="/models/roll-back" hidden>' in shown


def test_a_bundle_with_a_network_that_cannot_be_loaded_is_not_added(
    client: FlaskClient, other: Path, monkeypatch: pytest.MonkeyPatch, output_bucket: MemoryBucket
) -> None:
    seen = list[Path]()

    def refuse(folder: Path) -> None:
        seen.extend(folder.iterdir())
        raise BundleError("OpenVINO cannot run bundle other")

    monkeypatch.setattr("web_tier.uploads.served_models.check_network", refuse)
    assert "cannot run bundle other" in problem(client.post(MODELS, json={"place": str(other)}), 422)
    assert {each.name for each in seen} == {each.name for each in other.iterdir()}
    assert names(client) == ("demo", ["demo"])
    assert output_bucket.objects == {}


def test_users_see_names_and_only_operators_see_places(
    client: FlaskClient, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(client, other)
    monkeypatch.setattr("web_tier.features.models.api.current_identity", lambda: Identity("ann"))
    body = client.get(MODELS).get_json()
    assert (body["default"], [each["name"] for each in body["models"]]) == ("demo", ["demo", "other"])
    for each in body["models"]:
        assert {name for name, value in each.items() if value is not None} == {
            *("name", "digest", "is_default", "short_side")
        }


def test_an_unknown_model_is_refused_with_the_known_names(client: FlaskClient, other: Path) -> None:
    client.post(MODELS, json={"place": str(other), "name": "signs"})
    detail = problem(client.post("/api/v1/jobs", json={"model": "cats"}), 422)
    assert detail == "there is no model 'cats': choose one of demo, signs"
    detail = problem(client.put(f"{MODELS}/default", json={"model": "cats"}), 422)
    assert detail == "there is no model 'cats': choose one of demo, signs"
    assert "choose one of demo, signs" in problem(client.delete(f"{MODELS}/cats"), 404)
    form = {"model": "cats", "images": (BytesIO(picture()), "a.jpg")}
    assert client.post("/", data=form, content_type="multipart/form-data", headers=BROWSER).status_code == 422


def test_a_bundle_that_the_web_tier_cannot_read_is_refused_with_the_reason(
    client: FlaskClient, other: Path, tmp_path: Path
) -> None:
    (other / "model.bin").write_bytes(b"damaged")
    absent = "it has no bundle.json"  # in a file, too: or an operator would learn which files there are
    for place, reason in (
        (other, "but the bundle was built with"),
        (tmp_path, absent),
        (other / "model.bin", absent),
    ):
        assert reason in problem(client.post(MODELS, json={"place": str(place)}), 422)
    assert names(client) == ("demo", ["demo"])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (client_error(503, "ServiceUnavailable"), 503),
        (ReadTimeoutError(endpoint_url="s3"), 503),
        (client_error(403, "AccessDenied"), 422),
        (ParamValidationError(report="invalid bucket name"), 422),
    ],
)
def test_a_bundle_is_refused_for_good_only_if_s3_would_refuse_it_again(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    monkeypatch.setattr("web_tier.uploads.served_models.publish", MagicMock(side_effect=error))
    problem(client.post(MODELS, json={"place": "s3://bucket/model"}), status)


def test_models_are_removed_unless_new_jobs_get_them(client: FlaskClient, other: Path) -> None:
    answer = client.post(MODELS, json={"place": str(other)})
    assert (answer.status_code, answer.get_json()["name"]) == (201, "other")
    job = new_job(client, model="other")
    assert "give them another model" in problem(client.delete(f"{MODELS}/demo"), 422)
    assert client.delete(f"{MODELS}/other").status_code == 204
    assert names(client) == ("demo", ["demo"])
    assert client.get(job["links"]["self"]).get_json()["model"]["name"] == "other"
    # The page of a removed model, to which its jobs lead, still has its classes.
    page = client.get(f"/model?job={job['job_id']}").text
    assert "stop (2)" in page
    assert f'<input type="hidden" name="job" value="{job["job_id"]}">' in page
    assert client.get("/model?job=unknown").status_code == 404


def test_the_page_of_a_model_shows_its_card(client: FlaskClient) -> None:
    page = client.get("/model").text
    assert "<dt>Network</dt><dd><bdi>cifar-resnet20</bdi></dd>" in page
    assert "<dt>Input</dt><dd><bdi>32 x 32 pixels, crop of 32, bilinear</bdi></dd>" in page
    assert "88.05% of 10,000 cifar test images, 99.98% of 10,000 signs images" in page


@pytest.mark.parametrize("path", ["/", "/jobs", "/fleet", "/api", "/model", "/nowhere"])
def test_every_page_names_the_configured_model_and_leads_to_its_classes(client: FlaskClient, path: str) -> None:
    page = client.get(path).text
    pill = re.search(r'<a class="pill" href="/model".*?</a>', page)
    assert pill
    assert "demo · 30 classes" in re.sub(r"<[^>]*>", "", pill[0])


def test_the_model_page_searches_the_classes_without_a_script(client: FlaskClient) -> None:
    def shown(path: str) -> list[str]:
        return re.findall(r"<li><bdi>(.*?)</bdi>", client.get(path).text)

    assert shown("/model")[:3] == ["airplane", "automobile", "bird"]
    assert shown("/model?q=PARKING") == ["no parking", "parking"]
    assert shown("/model?q=<b>") == []


def test_a_model_that_cannot_be_read_is_reported_with_its_key(make_app: AppMaker) -> None:
    client = make_app(worker={"bundle": "models/none"}).test_client()
    page = client.get("/model").text
    assert "worker.bundle" in page
    assert 'href="/model"' not in page


@pytest.mark.parametrize(
    "provenance",
    [
        {"url": 4, "licence": ["MIT"], "measured": {"a": 5, "b": {"accuracy": "6", "images": 7}}},
        {"measured": 1},
        {},
    ],
)
def test_a_card_leaves_out_what_is_not_stated_as_expected(provenance: dict[str, object]) -> None:
    manifest = read_manifest(DEMO_BUNDLE).model_copy(update={"provenance": provenance, "architecture": "a\n" * 300})
    assert list(model_card(manifest)) == [("Network", "a " * 100), ("Input", ANY)]


def test_a_long_address_of_an_operator_is_cut(
    client: FlaskClient, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web_tier.features.models.api._editor", lambda: "a" * 300)
    assert client.post(MODELS, json={"place": str(other)}).status_code == 201
    assert client.get(MODELS).get_json()["models"][1]["added_by"] == "a" * MAX_EDITOR_CHARACTERS


def test_a_second_bundle_of_a_name_gets_another_name_and_keeps_it(client: FlaskClient, tmp_path: Path) -> None:
    digest = relabelled_bundle(tmp_path / "demo2", "demo", " (2)")
    taken = client.post(MODELS, json={"place": str(tmp_path / "demo2"), "name": "demo"})
    assert "give this one another name" in problem(taken, 422)
    assert client.post(MODELS, json={"place": str(tmp_path / "demo2")}).get_json()["name"] == f"demo-{digest[:12]}"
    known = client.post(MODELS, json={"place": str(tmp_path / "demo2"), "name": "new"})
    assert f"this bundle is the model 'demo-{digest[:12]}' already" in problem(known, 422)
    assert names(client) == ("demo", ["demo", f"demo-{digest[:12]}"])


@pytest.mark.parametrize("name", [None, "bad"])
def test_a_damaged_copy_of_the_served_bundle_is_refused(
    client: FlaskClient, tmp_path: Path, name: str | None
) -> None:
    shutil.copytree(DEMO_BUNDLE, tmp_path / "copy")
    assert client.post(MODELS, json={"place": str(tmp_path / "copy")}).status_code == 201
    with (tmp_path / "copy" / "model.bin").open("ab") as file:
        file.write(b"x")
    refused = client.post(MODELS, json={"place": str(tmp_path / "copy"), "name": name})
    assert "but the bundle was built with" in problem(refused, 422)
    assert names(client) == ("demo", ["demo"])


def test_a_repeated_request_gets_the_job_and_the_model_of_the_first_one(
    client: FlaskClient, other: Path, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"Idempotency-Key": "k"}

    def dies(*_: object) -> None:
        raise RuntimeError("the process dies")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "create", dies)
        assert client.post("/api/v1/jobs", json={}, headers=headers).status_code == 500
    use(client, other)
    repeated = client.post("/api/v1/jobs", json={}, headers=headers).get_json()
    assert repeated["model"]["name"] == "demo"
    assert client.post("/api/v1/jobs", json={}, headers=headers).get_json() == repeated
    assert client.post("/api/v1/jobs", json={"model": "demo"}, headers=headers).status_code == 422


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["once", "repeatable"])
def test_a_job_with_an_unknown_model_costs_nothing_of_the_quota(
    client: FlaskClient, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    charged = list[QuotaScope]()

    def charge(scope: QuotaScope) -> None:
        charged.append(scope)

    monkeypatch.setattr(QuotaScope, "charge_job", charge)
    assert client.post("/api/v1/jobs", json={"model": "nonesuch"}, headers=headers).status_code == 422
    assert charged == []
    assert client.post("/api/v1/jobs", json={}, headers=headers).status_code == 201
    assert len(charged) == 1


def test_every_request_of_an_image_names_the_model_of_its_job(
    client: FlaskClient, other: Path, store: JobStore, requests_queue: MemoryQueue
) -> None:
    job = store.job(new_job(client)["job_id"])
    use(client, other)
    upload(client, job, ("a.jpg", picture(shade=1)))
    headers = {"Idempotency-Key": "k"}
    form = {"images": (BytesIO(picture(shade=2)), "b.jpg")}
    path = f"/api/v1/jobs/{job.job_id}/images"
    assert client.post(path, data=form, headers=headers, content_type="multipart/form-data").status_code == 200
    images = list(store.images(job.job_id))
    for image in images:
        put_results(store, failed(image))
    assert client.post(f"/api/v1/jobs/{job.job_id}/retry").get_json()["sent"] == 2
    requests = [RequestMessage.from_json(body) for body in requests_queue.bodies]
    assert len(requests) == 4
    assert job.model is not None
    assert {request.model for request in requests} == {job.model.requested}


def test_failed_images_are_retried_with_another_model_that_later_images_get_too(
    client: FlaskClient, other: Path, store: JobStore, requests_queue: MemoryQueue
) -> None:
    job = store.job(new_job(client)["job_id"])
    upload(client, job, ("a.jpg", picture(shade=1)))
    [image] = store.images(job.job_id)
    put_results(store, failed(image))
    retry = f"/api/v1/jobs/{job.job_id}/retry?model=other"
    assert "there is no model 'other'" in problem(client.post(retry), 422)
    add(client, other)
    assert client.post(retry).get_json()["sent"] == 1
    upload(client, job, ("b.jpg", picture(shade=2)))
    requests = [RequestMessage.from_json(body) for body in requests_queue.bodies]
    digests = [each.model.digest if each.model else None for each in requests]
    assert digests == [digest_of(DEMO_BUNDLE), digest_of(other), digest_of(other)]
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["model"]["name"] == "other"


def test_a_job_with_some_labels_keeps_the_model_that_has_them(client: FlaskClient, other: Path) -> None:
    answer = client.post("/api/v1/jobs", json={"labels": ["stop"]}).get_json()
    add(client, other)
    path = f"/api/v1/jobs/{answer['job_id']}"
    assert "only some labels" in problem(client.post(f"{path}/retry?model=other"), 422)
    assert client.get(path).get_json()["model"]["name"] == "demo"


def test_pages_show_the_model_of_the_job(
    client: FlaskClient, other: Path, store: JobStore, output_bucket: MemoryBucket
) -> None:
    add(client, other)
    form = {"model": "other", "images": (BytesIO(picture()), "a.jpg")}
    answer = client.post("/", data=form, content_type="multipart/form-data", headers=BROWSER)
    assert answer.status_code == 303
    job = store.job(answer.location.rpartition("/")[2])
    assert job.model is not None
    assert (job.model.name, job.model.digest) == ("other", digest_of(other))
    page = client.get(f"/jobs/{job.job_id}").text
    assert f'<dt>Model</dt><dd><a href="/model?job={job.job_id}"' in page
    assert "by other" in page
    [image] = store.images(job.job_id)
    labels = read_manifest(other).labels
    model = Model(name="other", digest=job.model.digest)
    scores = tuple(1.0 if label == "stop (2)" else 0.0 for label in labels)
    result = done(image).model_copy(
        update={"label": "stop (2)", "score": 1.0, "top": (LabelScore(label="stop (2)", score=1.0),), "model": model}
    )
    put_results(store, result)
    prediction = Prediction(**dict(result), probabilities=scores)
    output_bucket.put(f"{job.job_id}/{image.ref.image_id}.json", prediction.to_json().encode(), "application/json")
    page = unescape(client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}").text)
    assert "give way (2)" in page
    assert "stop (2)" in client.get("/model?name=other").text
    assert "stop (2)" not in client.get("/model").text


def test_the_catalogue_is_read_again_when_it_is_due_and_outlives_the_table(
    config: Config, store: JobStore, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, reads = [0.0], list[float]()
    bucket = MemoryBucket()
    monkeypatch.setattr(Backend, "bucket_named", lambda _backend, _name: bucket)
    served = Backend(config, store).served
    monkeypatch.setattr(served._refresh, "clock", PlayedClock(lambda: now[0]))
    find = CatalogStore.find

    def counted(catalogs: CatalogStore) -> Any:
        reads.append(now[0])
        return find(catalogs)

    monkeypatch.setattr(CatalogStore, "find", counted)
    for _ in range(3):
        model = served.default_model()
        assert model is not None and model.name == "demo"
    assert reads == [0.0]
    served.add(str(other), None, "")
    catalog = served.recent_catalog()
    assert catalog is not None
    assert catalog.find("other") is not None, "a change in this process is seen at once"
    now[0] += RECENT_SECONDS

    def busy(_: CatalogStore) -> Any:
        raise client_error(503)

    monkeypatch.setattr(CatalogStore, "find", busy)
    assert served.recent_catalog() == catalog


@pytest.fixture
def recording(store: JobStore, make_config: ConfigMaker, tmp_path: Path) -> "Recording":
    return Recording(store, make_config, tmp_path / "config.yaml")


class Recording:
    """The controller's recorder of the configured model; `configure` changes the configuration while it runs."""

    def __init__(self, store: JobStore, make_config: ConfigMaker, path: Path) -> None:
        self.make_config, self.path = make_config, path
        self.catalogs, self.is_active = CatalogStore(store.table), True
        self.config = make_config()
        names = self.config.names
        self.outputs, self.models = MemoryBucket(name=names.output_bucket), MemoryBucket(name=names.model_bucket)
        self.buckets = {each.name: each for each in (self.outputs, self.models)}
        path.write_text("0")
        self.watcher = FleetConfigWatcher(path, self.config.fleet, lambda _path: self.config)
        self.recorder = self.start()

    def start(self) -> ConfiguredModelRecorder:
        """Return the recorder of a new tenure."""
        worker = self.config.worker
        return ConfiguredModelRecorder(
            worker,
            self.catalogs,
            self.models,
            self.buckets.__getitem__,
            self.watcher,
            Tenure(active=lambda: self.is_active),
        )

    def configure(self, bundle: Path) -> None:
        """Name another bundle in the configuration."""
        self.config = self.make_config(worker={"bundle": str(bundle)})
        self.path.write_text(str(bundle))
        self.watcher.current()

    def names(self) -> tuple[str, str | None, list[str]]:
        """The default, the previous default, and all models."""
        catalog = self.catalogs.find()
        assert catalog is not None
        previous = catalog.find(catalog.previous) if catalog.previous else None
        names = [each.name for each in catalog.versions]
        return catalog.default_version.name, None if previous is None else previous.name, names


def test_new_jobs_get_a_bundle_that_the_configuration_names_anew(recording: Recording, other: Path) -> None:
    recording.recorder.tick()
    assert recording.names() == ("demo", None, ["demo"])
    assert f"models/{digest_of(DEMO_BUNDLE)}/{MANIFEST_NAME}" in recording.models.objects
    recording.configure(other)
    assert recording.catalogs.find().default == digest_of(DEMO_BUNDLE)  # type: ignore[union-attr]
    recording.recorder.tick()
    assert recording.names() == ("other", "demo", ["demo", "other"])
    assert f"models/{digest_of(other)}/{MANIFEST_NAME}" in recording.models.objects
    [event] = [each.words for each in recording.watcher.drain_events() if "model" in each.words]
    assert event == "worker.bundle has changed: new jobs get the model other"


def test_a_default_of_operators_stays_until_the_configuration_changes(recording: Recording, other: Path) -> None:
    recording.recorder.tick()
    recording.configure(other)
    recording.recorder.tick()
    recording.catalogs.change(rolled_back, lambda: pytest.fail("it is stored"))
    recording.recorder.tick()
    recording.start().tick()
    assert recording.names()[0] == "demo"
    recording.configure(DEMO_BUNDLE)
    recording.recorder.tick()
    assert recording.names() == ("demo", "other", ["demo", "other"])


def test_a_bundle_that_cannot_be_read_changes_nothing_and_is_reported_once(
    recording: Recording, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording.recorder.tick()
    recording.configure(tmp_path / "nothing")
    for _ in range(3):
        recording.recorder.tick()
    assert recording.names() == ("demo", None, ["demo"])
    assert [each.levelname for each in caplog.records if "not offered" in each.message] == ["WARNING"]


def test_a_controller_that_lost_its_lease_records_nothing(recording: Recording) -> None:
    recording.is_active = False
    recording.recorder.tick()
    assert recording.catalogs.find() is None
    assert recording.models.objects == {}


@pytest.mark.usefixtures("app")
def test_of_a_manifest_in_s3_no_more_than_its_maximum_is_read(
    recording: Recording,
    config: Config,
    output_bucket: MemoryBucket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    output_bucket.put("signs/bundle.json", b"{}", "application/json")
    for module in ("http.backend", "features.models.configured_model"):
        monkeypatch.setattr(f"web_tier.{module}.MAX_MANIFEST_BYTES", 1)
    with pytest.raises(ObjectTooLargeError):
        Backend(config).served.configured.get("models", "signs/bundle.json")
    recording.buckets["models"] = output_bucket
    recording.configure(Path("s3://models/signs"))
    recording.recorder.tick()
    assert "has 2 bytes, more than the 1 that are read" in caplog.text
