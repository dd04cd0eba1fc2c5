"""A bundle in S3 is fetched once, checked whole, and never used half."""

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE, file_digest, load_bundle
from app_tier.bundle_s3 import Place, fetch_bundle, in_s3
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import IR_NAME, IR_WEIGHTS_NAME, BundleDigestError, BundleFormatError, BundleMissingError
from core.config import Config
from scripts.demo_model.signs import samples
from scripts.model.group import model
from services.clients import Clients
from services.s3 import Bucket
from tests.integration.app_tier.conftest import SiteMaker

pytestmark = pytest.mark.processes

BINARY = "application/octet-stream"


@pytest.fixture
def bucket(provisioned: Clients, config: Config) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


def put_files(bucket: Bucket, prefix: str) -> Place:
    for path in DEMO_BUNDLE.iterdir():
        bucket.put(f"{prefix}/{path.name}", path.read_bytes(), BINARY)
    return Place(bucket.name, prefix)


def put_zip(bucket: Bucket, key: str, tmp_path: Path) -> Place:
    with zipfile.ZipFile(tmp_path / "demo.zip", "w") as archive:
        for path in DEMO_BUNDLE.iterdir():
            archive.write(path, path.name)
    bucket.put(key, (tmp_path / "demo.zip").read_bytes(), BINARY)
    return Place(bucket.name, key)


def test_files_under_a_prefix_are_fetched_once(provisioned: Clients, bucket: Bucket, tmp_path: Path) -> None:
    place = put_files(bucket, "models/demo")
    assert fetch_bundle(provisioned.s3, place, tmp_path).digest == load_bundle().digest
    for name in (IR_NAME, IR_WEIGHTS_NAME):
        bucket.delete(f"models/demo/{name}")
    assert fetch_bundle(provisioned.s3, place, tmp_path).digest == load_bundle().digest


def test_a_zip_is_fetched_again_only_when_it_is_another(provisioned: Clients, bucket: Bucket, tmp_path: Path) -> None:
    place = put_zip(bucket, "demo.zip", tmp_path)
    cache = tmp_path / "cache"
    first = fetch_bundle(provisioned.s3, place, cache)
    assert first.digest == load_bundle().digest
    assert fetch_bundle(provisioned.s3, place, cache).folder == first.folder
    bucket.put("demo.zip", b"another", BINARY)
    with pytest.raises(BundleFormatError, match="no valid zip of a bundle"):
        fetch_bundle(provisioned.s3, place, cache)
    assert [path.name for path in cache.iterdir()] == [first.folder.name]


def test_a_bundle_that_is_not_there_is_named(provisioned: Clients, bucket: Bucket, tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match=rf"there is no s3://{bucket.name}/nowhere/{MANIFEST_NAME}"):
        fetch_bundle(provisioned.s3, Place(bucket.name, "nowhere"), tmp_path)
    with pytest.raises(BundleMissingError, match=r"there is no s3://no-such-bucket-here/a\.zip"):
        fetch_bundle(provisioned.s3, Place("no-such-bucket-here", "a.zip"), tmp_path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://models-1/demo", Place("models-1", "demo")),
        (Path("s3://models-1/a/demo/"), Place("models-1", "a/demo")),
        ("app_tier/demo/bundle", None),
    ],
)
def test_a_place_in_s3_is_distinguished_from_a_path(text: str | Path, place: Place | None) -> None:
    assert in_s3(text) == place


@pytest.mark.parametrize("text", ["s3://models", "s3://Models/demo", "s3://models/"])
def test_a_place_that_names_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(BundleMissingError, match="write s3://BUCKET/PREFIX"):
        in_s3(text)


def test_a_worker_fetches_its_bundle_from_s3_and_classifies_with_it(
    make_site: SiteMaker, bucket: Bucket, tmp_path: Path
) -> None:
    put_files(bucket, "models/demo")
    site = make_site(worker={"bundle": f"s3://{bucket.name}/models/demo"})
    signs = list(samples(3, seed=3))
    refs = site.submit(sign.data for sign in signs)
    worker = site.start_worker(CACHE_DIRECTORY=str(tmp_path / "cache"))
    results = site.collect(3)
    assert worker.wait() == 0
    assert [results[ref.image_id][0].label for ref in refs] == [sign.label for sign in signs]
    models = [site.prediction(ref).model for ref in refs]
    assert {model.digest for model in models if model} == {load_bundle().digest}


def test_the_command_shows_and_checks_a_bundle_in_s3(
    make_site: SiteMaker, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(bucket, "models/demo")
    site = make_site()
    monkeypatch.setenv("FLEETSIGHT_CONFIG", str(site.config_file))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    shown = CliRunner().invoke(model, ["show", f"s3://{bucket.name}/models/demo"])
    assert shown.exit_code == 0, shown.output
    assert load_bundle().digest in shown.output
    missing = CliRunner().invoke(model, ["show", f"s3://{bucket.name}/nowhere"])
    assert missing.exit_code == 1
    assert missing.output.startswith("Error: there is no s3://")


def test_a_worker_whose_bundle_in_s3_is_damaged_receives_nothing(
    make_site: SiteMaker, bucket: Bucket, tmp_path: Path
) -> None:
    put_files(bucket, "models/demo")
    bucket.put(f"models/demo/{IR_NAME}", b"<net/>", BINARY)
    site = make_site(worker={"bundle": f"s3://{bucket.name}/models/demo"})
    site.submit([next(samples(1, seed=3)).data])
    worker = site.start_worker(CACHE_DIRECTORY=str(tmp_path / "cache"))
    assert worker.wait() != 0
    assert "model.xml has SHA-256" in worker.log_path.read_text()
    [message] = site.requests.receive()
    assert message.receive_count == 1


@pytest.mark.parametrize("name", ["models/demo", "demo.zip"])
def test_s6_a_pinned_bundle_is_fetched_and_nothing_of_another_one_is_parsed(
    provisioned: Clients, bucket: Bucket, tmp_path: Path, name: str
) -> None:
    is_zip = name.endswith(".zip")
    place = put_zip(bucket, name, tmp_path) if is_zip else put_files(bucket, name)
    pin = file_digest(tmp_path / "demo.zip" if is_zip else DEMO_BUNDLE / MANIFEST_NAME)
    cache = tmp_path / "cache"
    assert fetch_bundle(provisioned.s3, place, cache, pin).digest == load_bundle().digest
    assert fetch_bundle(provisioned.s3, place, cache, pin).digest == load_bundle().digest
    bucket.put(name if is_zip else f"{name}/{MANIFEST_NAME}", b"neither JSON nor a zip", BINARY)
    with pytest.raises(BundleDigestError, match=rf"worker\.bundle_sha256 is {pin}"):
        fetch_bundle(provisioned.s3, place, cache, pin)
