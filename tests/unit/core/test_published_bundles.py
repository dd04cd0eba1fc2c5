"""Published bundles: whole copies in the model bucket, from folders, zips and S3."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

from app_tier.bundle import DEMO_BUNDLE
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import BundleError
from core.published_bundles import publish, published_place
from services.s3 import Bucket
from tests.support.bundles import relabelled_bundle
from tests.support.memory_aws.s3 import MemoryBucket


def no_bucket(name: str) -> NoReturn:
    raise AssertionError(f"the bucket {name} is not needed")


@pytest.fixture
def models() -> MemoryBucket:
    return MemoryBucket()


def published(models: MemoryBucket, digest: str | None) -> dict[str, bytes]:
    """Return the files of a published bundle by name."""
    folder = published_place("out", str(digest)).removeprefix("s3://out/") + "/"
    return {key.removeprefix(folder): body for key, body in models.objects.items() if key.startswith(folder)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["folder", "zip", "s3", "zip in s3"])
def test_a_bundle_is_copied_whole_from_wherever_it_is(kind: str, models: MemoryBucket, tmp_path: Path) -> None:
    place, source = DEMO_BUNDLE, MemoryBucket()
    if "zip" in kind:
        place = Path(shutil.make_archive(str(tmp_path / "demo"), "zip", DEMO_BUNDLE.parent, DEMO_BUNDLE.name))
    if kind == "zip in s3":
        source.put("demo.ZIP", place.read_bytes(), "application/zip")
        place = Path("s3://models/demo.ZIP")
    elif kind == "s3":
        place = Path("s3://models/demo")
        for name, body in files_of(DEMO_BUNDLE).items():
            source.put(f"demo/{name}", body, "application/octet-stream")

    def bucket_named(name: str) -> Bucket:
        assert name == "models"
        assert "s3" in kind
        return source

    facts = publish(place, bucket_named, models)
    assert facts.name == "demo"
    assert published(models, facts.digest) == files_of(DEMO_BUNDLE)


@pytest.mark.parametrize("messages", [{"stop!": "Stop, please."}, {"stop!": "St\ufffdp"}])
def test_a_bundle_with_other_words_changes_nothing_that_is_published(
    messages: dict[str, str], models: MemoryBucket, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    relabelled_bundle(folder, "other", "!")
    publish(folder, no_bucket, models)
    before = dict(models.objects)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, "messages": messages}))
    (folder / "model.bin").unlink()
    assert publish(folder, no_bucket, models).digest == manifest["digest"]
    assert models.objects == before


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b"[]", b'{"labels": "x"}', {"messages": {"stop!": 1}}, {"labels": ["a"]}, {"digest": "0"}]
)
def test_a_published_bundle_json_that_is_damaged_is_replaced(
    damage: bytes | dict[str, object], models: MemoryBucket, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    digest = relabelled_bundle(folder, "other", "!")
    publish(folder, no_bucket, models)
    before = dict(models.objects)
    key = f"models/{digest}/{MANIFEST_NAME}"
    body = damage if isinstance(damage, bytes) else json.dumps({**json.loads(before[key]), **damage}).encode()
    models.put(key, body, "application/json")
    publish(folder, no_bucket, models)
    assert models.objects == before


@pytest.mark.parametrize(
    "fault",
    ["missing", "changed", "outside", "not pinned", "no bundle", "no label"],
)
def test_a_bundle_that_is_not_whole_is_refused_and_never_offered(
    fault: str, models: MemoryBucket, tmp_path: Path
) -> None:
    folder, pin = tmp_path / "other", None
    digest = relabelled_bundle(folder, "other", "!")
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    if fault == "missing":
        (folder / "model.xml").unlink()
    elif fault == "changed":
        (folder / "model.bin").write_bytes(b"another network")
    elif fault == "outside":
        manifest["files"] = {"../secret": hashlib.sha256(b"x").hexdigest()}
    elif fault == "not pinned":
        pin = "0" * 64
    elif fault == "no bundle":
        folder = tmp_path / "nothing"
    else:
        manifest["messages"] = {"no label": "x"}
    if folder.is_dir():
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=str(tmp_path)):
        publish(folder, no_bucket, models, pin)
    assert MANIFEST_NAME not in published(models, digest)


@pytest.mark.parametrize("is_published", [True, False])
def test_a_bundle_changed_without_its_digest_is_refused_and_replaces_nothing(
    is_published: bool, models: MemoryBucket, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    relabelled_bundle(folder, "other", "!")
    if is_published:
        publish(folder, no_bucket, models)
    before = dict(models.objects)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["labels"][0] = "aeroplane"
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="states the digest"):
        publish(folder, no_bucket, models)
    assert models.objects == before


@pytest.mark.parametrize("kind", ["folder", "zip", "s3"])
def test_no_more_of_a_manifest_than_its_maximum_is_read(
    kind: str, models: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, source = tmp_path / "other", MemoryBucket()
    relabelled_bundle(folder, "other", "!")
    place = folder
    if kind == "zip":
        place = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", folder))
    elif kind == "s3":
        place = Path("s3://models/other")
        for name, body in files_of(folder).items():
            source.put(f"other/{name}", body, "application/octet-stream")
    size = (folder / MANIFEST_NAME).stat().st_size
    for module in ("bundle_facts", "published_bundles"):
        monkeypatch.setattr(f"core.{module}.MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(BundleError, match="that are read" if kind == "s3" else "has more than"):
        publish(place, lambda _name: source, models)
    for module in ("bundle_facts", "published_bundles"):
        monkeypatch.setattr(f"core.{module}.MAX_MANIFEST_BYTES", size)
    assert publish(place, lambda _name: source, models).name == "other"


@pytest.mark.parametrize(
    ("method", "is_in_s3"), [(zipfile.ZIP_DEFLATED, True), (zipfile.ZIP_BZIP2, False), (zipfile.ZIP_LZMA, False)]
)
def test_a_damaged_zip_is_refused_at_any_place_and_with_any_compression(
    method: int, is_in_s3: bool, models: MemoryBucket, tmp_path: Path
) -> None:
    place, source = tmp_path / "demo.zip", MemoryBucket()
    with zipfile.ZipFile(place, "w", method) as archive:
        for file in DEMO_BUNDLE.iterdir():
            archive.write(file, file.name)
    whole = place.read_bytes()
    for tenth in (1, 4, 8):
        at = tenth * len(whole) // 10
        damaged = whole[:at] + bytes(each ^ 0x5A for each in whole[at : at + 500]) + whole[at + 500 :]
        place.write_bytes(damaged)
        source.put("demo.zip", damaged, "application/zip")
        with pytest.raises(BundleError, match="demo"):
            publish(Path("s3://models/demo.zip") if is_in_s3 else place, lambda _name: source, models)


@pytest.mark.parametrize("fault", ["missing", "no zip", "damaged", "too large"])
def test_a_zip_in_s3_that_cannot_be_read_is_refused_with_its_address(
    fault: str, models: MemoryBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, address = MemoryBucket(), "s3:/models/demo.zip"
    body = Path(shutil.make_archive(str(tmp_path / "demo"), "zip", DEMO_BUNDLE)).read_bytes()
    if fault == "no zip":
        body = b"no zip"
    elif fault == "damaged":
        middle = len(body) // 2
        body = body[:middle] + bytes(1_000) + body[middle + 1_000 :]
    elif fault == "too large":
        monkeypatch.setattr("core.published_bundles.MAX_BUNDLE_BYTES", len(body) - 1)
    if fault != "missing":
        source.put("demo.zip", body, "application/zip")
    with pytest.raises(BundleError, match=address):
        publish(Path("s3://models/demo.zip"), lambda _name: source, models)
    assert not any(key.endswith(MANIFEST_NAME) for key in models.objects)
