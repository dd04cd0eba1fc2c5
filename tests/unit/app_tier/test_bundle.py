"""Bundles: a folder or a zip is used only if it is exactly what was built, and reports what it is."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app_tier.bundle import (
    DEMO_BUNDLE,
    file_digest,
    kept,
    load_bundle,
    load_zip,
)
from core.bundle_facts import MANIFEST_NAME, BundleFacts, facts_in
from core.bundle_facts import read_manifest as read_bundle_json
from core.bundle_files import chunks, write_file
from core.bundle_manifest import (
    INT8_IR_NAME,
    INT8_WEIGHTS_NAME,
    IR_NAME,
    IR_WEIGHTS_NAME,
    TORCH_NAME,
    BundleDigestError,
    BundleError,
    BundleFormatError,
    BundleMissingError,
    Manifest,
    parse_manifest,
)
from scripts.demo_model.signs import SIGN_LABELS


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the manifest, which states its digest no longer, as one from before it did."""
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "digest": None, **changes}))


def test_the_demo_bundle_is_whole_and_small() -> None:
    bundle = load_bundle()
    assert bundle.name == "demo"
    assert (len(bundle.labels), bundle.labels[10:]) == (30, SIGN_LABELS)
    assert bundle.manifest.agreement is not None
    assert bundle.manifest.agreement.same_top1 == 1
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 5_000_000


def test_the_demo_bundle_was_measured_and_reaches_what_the_project_asks() -> None:
    measured = load_bundle().manifest.provenance["measured"]
    assert measured["signs"]["images"] == measured["cifar_test"]["images"] == 10_000
    assert measured["signs"]["accuracy"] >= 0.995
    assert measured["cifar_test"]["accuracy"] >= 0.87


def test_the_demo_bundle_knows_nothing_of_the_machine_it_was_built_on() -> None:
    home, checkout = str(Path.home()).encode(), str(Path(__file__).parents[4]).encode()
    for path in DEMO_BUNDLE.iterdir():
        assert home not in path.read_bytes()
        assert checkout not in path.read_bytes()


@pytest.mark.parametrize("name", [IR_NAME, IR_WEIGHTS_NAME, TORCH_NAME])
def test_one_changed_bit_is_refused_naming_the_file(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleDigestError, match=rf"{name} has SHA-256 \w{{64}}, but the bundle was built with"):
        load_bundle(copy)


def test_a_file_that_was_not_checked_cannot_be_used(copy: Path) -> None:
    (copy / TORCH_NAME).write_bytes(b"another program")
    bundle = load_bundle(copy, unused={TORCH_NAME})
    assert bundle.path(IR_NAME).exists()
    with pytest.raises(BundleDigestError, match=f"{TORCH_NAME} of bundle .* its digest is unchecked"):
        bundle.path(TORCH_NAME)


def test_a_missing_file_is_refused_naming_it(copy: Path) -> None:
    (copy / IR_WEIGHTS_NAME).unlink()
    with pytest.raises(BundleDigestError, match=rf"{IR_WEIGHTS_NAME} cannot be read \(No such file"):
        load_bundle(copy)


def test_no_bundle_says_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(BundleMissingError, match=r"build one with `\./scripts/fleetsight model build`"):
        load_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleMissingError):
        load_bundle(DEMO_BUNDLE / MANIFEST_NAME)


def test_a_manifest_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / MANIFEST_NAME).write_text("{")
    with pytest.raises(BundleFormatError, match="is not JSON"):
        load_bundle(copy)
    (copy / MANIFEST_NAME).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BundleFormatError, match="is not JSON"):
        load_bundle(copy)


@pytest.mark.parametrize("contents", ["[]", '{"format_version": 2}', "{}"])
def test_another_format_version_is_refused(copy: Path, contents: str) -> None:
    (copy / MANIFEST_NAME).write_text(contents)
    with pytest.raises(BundleFormatError, match="this program reads 1"):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format_version": 1, "provenance": ' + '{"a":' * 50_000])
