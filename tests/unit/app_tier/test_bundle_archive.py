"""A bundle in a zip is the same bundle, and a zip writes nowhere but into the cache."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from app_tier.bundle.errors import BundleDigestError, BundleFormatError, BundleMissingError
from app_tier.bundle.load import DEMO_BUNDLE, cache_folder, kept, load_bundle, load_zip, write_file
from app_tier.bundle.manifest import IR_WEIGHTS_NAME, MANIFEST_NAME, file_digest


def zipped(path: Path, top: str = "", changes: dict[str, bytes] | None = None, leave_out: str = "") -> Path:
    contents = {f"{top}{file.name}": file.read_bytes() for file in DEMO_BUNDLE.iterdir() if file.name != leave_out}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (contents | (changes or {})).items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("top", ["", "demo/"])
def test_a_zip_of_a_bundle_is_that_bundle(top: str, tmp_path: Path) -> None:
    bundle = load_zip(zipped(tmp_path / "demo.zip", top), tmp_path / "cache")
    assert bundle.digest == load_bundle().digest
    assert bundle.folder.parent == tmp_path / "cache"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [bundle.folder.name]


def test_load_bundle_takes_a_zip_wherever_it_takes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = load_bundle(zipped(tmp_path / "demo.zip"))
    assert bundle.digest == load_bundle().digest
    assert bundle.folder.is_relative_to(tmp_path / "fleetsight" / "bundles")


def test_a_zip_is_unpacked_once_and_again_if_its_copy_was_damaged(tmp_path: Path) -> None:
    path = zipped(tmp_path / "demo.zip")
    first = load_zip(path, tmp_path / "cache").folder
    before = (first / IR_WEIGHTS_NAME).stat().st_ino
    assert (load_zip(path, tmp_path / "cache").folder / IR_WEIGHTS_NAME).stat().st_ino == before
    (first / IR_WEIGHTS_NAME).write_bytes(b"damaged")
    assert load_zip(path, tmp_path / "cache").digest == load_bundle().digest


def test_a_changed_file_in_a_zip_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    path = zipped(tmp_path / "demo.zip", changes={IR_WEIGHTS_NAME: b"other weights"})
    with pytest.raises(BundleDigestError, match="but the bundle was built with"):
        load_zip(path, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_zip_that_lacks_a_file_is_refused_naming_it(tmp_path: Path) -> None:
    path = zipped(tmp_path / "demo.zip", leave_out=IR_WEIGHTS_NAME)
    with pytest.raises(BundleDigestError, match=r"lacks model\.bin"):
        load_zip(path, tmp_path / "cache")


def test_a_zip_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    manifest = json.loads((DEMO_BUNDLE / MANIFEST_NAME).read_text())
    listed = json.dumps(manifest | {"files": manifest["files"] | {"../../escaped": "0" * 64}}).encode()
    unlisted = zipped(tmp_path / "unlisted.zip", changes={"../../escaped": b"x", "/escaped": b"x"})
    assert load_zip(unlisted, tmp_path / "a" / "cache").digest == load_bundle().digest
    with pytest.raises(BundleFormatError, match="files"):
        load_zip(
            zipped(tmp_path / "listed.zip", changes={MANIFEST_NAME: listed, "../../escaped": b"x"}),
            tmp_path / "b" / "cache",
        )
    assert not list(tmp_path.rglob("*escaped*"))


def test_what_is_no_zip_or_holds_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"a text")
    with pytest.raises(BundleFormatError, match=r"text\.zip is damaged or no zip"):
        load_zip(tmp_path / "text.zip", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a/b/bundle.json", b"{}")
    with pytest.raises(BundleMissingError, match=r"no model bundle in .*empty\.zip"):
        load_zip(tmp_path / "empty.zip", tmp_path / "cache")


def test_a_file_without_end_is_refused_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app_tier.bundle.load.MAX_FILE_BYTES", 10)
    with pytest.raises(BundleFormatError, match=r"model\.bin is larger than 10 bytes"):
        write_file(tmp_path / "model.bin", iter(lambda: b"endless", None))


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its way")
    with pytest.raises(BundleFormatError, match="set XDG_CACHE_HOME"):
        kept("0" * 64, lambda _folder: None, tmp_path / "cache")


def test_the_cache_is_the_users_own() -> None:
    assert cache_folder({"CACHE_DIRECTORY": "/var/cache/worker:/other"}) == Path("/var/cache/worker/bundles")
    assert cache_folder({"XDG_CACHE_HOME": "/caches"}) == Path("/caches/fleetsight/bundles")
    assert cache_folder({}) == Path(os.path.expanduser("~/.cache/fleetsight/bundles"))  # noqa: PTH111 - the other way


def test_s6_a_pinned_zip_opens_and_nothing_of_another_one_is_parsed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "demo.zip")
    pin = file_digest(path)
    assert load_zip(path, tmp_path / "cache", pin).digest == load_bundle().digest
    path.write_bytes(b"not even a zip")
    with pytest.raises(BundleDigestError, match=rf"worker\.bundle_sha256 is {pin}"):
        load_zip(path, tmp_path / "cache", pin)
