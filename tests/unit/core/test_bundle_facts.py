"""What a bundle says about itself, wherever it lies."""

import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from app_tier.bundle.load import DEMO_BUNDLE, load_bundle
from core.bundle_facts import BundleFacts, BundleUnreadableError, read_facts

CONTENTS = json.dumps({"digest": "d1", "labels": ["cat", "dog"], "messages": {"dog": "A dog."}})
FACTS = BundleFacts("d1", ("cat", "dog"), {"dog": "A dog."})


def nothing(_bucket: str, _key: str) -> bytes:
    raise AssertionError("nothing is asked of S3")


def test_a_folder_and_a_zip_of_it_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(CONTENTS, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("bundle.json", CONTENTS)
    with zipfile.ZipFile(tmp_path / "in_a_folder.zip", "w") as archive:
        archive.writestr("signs/bundle.json", CONTENTS)
        archive.writestr("signs/old/bundle.json", "{}")
    for place in (tmp_path, tmp_path / "flat.zip", tmp_path / "in_a_folder.zip"):
        assert read_facts(place, nothing) == FACTS


@pytest.mark.parametrize("place", ["s3://models/signs/v1", "s3://models/signs/v1/"])
def test_a_bundle_in_s3_is_asked_for_its_manifest_alone(place: str) -> None:
    objects = {("models", "signs/v1/bundle.json"): CONTENTS.encode()}
    # As the configuration holds it, a path.
    assert read_facts(Path(place), lambda bucket, key: objects[bucket, key]) == FACTS


def test_the_demo_bundle_states_the_digest_that_results_name() -> None:
    assert read_facts(DEMO_BUNDLE, nothing).digest == load_bundle().digest


def test_a_bundle_from_before_the_digest_was_stated_has_labels_and_no_digest(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"labels": ["cat"]}', encoding="utf-8")
    assert read_facts(tmp_path, nothing) == BundleFacts(None, ("cat",))


@pytest.mark.parametrize("content", [None, "no json", "{}", "[]", '{"labels": 1}'])
def test_a_bundle_that_cannot_be_read_is_said_with_its_place(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleUnreadableError, match=str(tmp_path)):
        read_facts(tmp_path, nothing)


def test_a_zip_without_a_bundle_and_one_in_s3_are_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(BundleUnreadableError, match=r"other\.zip"):
        read_facts(tmp_path / "other.zip", nothing)
    with pytest.raises(BundleUnreadableError, match="name an S3 prefix"):
        read_facts(Path("s3://models/signs.zip"), nothing)


def test_s6_the_web_tier_believes_the_pinned_bundle_only(tmp_path: Path) -> None:
    folder, zipped = tmp_path / "bundle.json", tmp_path / "signs.zip"
    folder.write_text(CONTENTS, encoding="utf-8")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("bundle.json", CONTENTS)
    for place, pinned in ((tmp_path, folder), (zipped, zipped)):
        pin = sha256(pinned.read_bytes()).hexdigest()
        assert read_facts(place, nothing, pin) == FACTS
        pinned.write_bytes(b"neither JSON nor a zip")
        with pytest.raises(BundleUnreadableError, match=rf"worker\.bundle_sha256 is {pin}"):
            read_facts(place, nothing, pin)