def test_a_manifest_that_is_nested_without_end_is_refused(copy: Path, text: str) -> None:
    (copy / MANIFEST_NAME).write_text(text)
    with pytest.raises(BundleFormatError, match=str(copy)):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": ["one"]}, "labels"),
        ({"labels": ["cat", "\x1b]0;dog\x07"]}, r"labels\.1"),
        ({"messages": {"cat": "x" * 10_001}}, r"messages\.cat"),
        ({"architecture": "res\rnet"}, "architecture"),
        ({"provenance": {"measured": [{"on": "\x1b[2J"}]}}, r"provenance: .*'\\x1b\[2J'"),
        ({"\x1b[2J": 1}, r"bundle\.json: \\x1b\[2J"),
        ({"preprocess": {"resize": 8, "crop": 8, "mean": [0, 0, float("nan")], "std": [1, 1, 1]}}, r"mean\.2"),
        ({"preprocess": {"resize": 8, "crop": 8, "mean": [0, 0, 0], "std": [1, 0, 1]}}, r"std\.1"),
        ({"preprocess": {"resize": 10**9, "crop": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}}, r"preprocess\.resize"),
        ({"files": {}}, r"files lacks model\.bin, model\.xml"),
        ({"files": {"../../etc/passwd": "0" * 64}}, "files"),
        ({"messages": {"unicorn": "rare"}}, "'unicorn', which is not a label"),
        ({"colour": "blue"}, "colour"),
        ({"name": "../demo"}, "name"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused_naming_the_field(
    copy: Path, changes: dict[str, Any], complaint: str
) -> None:
    rewrite(copy, **changes)
    with pytest.raises(BundleFormatError, match=complaint):
        load_bundle(copy)


def test_the_digest_is_of_what_decides_an_answer_and_of_nothing_else(copy: Path) -> None:
    digest = load_bundle().digest
    rewrite(copy, provenance={"note": "measured again"})
    assert load_bundle(copy).digest == digest
    rewrite(copy, labels=list(reversed(load_bundle().labels)))
    assert load_bundle(copy).digest != digest


def test_a_manifest_that_was_changed_without_its_digest_is_refused(copy: Path) -> None:
    stated = json.loads((copy / MANIFEST_NAME).read_text())["digest"]
    assert stated == load_bundle(copy).digest
    rewrite(copy, digest=stated, labels=list(reversed(load_bundle().labels)))
    with pytest.raises(BundleDigestError, match=f"states the digest {stated}, but is"):
        load_bundle(copy)


def test_an_unknown_field_of_a_bundle_is_ignored_unless_it_is_part_of_preprocessing(copy: Path) -> None:
    """Such a field is part of the digest that the later release states, and not of the one that this one computes."""
    manifest = json.loads((copy / MANIFEST_NAME).read_text())
    before = load_bundle(copy)
    rewrite(copy, digest=before.digest, colour="blue", agreement={**manifest["agreement"], "measured_on": "arm64"})
    assert load_bundle(copy) == before

    rewrite(copy, preprocess={**manifest["preprocess"], "gamma": 2.2}, digest="0" * 64)
    with pytest.raises(BundleDigestError, match="if a later release has built it, use that release"):
        load_bundle(copy)


def test_s6_a_pinned_bundle_opens_and_nothing_of_another_one_is_parsed(copy: Path) -> None:
    pin = file_digest(copy / MANIFEST_NAME)
    assert load_bundle(copy, pin).digest == load_bundle(copy, pin.upper()).digest == load_bundle().digest
    (copy / MANIFEST_NAME).write_bytes(b"not even JSON")
    with pytest.raises(BundleDigestError, match=rf"SHA-256 \w{{64}}, but worker\.bundle_sha256 is {pin}"):
        load_bundle(copy, pin)


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
    with pytest.raises(BundleFormatError, match=r"text\.zip is no valid zip of a bundle"):
        load_zip(tmp_path / "text.zip", tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a/b/bundle.json", b"{}")
    with pytest.raises(BundleMissingError, match=r"no model bundle in .*empty\.zip"):
        load_zip(tmp_path / "empty.zip", tmp_path / "cache")


def test_a_zip_that_unpacks_to_a_thousand_times_its_size_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[Path]()
    monkeypatch.setattr("app_tier.bundle.write_files", lambda folder, *_: written.append(folder))
    place = tmp_path / "bomb.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(DEMO_BUNDLE / MANIFEST_NAME, MANIFEST_NAME)
        archive.writestr(IR_NAME, "")
        archive.writestr(IR_WEIGHTS_NAME, bytes(10**8))
    for refused in (load_zip, lambda path, _: facts_at(path, nothing)):
        with pytest.raises(BundleFormatError, match=r"unpacks to 100,\d+,\d+ bytes"):
            refused(place, tmp_path / "cache")
    assert (written, list((tmp_path / "cache").iterdir())) == ([], [])


def test_the_files_of_a_bundle_are_bounded_together_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum((DEMO_BUNDLE / name).stat().st_size for name in load_bundle().manifest.files)
    monkeypatch.setattr("core.bundle_files.MAX_BUNDLE_BYTES", size - 1)
    with pytest.raises(BundleFormatError, match="is larger than"):
        load_zip(zipped(tmp_path / "demo.zip"), tmp_path / "cache")
    manifest = json.loads((DEMO_BUNDLE / MANIFEST_NAME).read_text())
    manifest["files"]["further.bin"] = "0" * 64
    with pytest.raises(BundleFormatError, match=r"files\.further\.bin"):
        parse_manifest("here", json.dumps(manifest))


def test_a_file_without_end_is_refused_before_the_disk_is_full(tmp_path: Path) -> None:
    with (
        Path("/dev/zero").open("rb") as endless,
        pytest.raises(BundleFormatError, match=r"model\.bin is larger than 10 bytes"),
    ):
        write_file(tmp_path / "model.bin", "model.bin", chunks(endless), 10)


def test_the_cache_keeps_the_bundles_that_were_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app_tier.bundle.MAX_CACHED", 2)

    def fill(folder: Path) -> None:
        shutil.copytree(DEMO_BUNDLE, folder, dirs_exist_ok=True)

    def use(name: str) -> None:
        kept(name, fill, tmp_path)

    for number, name in enumerate(("a", "b")):
        use(name)
        os.utime(tmp_path / name, (number, number))
    use("a")
    use("c")
    assert {folder.name for folder in tmp_path.iterdir()} == {"a", "c"}


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its way")
    with pytest.raises(BundleFormatError, match="set XDG_CACHE_HOME"):
        kept("0" * 64, lambda _folder: None, tmp_path / "cache")


def test_s6_a_pinned_zip_opens_and_nothing_of_another_one_is_parsed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "demo.zip")
    pin = file_digest(path)
    assert load_zip(path, tmp_path / "cache", pin).digest == load_bundle().digest
    path.write_bytes(b"not even a zip")
    with pytest.raises(BundleDigestError, match=rf"worker\.bundle_sha256 is {pin}"):
        load_zip(path, tmp_path / "cache", pin)


INT8_FILES = {INT8_IR_NAME: "a" * 64, INT8_WEIGHTS_NAME: "b" * 64}


def manifest(int8: bool = False, **changes: Any) -> Manifest:
    """The demo bundle's, with an int8 network or none, after changes."""
    fields = json.loads(load_bundle().manifest.model_dump_json())
    return Manifest.model_validate(fields | {"files": fields["files"] | (INT8_FILES if int8 else {})} | changes)


DIGESTS = {
    "fp32": "f8c1a46bbd7527cbafc1d357afcb577c112b147f130385e0c3761ca49682289a",
    "bf16": "e1c7e567369ad0892c7c00c2f02b93900d05a4abb702faf45470e231e724e939",
    "exact": "b99b50e453dd236b7009846c485670e953e493142cc30fc18124fcd07c35ad30",
    "exact, int8 first": "d37ea1293bc2f265050a622972c3f340469aa3c2d3fecdc9fd1354802c4edbab",
}


def test_built_bundles_keep_the_digest_that_results_name_them_by() -> None:
    kinds: dict[str, dict[str, Any]] = {
        "fp32": {},
        "bf16": {"precision": "bf16"},
        "exact": {"precision": "exact", "margin": 1},
        "exact, int8 first": {"precision": "exact", "margin": 0.1, "first": "int8", "int8": True},
    }
    assert {name: manifest(**kind).digest for name, kind in kinds.items()} == DIGESTS
    stated = json.loads((DEMO_BUNDLE / MANIFEST_NAME).read_text())
    assert load_bundle().digest == stated.pop("digest")
    # As people may write it: numbers without a decimal point, and what is a default left out or stated.
    plain = stated | {"preprocess": {"resize": 32.0, "crop": 32, "mean": [0, 0, 0], "std": [1, 1, 1]}}
    whole = plain["preprocess"] | {"fit": "crop", "fill": [0, 0, 0], "interpolation": "bilinear"}
    assert Manifest(**plain).digest == Manifest(**plain | {"preprocess": whole}).digest


def test_the_digest_distinguishes_how_a_picture_is_made() -> None:
    stated = json.loads((DEMO_BUNDLE / MANIFEST_NAME).read_text())
    kinds: tuple[dict[str, Any], ...] = (
        *({}, {"fit": "stretch"}, {"fit": "pad"}, {"fit": "pad", "fill": [9, 9, 9]}, {"interpolation": "bicubic"}),
        *({"resize": [32, 40]}, {"resize": [40, 40]}),
    )
    del stated["digest"]
    digests = {Manifest(**stated | {"preprocess": stated["preprocess"] | kind}).digest for kind in kinds}
    assert len(digests) == len(kinds)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"precision": "int8"}, "files lacks model-int8.bin, model-int8.xml"),
        ({"precision": "bf16", "first": "bf16"}, "only exact asks twice"),
        ({"precision": "exact"}, "exact has one, the others none"),
        ({"precision": "exact", "margin": 0.1, "first": "fp32"}, "Input should be 'bf16' or 'int8'"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        manifest(**fields)


CONTENTS = (DEMO_BUNDLE / MANIFEST_NAME).read_text()
FACTS = facts_in(CONTENTS.encode(), MANIFEST_NAME)


def facts_at(place: Path, get: Callable[[str, str], bytes], sha256: str | None = None) -> BundleFacts:
    return facts_in(read_bundle_json(place, get, sha256), str(place))


def test_the_size_that_images_need_is_the_longer_side_of_what_is_not_square() -> None:
    stated = json.loads(CONTENTS) | {"digest": None}
    stated["preprocess"] |= {"resize": [64, 96], "crop": [64, 96], "fit": "stretch"}
    assert facts_in(json.dumps(stated).encode(), MANIFEST_NAME).short_side == 96


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
        assert facts_at(place, nothing) == FACTS


@pytest.mark.parametrize("place", ["s3://models/signs/v1", "s3://models/signs/v1/"])
def test_a_bundle_in_s3_is_asked_for_its_manifest_alone(place: str) -> None:
    objects = {("models", "signs/v1/bundle.json"): CONTENTS.encode()}
    # As the configuration holds it, a path.
    assert facts_at(Path(place), lambda bucket, key: objects[bucket, key]) == FACTS


def test_a_zip_without_a_bundle_and_one_in_s3_are_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme", "")
    with pytest.raises(BundleError, match=r"other\.zip"):
        facts_at(tmp_path / "other.zip", nothing)
    with pytest.raises(BundleError, match="unpack it to a prefix"):
        facts_at(Path("s3://models/signs.zip"), nothing)


def test_s6_the_web_tier_believes_the_pinned_bundle_only(tmp_path: Path) -> None:
    folder, zipped = tmp_path / "bundle.json", tmp_path / "signs.zip"
    folder.write_text(CONTENTS, encoding="utf-8")
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("bundle.json", CONTENTS)
    for place, pinned in ((tmp_path, folder), (zipped, zipped)):
        pin = sha256(pinned.read_bytes()).hexdigest()
        assert facts_at(place, nothing, pin) == FACTS
        pinned.write_bytes(b"neither JSON nor a zip")
        with pytest.raises(BundleError, match=rf"worker\.bundle_sha256 is {pin}"):
            facts_at(place, nothing, pin)
